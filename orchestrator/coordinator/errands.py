"""The supervisor's orders, as statements: one class per kind. Runs in the coordinator thread.

Each `run` takes what fits into one statement from the order book and settles it there once the database took it;
StoreError leaves it in the book, to be sent again. All these statements may be repeated: a claim token fences them.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.order_book import OrderBook
from orchestrator.coordinator.standing import Standing
from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.mailbox import Audited, Mailbox, Report, Written
from orchestrator.model import Outcome, Verdict
from orchestrator.store import claims, types, workers
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

WRITE_SECONDS = 10.0
"""An order's statement is given up after so long, with its connection, and sent again."""

SMALL_WRITE_SECONDS = 5.0

OUTCOMES_AT_ONCE = 200
BYTES_AT_ONCE = 4 << 20
STARTS_AT_ONCE = 500
HAND_BACKS_AT_ONCE = 500

PASSING_CLASSES = ("25", "40", "42", "53", "55", "57", "58", "XX")
"""sqlstate classes that blame the server's state, its locks or the schema; all others blame the data that was sent."""

LAZY_SECONDS = 0.25
"""That nobody sleeps any more is told so much later: until then a notification too many may be sent, no more."""


class Errand(Protocol):
    """A kind of order. `run` returns whether it did anything; it raises StoreError."""

    name: str

    def run(self, connection: Connection) -> bool: ...


class RegisterTypes:
    """Types: what the reloaded app serves."""

    name = "register_types"

    def __init__(self, book: OrderBook) -> None:
        self._book = book

    def run(self, connection: Connection) -> bool:
        order = self._book.types()
        if order is None:
            return False
        types.register(connection, order.types, within=SMALL_WRITE_SECONDS)
        self._book.settle_types(order)
        return True


class WriteOutcomes:
    """Finish → Written, counted once each, by whoever learns that it was accepted."""

    name = "write_outcomes"

    def __init__(self, book: OrderBook, standing: Standing, reports: Mailbox[Report], counting: Counting) -> None:
        self._book = book
        self._standing = standing
        self._reports = reports
        self._counting = counting
        self._at_once = OUTCOMES_AT_ONCE
        self._unsure: set[int] = set()
        self._plain: set[int] = set()
        self._log = logs.get("coordinator")

    def run(self, connection: Connection) -> bool:
        outcomes = _fitting(self._book.outcomes(self._at_once))
        if not outcomes:
            return False
        worker_id = self._standing.worker_id or ""
        try:
            batch = claims.finish_and_claim(
                connection, outcomes, worker_id=worker_id, slot=0, limit=0, within=WRITE_SECONDS
            )
        except DatabaseUnavailable as error:
            if error.sent:
                self._unsure.update(outcome.token for outcome in outcomes)
            raise
        except StatementRefused as refusal:
            if not _blames_data(refusal):
                raise
            self._isolate(outcomes, refusal)
            return True
        self._at_once = min(self._at_once * 2, OUTCOMES_AT_ONCE)
        refused = {outcome.token for outcome in batch.unaccepted}
        accepted = [outcome for outcome in outcomes if outcome.token not in refused]
        for outcome in accepted:
            self._counting.ended(outcome)
        self._settle(accepted)
        if batch.unaccepted:
            self._judge(connection, batch.unaccepted)
        return True

    def _judge(self, connection: Connection, outcomes: Sequence[Outcome]) -> None:
        """What was not accepted was written before, by its child or by a statement of ours whose reply was lost, or
        its claim is no longer the task's."""
        verdicts = claims.verdicts(connection, outcomes, within=WRITE_SECONDS)
        for outcome in outcomes:
            if verdicts[outcome.token] is Verdict.STALE:
                self._counting.stale(outcome.type)
                self._log.warning(
                    "stale_outcome",
                    task_id=outcome.task_id,
                    type=outcome.type,
                    token=outcome.token,
                    attempt=outcome.attempt,
                    status=outcome.status.value,
                )
            elif outcome.token in self._unsure:
                self._counting.ended(outcome)
        self._settle(outcomes)

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        tokens = tuple(outcome.token for outcome in outcomes)
        self._unsure.difference_update(tokens)
        self._plain.difference_update(tokens)
        self._book.settle_outcomes(tokens)
        if tokens:
            self._reports.post(Written(tokens))

    def _isolate(self, outcomes: Sequence[Outcome], refusal: StatementRefused) -> None:
        """Finds the outcome that PostgreSQL cannot store, by halves, and takes its texts from it."""
        if len(outcomes) > 1:
            self._at_once = len(outcomes) // 2
            return
        (outcome,) = outcomes
        if outcome.token in self._plain:
            self._book.replace(outcome)  # as the last of the line
            raise refusal
        self._log.error(
            "outcome_not_storable", task_id=outcome.task_id, type=outcome.type, sqlstate=refusal.sqlstate,
            error=str(refusal),
        )  # fmt: skip
        self._plain.add(outcome.token)
        error = None if outcome.error is None else f"the error could not be stored: {refusal.sqlstate}"
        note = None if outcome.result is None else '{"note": "the result could not be stored"}'
        self._book.replace(replace(outcome, error=error, result=note))


class HandBackClaims:
    """Release: the tasks are pending and due again."""

    name = "hand_back_claims"

    def __init__(self, book: OrderBook, counting: Counting) -> None:
        self._book = book
        self._counting = counting
        self._log = logs.get("coordinator")

    def run(self, connection: Connection) -> bool:
        hand_backs = self._book.hand_backs(HAND_BACKS_AT_ONCE)
        if not hand_backs:
            return False
        reason = hand_backs[0].reason
        batch = [each.claim for each in hand_backs if each.reason == reason]
        released = claims.release(connection, batch, within=WRITE_SECONDS)
        self._counting.released(reason, released)
        self._log.info("claims_released", reason=reason, released=released, asked=len(batch))
        self._book.settle_hand_backs(claim.token for claim in batch)
        return True


class TellActivity:
    """Activity: whether inserts should notify. What came between the last look and the mark is looked for again."""

    name = "tell_activity"

    def __init__(self, book: OrderBook, standing: Standing, look: Callable[[], None]) -> None:
        self._book = book
        self._standing = standing
        self._look = look
        self._told: tuple[str, bool] | None = None
        self._lazy_since: float | None = None
        self.is_hurried = False

    def forget(self) -> None:
        """The database may have lost its note of it (it is kept in an unlogged table): say it again."""
        self._told = None
        self._book.repeat(self._standing.activity)

    def run(self, connection: Connection) -> bool:
        activity = self._book.activity()
        if activity is None:
            return False
        worker_id = self._standing.worker_id or ""
        is_sleeping = activity.has_sleepers and activity.is_claiming
        if self._told != (worker_id, is_sleeping):
            if not is_sleeping and activity.is_claiming and not self._has_waited():
                return False
            workers.set_sleeping(connection, worker_id, is_sleeping, within=SMALL_WRITE_SECONDS)
            self._told = (worker_id, is_sleeping)
        self._lazy_since = None
        self._book.settle_activity(activity)
        if is_sleeping:
            self._look()
        return True

    def _has_waited(self) -> bool:
        now = time.monotonic()
        if self._lazy_since is None:
            self._lazy_since = now
        return self.is_hurried or self._told is None or now >= self._lazy_since + LAZY_SECONDS

    @property
    def due_at(self) -> float:
        """When (CLOCK_MONOTONIC) what was put off is due; infinity if nothing was."""
        return math.inf if self._lazy_since is None else self._lazy_since + LAZY_SECONDS


class MarkStarted:
    """MarkRunning: the rows say that these executions run."""

    name = "mark_started"

    def __init__(self, book: OrderBook) -> None:
        self._book = book

    def run(self, connection: Connection) -> bool:
        starts = self._book.starts(STARTS_AT_ONCE)
        if not starts:
            return False
        claims.mark_running(connection, starts, within=WRITE_SECONDS)
        self._book.settle_starts(starts)
        return True


class AuditClaims:
    """Audit → Audited."""

    name = "audit_claims"

    def __init__(self, book: OrderBook, standing: Standing, reports: Mailbox[Report]) -> None:
        self._book = book
        self._standing = standing
        self._reports = reports

    def run(self, connection: Connection) -> bool:
        audit = self._book.audit()
        if audit is None:
            return False
        worker_id = self._standing.worker_id or ""
        owned = claims.owned(connection, worker_id, audit.slot, within=SMALL_WRITE_SECONDS)
        self._book.settle_audit(audit)
        self._reports.post(Audited(audit.slot, tuple(owned)))
        return True


def _fitting(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """As many of the first as are not too much for one statement; one at least."""
    size = 0
    for index, outcome in enumerate(outcomes):
        size += len(outcome.error or "") + len(outcome.result or "")
        if size > BYTES_AT_ONCE and index > 0:
            return outcomes[:index]
    return outcomes


def _blames_data(refusal: StatementRefused) -> bool:
    return refusal.sqlstate is None or not refusal.sqlstate.startswith(PASSING_CLASSES)
