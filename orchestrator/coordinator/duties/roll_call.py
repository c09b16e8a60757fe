"""Roll call: how many workers are registered and not declared dead. A single instance is the only one by definition."""

from orchestrator.coordinator.standing import Standing
from orchestrator.store import workers
from orchestrator.store.connection import Connection

ROLL_CALL_SECONDS = 5.0


class RollCall:
    """Wanted in distributed mode."""

    name = "roll_call"

    def __init__(self, standing: Standing, *, is_distributed: bool, every_seconds: float) -> None:
        self._standing = standing
        self._is_distributed = is_distributed
        self.every_seconds = every_seconds

    def is_wanted(self) -> bool:
        return self._is_distributed

    def run_once(self, connection: Connection) -> float | None:
        self._standing.workers_counted(workers.count_living(connection, within=ROLL_CALL_SECONDS))
        return None
