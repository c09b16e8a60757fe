"""A child's life between boot and exit: wait for a wake-up, claim, run, record. It must never hang on its own account.

The supervisor reads the board while this runs: whatever is claimed stands there before it starts, whatever ended
before the next starts. The database may be away for hours; what ended is kept and written when it is back.
"""

import time
from collections.abc import Callable, Sequence

from orchestrator.board.birth import ChildContext
from orchestrator.board.channel import FULL, IDLE, LOST, Channel, Permits
from orchestrator.board.child_half import ChildBoard
from orchestrator.board.kernel import resident_bytes
from orchestrator.board.layout import ChildOrder, LeaveReason, SlotState, Word
from orchestrator.board.memory import NANO
from orchestrator.child.crowd import REST_SECONDS, Crowd
from orchestrator.child.database import Database
from orchestrator.child.execution import Executor, Limits
from orchestrator.child.large_results import is_large, write_at_once
from orchestrator.child.ledger import Ledger
from orchestrator.child.pace import Pace
from orchestrator.child.runner import Runner
from orchestrator.child.sanity import BRIEF_SECONDS, Sanity
from orchestrator.child.statements import REFUSED_WAIT_SECONDS
from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.model import Claim, TaskStatus
from orchestrator.retry import chance
from orchestrator.telemetry import logs
from orchestrator.telemetry.metrics import TaskMetrics
from orchestrator.telemetry.repeats import Repeats

FULL_SECONDS = 0.05
"""Full claims are told no more often: each wakes the supervisor, of a busy pool hundreds would a second."""

SETTLE_SECONDS = 0.002


class Loop:
    """One child at work; `run` returns why it leaves."""

    def __init__(
        self,
        context: ChildContext,
        *,
        board: ChildBoard,
        permits: Permits,
        channel: Channel,
        database: Database,
        crowd: Crowd,
        executor: Executor,
        runner: Runner,
        sanity: Sanity,
        metrics: TaskMetrics,
    ) -> None:
        self._settings = context.settings
        self._board = board
        self._permits = permits
        self._channel = channel
        self._database = database
        self._crowd = crowd
        self._executor = executor
        self._runner = runner
        self._sanity = sanity
        self._metrics = metrics
        request = context.request
        self._ledger = Ledger(board, database, metrics, worker_id=request.worker_id, slot=request.slot)
        self._unwritten = self._ledger.unwritten
        self._pace = Pace(self._settings.claim_limit)
        self._slowness = board.word(Word.SLOWNESS)
        self._is_front_in_doubt = False
        self._leave: LeaveReason | None = None
        self._full_due = 0.0
        self._tasks_left = _draw_tasks(self._settings.max_tasks_per_child)
        self._refusals = Repeats()
        self._log = logs.get("child")

    def run(self) -> LeaveReason:
        """Work until there is a reason to leave; nothing finished is left unwritten unless the database is away."""
        while True:
            reason = self._reason_to_leave()
            if reason is not None:
                self._last_write()
                return reason
            if self._database.connection is None and not self._connect():
                continue
            if not self._work() and self._leave is None:
                self._sleep()

    def _reason_to_leave(self) -> LeaveReason | None:
        if self._leave is not None:
            return self._leave
        if self._board.order is ChildOrder.LEAVE:
            return LeaveReason.ORDERED
        if self._tasks_left == 0:
            return LeaveReason.MAX_TASKS
        limit = self._settings.max_child_memory
        if limit and resident_bytes() > limit:
            return LeaveReason.MAX_MEMORY
        return None

    def _connect(self) -> bool:
        self._board.enter(SlotState.CONNECTING)
        wait = self._database.seconds_to_next_try()
        if wait > 0:
            self._listen(wait)
            return False
        if not self._database.try_to_connect():
            return False
        self._sanity.connected()
        return True

    def _sleep(self) -> None:
        """Until the supervisor says LOOK; it hears that we sleep, in case it had something while we claimed."""
        self._full_due = 0.0  # who has slept must tell at once: the others may sleep as well
        self._crowd.leave()
        self._ledger.withdraw_offer()
        self._board.enter(SlotState.IDLE)
        self._runner.rest()
        self._channel.tell(IDLE)
        try:
            self._ledger.plan_ahead()
        except DatabaseUnavailable:
            return
        self._listen(None)

    def _rest(self) -> None:
        """Leave the processors to others for a moment; what ended does not wait for that. If it could not be written it
        is kept, and we rest all the same: what the server refuses now it would refuse at once again."""
        self._flush()
        if self._leave is None:
            self._board.enter(SlotState.RESTING)
            self._runner.rest()
            self._listen(REST_SECONDS)

    def _listen(self, seconds: float | None) -> None:
        """Wait for a message; leave when the lifeline is cut."""
        if self._channel.wait(seconds) and self._channel.receive() is None:
            self._leave = LeaveReason.LIFELINE

    def _work(self) -> bool:
        """Claim and run until a claim comes back empty. False: nothing was there, sleep."""
        if self._board.order is ChildOrder.PAUSE:
            return len(self._unwritten) > 0 and self._flush()
        self._heed_slowness()
        if self._pace.is_largest and self._crowd.should_rest(time.monotonic_ns()):
            self._rest()
            return True
        self._board.enter(SlotState.CLAIMING)
        asked = self._pace.size if self._tasks_left is None else min(self._pace.size, self._tasks_left)
        claims = self._claim(asked)
        if not claims:
            return claims is None or not self._ledger.has_seen_front
        began = time.monotonic()
        if self._ledger.is_more_due and not self._board.word(Word.WAKE_OWED) and began >= self._full_due:
            self._full_due = began + FULL_SECONDS
            self._channel.send(FULL)
        self._board.begin_batch()
        self._ledger.begin_batch(self._pace.task_seconds)
        if self._pace.is_largest:
            self._crowd.begins(time.monotonic_ns())
        ran = self._run_batch(claims)
        self._pace.learn(asked=asked, got=len(claims), ran=ran, seconds=time.monotonic() - began)
        if self._tasks_left is not None:
            self._tasks_left = max(0, self._tasks_left - ran)
        return True

    def _heed_slowness(self) -> None:
        """Ask for fewer if tasks have become slower. The next claim may find what was taken back, if its priority is
        higher; else the next that begins at the front does."""
        slowness = self._board.word(Word.SLOWNESS)
        is_new = slowness != self._slowness
        if is_new:
            self._slowness = slowness
            self._is_front_in_doubt = True
        if self._is_front_in_doubt and self._ledger.begins_at_front:
            self._is_front_in_doubt = False
        elif not is_new:
            return
        self._pace.heed(self._board.word(Word.TASK_NS) / NANO)

    def _claim(self, limit: int) -> list[tuple[Claim, Limits]] | None:
        """Claim up to `limit` and put them on the board. None: the database failed, or we must leave."""
        self._board.claim_begins()
        try:
            batch = self._ledger.exchange(limit)
            claims = [(claim, self._executor.limits(claim)) for claim in batch.claims]
            self._board.publish([(claim, limits.max_retries) for claim, limits in claims])
        except DatabaseUnavailable:
            self._board.claim_ended()
            self._channel.tell(LOST)
            return None
        except StatementRefused as refusal:
            self._metrics.database_failed(refusal)
            if self._refusals.is_news(str(refusal)):
                self._log.error("claim_refused", sqlstate=refusal.sqlstate, error=str(refusal))
            self._board.claim_ended()
            self._listen(chance.uniform(0.5, 1.0) * REFUSED_WAIT_SECONDS)
            return None
        self._refusals.over()
        self._board.claim_ended()
        self._permits.add(len(claims))
        if not batch.is_registered:
            self._leave = LeaveReason.UNREGISTERED
        return claims

    def _run_batch(self, claims: list[tuple[Claim, Limits]]) -> int:
        """Start each claim whose permission we get; the rest the supervisor has taken back, or will. How many ran."""
        ran = 0
        for claim, limits in claims:
            if not self._make_room() or self._leave is not None or not self._board.may_work:
                break
            try:
                if not self._permits.take():
                    break
            except OSError as error:
                self._condemn([f"the start permissions were closed: {error}"])
                break
            self._run_one(claim, limits)
            ran += 1
        self._inspect()
        self._settle()
        return ran

    def _settle(self) -> None:
        """Wait until the supervisor has taken (and noted) what we did not start: only then the batch may go.

        A child that leaves need not wait: what it did not start is taken back when it is reaped.
        """
        if self._board.has_settled:
            return
        if not self._board.has_room:
            self._board.enter(SlotState.CONNECTING)  # tells the supervisor that we start nothing now
        while self._leave is None and self._board.order is not ChildOrder.LEAVE and not self._board.has_settled:
            self._listen(SETTLE_SECONDS)

    def _make_room(self) -> bool:
        """Send what ended if it has waited long enough; write it if the board is full. False: full, and the database is
        away."""
        if self._ledger.is_late and self._database.connection is not None:
            self._write(self._ledger.send)
        if not self._board.has_room and self._database.connection is not None:
            self._flush()
        return self._board.has_room

    def _inspect(self) -> None:
        """See whether what we send messages and statements on is still ours."""
        wrong = self._sanity.inspect()
        if wrong:
            self._condemn(wrong)

    def _condemn(self, wrong: Sequence[str]) -> None:
        self._log.warning("child_not_reusable", found="; ".join(wrong))
        self._leave = LeaveReason.INSANE

    def _flush(self) -> bool:
        return self._write(lambda: self._ledger.exchange(0))

    def _write(self, act: Callable[[], object]) -> bool:
        """Have the ledger write, or hear. False: it could not; what ended is kept."""
        self._inspect()
        if self._leave is LeaveReason.INSANE:
            return False
        try:
            act()
        except (DatabaseUnavailable, StatementRefused):
            return False
        return True

    def _run_one(self, claim: Claim, limits: Limits) -> None:
        index = self._board.word(Word.STARTED)
        outcome, seconds, wrong = self._runner.run(claim, limits)
        if wrong:
            self._condemn(wrong)
        if outcome.result is not None and is_large(outcome.result):
            self._board.handler_ended()
            self._inspect()
            if self._leave is LeaveReason.INSANE:
                self._database.abandon()
            write_at_once(outcome, self._ledger, self._database, connected=self._sanity.connected)
        else:
            if outcome.status is not TaskStatus.COMPLETED:
                self._ledger.withdraw_offer()  # a retry may be due before the supervisor hears what became of it
            self._board.end(outcome)
            self._ledger.ended(index, outcome, seconds)
            if seconds > BRIEF_SECONDS and self._ledger.has_answer and self._leave is None:
                self._write(self._ledger.hear)
        logs.task_ended()

    def _last_write(self) -> None:
        """One try: what does not get through stands on the board, for the supervisor to write."""
        if len(self._unwritten) and self._database.connection is not None and self._leave is not LeaveReason.INSANE:
            self._flush()


def _draw_tasks(limit: int) -> int | None:
    """How many tasks this child runs: up to a tenth fewer than the limit, lest a pool be replaced all at once."""
    if limit == 0:
        return None
    return limit - chance.randint(0, limit // 10)
