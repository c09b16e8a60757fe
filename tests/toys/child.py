"""A toy child: obeys channel, board and permissions as the real one does, with a ToyStore in the database's place.

`TOY_STORE` is the store's path. A file named `hold-birth` in the working directory keeps a newborn child from
everything but being born.
"""

import os
import time
from pathlib import Path

from setproctitle import setproctitle

from orchestrator.app import App
from orchestrator.app_loading import loaded_app
from orchestrator.board.birth import ChildContext
from orchestrator.board.channel import FULL, IDLE, READY, Channel, Permits
from orchestrator.board.child_half import ChildBoard
from orchestrator.board.layout import ChildOrder, LeaveReason, SlotState
from orchestrator.child.answering import answer_with_stacks
from orchestrator.child.execution import Executor
from orchestrator.child.forks import Origin
from orchestrator.child.time_limit import TimeLimit
from orchestrator.model import Claim, Outcome
from tests.toys.store import ToyStore


def run(context: ChildContext) -> None:
    """The child's main function, as ForkserverOrders.child_main names it."""
    context.become(str(context.request.slot))
    setproctitle(f"orchestratord: child {context.request.slot}")
    store = ToyStore(os.environ["TOY_STORE"])
    app = loaded_app()
    code = getattr(app, "code", "")
    store.record_birth(context.request.slot, context.request.incarnation, os.getpid(), os.getppid(), code)
    while Path("hold-birth").exists():
        time.sleep(0.005)
    answer_with_stacks(context.stacks)
    for hook in app.start_hooks:
        hook()
    child = ToyChild(context, store, app)
    child.board.leave_because(child.work())
    for hook in app.stop_hooks:
        hook()
    os._exit(0)


class ToyChild:
    """Claims, runs, records; `work` returns why it leaves."""

    def __init__(self, context: ChildContext, store: ToyStore, app: App) -> None:
        self.board = ChildBoard(context.board)
        self._slot = context.request.slot
        self._settings = context.settings
        self._channel = Channel(context.channel)
        self._permits = Permits(context.permits)
        self._store = store
        self._executor = Executor(app, TimeLimit(), Origin(), default_timeout=None, max_result_size=1 << 20)
        self._unwritten: list[Outcome] = []
        self._is_cut = False

    def work(self) -> LeaveReason:
        self.board.enter(SlotState.CLAIMING)
        self._channel.send(READY)
        while True:
            if self._is_cut:
                return LeaveReason.LIFELINE
            if self.board.order is ChildOrder.LEAVE:
                return LeaveReason.ORDERED
            if self.board.order is ChildOrder.PAUSE or not self._run_batch():
                self._sleep()

    def _sleep(self) -> None:
        self.board.enter(SlotState.IDLE)
        self._channel.send(IDLE)
        self._channel.wait(None)
        self._is_cut = self._channel.receive() is None

    def _run_batch(self) -> bool:
        self.board.enter(SlotState.CLAIMING)
        self.board.claim_begins()
        claims = self._store.claim(self._settings.claim_limit, self._slot)
        self.board.publish([(claim, self._executor.limits(claim).max_retries) for claim in claims])
        self.board.claim_ended()
        self._permits.add(len(claims))
        if len(claims) == self._settings.claim_limit:
            self._channel.send(FULL)
        self.board.enter(SlotState.BUSY)
        for claim in claims:
            if self.board.order is not ChildOrder.WORK or not self._permits.take():
                break
            self._run(claim)
        while self.board.order is not ChildOrder.LEAVE and not self.board.has_settled:
            time.sleep(0.001)
        self._store.finish(self._unwritten, "child")
        self._unwritten.clear()
        self.board.outcomes_written()
        return bool(claims)

    def _run(self, claim: Claim) -> None:
        limits = self._executor.limits(claim)
        grace = self._settings.task_kill_grace
        hard = int((limits.timeout_seconds + grace) * 1e9) if limits.timeout_seconds is not None else 0
        outcome = self._executor.run(claim, limits, self.board.start(hard))
        self.board.end(outcome)
        self._unwritten.append(outcome)
