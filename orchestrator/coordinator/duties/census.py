"""Census: how many tasks of each type are pending and running. Whoever leads counts; a single instance does."""

import time

from orchestrator.coordinator.standing import Counts, Standing
from orchestrator.errors import StoreError
from orchestrator.model import TaskStatus
from orchestrator.store import statistics
from orchestrator.store.connection import Connection

CENSUS_SECONDS = 5.0
SHARE_OF_TIME = 0.01


class Census:
    """A long queue is counted more rarely, so that it never costs more than 1 % of the database's time."""

    name = "census"

    def __init__(self, standing: Standing, *, every_seconds: float) -> None:
        self._standing = standing
        self._soonest_seconds = every_seconds
        self.every_seconds = every_seconds

    def is_wanted(self) -> bool:
        return self._standing.lead is not None

    def run_once(self, connection: Connection) -> float | None:
        began = time.monotonic()
        try:
            rows = statistics.counts(connection, within=CENSUS_SECONDS)
        except StoreError:
            self._pace(began)
            raise
        pending: dict[str, int] = {}
        running: dict[str, int] = {}
        due: dict[str, float] = {}
        for type_name, status, count, due_seconds in rows:
            if status == TaskStatus.PENDING:
                pending[type_name] = count
                due[type_name] = due_seconds
            elif status == TaskStatus.RUNNING:
                running[type_name] = count
        self._standing.counted(Counts(pending, running, due, began))
        self._pace(began)
        return self.every_seconds

    def _pace(self, began: float) -> None:
        self.every_seconds = max(self._soonest_seconds, (time.monotonic() - began) / SHARE_OF_TIME)
