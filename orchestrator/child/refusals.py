"""When the server refuses a batch of outcomes for the sake of one of them: the others are written all the same. Runs in
a child."""

import time
from collections.abc import Sequence

from orchestrator.child.statements import Statements
from orchestrator.child.unwritten import Unwritten
from orchestrator.child.verdicts import Verdicts
from orchestrator.errors import StatementRefused
from orchestrator.model import Outcome
from orchestrator.store.claims import Batch
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

PAST_LOCKS_SECONDS = 10.0
"""All rows may be locked, one by one or with their table: what was not tried by then is not."""


class Refusals:
    """Finds the one, and finishes those beside it. All raise as `Statements.run` does."""

    def __init__(self, unwritten: Unwritten, statements: Statements, verdicts: Verdicts) -> None:
        self._unwritten = unwritten
        self._statements = statements
        self._verdicts = verdicts
        self._log = logs.get("child")

    def finish_past_locks(self, connection: Connection) -> None:
        """Somebody has locked a row for as long as a statement may take: write what stands beside it (on the board that
        is as if the supervisor had, since those before it are not written), and leave the others to the supervisor,
        who can wait for them while we go on."""
        until = time.monotonic() + PAST_LOCKS_SECONDS
        for index, outcome in self._unwritten.all():
            batch = self._finish_unless_locked(connection, outcome) if time.monotonic() < until else None
            if batch is None:
                self._unwritten.give_up(index, outcome)
            else:
                self._count_one(connection, index, outcome, batch)
        left = len(self._unwritten)
        self._log.warning("rows_are_locked", outcomes=left, then="their outcomes wait; look at pg_locks")

    def _finish_unless_locked(self, connection: Connection, outcome: Outcome) -> Batch | None:
        try:
            return self._statements.run_past_locks(connection, outcome)
        except StatementRefused as refusal:
            if not refusal.blames_lock:
                raise
            return None

    def finish_one_by_one(self, connection: Connection, outcomes: Sequence[Outcome], refusal: StatementRefused) -> None:
        """PostgreSQL cannot store one's texts: that one loses them. One that it does not take without them either (a
        trigger or a constraint of the user's is against it) is left to the supervisor, who tries again while we go on:
        then the others are finished, and StatementRefused is raised."""
        self._log.warning("write_refused", outcomes=len(outcomes), sqlstate=refusal.sqlstate, error=str(refusal))
        last_word: StatementRefused | None = None
        for outcome in outcomes:
            index = self._unwritten.index_of(outcome)
            if index < 0 and last_word is not None:
                break  # it has no place on the board, so it comes last, and has to wait for all before it
            try:
                self._finish(connection, index, outcome)
            except StatementRefused as again:
                if index < 0 or not again.blames_data:
                    raise
                self._unwritten.give_up(index, outcome)
                self._log.error(
                    "outcome_refused_again", task_id=outcome.task_id, type=outcome.type,
                    then="it waits; is a trigger or a constraint on tasks against it?",
                )  # fmt: skip
                last_word = again
        if last_word is not None:
            raise last_word

    def _finish(self, connection: Connection, index: int, outcome: Outcome) -> None:
        try:
            batch = self._statements.run(connection, [outcome], 0)
        except StatementRefused as refusal:
            if not refusal.blames_data:
                raise
            self._log.error("outcome_refused", task_id=outcome.task_id, type=outcome.type, error=str(refusal))
            outcome = outcome.without_texts("the error could not be stored")
            batch = self._statements.run(connection, [outcome], 0)
        if index < 0:  # what is left on the board the supervisor wrote
            self._unwritten.are_written(self._unwritten.last)
            self._verdicts.count(connection, [outcome], batch, last=index, left=self._statements.left)
        else:
            self._count_one(connection, index, outcome, batch)

    def _count_one(self, connection: Connection, index: int, outcome: Outcome, batch: Batch) -> None:
        self._verdicts.count_one(connection, index, outcome, batch, left=self._statements.left)
        left = [each for each in self._unwritten.all() if each[0] != index]
        self._unwritten.are_written_but(left)  # whatever becomes of those behind it
