"""Outcomes on their way to the database, which the supervisor has written for its children, living and dead: whose each
is, and who counts it. The supervisor's loop calls it.
"""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.mailbox import Finish, Order, Written
from orchestrator.model import Outcome, TaskStatus
from orchestrator.supervisor.link import Link
from orchestrator.supervisor.surroundings import Listeners
from orchestrator.telemetry import logs

MOST_BEQUEATHED = 500
"""So many outcomes that children gave up, or left when they died, may wait for the database; more wait in the children,
who claim nothing meanwhile."""


class Outcomes:
    """Of one pool. `links` are all of its children's."""

    def __init__(self, links: Mapping[int, Link], *, post: Callable[[Order], None], listeners: Listeners) -> None:
        self._links = links
        self._post = post
        self._listeners = listeners
        self._finishing: set[int] = set()
        self._bequeathed: dict[int, Outcome] = {}  # of these, what counts if a child that is dead by now had written it
        self._log = logs.get("supervisor")

    def finish(self, order: Finish) -> None:
        """Have outcomes written; until that is done they are nobody else's to release."""
        self._finishing.update(outcome.token for outcome in order.outcomes)
        self._post(order)

    def finish_crash(self, outcome: Outcome) -> None:
        """The same for the task that ran when its child died. If it turns out that the child had written something,
        that was a large result, which stands on no board, and it is what counts."""
        result = outcome._replace(status=TaskStatus.COMPLETED, error=None, delay_seconds=0.0)
        self._bequeathed[outcome.token] = result
        self.finish(Finish((outcome,)))

    def is_finishing(self, token: int) -> bool:
        return token in self._finishing

    def inherit(self, outcomes: Sequence[Outcome], uncounted: Sequence[Outcome]) -> None:
        """Have the outcomes of a dead child written, and those counted that it wrote and did not count: these (found by
        us before it died), and whichever of the others turn out so."""
        self._bequeathed.update({each.token: each for each in outcomes})
        own = tuple(each for each in outcomes if each.token not in self._finishing)
        if own:
            self.finish(Finish(own, is_estate=True))
        if uncounted:
            self._listeners.on_ended(uncounted)

    @property
    def has_room(self) -> bool:
        """Whether more of what its children give up may be taken over. What is refused by a trigger of the user's, say,
        would else be run on and on, and its outcomes be lost with us."""
        return len(self._bequeathed) < MOST_BEQUEATHED

    def take_over(self, link: Link, outcomes: Sequence[Outcome]) -> None:
        """What a living child has given up is ours from now on, as if it were dead: it goes on without them."""
        self.inherit(outcomes, ())
        link.board.mark_written(frozenset(each.token for each in outcomes))

    def written(self, report: Written) -> None:
        """Outcomes stand in the database: their children need not write them, but count those they wrote themselves.

        Nothing is said of a stale one that its child has heard of meanwhile. It wrote that itself, and the task was
        retried and ended again before we asked, so that the database no longer knew; or it was refused, and it is the
        child that says so.
        """
        done, by_child = frozenset(report.tokens), frozenset(report.by_child)
        bequeathed = {token: self._bequeathed.pop(token) for token in done & self._bequeathed.keys()}
        uncounted = [bequeathed[token] for token in report.by_child if token in bequeathed]
        if uncounted:
            self._listeners.on_ended(uncounted)
        unheard = {token for link in self._links.values() for token in link.board.mark_written(done, by_child)}
        for stale in report.stale:
            if stale.outcome.token in unheard or stale.outcome.token in bequeathed:
                self._listeners.on_stale(stale.outcome.type)
                self._log.warning("stale_outcome", **stale.facts)
        self._finishing -= done
