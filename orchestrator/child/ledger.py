"""The child's dealings with the database: finish what ended, claim what is next. Runs in a child."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from orchestrator.board.child_half import ChildBoard
from orchestrator.child.database import Database
from orchestrator.child.offer import LEAST_TASK_SECONDS, LONGEST_TASK_SECONDS, SEND_SECONDS, Offer
from orchestrator.child.refusals import Refusals
from orchestrator.child.statements import Statements
from orchestrator.child.unwritten import Unwritten
from orchestrator.child.verdicts import Verdicts
from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.model import Outcome
from orchestrator.store.claims import Batch
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs
from orchestrator.telemetry.metrics import TaskMetrics

SLOW_SECONDS = 0.04
"""While there is plenty to claim, outcomes are written while the next batch runs. But not after such a task: the next
would keep us from hearing of them, and the supervisor would ask in our stead."""

SPARE_SECONDS = 0.01
"""An outcome is sent before a task that would make it wait so much longer: one that takes as long as the last."""

COMPANY = 256
"""Outcomes wait for the next batch's unless they would be more together. A statement costs as much as a dozen of them,
and the longer the next batches take, the less their claims have to wait for its disk."""

NOTHING = Batch(accepted=0, unaccepted=(), claims=(), is_registered=True)


class _Sent(NamedTuple):
    """Outcomes on their way: the unwritten to board index `last`, but for those that the supervisor had written."""

    connection: Connection
    outcomes: Sequence[Outcome]
    last: int
    receive: Callable[[float], Batch]
    give_up_at: float


class Ledger:
    """When outcomes are written, with or behind the next claim, and when it is heard what became of them."""

    def __init__(
        self, board: ChildBoard, database: Database, metrics: TaskMetrics, *, worker_id: str, slot: int
    ) -> None:
        self._board = board
        self._database = database
        self._verdicts = Verdicts(board, metrics)
        self._statements = Statements(metrics, worker_id=worker_id, slot=slot)
        self.unwritten = Unwritten(board, self._verdicts)
        self._refusals = Refusals(self.unwritten, self._statements, self._verdicts)
        self._sent: _Sent | None = None
        self._planned_on: Connection | None = None
        self._offer = Offer(board)
        self._last_end = 0.0
        self._next_end = 0.0  # of the next task, if it takes as long as the last (but for SPARE_SECONDS)
        self._log = logs.get("child")

    @property
    def begins_at_front(self) -> bool:
        """Whether the next claim looks at all that is due."""
        return self._statements.begins_at_front

    @property
    def has_seen_front(self) -> bool:
        """Whether the last claim looked at all that is due."""
        return self._statements.has_seen_front

    @property
    def is_more_due(self) -> bool:
        """Whether the last claim left something to others, for all it knows."""
        return self._statements.is_more_due

    def exchange(self, limit: int, *, extra: Sequence[Outcome] = ()) -> Batch:
        """Write all unwritten outcomes (and `extra`, which are not on the board), and claim up to `limit` tasks.

        What it returns may run. As long as every claim finds as much as it asks for, outcomes wait for company, are
        sent then, and what became of them is heard later (`hear`). Raises DatabaseUnavailable; then everything is kept,
        and what was claimed without our knowing is the supervisor's to find.
        """
        self.hear()
        connection = self._database.connection
        if connection is None:
            raise DatabaseUnavailable("not connected")
        outcomes = [*self._left_to_us(), *extra]
        self._statements.begin()
        with self._dropped_if_lost():
            if limit and self._statements.is_plenty_due and not self._must_wait(outcomes):
                return self._claim_first(connection, outcomes, limit)
            batch = self._finish_and_claim(connection, outcomes, limit)
            self.unwritten.all_are_written()
        self._offer.renew()  # a batch may be in the midst of it
        return batch

    def _left_to_us(self) -> Sequence[Outcome]:
        """StatementRefused: some were given up, and the supervisor, who looks all the time, has not seen that yet."""
        outcomes = self.unwritten.left_to_us()
        if self.unwritten.must_be_taken_over:
            raise StatementRefused("outcomes that were given up are not taken over yet", sqlstate=None)
        return outcomes

    def _claim_first(self, connection: Connection, outcomes: Sequence[Outcome], limit: int) -> Batch:
        """Apart, because the rows of a claim are locked until it has committed, and every other claimer has to step
        over each of them: with ten at work, over hundreds while one waits for the disk. The claim waits for none."""
        try:
            batch = self._finish_and_claim(connection, (), limit)
        except StatementRefused:
            self._finish_and_claim(connection, outcomes, 0)
            self.unwritten.all_are_written()
            raise
        try:
            if not batch.claims or not self._board.has_place(len(batch.claims)):
                self._finish_and_claim(connection, outcomes, 0)
                self.unwritten.all_are_written()
            elif len(outcomes) + limit > COMPANY or self.must_send(now := time.monotonic(), now):
                self._send(connection, self.unwritten.left_to_us())
        except StatementRefused as refusal:
            self._statements.expect_little()  # together the next time: there it is looked for whose fault it is
            raise DatabaseUnavailable(f"outcomes were refused: {refusal}", sent=True) from refusal
        return batch

    def begin_batch(self, task_seconds: float) -> None:
        """A task of the last one took so long. While there is plenty to claim, the supervisor may write what ends."""
        is_worth_it = LEAST_TASK_SECONDS < task_seconds < LONGEST_TASK_SECONDS
        self._offer.make(task_seconds if is_worth_it and self._statements.is_plenty_due else 0.0)
        if self._sent is not None:
            self._offer.suspend()

    def withdraw_offer(self) -> None:
        """What ends in this batch from now on we write ourselves; or nothing ends, and nobody is to come for it."""
        self._offer.make(0.0)

    def ended(self, index: int, outcome: Outcome, seconds: float) -> None:
        """A task that took so long has ended, and its outcome stands on the board there."""
        self.unwritten.add(index, outcome)
        self._last_end = self._next_end = outcome.ended_monotonic
        if seconds > SPARE_SECONDS:
            self._next_end += seconds - SPARE_SECONDS

    @property
    def is_late(self) -> bool:
        """Whether what ended must be sent before another task runs."""
        next_end = self._next_end
        return next_end - self.unwritten.oldest_end > SEND_SECONDS and self.must_send(self._last_end, next_end)

    def must_send(self, now: float, until: float) -> bool:
        """Whether an outcome that was not sent has waited too long for the supervisor, or will have waited too long by
        then if that does not come for it (CLOCK_MONOTONIC seconds)."""
        unwritten = self.unwritten
        if self._sent is None:
            unwritten.look()
            patience = self._offer.patience(unwritten.first) if unwritten.first is not None else None
            if patience is not None:
                return now - unwritten.oldest_end > patience
        return until - unwritten.oldest_end > SEND_SECONDS

    def plan_ahead(self) -> None:
        """While there is nothing to do: have the server plan what there may be to do, once a connection.

        DatabaseUnavailable: the connection is lost.
        """
        connection = self._database.connection
        if connection is None or connection is self._planned_on:
            return
        self._planned_on = connection
        try:
            with self._dropped_if_lost():
                self._statements.plan_ahead(connection)
        except StatementRefused as refusal:
            self._log.debug("not_planned_ahead", sqlstate=refusal.sqlstate, error=str(refusal))

    def send(self) -> None:
        """Send all unwritten outcomes, and wait for nothing but the fate of those that were sent before."""
        if self.unwritten.is_pressing:
            self.exchange(0)
            return
        self.hear()
        connection = self._database.connection
        if connection is None:
            return
        outcomes = self._left_to_us()
        self._statements.begin()
        with self._dropped_if_lost():
            self._send(connection, outcomes)

    def _send(self, connection: Connection, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        self._writes(outcomes)
        receive = self._statements.send(connection, outcomes)
        self._sent = _Sent(connection, outcomes, self.unwritten.last, receive, self._statements.give_up_at)
        self.unwritten.sent()

    def _writes(self, outcomes: Sequence[Outcome]) -> None:
        """A statement with these goes out: the supervisor had better not write them too."""
        if outcomes:
            self._offer.suspend()
            self._board.sends(self.unwritten.last + 1)

    def _must_wait(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether these are to be written before anything else runs."""
        if not outcomes or self.unwritten.is_pressing:
            return True
        if self._offer.is_taken:
            return False
        return outcomes[-1].ended_monotonic - outcomes[-1].started_monotonic > SLOW_SECONDS

    @property
    def has_answer(self) -> bool:
        """Whether outcomes were sent, and `hear` would not have to wait."""
        return self._sent is not None and (not self._sent.connection.is_open or self._sent.connection.has_answer())

    def hear(self) -> None:
        """Hear what became of outcomes that were sent, if there are any. DatabaseUnavailable, StatementRefused: they
        are still to be written."""
        self._give_up_lost()
        sent, self._sent = self._sent, None
        if sent is None:
            return
        self._statements.give_up_at = sent.give_up_at
        self.unwritten.not_sent(sent.outcomes)  # until we know better
        with self._dropped_if_lost():
            try:
                batch = sent.receive(self._statements.left())
            except StatementRefused as refusal:
                if refusal.blames_lock:
                    self._refusals.finish_past_locks(sent.connection)
                if not refusal.blames_data:
                    raise
                self._refusals.finish_one_by_one(sent.connection, sent.outcomes, refusal)
            else:
                self._count(sent.connection, sent.outcomes, batch, sent.last)
        self.unwritten.are_written(sent.last)
        self._offer.renew()

    def _give_up_lost(self) -> None:
        """Of outcomes that were sent on a connection that is no longer ours nothing will be heard."""
        if self._sent is not None and self._database.connection is not self._sent.connection:
            self.unwritten.not_sent(self._sent.outcomes)
            self._sent = None

    @contextmanager
    def _dropped_if_lost(self) -> Iterator[None]:
        """A connection that fails is dropped. What was sent on it may have been written: it is sent again, and then it
        turns out who wrote it."""
        try:
            yield
        except DatabaseUnavailable as error:
            self._database.lost(error)
            self._board.sends(0)
            self.withdraw_offer()  # what stands there the watch looks at, and nothing is claimed now
            raise

    def _finish_and_claim(self, connection: Connection, outcomes: Sequence[Outcome], limit: int) -> Batch:
        if not outcomes and not limit:
            return NOTHING
        self._writes(outcomes)
        try:
            batch = self._statements.run(connection, outcomes, limit)
        except StatementRefused as refusal:
            if outcomes and refusal.blames_lock:
                self._refusals.finish_past_locks(connection)
            if not outcomes or not refusal.blames_data:
                raise
            self._refusals.finish_one_by_one(connection, outcomes, refusal)
            return self._finish_and_claim(connection, (), limit)
        if outcomes:
            self._count(connection, outcomes, batch, self.unwritten.last)
        elif batch.claims and batch.claims[0].is_running:  # such a one comes alone
            self._statements.wait_for_disk(connection)  # its attempt has to be on record
        return batch

    def _count(self, connection: Connection, outcomes: Sequence[Outcome], batch: Batch, last: int) -> None:
        self._verdicts.count(connection, outcomes, batch, last=last, left=self._statements.left)
