"""The child's dealings with the database: finish what ended, claim what is next, count what counts. Runs in a child."""

import time
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.board.child_half import ChildBoard
from orchestrator.child.cursor import Cursor
from orchestrator.child.database import Database
from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.model import Outcome, Verdict
from orchestrator.store import claims, holdings
from orchestrator.store.claims import Batch
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs
from orchestrator.telemetry.metrics import TaskMetrics

EXCHANGE_SECONDS = 20.0
"""An exchange that takes longer is given up with its connection; the supervisor finds what it left. All of its
statements together: the supervisor takes a child for stuck that claims for a minute."""

LEAST_SECONDS = 0.5
"""For the last of them, if those before it have used up the time."""

MANY = 25
"""So many outcomes and claims are worth a commit each: see `_claim_then_finish`."""


class Ledger:
    """The outcomes that ended and are not written, in the order of the board, and the statement that writes them."""

    def __init__(
        self, board: ChildBoard, database: Database, metrics: TaskMetrics, *, worker_id: str, slot: int
    ) -> None:
        self._board = board
        self._database = database
        self._metrics = metrics
        self._worker_id = worker_id
        self._slot = slot
        self._unwritten: list[tuple[int, Outcome]] = []
        self._unsure: set[int] = set()  # sent before, but the reply was lost: they may stand already
        self._cursor = Cursor()
        self._give_up_at = 0.0
        self.has_seen_front = True  # whether the last claim looked at all that is due
        self._log = logs.get("child")

    def __len__(self) -> int:
        return len(self._unwritten)

    def add(self, index: int, outcome: Outcome) -> None:
        """An outcome that stands on the board at `index`."""
        self._unwritten.append((index, outcome))

    @property
    def is_unsure(self) -> bool:
        """Whether the fate of outcomes that were sent is unknown, and the supervisor has not found it out yet."""
        return any(
            outcome.token in self._unsure and not self._board.supervisor_wrote(index, outcome.token)
            for index, outcome in self._unwritten
        )

    def oldest_end(self) -> float:
        """When the first of them ended, in CLOCK_MONOTONIC seconds."""
        return self._unwritten[0][1].ended_monotonic

    def exchange(self, limit: int, *, extra: Sequence[Outcome] = ()) -> Batch:
        """Write all unwritten outcomes (and `extra`, which are not on the board), and claim up to `limit` tasks.

        What it returns is on the server's disk. Raises DatabaseUnavailable; then everything is kept, and what was
        claimed without our knowing is the supervisor's to find.
        """
        connection = self._database.connection
        if connection is None:
            raise DatabaseUnavailable("not connected")
        outcomes = [*self._left_to_write(), *extra]
        self._give_up_at = time.monotonic() + EXCHANGE_SECONDS
        try:
            batch = self._send(connection, outcomes, limit)
        except DatabaseUnavailable as error:
            if error.sent:
                self._unsure.update(each.token for each in outcomes)
            self._database.lost(error)
            raise
        self._unwritten.clear()
        self._unsure.clear()
        self._board.outcomes_written()
        return batch

    def _left_to_write(self) -> list[Outcome]:
        """What the supervisor has not written for us. What it found written we wrote, and may not have counted yet."""
        left = []
        for index, outcome in self._unwritten:
            if not self._board.supervisor_wrote(index, outcome.token):
                left.append(outcome)
            elif outcome.token in self._unsure and self._board.supervisor_found(index, outcome.token):
                self._unsure.discard(outcome.token)
                self._metrics.ended([outcome])
        return left

    def _send(self, connection: Connection, outcomes: Sequence[Outcome], limit: int) -> Batch:
        if len(outcomes) >= MANY <= limit:
            return self._claim_then_finish(connection, outcomes, limit)
        try:
            batch = self._statement(connection, outcomes, limit)
        except StatementRefused as refusal:
            if not outcomes or not refusal.blames_data:
                raise
            self._log.warning("write_refused", outcomes=len(outcomes), sqlstate=refusal.sqlstate, error=str(refusal))
            accepted = sum(self._send_alone(connection, outcome) for outcome in outcomes)
            return Batch(accepted=accepted, unaccepted=(), claims=(), is_registered=True)
        self._count(connection, outcomes, batch)
        return batch

    def _claim_then_finish(self, connection: Connection, outcomes: Sequence[Outcome], limit: int) -> Batch:
        """Two commits, of which only the second waits for the disk, and so for what the first has written too.

        The rows of a claim are locked until it has committed, and every other claimer has to step over each of them,
        at 1 us a row: with ten at work, they would do that with hundreds while one waits for the disk.
        """
        batch = self._statement(connection, (), limit, is_durable=False)
        try:
            finished = self._send(connection, outcomes, 0)
            if finished.accepted == 0:
                claims.wait_for_disk(connection, within=self._left())  # nothing was changed, so nothing waited
        except StatementRefused as refusal:
            raise DatabaseUnavailable(f"outcomes were refused: {refusal}", sent=True) from refusal
        return replace(batch, accepted=finished.accepted, unaccepted=finished.unaccepted)

    def _statement(
        self, connection: Connection, outcomes: Sequence[Outcome], limit: int, *, is_durable: bool = True
    ) -> Batch:
        began = time.monotonic()
        start = self._cursor.start(began)
        batch = claims.finish_and_claim(
            connection,
            outcomes,
            worker_id=self._worker_id,
            slot=self._slot,
            limit=limit,
            within=self._left(),
            start=start,
            is_durable=is_durable,
        )
        if limit:
            now = time.monotonic()
            self._metrics.claimed(now - began)
            self._cursor.learn(start, is_full=len(batch.claims) >= limit, last=batch.last, began=began, now=now)
            self.has_seen_front = start is None and not batch.was_outrun
        return batch

    def _left(self) -> float:
        return max(LEAST_SECONDS, self._give_up_at - time.monotonic())

    def _send_alone(self, connection: Connection, outcome: Outcome) -> int:
        """One outcome of a batch that was refused; the one whose texts PostgreSQL cannot store loses them.

        Returns how many were accepted.
        """
        try:
            batch = self._statement(connection, [outcome], 0)
        except StatementRefused as refusal:
            if not refusal.blames_data:
                raise
            self._log.error("outcome_refused", task_id=outcome.task_id, type=outcome.type, error=str(refusal))
            outcome = outcome._replace(
                error="the error could not be stored" if outcome.error is not None else None,
                result='{"note": "the result could not be stored"}' if outcome.result is not None else None,
            )
            try:
                batch = self._statement(connection, [outcome], 0)
            except StatementRefused as again:
                raise DatabaseUnavailable(f"an outcome was refused: {again}") from again
        self._count(connection, [outcome], batch)
        return batch.accepted

    def _count(self, connection: Connection, outcomes: Sequence[Outcome], batch: Batch) -> None:
        """Metrics of what was accepted; a word about what was not.

        Marked on the board just before they are counted: should we be killed before, the supervisor counts them; in the
        few microseconds between, nobody does.
        """
        if not batch.unaccepted:
            tokens = {outcome.token for outcome in outcomes}
            written = [index for index, outcome in self._unwritten if outcome.token in tokens]
            additions = self._metrics.additions(outcomes)
            if written:
                self._board.outcome_written(written[-1])
            for add in additions:
                add()
            return
        verdicts = holdings.verdicts(connection, batch.unaccepted, within=self._left())
        stale = [each for each in batch.unaccepted if verdicts[each.token] is Verdict.STALE]
        now = holdings.present_claims(connection, stale, within=self._left()) if stale else {}
        for outcome in outcomes:
            verdict = verdicts.get(outcome.token, Verdict.ACCEPTED)
            if verdict is Verdict.ACCEPTED or (verdict is Verdict.REPEATED and outcome.token in self._unsure):
                self._metrics.ended([outcome])
            elif verdict is Verdict.STALE:
                self._metrics.stale(outcome.type)
                self._log.warning(
                    "stale_outcome", task_id=outcome.task_id, type=outcome.type, token=outcome.token,
                    attempt=outcome.attempt, status=outcome.status.value, **now.get(outcome.task_id, {}),
                )  # fmt: skip
