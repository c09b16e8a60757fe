"""One task of a batch: its name on the process and in the log, its handler, and the process as it was before."""

from collections.abc import Sequence

from setproctitle import setproctitle

from orchestrator.board.birth import ChildContext
from orchestrator.board.child_half import ChildBoard
from orchestrator.board.memory import NANO
from orchestrator.child.execution import Executor, Limits
from orchestrator.child.sanity import Sanity
from orchestrator.model import Claim, Outcome
from orchestrator.telemetry import logs


class Runner:
    """Runs claims, one at a time."""

    def __init__(self, context: ChildContext, board: ChildBoard, executor: Executor, sanity: Sanity) -> None:
        self._title = f"orchestratord: child {context.request.slot} "
        self._kill_grace = context.settings.task_kill_grace
        self._board = board
        self._executor = executor
        self._sanity = sanity

    def run(self, claim: Claim, limits: Limits) -> tuple[Outcome, float, Sequence[str]]:
        """Start it on the board and run its handler: the outcome, which is not on the board yet; the seconds it took;
        and why no further task may run here, if there is a reason."""
        task_id, type_name, _, _, attempt, *_ = claim
        timeout = limits.timeout_seconds
        hard = int((timeout + self._kill_grace) * NANO) if timeout is not None else 0
        setproctitle(f"{self._title}{type_name} {task_id}")
        logs.task_begins(task_id, type_name, attempt)
        outcome = self._executor.run(claim, limits, self._board.start(hard))
        seconds = outcome.ended_monotonic - outcome.started_monotonic
        wrong = self._sanity.restore(seconds)
        if self._executor.lost_loop is not None:
            wrong = [*wrong, f"{self._executor.lost_loop}, and what coroutines keep connected is lost with it"]
        return outcome, seconds, wrong

    def rest(self) -> None:
        """The process sleeps."""
        setproctitle(self._title + "idle")
