"""The statements of a child, one at a time: what each may cost in time, where a claim begins, and what it told."""

import time
from collections.abc import Callable, Sequence

from orchestrator.child.cursor import Cursor
from orchestrator.child.database import LOCK_WAIT_SECONDS
from orchestrator.errors import StatementRefused
from orchestrator.model import Outcome
from orchestrator.store import claims
from orchestrator.store.claims import Batch
from orchestrator.store.connection import Connection
from orchestrator.store.tokens import Tokens
from orchestrator.telemetry.metrics import TaskMetrics

EXCHANGE_SECONDS = 20.0
"""An exchange that takes longer is given up with its connection; the supervisor finds what it left. All of its
statements together: the supervisor takes a child for stuck that claims for a minute."""

LEAST_SECONDS = 0.5
"""For the last of them, if those before it have used up the time."""

LOCK_SECONDS = 0.1
"""Outcomes that were refused because one of their rows was locked all the while are tried one by one, each for no
longer."""

REFUSED_WAIT_SECONDS = 1.0
"""What the server refused is tried again after so long at most."""

PLAN_SECONDS = 2.0
"""Planning ahead is given up after so long: somebody locks the table."""

BUSY_AFTER = 2
"""So many full claims in a row, and there is probably more."""


class Statements:
    """What a ledger sends. All raise as `claims.finish_and_claim` does."""

    def __init__(self, metrics: TaskMetrics, *, worker_id: str, slot: int) -> None:
        self._metrics = metrics
        self._worker_id = worker_id
        self._slot = slot
        self._tokens = Tokens()
        self._cursor = Cursor()
        self._full_claims = 0
        self.give_up_at = 0.0
        """When the exchange that goes on has used up its time, in CLOCK_MONOTONIC seconds."""
        self.has_seen_front = True
        """Whether the last claim looked at all that is due."""
        self.is_more_due = False
        """Whether the last claim left something to others, for all it knows."""

    def begin(self) -> None:
        """An exchange begins: from now on its statements share the time."""
        self.give_up_at = time.monotonic() + EXCHANGE_SECONDS

    def left(self) -> float:
        """Seconds for the next of them."""
        return max(LEAST_SECONDS, self.give_up_at - time.monotonic())

    @property
    def begins_at_front(self) -> bool:
        """Whether the next claim looks at all that is due."""
        return self._cursor.start(time.monotonic()) is None

    @property
    def is_plenty_due(self) -> bool:
        """Whether the last claims found as much as they asked for."""
        return self._full_claims >= BUSY_AFTER

    def expect_little(self) -> None:
        """As if the last claim had not been full."""
        self._full_claims = 0

    def run_past_locks(self, connection: Connection, outcome: Outcome) -> Batch:
        """Write this one, unless somebody has locked its row: StatementRefused."""
        return self.run(connection, (outcome,), 0, lock_within=LOCK_SECONDS)

    def run(
        self, connection: Connection, outcomes: Sequence[Outcome], limit: int, *, lock_within: float = LOCK_WAIT_SECONDS
    ) -> Batch:
        """Write these outcomes and claim up to `limit`, in one commit.

        Only outcomes are worth waiting for the disk. A claim that the server forgets in a crash is made again.
        """
        began = time.monotonic()
        start = self._cursor.start(began)
        try:
            batch = claims.finish_and_claim(
                connection,
                outcomes,
                worker_id=self._worker_id,
                slot=self._slot,
                limit=limit,
                within=self.left(),
                lock_within=lock_within,
                tokens=self._tokens,
                start=start,
                is_durable=bool(outcomes),
            )
        except StatementRefused as refusal:
            self._metrics.database_failed(refusal)
            raise
        if limit:
            now = time.monotonic()
            is_full = len(batch.claims) >= limit
            self._metrics.claimed(now - began)
            self._cursor.learn(start, is_full=is_full, last=batch.last, began=began, now=now)
            self._full_claims = self._full_claims + 1 if is_full else 0
            self.has_seen_front = start is None and not batch.was_outrun
            self.is_more_due = is_full or batch.left_out
        return batch

    def send(self, connection: Connection, outcomes: Sequence[Outcome]) -> Callable[[float], Batch]:
        """Send these outcomes; what it returns gets the answer, within so many seconds."""
        return claims.send_outcomes(connection, outcomes, within=self.left(), lock_within=LOCK_WAIT_SECONDS)

    def plan_ahead(self, connection: Connection) -> None:
        """Have the server plan them: seven milliseconds that the first batches would take longer."""
        claims.plan_ahead(connection, within=PLAN_SECONDS)

    def wait_for_disk(self, connection: Connection) -> None:
        """Return once all that was committed is on the server's disk."""
        claims.wait_for_disk(connection, within=self.left())
