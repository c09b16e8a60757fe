"""The pool: children are asked for, born, made ready, ended and replaced here. The supervisor's loop calls it.

It owns the table of children and their links. It asks no database: what a dead child leaves goes out as orders.
"""

from collections.abc import Callable, Iterable

from orchestrator.board.birth import ForkRequest
from orchestrator.board.channel import FULL, GO, HELLO, IDLE, LOST, READY
from orchestrator.board.layout import ChildOrder, SlotState, Word
from orchestrator.mailbox import Audit, Order, Sleeper
from orchestrator.retry import RetryPolicy
from orchestrator.supervisor.children import Children, Phase, Seat
from orchestrator.supervisor.forkserver import Forkserver, Stage
from orchestrator.supervisor.link import Link
from orchestrator.supervisor.outcomes import Outcomes
from orchestrator.supervisor.surroundings import Listeners, PoolSettings
from orchestrator.supervisor.wakeups import Wakeups
from orchestrator.telemetry import logs

UNCONNECTED_SECONDS = 10.0
"""A child that has not got a connection by then does not just start: it is not ready for any task."""


class Pool:
    """Children by seat, each with its link while it lives."""

    def __init__(
        self,
        settings: PoolSettings,
        size: int,
        *,
        sleeper: Sleeper,
        post: Callable[[Order], None],
        listeners: Listeners,
    ) -> None:
        self.settings = settings
        self.children = Children(size)
        self.links: dict[int, Link] = {}
        self.order = ChildOrder.WORK
        self.wakeups = Wakeups(self.links, self._live_links, sleeper)
        self.outcomes = Outcomes(self.links, post=post, listeners=listeners)
        self.post = post
        self.policies: dict[str, RetryPolicy] = {}  # by type, as the app registered them
        self.listeners = listeners
        self.unknown_exits: dict[int, int] = {}
        self.dead_at_birth: list[tuple[Seat, int]] = []
        self._log = logs.get("supervisor")

    def policy(self, type_name: str) -> RetryPolicy:
        """When a task of this type is retried; a type that the app does not know is retried by default."""
        return self.policies.get(type_name) or RetryPolicy()

    # Birth

    def fork_due(self, forkserver: Forkserver, now: float) -> None:
        """Ask for a child for every seat that is due."""
        if forkserver.stage is not Stage.READY:
            return
        for seat in self.children.due(now):
            incarnation = self.children.fork_requested(seat, forkserver.generation, now)
            request = ForkRequest(self.settings.worker_id, seat.number, incarnation)
            try:
                link = Link(request, self.settings.board_capacity, forkserver.marker)
            except OSError as error:
                self.not_born(seat, f"the supervisor has no room for it: {error.strerror}", now)
                continue
            self.links[seat.number] = link
            link.board.give(self.order)
            if forkserver.request(request, link.descriptors()):
                link.sent()
            else:
                self.not_born(seat, "the forkserver takes no requests", now)

    def next_fork_due(self, forkserver: Forkserver | None) -> float | None:
        """When the next child is to be asked for; None: none is missing, or there is nobody to ask."""
        if forkserver is None or forkserver.stage is not Stage.READY:
            return None
        return self.children.next_due()

    def fork_failed(self, slot: int, incarnation: int, reason: str, now: float) -> None:
        seat = self.children.get(slot)
        if seat is not None and seat.incarnation == incarnation and seat.phase is Phase.FORKING:
            self.not_born(seat, reason, now)

    def forkserver_died(self, marker: str, now: float) -> None:
        """Requests it took with it will not be answered."""
        for seat in self.children.in_phase(Phase.FORKING):
            if self.links[seat.number].app == marker:
                self.not_born(seat, "its forkserver died", now)

    def markers(self) -> set[str]:
        """Of all children, and of the forkservers they are from: a child may use what its app started at import."""
        return {marker for link in self.links.values() for marker in (link.request.marker, link.app)}

    def abandon_births(self, reason: str, now: float) -> None:
        """Nobody will be forked any more; a child that is just being born reads the end of its channel and exits."""
        for seat in self.children.in_phase(Phase.FORKING):
            self._log.debug("birth_abandoned", slot=seat.number, reason=reason)
            self._vacate(seat, now, is_fault=False)

    def not_born(self, seat: Seat, reason: str, now: float) -> None:
        self._log.warning("child_not_born", slot=seat.number, reason=reason)
        self._vacate(seat, now, is_fault=True)

    def _vacate(self, seat: Seat, now: float, *, is_fault: bool) -> None:
        self.drop_link(seat)
        self.children.ended(seat, now, is_fault=is_fault, has_finished_tasks=False)
        if not self.children.in_phase(Phase.FORKING):
            self.unknown_exits.clear()

    # Messages

    def hear(self, slots: Iterable[int], now: float) -> bool:
        """Take what the children of these slots say on their channels. Whether there was more than that there may be
        work, or none."""
        has_news = False
        full_claims = 0
        for number in slots:
            link, seat = self.links.get(number), self.children.get(number)
            if link is None or seat is None:
                continue
            messages = link.channel.receive()
            if messages is None:
                has_news = link.is_cut = True
                continue
            for message in messages:
                if message == FULL:
                    full_claims += 1
                elif message == IDLE:
                    self.wakeups.went_idle(link)
                else:
                    has_news = True
                    self._take(message, seat, link, now)
        if full_claims:
            self.wakeups.wake(full_claims)
        return has_news

    def end_cut_births(self, now: float) -> None:
        """Of children that ended before they said hello. First hear the forkservers: they may have told why."""
        for seat in self.children.in_phase(Phase.FORKING):
            if self.links[seat.number].is_cut:
                self.not_born(seat, "it ended before it said hello", now)

    def _take(self, message: bytes, seat: Seat, link: Link, now: float) -> None:
        if message.startswith(HELLO):
            self._said_hello(seat, link, int(message.split()[1]), now)
        elif message == READY and seat.phase is Phase.BOOTING:
            self.children.became_ready(seat, now)
            self._log.debug("child_ready", slot=seat.number, pid=seat.pid, seconds=round(now - seat.since, 3))
        elif message == LOST:
            self.post(Audit(seat.number))

    def _said_hello(self, seat: Seat, link: Link, pid: int, now: float) -> None:
        if seat.phase is not Phase.FORKING:
            return
        self.children.said_hello(seat, pid, now)
        status = self.unknown_exits.pop(pid, None)
        if status is not None:
            self.dead_at_birth.append((seat, status))
        else:
            link.channel.send(GO)
        if not self.children.in_phase(Phase.FORKING):
            self.unknown_exits.clear()

    def note_work(self) -> None:
        """Whose child has finished a task is no part of a crash loop any more, though it may not have settled."""
        for seat in self.children.in_phase(Phase.LIVE):
            if seat.backoff.failures and self.links[seat.number].board.word(Word.FINISHED):
                self.children.worked(seat)

    # How it is

    def active(self) -> int:
        """How many children run a task now."""
        return sum(1 for link in self.links.values() if link.board.word(Word.STARTED) > link.board.word(Word.ENDED))

    def unconnected(self, now: float) -> frozenset[int]:
        """Seats whose child has tried to connect to the database for UNCONNECTED_SECONDS, and could not."""
        return frozenset(
            number
            for number, link in self.links.items()
            if link.unconnected_since is not None and now - link.unconnected_since > UNCONNECTED_SECONDS
        )

    def is_quiet(self) -> bool:
        """Whether every child is live and sleeps: nothing needs to be looked at until something arrives.

        One that was woken and has not said that it sleeps again may run a task by now, whatever its board still tells.
        """
        return all(
            link.board.state is SlotState.IDLE and link.woken_at is None for link in self.links.values()
        ) and all(seat.phase is Phase.LIVE for seat in self.children)

    def _live_links(self) -> list[Link]:
        return [
            self.links[seat.number] for seat in self.children.in_phase(Phase.LIVE) if not self.links[seat.number].is_cut
        ]

    def knows(self, slot: int, token: int) -> bool:
        """Whether a claim that the database shows is accounted for: on a board, on its way, or not to be judged now."""
        if self.outcomes.is_finishing(token):
            return True
        link = self.links.get(slot)
        if link is None:
            return False
        if link.board.may_await_claim():
            return True
        held = link.board.tokens()
        return held is None or token in held

    # Orders to children

    def order_all(self, order: ChildOrder) -> None:
        """Pause, resume, or leave: what is not started of any batch is taken back by the watch."""
        self.order = order
        for seat in self.children:
            link = self.links.get(seat.number)
            if link is not None and not seat.is_retiring:
                link.order(order)

    def retire(self, seat: Seat) -> None:
        """Its child shall leave once its task is done; its seat is forked anew (or goes, if it is surplus)."""
        if seat.number in self.links and not seat.is_retiring:
            seat.is_retiring = True
            self.links[seat.number].order(ChildOrder.LEAVE)

    def drop_link(self, seat: Seat) -> None:
        link = self.links.pop(seat.number, None)
        if link is not None:
            link.close()
