"""When this worker asks for the lease, and when it renews it. Runs in the pulse thread, after registration."""

import math
import random
import time

from orchestrator.coordinator.guard import describe
from orchestrator.coordinator.leadership import Leadership
from orchestrator.store.connection import Connection

SOON_SECONDS = 0.1


class Election:
    """Both modes' rules. A single instance needs the lease to work at all; a distributed worker tries at each tick."""

    def __init__(self, leadership: Leadership, *, is_distributed: bool, tick_seconds: float) -> None:
        self._leadership = leadership
        self._is_distributed = is_distributed
        self._tick_seconds = tick_seconds
        self._ask_at = 0.0
        self.displaced_by: str | None = None

    def tick(self, connection: Connection, worker_id: str) -> float:
        """Does what is due; returns when (CLOCK_MONOTONIC) it wants to be called again. Raises StoreError.

        `displaced_by` is set once, for good, when a single instance finds its lease in another's hands.
        """
        if self.displaced_by is not None:
            return math.inf
        if self._leadership.is_held:
            if self._keep(connection, worker_id):
                return self._leadership.renew_at
        elif time.monotonic() < self._ask_at:
            return self._ask_at
        return self._ask(connection, worker_id)

    def hasten(self) -> None:
        """The lease has become free: ask for it at the next tick."""
        self._ask_at = 0.0

    def _keep(self, connection: Connection, worker_id: str) -> bool:
        if self._leadership.holder != worker_id:  # it was declared dead since, and goes on under a new id
            return self._leadership.rename(connection, worker_id)
        return time.monotonic() < self._leadership.renew_at or self._leadership.renew(connection)

    def _ask(self, connection: Connection, worker_id: str) -> float:
        now = time.monotonic()
        if self._leadership.acquire(connection, worker_id):
            return self._leadership.renew_at
        seen = self._leadership.read(connection)
        if self._leadership.inherit(connection, worker_id, seen):
            return self._leadership.renew_at
        if seen.holder is None or seen.remaining_seconds <= 0:
            self._ask_at = now + SOON_SECONDS
        elif self._is_distributed:
            wait = min(self._tick_seconds, seen.remaining_seconds + SOON_SECONDS)
            self._ask_at = now + wait * random.uniform(0.8, 1.0)
        else:
            self.displaced_by = describe(seen)
            self._ask_at = math.inf
        return self._ask_at
