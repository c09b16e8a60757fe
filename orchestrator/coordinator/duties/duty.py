"""What every duty is."""

from typing import Protocol

from orchestrator.store.connection import Connection

LONGEST_CALL_SECONDS, SHORTEST_CALL_SECONDS = 5.0, 0.25
LEASES_PER_CALL = 6


def leaders_call_seconds(lease_seconds: float) -> float:
    """For a statement under the leader's term: it holds the lease row, and must not keep the renewal out."""
    return min(max(lease_seconds / LEASES_PER_CALL, SHORTEST_CALL_SECONDS), LONGEST_CALL_SECONDS)


class Duty(Protocol):
    """Something done periodically. Runs in the coordinator thread; it keeps nothing that a failure could spoil."""

    name: str
    every_seconds: float

    def is_wanted(self) -> bool:
        """Whether there is any reason to do it now; asked often, touches no database."""

    def run_once(self, connection: Connection) -> float | None:
        """Does it. Returns the seconds after which to do it again; None: `every_seconds`. Raises StoreError."""
