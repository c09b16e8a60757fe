"""What the two threads count. telemetry's TaskMetrics satisfies it; nothing here knows prometheus."""

from collections.abc import Iterable
from typing import Protocol

from orchestrator.errors import StoreError
from orchestrator.model import Outcome, Recovered, ReleaseReason, TaskType


class Counting(Protocol):
    """Counters that never block for long, never raise, and may be called from both threads."""

    def expect(self, types: Iterable[TaskType]) -> None:
        """Have every count of these types at 0."""

    def enqueued(self, type_name: str, count: int) -> None:
        """`count` tasks were added to the queue, by anyone."""

    def ended(self, outcomes: Iterable[Outcome]) -> None:
        """The database accepted these outcomes."""

    def recovered(self, task: Recovered) -> None:
        """A task was taken back from a dead worker."""

    def released(self, reason: ReleaseReason, count: int = 1) -> None:
        """`count` claims were handed back."""

    def pruned(self, count: int) -> None:
        """`count` completed tasks were old enough to be deleted."""

    def database_failed(self, error: StoreError) -> None:
        """A connection or a statement failed."""
