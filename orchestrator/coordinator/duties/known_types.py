"""Known types: what other workers serve and this one perhaps doesn't. The leader recovers tasks of these too.

So their counts have to be there at 0 before: Prometheus' increase() does not see a series that is born at 1.
"""

from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.standing import Standing
from orchestrator.store import types
from orchestrator.store.connection import Connection

LIST_SECONDS = 5.0


class KnownTypes:
    """Wanted while this worker leads others. A type that is new is counted from its first look on."""

    name = "known_types"

    def __init__(self, standing: Standing, counting: Counting, *, is_distributed: bool, every_seconds: float) -> None:
        self._standing = standing
        self._counting = counting
        self._is_distributed = is_distributed
        self._known: set[str] = set()
        self.every_seconds = every_seconds

    def is_wanted(self) -> bool:
        return self._is_distributed and self._standing.lead is not None

    def run_once(self, connection: Connection) -> float | None:
        found = [each for each, _ in types.list_all(connection, within=LIST_SECONDS)]
        new = [each for each in found if each.name not in self._known]
        if new:
            self._counting.expect(new)
            self._known.update(each.name for each in new)
        return None
