"""The pool: children are asked for, born, made ready, ended and replaced here. The supervisor's loop calls it.

It owns the table of children and their links. It asks no database: what a dead child leaves goes out as orders.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.board.birth import ForkRequest
from orchestrator.board.channel import FULL, GO, HELLO, IDLE, LOST, READY
from orchestrator.board.layout import ChildOrder, LeaveReason, SlotState, Word
from orchestrator.board.slot import BoardClaim
from orchestrator.mailbox import Audit, Finish, Order, Release
from orchestrator.retry import RetryPolicy
from orchestrator.supervisor import leftovers
from orchestrator.supervisor.attribution import describe_status, settle_estate
from orchestrator.supervisor.children import Children, Doom, Phase, Seat
from orchestrator.supervisor.forkserver import Forkserver, Stage
from orchestrator.supervisor.link import Link, kill_group
from orchestrator.supervisor.stacks import last_words
from orchestrator.telemetry import logs

HELLO_SECONDS = 15.0
"""A fork that has not said hello by then has failed."""

BORN_TO_DIE = (LeaveReason.NONE, LeaveReason.UNREGISTERED)


@dataclass(slots=True)
class PoolSettings:
    """What the pool needs to know. Seconds."""

    worker_id: str
    board_capacity: int
    boot_seconds: float


class Pool:
    """Children by seat, each with its link while it lives."""

    def __init__(
        self,
        settings: PoolSettings,
        size: int,
        *,
        post: Callable[[Order], None],
        policy: Callable[[str], RetryPolicy],
        on_restart: Callable[[int, str], None],
    ) -> None:
        self.settings = settings
        self.children = Children(size)
        self.links: dict[int, Link] = {}
        self.order = ChildOrder.WORK
        self.requeued = 0
        self._post = post
        self._policy = policy
        self._on_restart = on_restart
        self._finishing: set[int] = set()
        self._wake_is_owed = False
        self._unknown_exits: dict[int, int] = {}
        self._causes: dict[int, str] = {}
        self._log = logs.get("supervisor")

    # Birth

    def fork_due(self, forkserver: Forkserver, now: float) -> None:
        """Ask for a child for every seat that is due."""
        if forkserver.stage is not Stage.READY:
            return
        for seat in self.children.due(now):
            incarnation = self.children.fork_requested(seat, forkserver.generation, now)
            request = ForkRequest(self.settings.worker_id, seat.number, incarnation)
            link = Link(request, self.settings.board_capacity)
            self.links[seat.number] = link
            link.board.give(self.order)
            if forkserver.request(request, link.descriptors()):
                link.sent()
            else:
                self._not_born(seat, "the forkserver takes no requests", now)

    def fork_failed(self, slot: int, incarnation: int, reason: str, now: float) -> None:
        seat = self.children.get(slot)
        if seat is not None and seat.incarnation == incarnation and seat.phase is Phase.FORKING:
            self._not_born(seat, reason, now)

    def forkserver_died(self, generation: int, now: float) -> None:
        """Requests it took with it will not be answered."""
        for seat in self.children.in_phase(Phase.FORKING):
            if seat.generation == generation:
                self._not_born(seat, "its forkserver died", now)

    def abandon_births(self, reason: str, now: float) -> None:
        """Nobody will be forked any more; a child that is just being born reads the end of its channel and exits."""
        for seat in self.children.in_phase(Phase.FORKING):
            self._not_born(seat, reason, now)

    def _not_born(self, seat: Seat, reason: str, now: float) -> None:
        self._log.warning("child_not_born", slot=seat.number, reason=reason)
        self._drop_link(seat)
        self.children.ended(seat, now, is_fault=True, has_finished_tasks=False)
        if not self.children.in_phase(Phase.FORKING):
            self._unknown_exits.clear()

    # Messages

    def hear(self, number: int, now: float) -> None:
        """Take what the child of a seat says on its channel."""
        link, seat = self.links.get(number), self.children.get(number)
        if link is None or seat is None:
            return
        messages = link.channel.receive()
        if messages is None:
            link.is_cut = True
            if seat.phase is Phase.FORKING:
                self._not_born(seat, "it ended before it said hello", now)
            return
        for message in messages:
            if message.startswith(HELLO):
                self._said_hello(seat, link, int(message.split()[1]), now)
            elif message == READY and seat.phase is Phase.BOOTING:
                self.children.became_ready(seat, now)
                self._log.debug("child_ready", slot=number, pid=seat.pid, seconds=round(now - seat.since, 3))
            elif message == FULL:
                self.wake_one()
            elif message == IDLE:
                self._went_idle(link)
            elif message == LOST:
                self._post(Audit(number))

    def _said_hello(self, seat: Seat, link: Link, pid: int, now: float) -> None:
        if seat.phase is not Phase.FORKING:
            return
        self.children.said_hello(seat, pid, now)
        status = self._unknown_exits.pop(pid, None)
        if status is not None:
            self._ended(seat, status, now)
        else:
            link.channel.send(GO)
        if not self.children.in_phase(Phase.FORKING):
            self._unknown_exits.clear()

    # Wake-ups

    def wake_one(self) -> None:
        """Something may be claimable: one idle child looks. If none is idle, the next that falls idle looks again."""
        for link in self._live_links():
            if link.board.state is SlotState.IDLE and link.woken_at is None and link.wake():
                return
        self._wake_is_owed = True

    def _went_idle(self, link: Link) -> None:
        link.woken_at = None
        if self._wake_is_owed:
            self._wake_is_owed = False
            link.wake()

    def has_sleepers(self) -> bool:
        return any(link.board.state is SlotState.IDLE for link in self._live_links())

    def active(self) -> int:
        """How many children run a task now."""
        return sum(1 for link in self.links.values() if link.board.word(Word.STARTED) > link.board.word(Word.ENDED))

    def is_quiet(self) -> bool:
        """Whether every child is live and idle: nothing needs to be looked at until something arrives."""
        seats = list(self.children)
        return all(seat.phase is Phase.LIVE for seat in seats) and all(
            link.board.state is SlotState.IDLE for link in self.links.values()
        )

    def _live_links(self) -> list[Link]:
        return [
            self.links[seat.number] for seat in self.children.in_phase(Phase.LIVE) if not self.links[seat.number].is_cut
        ]

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

    def roll(self, generation: int) -> bool:
        """Replace children of older generations: busy ones as they finish, idle ones one after the other.

        Whether any is left to replace.
        """
        old = [seat for seat in self.children if seat.generation < generation and seat.phase is not Phase.VACANT]
        if any(seat.generation == generation and seat.backoff.failures for seat in self.children):
            return bool(old)  # the new code's children die: those that work are not given up for it
        idle = []
        for seat in old:
            link = self.links[seat.number]
            if seat.phase is Phase.LIVE and link.board.state is SlotState.BUSY:
                self.retire(seat)
            elif not seat.is_retiring:
                idle.append(seat)
        is_changing = any(
            seat.phase in (Phase.FORKING, Phase.BOOTING, Phase.VACANT)
            or (seat.is_retiring and self.links[seat.number].board.state is not SlotState.BUSY)
            for seat in self.children
        )
        if idle and not is_changing:
            self.retire(idle[0])
        return bool(old)

    # Death

    def kill(self, seat: Seat, doom: Doom, cause: str, now: float) -> None:
        """SIGKILL for the child and its process group; what it was doing is settled when it is reaped."""
        if seat.pid is None or seat.phase is Phase.DOOMED:
            return
        self._causes[seat.number] = cause
        self.children.doomed(seat, doom, now)
        kill_group(seat.pid)

    def kill_all(self, doom: Doom, cause: str, now: float) -> None:
        for seat in self.children.in_phase(Phase.BOOTING, Phase.LIVE):
            self.kill(seat, doom, cause, now)
        self.abandon_births(cause, now)

    def check_deadlines(self, now: float) -> bool:
        """Seats whose child is not born, not ready, stuck, or not gone in time. Whether the forkserver seems hung."""
        is_hung = False
        for seat in self.children:
            if seat.phase is Phase.FORKING and now - seat.since > HELLO_SECONDS:
                self._not_born(seat, f"no hello within {HELLO_SECONDS:g} s", now)
                is_hung = True
            elif seat.phase is Phase.BOOTING and now - seat.since > self.settings.boot_seconds:
                self._log.error("child_not_ready", slot=seat.number, seconds=self.settings.boot_seconds)
                self.kill(seat, Doom.BOOT, "it did not become ready in time", now)
            elif seat.phase is Phase.LIVE:
                state = self.links[seat.number].stuck_in(now)
                if state is not None:
                    self._log.error("child_stuck", slot=seat.number, pid=seat.pid, state=state.name.lower())
                    self.kill(seat, Doom.STUCK, f"the child was stuck outside of any task ({state.name.lower()})", now)
        return is_hung

    def reap(self, now: float) -> list[tuple[int, int]]:
        """Reap all that has ended. Returns (pid, status) of those that are no children of the pool.

        A child's group is killed while its zombie still holds the pid, then what it left in sessions of their own.
        """
        strangers: list[tuple[int, int]] = []
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return strangers
            if ended is None:
                return strangers
            pid = ended.si_pid
            seat = self.children.by_pid(pid)
            if seat is not None:
                kill_group(pid)
            _, status = os.waitpid(pid, 0)
            if seat is not None:
                self._ended(seat, status, now)
                continue
            if self.children.in_phase(Phase.FORKING):
                self._unknown_exits[pid] = status
            strangers.append((pid, status))

    def _ended(self, seat: Seat, status: int, now: float) -> None:
        """A child was reaped: hand back, write and replace what it leaves."""
        link = self.links[seat.number]
        leftovers.kill_marked(link.request.marker)
        cause = self._causes.pop(seat.number, None)
        if cause is None:
            cause = "\n".join(filter(None, (describe_status(status), last_words(link.stacks))))
        taken_back = link.take_back()
        view = link.board.read()
        estate = settle_estate(view, taken_back, cause=cause, doom=seat.doom, now=now, policy=self._policy)
        outcomes = tuple(each for each in estate.outcomes if each.token not in self._finishing)
        if outcomes:
            self.finish(Finish(outcomes))
        if estate.released:
            self._post(Release(estate.released, "drain" if seat.doom is Doom.DRAIN else "child_gone"))
        self._post(Audit(seat.number))
        if seat.doom is Doom.DRAIN and estate.casualty is not None:
            self.requeued += 1
        leaving, finished = link.board.leaving, link.board.word(Word.FINISHED)
        is_fault = estate.casualty is None and seat.doom not in (Doom.DRAIN, Doom.TIMEOUT, Doom.MEMORY)
        is_fault = is_fault and (leaving in BORN_TO_DIE or status != 0)
        self._say(seat, cause, leaving, estate.casualty, status)
        self._drop_link(seat)
        number = seat.number
        reason = _restart_reason(seat.doom, leaving, estate.casualty)
        self.children.ended(
            seat, now, is_fault=is_fault, has_finished_tasks=finished > 0 or estate.casualty is not None
        )
        self._on_restart(number, reason)

    def _say(self, seat: Seat, cause: str, leaving: LeaveReason, casualty: BoardClaim | None, status: int) -> None:
        facts = {"slot": seat.number, "pid": seat.pid}
        if casualty is not None:
            self._log.warning(
                "child_died", **facts, cause=cause.partition("\n")[0], task_id=casualty.task_id, type=casualty.type,
                attempt=casualty.attempt,
            )  # fmt: skip
        elif leaving not in (LeaveReason.NONE, LeaveReason.LIFELINE) and status == 0:
            self._log.debug("child_left", **facts, reason=leaving.name.lower())
        else:
            self._log.warning("child_died", **facts, cause=cause.partition("\n")[0])

    def _drop_link(self, seat: Seat) -> None:
        link = self.links.pop(seat.number, None)
        if link is not None:
            link.close()

    # What the database side reports

    def finish(self, order: Finish) -> None:
        """Have outcomes written; until that is done they are nobody else's to release."""
        self._finishing.update(outcome.token for outcome in order.outcomes)
        self._post(order)

    def is_finishing(self, token: int) -> bool:
        return token in self._finishing

    def written(self, tokens: tuple[int, ...]) -> None:
        """Outcomes stand in the database: their children need not write them."""
        done = frozenset(tokens)
        self._finishing -= done
        for link in self.links.values():
            link.board.mark_written(done)

    def knows(self, slot: int, token: int) -> bool:
        """Whether a claim that the database shows is accounted for: on a board, on its way, or not to be judged now."""
        if token in self._finishing:
            return True
        link = self.links.get(slot)
        if link is None:
            return False
        if link.board.may_await_claim():
            return True
        held = link.board.tokens()
        return held is None or token in held


def _restart_reason(doom: Doom | None, leaving: LeaveReason, casualty: BoardClaim | None) -> str:
    """The label of worker_child_restarts_total."""
    if doom is not None:
        return doom.value
    if casualty is not None:
        return "crash"
    if leaving is LeaveReason.NONE:
        return "died_idle"
    return leaving.name.lower()
