"""The guard of single-instance mode: at most one instance works on a database. Runs in the pulse thread, at start.

Recovery at start takes over whatever is claimed, so a second instance would steal the first one's tasks. It therefore
waits for the lease, and gives up once it sees that the holder is alive.
"""

import time

from orchestrator.coordinator.leadership import Leadership
from orchestrator.coordinator.standing import Standing
from orchestrator.errors import InstanceRunningError
from orchestrator.model import LeaseHolder
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

LOOK_SECONDS = 1.0
"""How often the lease is looked at while it is another's; sooner when it is about to end."""

SOONEST_LOOK_SECONDS = 0.05

CLOCK_SHARE, CLOCK_SECONDS = 0.02, 0.05
"""What the two clocks may disagree by before a lease that lasts longer than it should is called renewed."""


class Guard:
    """The wait for another instance's lease, one `look` at a time. One thread only."""

    def __init__(self, leadership: Leadership, standing: Standing) -> None:
        self._leadership = leadership
        self._standing = standing
        self._first: LeaseHolder | None = None
        self._first_at = 0.0
        self._log = logs.get("coordinator")

    def look(self, connection: Connection, holder: str) -> float | None:
        """One try for the lease. None: it is ours, go on. Else: the seconds after which to look again.

        Raises InstanceRunningError once the holder has shown that it lives: it renewed, or won a new term.
        """
        if self._leadership.acquire(connection, holder):
            return None
        asked_at = time.monotonic()
        seen = self._leadership.read(connection)
        if self._leadership.inherit(connection, holder, seen):
            self._log.info("instance_replaced", previous=seen.holder)
            return None
        if seen.holder is None or seen.remaining_seconds <= 0:
            return SOONEST_LOOK_SECONDS
        if self._first is None:
            self._first, self._first_at = seen, time.monotonic()
            self._log.warning(
                "waiting_for_instance", holder=seen.holder, remaining_seconds=round(seen.remaining_seconds, 1)
            )
        elif self._is_alive(self._first, seen, asked_at):
            raise InstanceRunningError(describe(seen))
        self._standing.waits_for(seen.holder)
        return min(max(seen.remaining_seconds, SOONEST_LOOK_SECONDS), LOOK_SECONDS)

    def _is_alive(self, first: LeaseHolder, seen: LeaseHolder, asked_at: float) -> bool:
        if (seen.holder, seen.term) != (first.holder, first.term):
            return True
        elapsed = max(asked_at - self._first_at, 0.0)  # at least so much has passed between the two readings
        tolerated = CLOCK_SECONDS + CLOCK_SHARE * elapsed
        return seen.remaining_seconds > first.remaining_seconds - elapsed + tolerated


def describe(holder: LeaseHolder) -> str:
    """The holder in words: its worker id, and where its process is."""
    if holder.process is None:
        return str(holder.holder)
    return f"{holder.holder} (process {holder.process.pid} on host {holder.process.hostname})"
