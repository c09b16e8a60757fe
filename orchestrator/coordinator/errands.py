"""The supervisor's orders, as statements: one class per kind. Runs in the coordinator thread.

Each `run` takes what fits into one statement from the order book and settles it there once the database took it;
StoreError leaves it in the book, to be sent again. All these statements may be repeated: a claim token fences them.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol

from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.order_book import OrderBook
from orchestrator.coordinator.portion import LOCK_SECONDS, Portion
from orchestrator.coordinator.shelf import Shelf
from orchestrator.coordinator.standing import Standing
from orchestrator.mailbox import Audited, Begin, Mailbox, Released, Report, Types
from orchestrator.store import claims, holdings, periodic, types, workers
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

WRITE_SECONDS = 10.0
"""An order's statement is given up after so long, with its connection, and sent again."""

SMALL_WRITE_SECONDS = 5.0

STARTS_AT_ONCE = 500
HAND_BACKS_AT_ONCE = 500

LAZY_SECONDS = 0.25
"""That nobody sleeps any more is told so much later: until then a notification too many may be sent, no more."""


class Errand(Protocol):
    """A kind of order. `run` returns whether it did anything; it raises StoreError."""

    name: str

    def run(self, connection: Connection) -> bool: ...


def register(connection: Connection, app: Begin | Types, *, only_missing: bool = False) -> None:
    """What the app serves, and wants done periodically. `only_missing`: what is there stays."""
    types.register(connection, app.types, within=SMALL_WRITE_SECONDS, only_missing=only_missing)
    periodic.register(connection, app.app, app.periodic, within=SMALL_WRITE_SECONDS, only_missing=only_missing)


class RegisterTypes:
    """Types: what the reloaded app serves and wants done periodically, or the database may have lost."""

    name = "register_types"

    def __init__(self, book: OrderBook, look: Callable[[], None]) -> None:
        """`look()` has what is due now enqueued soon."""
        self._book = book
        self._look = look

    def run(self, connection: Connection) -> bool:
        order = self._book.types()
        if order is None:
            return False
        register(connection, order, only_missing=order.only_missing)
        self._look()
        self._book.settle_types(order)
        return True


class HandBackClaims:
    """Release → Released: the tasks are pending and due again."""

    name = "hand_back_claims"

    def __init__(self, book: OrderBook, shelf: Shelf, reports: Mailbox[Report], counting: Counting) -> None:
        self._book = book
        self._shelf = shelf
        self._reports = reports
        self._counting = counting
        self._portion = Portion(HAND_BACKS_AT_ONCE)
        self._log = logs.get("coordinator")

    def run(self, connection: Connection) -> bool:
        hand_backs = self._book.hand_backs(self._portion.size)
        if not hand_backs:
            return False
        reason = hand_backs[0].reason
        batch = [each.claim for each in hand_backs if each.reason == reason]
        released = self._portion.past_locks(
            lambda: claims.release(connection, batch, within=WRITE_SECONDS, lock_within=LOCK_SECONDS),
            len(batch),
            set_aside=lambda: self._shelf.set_aside(connection, batch),
            put_first_last=lambda: self._book.put_last(batch[0].token),
        )
        if released is None:
            return True
        self._reports.post(Released(reason))
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

    def __init__(self, book: OrderBook, shelf: Shelf) -> None:
        self._book = book
        self._shelf = shelf
        self._portion = Portion(STARTS_AT_ONCE)

    def run(self, connection: Connection) -> bool:
        starts = self._book.starts(self._portion.size)
        if not starts:
            return False
        marked = self._portion.past_locks(
            lambda: claims.mark_running(connection, starts, within=WRITE_SECONDS, lock_within=LOCK_SECONDS),
            len(starts),
            set_aside=lambda: self._shelf.set_aside(connection, starts),
            put_first_last=lambda: self._book.put_last(starts[0].token),
        )
        if marked is not None:
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
        owned = holdings.owned(connection, worker_id, audit.slot, within=SMALL_WRITE_SECONDS)
        # in this order: whoever sees that nothing is outstanding has the report already
        self._reports.post(Audited(audit.slot, tuple(owned)))
        self._book.settle_audit(audit)
        return True
