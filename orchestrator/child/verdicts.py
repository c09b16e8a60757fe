"""What became of outcomes that were written: counted once each, and a word about those that came too late."""

from collections.abc import Callable, Collection, Sequence

from orchestrator.board.child_half import ChildBoard
from orchestrator.model import Outcome, Verdict
from orchestrator.store import holdings
from orchestrator.store.claims import Batch
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs
from orchestrator.telemetry.metrics import TaskMetrics


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
        unsure: Collection[int],
        left: Callable[[], float],
    ) -> None:
        """Metrics of what `batch` says was accepted. `last` is where the last of them stands on the board, or -1;
        `unsure` are the tokens of those that may have been written before, `left()` seconds are left.

        Marked on the board just before they are counted: should we be killed before, the supervisor counts them; in the
        few microseconds between, nobody does.
        """
        if not batch.unaccepted:
            additions = self._metrics.additions(outcomes)
            if last >= 0:
                self._board.outcomes_written(last + 1)
            for add in additions:
                add()
            return
        verdicts = holdings.verdicts(connection, batch.unaccepted, within=left())
        stale = [each for each in batch.unaccepted if verdicts[each.token] is Verdict.STALE]
        now = holdings.present_claims(connection, stale, within=left()) if stale else {}
        for outcome in outcomes:
            verdict = verdicts.get(outcome.token, Verdict.ACCEPTED)
            if verdict is Verdict.ACCEPTED or (verdict is Verdict.REPEATED and outcome.token in unsure):
                self._metrics.ended([outcome])
            elif verdict is Verdict.STALE:
                self._metrics.stale(outcome.type)
                self._log.warning(
                    "stale_outcome", task_id=outcome.task_id, type=outcome.type, token=outcome.token,
                    attempt=outcome.attempt, status=outcome.status.value, **now.get(outcome.task_id, {}),
                )  # fmt: skip

    def found(self, outcome: Outcome) -> None:
        """The supervisor found it written, so it was we who wrote it."""
        self._metrics.ended([outcome])
