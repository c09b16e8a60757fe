"""This worker's row in `workers`: entered at start, kept alive by heartbeats, entered anew after a death, taken out.

Runs in the pulse thread. A worker that was declared dead stays dead: it goes on under a new id, with nothing owned.
"""

import random
import time

from orchestrator.config import Settings
from orchestrator.coordinator.process import new_worker_id
from orchestrator.errors import StatementRefused
from orchestrator.model import Process
from orchestrator.store import workers
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

SHORTEST_CALL_SECONDS, LONGEST_CALL_SECONDS = 0.5, 5.0


def longest_gap(heartbeat_interval: float) -> float:
    """Seconds between two beats of a worker that has missed none: a quarter late, and what a busy host may add."""
    return max(1.25 * heartbeat_interval, heartbeat_interval + 0.25)


class Membership:
    """The row under its present id. Methods with a connection raise StoreError; one thread only."""

    def __init__(self, settings: Settings, *, process: Process, worker_id: str | None, version: str) -> None:
        self._settings = settings
        self._process = process
        self._version = version
        self._within = min(max(settings.heartbeat_interval / 2, SHORTEST_CALL_SECONDS), LONGEST_CALL_SECONDS)
        self._gap_seconds = longest_gap(settings.heartbeat_interval)
        self._next_id = worker_id or new_worker_id(process)
        self._is_entered = False
        self._beat_at = 0.0
        self._log = logs.get("coordinator")
        self.worker_id = self._next_id

    def enter(self, connection: Connection) -> None:
        """Registers this worker under `worker_id`. May be repeated after a lost reply."""
        if not self._register(connection, self.worker_id):
            self.worker_id = self._register_anew(connection)

    def beat(self, connection: Connection) -> float | None:
        """Beats if it is time; returns when the next is (CLOCK_MONOTONIC). None: this worker has been declared dead."""
        now = time.monotonic()
        if now < self._beat_at:
            return self._beat_at
        if not workers.beat(connection, self.worker_id, gap_seconds=self._gap_seconds, within=self._within):
            return None
        self._beat_at = self._after(now)
        return self._beat_at

    def enter_anew(self, connection: Connection) -> str:
        """Registers under a new id, which it returns and `worker_id` is from now on. May be repeated."""
        previous, self.worker_id = self.worker_id, self._register_anew(connection)
        self._log.warning("worker_declared_dead", previous=previous, worker_id=self.worker_id)
        return self.worker_id

    def leave(self, connection: Connection, *, within: float) -> bool:
        """Takes the row out. False: there is none."""
        if not self._is_entered:
            return False
        workers.leave(connection, self.worker_id, within=within)
        self._is_entered = False
        return True

    def _register_anew(self, connection: Connection) -> str:
        """A repetition after a lost reply takes the same id again, so that no row is left that never beats."""
        if self._next_id == self.worker_id:
            self._next_id = new_worker_id(self._process)
        while not self._register(connection, self._next_id):
            self._next_id = new_worker_id(self._process)
        return self._next_id

    def _register(self, connection: Connection, worker_id: str) -> bool:
        now = time.monotonic()
        self._is_entered = True  # perhaps, should the reply be lost: then there is a row to take out
        try:
            is_alive = workers.register(
                connection,
                worker_id=worker_id,
                hostname=self._process.hostname,
                pool_size=self._settings.pool_size,
                version=self._version,
                within=self._within,
            )
        except StatementRefused as refusal:
            self._log.error("registration_failed", worker_id=worker_id, error=str(refusal))
            raise
        self._beat_at = self._after(now)
        return is_alive

    def _after(self, now: float) -> float:
        """A little early and never at the same moment as other workers."""
        return now + self._settings.heartbeat_interval * random.uniform(0.9, 1.0)
