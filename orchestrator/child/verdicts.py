"""What became of outcomes that were written: counted once each, and a word about those that came too late."""

from collections.abc import Callable, Iterable, Sequence

from orchestrator.board.child_half import ChildBoard
from orchestrator.model import Outcome, Stale, Verdict
from orchestrator.store import holdings
from orchestrator.store.claims import Batch
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs
from orchestrator.telemetry.metrics import TaskMetrics

_OURS = (Verdict.ACCEPTED, Verdict.BY_CHILD)


class Verdicts:
    """Counts a child's outcomes."""

    def __init__(self, board: ChildBoard, metrics: TaskMetrics) -> None:
        self._board = board
        self._metrics = metrics
        self._log = logs.get("child")

    def count(
        self,
        connection: Connection,
        outcomes: Sequence[Outcome],
        batch: Batch,
        *,
        last: int,
        left: Callable[[], float],
    ) -> None:
        """Metrics of what `batch` says was accepted, and of what we had written before and lost the reply to: none of
        `outcomes` was counted yet. `last` is where the last of them stands on the board, or -1; `left()` seconds are
        left.

        Marked on the board just before they are counted: should we be killed before, the supervisor counts them; in the
        few microseconds between, nobody does.
        """
        additions, stale = self._fates(connection, outcomes, batch, left)
        if last >= 0:
            self._board.outcomes_written(last + 1)
        self._board.end_elsewhere(outcomes[-1].token)  # the one that does not stand there comes last
        for add in additions:
            add()
        # the supervisor may have asked while we were busy, and has told of some
        self._tell(each for each in stale if not self._board.supervisor_judged(each.outcome.token))

    def count_one(
        self, connection: Connection, index: int, outcome: Outcome, batch: Batch, *, left: Callable[[], float]
    ) -> None:
        """The same of one that stands at `index` of the board, behind some that are not written: there it is marked as
        if the supervisor had written it."""
        additions, stale = self._fates(connection, (outcome,), batch, left)
        is_told = self._board.supervisor_wrote(index, outcome.token)
        self._board.count_found(index)
        for add in additions:
            add()
        self._tell(() if is_told else stale)

    def _fates(
        self, connection: Connection, outcomes: Sequence[Outcome], batch: Batch, left: Callable[[], float]
    ) -> tuple[Sequence[Callable[[], None]], Sequence[Stale]]:
        """What counts those that are ours, and those that came too late."""
        ended: Sequence[Outcome] = outcomes
        refused: Sequence[Outcome] = ()
        if batch.unaccepted:
            verdicts = holdings.verdicts(connection, batch.unaccepted, within=left())
            ended = [each for each in outcomes if verdicts.get(each.token, Verdict.ACCEPTED) in _OURS]
            refused = [each for each in batch.unaccepted if verdicts[each.token] is Verdict.STALE]
        stale = holdings.stale(connection, refused, within=left())
        return self._metrics.additions(ended), stale

    def _tell(self, stale: Iterable[Stale]) -> None:
        for each in stale:
            self._metrics.stale(each.outcome.type)
            self._log.warning("stale_outcome", **each.facts)

    def found(self, outcome: Outcome) -> None:
        """The supervisor found it written, so it was we who wrote it."""
        self._metrics.ended([outcome])
