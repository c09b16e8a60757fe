"""The last words to the database: the row, what nobody knows to be ours, the lease. In the pulse thread, at the end.

All children are dead by now. The claim that one was making may be under way in the server all the same, and commit
after the supervisor's last look: first the row goes, so that no claim that begins later takes anything, then those
that began before are waited for, and then what this worker still owns is nobody's.
"""

import time

from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.leadership import Leadership
from orchestrator.coordinator.membership import Membership
from orchestrator.coordinator.order_book import OrderBook
from orchestrator.coordinator.waiting import wait_until
from orchestrator.model import ClaimRef
from orchestrator.store import claims, holdings
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

LOOKS_APART_SECONDS = 0.005

RESIGN_SECONDS = 0.2
"""So much is kept for the lease: a claim that takes longer is left to the next leader."""


class Departure:
    """Raises StoreError; what it has not done by then, the leader or the next start does."""

    def __init__(self, *, leadership: Leadership, membership: Membership, book: OrderBook, counting: Counting) -> None:
        self._leadership = leadership
        self._membership = membership
        self._book = book
        self._counting = counting
        self._log = logs.get("coordinator")

    def take(self, connection: Connection, *, by: float) -> None:
        """All of it, before `by` (CLOCK_MONOTONIC seconds)."""
        worker_id = self._membership.worker_id
        if self._membership.leave(connection, within=by - time.monotonic()):
            if self._book.outstanding == 0:  # else some of what it owns is known: that must not be had for nothing
                self._await_claims(connection, by - RESIGN_SECONDS)
                self._release(connection, worker_id, by)
            self._log.info("worker_left", worker_id=worker_id)
        self._leadership.resign(connection, within=by - time.monotonic())

    def _await_claims(self, connection: Connection, by: float) -> None:
        pending = holdings.under_way(connection, within=by - time.monotonic())
        while pending:
            if time.monotonic() >= by:
                self._log.warning("claims_under_way", count=len(pending), then="what they take is recovered later")
                return
            wait_until(time.monotonic() + LOOKS_APART_SECONDS)
            pending &= holdings.under_way(connection, within=by - time.monotonic())

    def _release(self, connection: Connection, worker_id: str, by: float) -> None:
        owned = holdings.owned(connection, worker_id, None, within=by - time.monotonic())
        if owned:
            batch = [ClaimRef(claim.task_id, claim.token) for claim in owned]
            released = claims.release(connection, batch, within=by - time.monotonic())
            self._counting.released("unknown_claim", released)
            self._log.info("claims_released", reason="unknown_claim", released=released, asked=len(batch))
