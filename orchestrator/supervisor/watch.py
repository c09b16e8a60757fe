"""What the supervisor sees on the boards and does about it: overdue tasks, claims that wait, outcomes that linger."""

import os
from collections.abc import Callable

from orchestrator.board.kernel import resident_bytes
from orchestrator.board.layout import ChildOrder, SlotState
from orchestrator.board.memory import NANO
from orchestrator.board.supervisor_half import BoardClaim, Glance
from orchestrator.mailbox import Finish, MarkRunning, Order, Release
from orchestrator.model import ClaimRef, Outcome, ReleaseReason, Start, TaskStatus
from orchestrator.supervisor.children import Doom, Phase, Seat
from orchestrator.supervisor.link import Link
from orchestrator.supervisor.pool import Pool
from orchestrator.supervisor.reaper import Reaper
from orchestrator.supervisor.stacks import Inquiry, of_the_task
from orchestrator.supervisor.surroundings import SupervisorSettings
from orchestrator.telemetry import logs

MARK_RUNNING_SECONDS = 0.15
"""`running` is true in the table for what has run 250 ms: the order goes out a little earlier."""

HAND_BACK_SECONDS = 0.1
"""Behind a task that runs so long, nothing waits: hardly more was meant for all of a batch (child/pace.py). Where slow
tasks lie together among brief ones, they begin one after the other so fast."""

BATCH_SECONDS = 0.4
"""Nor behind so many of a batch that together they have run so long."""

IDLE_SECONDS = 0.05
"""While another child has nothing to do, so long is enough for what would wait as long again: it could run them."""

SLOW_SECONDS = 0.004
"""But tasks that take less, all in all, are brief: they are done soon enough, and a busy machine would be busier with
more claims. Nor did tasks become slower, if a slow one was among so many of them."""

LINGER_SECONDS = 0.06
"""An outcome that a busy or cut-off child has not written after this is written for it."""

SENT_SECONDS = 1.0
"""Or after this, if it has sent it: it is busy, and does not hear what became of that. A retry that is due sooner is
asked about before: once it has run, the database no longer knows what the child wrote."""

LOOK_SECONDS = 0.03
"""Between two looks, however many messages arrive meanwhile: of a busy pool hundreds a second do."""

ASK_SECONDS = 0.02
"""Likewise while a kill waits for its child's stack."""


class Watch:
    """One look at all boards per tick; kills take several, with a question for the stack in between."""

    def __init__(
        self, pool: Pool, reaper: Reaper, settings: SupervisorSettings, *, post: Callable[[Order], None]
    ) -> None:
        self._pool = pool
        self._reaper = reaper
        self._post = post
        self._memory_limit = settings.task_memory_limit
        self._grace = settings.task_kill_grace
        self._marked: dict[int, int] = {}  # slot → token of the running claim that was ordered to be marked
        self._kills: dict[int, tuple[BoardClaim, Doom, str, Inquiry]] = {}
        self._due = 0.0
        self._log = logs.get("supervisor")

    def look(self, now: float) -> None:
        """Look at every living child's board and act, if it is time to."""
        if now < self._due:
            return
        self._due = now + (ASK_SECONDS if self._kills else LOOK_SECONDS)
        starts: list[Start] = []
        has_sleepers = self._pool.wakeups.has_sleepers()
        slowest = 0.0
        for seat in self._pool.children.in_phase(Phase.LIVE):
            link = self._pool.links[seat.number]
            is_connecting = link.board.state is SlotState.CONNECTING
            link.unconnected_since = (link.unconnected_since or now) if is_connecting else None
            seen = link.board.glance()
            if seen is None:
                continue
            slowest = max(slowest, self._hand_back(link, seen, now, has_sleepers))
            if seen.unwritten_since is not None and now - seen.unwritten_since > LINGER_SECONDS:
                self._write_lingering(link, now)
            if seen.running is not None:
                self._judge(seat, link, seen.running, now)
                self._mark(seat, seen.running, now, starts)
        if slowest:  # told again when they can be claimed (Released): those that work look sooner
            self._pool.wakeups.tasks_are_slow(slowest)
        for number in list(self._kills):
            self._proceed(number, now)
        if starts:
            self._post(MarkRunning(tuple(starts)))

    def _hand_back(self, link: Link, seen: Glance, now: float, has_sleepers: bool) -> float:
        """Take what waits behind a slow task, in a batch that has run so long, or in a child that starts nothing. How
        long tasks take there, if they have become slow; else 0.0."""
        if not seen.unstarted:
            return 0.0
        seconds, task_seconds = link.board.batch_seconds(now)
        is_slow = (
            (seen.running is not None and now - seen.running.started_ns / NANO > HAND_BACK_SECONDS)
            or seconds > BATCH_SECONDS
            or (
                has_sleepers
                and task_seconds > SLOW_SECONDS
                and min(seconds, seen.unstarted * task_seconds) > IDLE_SECONDS
            )
        )
        state = link.board.state
        is_halted = link.board.order is not ChildOrder.WORK or state in (SlotState.CONNECTING, SlotState.LEAVING)
        if not (is_slow or is_halted):
            return 0.0
        claims = link.take_back()
        if claims:
            reason: ReleaseReason = "slow_task" if is_slow else "halted"
            self._post(Release(tuple(ClaimRef(claim.task_id, claim.token) for claim in claims), reason))
        return task_seconds if is_slow and task_seconds > SLOW_SECONDS else 0.0

    def _write_lingering(self, link: Link, now: float) -> None:
        view = link.board.read()
        if view is None:
            return
        given_up = tuple(each for each in view.outcomes if each.token in view.given_up)
        if given_up and self._pool.outcomes.has_room:
            self._pool.outcomes.take_over(link, given_up)
        late = tuple(
            outcome
            for outcome in view.outcomes
            if now - outcome.ended_monotonic > _patience(outcome, is_sent=outcome.token in view.sent)
            and not self._pool.outcomes.is_finishing(outcome.token)
        )
        if late and link.board.state is not SlotState.CLAIMING:
            self._pool.outcomes.finish(Finish(late))

    def _mark(self, seat: Seat, running: BoardClaim, now: float, starts: list[Start]) -> None:
        """Order the running task to be marked so in the table, once it has run for a moment."""
        if running.is_running or self._marked.get(seat.number) == running.token:
            return
        if now - running.started_ns / NANO < MARK_RUNNING_SECONDS:
            return
        self._marked[seat.number] = running.token
        starts.append(Start(running.task_id, running.token, running.attempt, running.started_ns / NANO))

    def _judge(self, seat: Seat, link: Link, running: BoardClaim, now: float) -> None:
        """Begin a kill if the task is overdue or its child too fat."""
        if seat.number in self._kills or seat.pid is None:
            return
        if self._is_overdue(running, now):
            limit = (running.deadline_ns - running.started_ns) / NANO
            cause = f"killed by SIGKILL: it ran longer than its time limit and grace, {limit:g} s together"
            self._begin_kill(seat, link, running, Doom.TIMEOUT, cause)
        elif self._memory_limit:
            used = resident_bytes(seat.pid)
            if used > self._memory_limit:
                cause = (
                    f"killed by SIGKILL: its child used {used >> 20} MiB of memory, "
                    f"over TASK_MEMORY_LIMIT of {self._memory_limit >> 20} MiB"
                )
                self._begin_kill(seat, link, running, Doom.MEMORY, cause)

    def _is_overdue(self, running: BoardClaim, now: float) -> bool:
        """Whether it has outstayed its time limit and the grace. A task that was frozen together with us heard only
        afterwards that its time is up: the grace begins there."""
        if not running.deadline_ns:
            return False
        return now > max(running.deadline_ns / NANO, self._reaper.resumed_at + self._grace)

    def _begin_kill(self, seat: Seat, link: Link, running: BoardClaim, doom: Doom, cause: str) -> None:
        if seat.pid is None:
            raise AssertionError(f"BUG: seat {seat.number} lives without a pid")
        self._kills[seat.number] = (running, doom, cause, Inquiry.ask(seat.pid, link.stacks))

    def _proceed(self, number: int, now: float) -> None:
        """Finish a kill once the stack has come, if it is still the same task that overruns."""
        condemned, doom, cause, inquiry = self._kills[number]
        seat, link = self._pool.children.get(number), self._pool.links.get(number)
        if seat is None or link is None or seat.pid != inquiry.pid or seat.phase is not Phase.LIVE:
            del self._kills[number]
            return
        stack = inquiry.poll(now)
        if stack is None:
            return
        del self._kills[number]
        view = link.board.read()
        running = view.running if view is not None else None
        if running is None or running.token != condemned.token:
            return  # it has just finished: a kill now would hit the next task
        if doom is Doom.TIMEOUT and not self._is_overdue(running, now):
            return
        self._log.warning(
            "task_killed", slot=number, pid=seat.pid, task_id=running.task_id, type=running.type, reason=doom.value
        )
        self._reaper.kill(seat, doom, f"{cause}\n{of_the_task(stack)}", now)

    def next_look(self, now: float) -> float | None:
        """When to look again, in seconds from now; None: when something arrives."""
        if self._pool.is_quiet() and not self._kills:
            return None
        return max(0.0, self._due - now)


def _patience(outcome: Outcome, *, is_sent: bool) -> float:
    """How many seconds after its end an outcome that nobody has written is written by us."""
    if not is_sent:
        return LINGER_SECONDS
    if outcome.status is TaskStatus.PENDING:
        return min(SENT_SECONDS, max(LINGER_SECONDS, outcome.delay_seconds / 2))
    return SENT_SECONDS


def describe_slot(seat: Seat, link: Link | None, now: float) -> dict[str, object]:
    """A slot in words, for the log."""
    facts: dict[str, object] = {
        "slot": seat.number,
        "phase": seat.phase.value,
        "pid": seat.pid,
        "seconds": round(now - seat.since, 1) if seat.since else None,  # nobody has sat there yet
        "failures": seat.backoff.failures,
    }
    if link is None:
        return facts
    facts["state"] = link.board.state.name.lower()
    view = link.board.read()
    if view is not None and view.running is not None:
        facts["task_id"] = view.running.task_id
        facts["type"] = view.running.type
        facts["running_seconds"] = round(now - view.running.started_ns / NANO, 1)
    if seat.pid is not None:
        facts["rss_bytes"] = resident_bytes(seat.pid) if os.path.exists(f"/proc/{seat.pid}") else 0
    return facts
