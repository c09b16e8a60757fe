"""How children end: killed for a reason, or found dead; then what each leaves is settled and its seat freed.

Called by the supervisor's loop. It asks no database: outcomes and hand-backs go out as orders.
"""

import contextlib
import math
import os
import signal
from collections.abc import Callable

from orchestrator.board.kernel import wait_channel
from orchestrator.board.layout import ChildOrder, LeaveReason, Word
from orchestrator.board.supervisor_half import BoardClaim
from orchestrator.mailbox import Audit, Release
from orchestrator.model import TaskStatus
from orchestrator.supervisor import leftovers
from orchestrator.supervisor.attribution import describe_status, settle_estate
from orchestrator.supervisor.children import Doom, Phase, Seat
from orchestrator.supervisor.forkservers import Forkservers
from orchestrator.supervisor.link import kill_group
from orchestrator.supervisor.pool import Pool
from orchestrator.supervisor.stacks import last_words, of_the_task
from orchestrator.telemetry import logs

HELLO_SECONDS = 15.0
"""A fork that has not said hello by then has failed."""

FROZEN_SECONDS = 5.0
"""A supervisor that has not come to look for so long was stopped, and its children may have been (a container that was
paused, a machine that swapped): what they are late with is not held against them."""

UNREAPED_SECONDS = 5.0
"""A child that was killed so long ago and has not ended hangs in the kernel (a dead NFS server, a stopped debugger)."""

ORPHANS_SECONDS = 0.3
"""After a stranger was reaped: its children are ours by then. Tasks may leave many, and a look takes milliseconds."""

AGAIN_SECONDS = 2.0
"""When what was left behind could not be looked for: out of descriptors, as a rule."""

_FAULTY = (LeaveReason.NONE, LeaveReason.UNREGISTERED, LeaveReason.BOOT)

_BOOT_FAILED = "a function marked @app.on_child_start raised; start_hook_failed tells what"


class Reaper:
    """Ends children and settles their estates."""

    def __init__(self, pool: Pool, forkservers: Forkservers) -> None:
        self._pool = pool
        self._forkservers = forkservers
        self._causes: dict[int, str] = {}  # slot → why we killed its child
        self._orphans_due = math.inf
        self._checked_at = math.inf
        self._unreaped: set[int] = set()
        self.resumed_at = -math.inf  # since when we, and with us the children perhaps, have been running
        self.requeued = 0
        self._log = logs.get("supervisor")

    def kill(self, seat: Seat, doom: Doom, cause: str, now: float) -> None:
        """SIGKILL for the child; what it has started goes, and what it was doing is settled, when it is reaped."""
        if seat.pid is None or seat.phase is Phase.DOOMED:
            return
        self._causes[seat.number] = cause
        self._pool.children.doomed(seat, doom, now)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(seat.pid, signal.SIGKILL)

    def kill_all(self, doom: Doom, cause: str, now: float) -> None:
        for seat in self._pool.children.in_phase(Phase.BOOTING, Phase.LIVE):
            self.kill(seat, doom, cause, now)
        self._pool.abandon_births(cause, now)

    def check_deadlines(self, now: float) -> set[str]:
        """Seats whose child is not born, not ready, stuck, or not gone in time. The markers of forkservers that seem
        hung."""
        hung: set[str] = set()
        if now - self._checked_at > FROZEN_SECONDS:
            self.resumed_at = now
        self._checked_at = now
        for seat in self._pool.children:
            waited = now - max(seat.since, self.resumed_at)
            if seat.phase is Phase.FORKING and waited > HELLO_SECONDS:
                hung.add(self._pool.links[seat.number].app)
                self._pool.not_born(seat, f"no hello within {HELLO_SECONDS:g} s", now)
            elif seat.phase is Phase.BOOTING and waited > self._pool.settings.boot_seconds:
                self._log.error("child_not_ready", slot=seat.number, seconds=self._pool.settings.boot_seconds)
                self.kill(seat, Doom.BOOT, "it did not become ready in time", now)
            elif seat.phase is Phase.LIVE:
                state = self._pool.links[seat.number].stuck_in(now, since=self.resumed_at)
                if state is not None:
                    self._log.error("child_stuck", slot=seat.number, pid=seat.pid, state=state.name.lower())
                    self.kill(seat, Doom.STUCK, f"the child was stuck outside of any task ({state.name.lower()})", now)
            elif seat.phase is Phase.DOOMED and seat.pid is not None and waited > UNREAPED_SECONDS:
                self._say_unreaped(seat, seat.pid)
        return hung

    def _say_unreaped(self, seat: Seat, pid: int) -> None:
        if pid not in self._unreaped:
            self._unreaped.add(pid)
            kill_group(pid)
            self._log.error(
                "child_outlives_kill", slot=seat.number, pid=pid, kernel=wait_channel(pid),
                then="its slot and its task wait until it ends",
            )  # fmt: skip

    def give_up(self, now: float) -> None:
        """Wait no longer for those that were killed and have not ended: nothing of theirs will run again. What they
        leave is settled as if they had."""
        for seat in self._pool.children.in_phase(Phase.DOOMED):
            marker, living = self._pool.links[seat.number].request.marker, self._living(seat.pid)
            self._kill_leftovers(lambda: leftovers.kill_marked(marker, living=living), now)  # noqa: B023 done at once
            self._ended(seat, signal.SIGKILL, now)

    def reap(self, now: float) -> list[tuple[int, int]]:
        """Reap all that has ended. Returns (pid, status) of those that are no children of the pool.

        What a child has left is killed while its zombie still holds the pid; and so is what a forkserver has, once
        nobody needs what its app started. What was about to become an orphan then is looked for once its parent, a
        stranger, is reaped.
        """
        strangers: list[tuple[int, int]] = []
        while self._pool.dead_at_birth:
            self._ended(*self._pool.dead_at_birth.pop(), now)
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                ended = None
            if ended is None:
                self._look_for_orphans(bool(strangers), now)
                return strangers
            pid = ended.si_pid
            seat = self._pool.children.by_pid(pid)
            marker = self._marker_of(pid, seat)
            if marker is not None and not self._kill_left_by(pid, marker, now):
                kill_group(pid)
            _, status = os.waitpid(pid, 0)
            if seat is not None:
                self._ended(seat, status, now)
                continue
            if self._pool.children.in_phase(Phase.FORKING):
                self._pool.unknown_exits[pid] = status
            strangers.append((pid, status))

    def _marker_of(self, pid: int, seat: Seat | None) -> str | None:
        """That of a child, or of a forkserver that is not needed any more."""
        if seat is not None:
            return self._pool.links[seat.number].request.marker
        marker = self._forkservers.marker_of(pid)
        return None if marker in self._pool.markers() else marker

    def _look_for_orphans(self, has_strangers: bool, now: float) -> None:
        if has_strangers and self._orphans_due == math.inf:
            self._orphans_due = now + ORPHANS_SECONDS
        if now >= self._orphans_due:
            self._orphans_due = math.inf
            needed, living = self._needed(), self._living()
            self._kill_leftovers(lambda: leftovers.kill_unowned(needed, living=living), now)

    def _needed(self) -> set[str]:
        """The markers of children, and of forkservers that may fork or whose children use what the app has started."""
        return self._pool.markers() | self._forkservers.markers()

    def _living(self, but: int | None = None) -> set[int]:
        """The pids of children and forkservers; a pid stays theirs until they are reaped."""
        pids = {seat.pid for seat in self._pool.children if seat.pid is not None} | self._forkservers.pids()
        return pids - {but}

    def _kill_left_by(self, pid: int, marker: str, now: float) -> bool:
        living = self._living(pid)
        return self._kill_leftovers(lambda: leftovers.kill_left_by(pid, marker, living=living), now)

    def _kill_leftovers(self, kill: Callable[[], object], now: float) -> bool:
        """False: they cannot be looked for now, since nothing can be opened, and are looked for soon."""
        try:
            kill()
        except OSError as error:
            self._log.warning("leftovers_not_sought", error=str(error), again_in=AGAIN_SECONDS)
            self._orphans_due = now + AGAIN_SECONDS
            return False
        return True

    def _ended(self, seat: Seat, status: int, now: float) -> None:
        """A child was reaped: hand back, write and replace what it leaves."""
        link = self._pool.links[seat.number]
        cause = self._causes.pop(seat.number, None)
        leaving = link.board.leaving
        if cause is None and leaving is LeaveReason.BOOT:
            cause = _BOOT_FAILED
        if cause is None:
            cause = "\n".join(filter(None, (describe_status(status), of_the_task(last_words(link.stacks)))))
        taken_back = link.take_back()
        view = link.board.read()
        estate = settle_estate(view, taken_back, cause=cause, doom=seat.doom, now=now, policy=self._pool.policy)
        token = estate.casualty.token if estate.casualty is not None else None
        crash = next((each for each in estate.outcomes if each.token == token), None)
        outcomes = self._pool.outcomes
        outcomes.inherit([each for each in estate.outcomes if each is not crash], link.board.uncounted())
        if crash is not None:
            outcomes.finish_crash(crash)
        if estate.released:
            self._pool.post(Release(estate.released, "drain" if seat.doom is Doom.DRAIN else "child_gone"))
        self._pool.post(Audit(seat.number))
        if seat.doom is Doom.DRAIN and estate.casualty is not None and self._pool.order is ChildOrder.LEAVE:
            self.requeued += 1  # a worker that was declared dead ends its tasks likewise, and may drain clean one day
        finished = link.board.word(Word.FINISHED)
        is_fault = estate.casualty is None and seat.doom not in (Doom.DRAIN, Doom.TIMEOUT, Doom.MEMORY)
        is_fault = is_fault and (leaving in _FAULTY or status != 0)
        then = crash.status if crash is not None else TaskStatus.PENDING
        self._say(seat, cause, leaving, estate.casualty, then, status)
        self._pool.drop_link(seat)
        if link.app not in self._needed():
            self._orphans_due = now
        self._unreaped.discard(seat.pid or 0)
        number = seat.number
        reason = _restart_reason(seat.doom, leaving, estate.casualty)
        self._pool.children.ended(
            seat, now, is_fault=is_fault, has_finished_tasks=finished > 0 or estate.casualty is not None
        )
        self._pool.listeners.on_restart(number, reason)

    def _say(
        self, seat: Seat, cause: str, leaving: LeaveReason, casualty: BoardClaim | None, then: TaskStatus, status: int
    ) -> None:
        facts = {"slot": seat.number, "pid": seat.pid}
        if casualty is not None:
            self._log.warning(
                "child_died", **facts, cause=cause.partition("\n")[0], task_id=casualty.task_id, type=casualty.type,
                attempt=casualty.attempt, then=then.value,
            )  # fmt: skip
        elif leaving not in (LeaveReason.NONE, LeaveReason.LIFELINE) and status == 0:
            self._log.debug("child_left", **facts, reason=leaving.name.lower())
        else:
            self._log.warning("child_died", **facts, cause=cause.partition("\n")[0])


def _restart_reason(doom: Doom | None, leaving: LeaveReason, casualty: BoardClaim | None) -> str:
    """The label of worker_child_restarts_total."""
    if doom is not None:
        return doom.value
    if casualty is not None:
        return "crash"
    if leaving is LeaveReason.NONE:
        return "died_idle"
    return leaving.name.lower()
