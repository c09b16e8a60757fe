"""The guard of single-instance mode: at most one instance works on a database. Runs in the pulse thread, at start.

Recovery at start takes over whatever is claimed, so a second instance would steal the first one's tasks. It therefore
waits for the lease, and gives up once it sees that the holder is alive.
"""

from orchestrator.coordinator.leadership import Leadership
from orchestrator.coordinator.standing import Standing
from orchestrator.errors import InstanceRunningError
from orchestrator.model import LeaseHolder
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

LOOK_SECONDS = 1.0
"""How often the lease is looked at while it is another's; sooner when it is about to end."""

SOONEST_LOOK_SECONDS = 0.05


class Guard:
    """The wait for another instance's lease, one `look` at a time. One thread only."""

    def __init__(self, leadership: Leadership, standing: Standing) -> None:
        self._leadership = leadership
        self._standing = standing
        self._first: LeaseHolder | None = None
        self._log = logs.get("coordinator")

    def look(self, connection: Connection, holder: str) -> float | None:
        """One try for the lease. None: it is ours, go on. Else: the seconds after which to look again.

        Raises InstanceRunningError once the holder has shown that it lives: it renewed, or won a new term.
        """
        if self._leadership.acquire(connection, holder):
            return None
        seen = self._leadership.read(connection)
        if self._leadership.inherit(connection, holder, seen):
            self._log.info("instance_replaced", previous=seen.holder)
            return None
        if seen.holder is None or seen.remaining_seconds <= 0:
            return SOONEST_LOOK_SECONDS
        if self._first is None:
            self._first = seen
            self._log.warning(
                "waiting_for_instance", holder=seen.holder, remaining_seconds=round(seen.remaining_seconds, 1)
            )
        elif _lives(self._first, seen):
            raise InstanceRunningError(describe(seen))
        self._standing.waits_for(seen.holder)
        return min(max(seen.remaining_seconds, SOONEST_LOOK_SECONDS), LOOK_SECONDS)


def _lives(first: LeaseHolder, seen: LeaseHolder) -> bool:
    """Whether somebody has held the lease since. For how much longer it is held tells nothing: the server's clock may
    have been set meanwhile."""
    return (seen.holder, seen.term, seen.renewed_at) != (first.holder, first.term, first.renewed_at)


def describe(holder: LeaseHolder) -> str:
    """The holder in words: its worker id, and where its process is."""
    if holder.process is None:
        return str(holder.holder)
    return f"{holder.holder} (process {holder.process.pid} on host {holder.process.hostname})"
