"""What every duty is."""

from typing import Protocol

from orchestrator.store.connection import Connection


class Duty(Protocol):
    """Something done periodically. Runs in the coordinator thread; it keeps nothing that a failure could spoil."""

    name: str
    every_seconds: float

    def is_wanted(self) -> bool:
        """Whether there is any reason to do it now; asked often, touches no database."""

    def run_once(self, connection: Connection) -> float | None:
        """Does it. Returns the seconds after which to do it again; None: `every_seconds`. Raises StoreError."""
