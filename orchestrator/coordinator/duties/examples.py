"""Examples: one set of example tasks is added at start, by a single instance or by the leader only."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.coordinator.standing import Standing
from orchestrator.model import NewTask
from orchestrator.store import enqueue
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

ENQUEUE_SECONDS = 5.0


class Examples:
    """Wanted once after the start. A worker that doesn't lead gives up when the leader of a set-up that was started as
    a whole must have been found: that one has added them."""

    name = "examples"
    every_seconds = 5.0

    def __init__(self, standing: Standing, tasks: Sequence[NewTask], *, patience_seconds: float) -> None:
        self._standing = standing
        self._tasks = tasks
        self._patience_seconds = patience_seconds
        self._give_up_at = 0.0
        self._prefix: str | None = None
        self._log = logs.get("coordinator")

    def begin(self) -> None:
        """The worker has started; once only."""
        if self._tasks and not self._give_up_at:
            self._give_up_at = time.monotonic() + self._patience_seconds

    def is_wanted(self) -> bool:
        return bool(self._tasks) and time.monotonic() < self._give_up_at and self._standing.lead is not None

    def run_once(self, connection: Connection) -> float | None:
        """May be repeated: their keys name this worker's start."""

        def run(sql: str, params: Mapping[str, Any]) -> Sequence[Any]:
            rows = connection.execute(sql, params, within=ENQUEUE_SECONDS, lock_within=ENQUEUE_SECONDS)
            return [row[0] for row in rows]

        if self._prefix is None:
            self._prefix = self._standing.worker_id
        keyed = [
            task._replace(idempotency_key=task.idempotency_key or f"example:{self._prefix}:{number}")
            for number, task in enumerate(self._tasks)
        ]
        enqueue.enqueue_many_with(run, keyed)
        self._log.info("examples_enqueued", tasks=len(keyed))
        self._tasks = ()
        return None
