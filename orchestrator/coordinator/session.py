"""A thread's connection that comes back: opened when it is wanted, tried again with jitter, its outages told once."""

import time

from orchestrator.coordinator.backoff import Backoff
from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.standing import Standing
from orchestrator.coordinator.waiting import Bell
from orchestrator.errors import DatabaseUnavailable, StoreError
from orchestrator.store import peer
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

CONNECT_SECONDS = 10.0
"""One try, over all hosts of the URL."""

REPORT_SECONDS, REPORT_SECONDS_AT_START = 30.0, 5.0
"""An outage is logged when it begins, when its reason changes, and this often."""

LONGEST_PAUSE_AT_START_SECONDS = 2.0
"""Between tries, before the first success: the start waits for the database for a bounded time only."""

LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_LIMIT_SECONDS = 5.0, 0.5
SHARE_OF_WORKER_TIMEOUT = 0.25

HURRIED_SECONDS = 0.25


def longest_pause(worker_timeout: float) -> float:
    """Between tries. Whoever comes back from an outage long after the leader has would be taken for dead."""
    share = worker_timeout * SHARE_OF_WORKER_TIMEOUT
    return min(LONGEST_PAUSE_SECONDS, max(SHORTEST_PAUSE_LIMIT_SECONDS, share))


class Session:
    """One thread's connection. Only that thread uses it, but for `abort`, which ends any wait at once, for good."""

    def __init__(
        self, url: str, *, thread: str, standing: Standing, counting: Counting, abort: Bell, longest_pause: float
    ) -> None:
        self._url = url
        self._thread = thread
        self._standing = standing
        self._counting = counting
        self._abort = abort
        self._longest_pause = longest_pause
        self._backoff = Backoff(cap=LONGEST_PAUSE_AT_START_SECONDS)
        self._has_answered = False
        self._connection: Connection | None = None
        self._told_at = 0.0
        self._told: str | None = None
        self._log = logs.get("coordinator")
        self.retry_at = 0.0

    @property
    def connection(self) -> Connection | None:
        """The open connection, if there is one."""
        connection = self._connection
        return connection if connection is not None and connection.is_open else None

    def open(self, *, within: float = CONNECT_SECONDS) -> Connection:
        """A new connection. Raises DatabaseUnavailable."""
        until = time.monotonic() + within
        self._connection = Connection.open(
            self._url,
            within=within,
            application_name=f"orchestratord {self._thread}",
            interrupt=self._abort.fileno(),
            on_call=lambda by: self._standing.calls(self._thread, by),
        )
        peer.limit(self._connection, until=until, only=True)
        return self._connection

    def answered(self) -> None:
        """The database did what was asked: the outage, if there was one, is over."""
        if not self._has_answered:
            self._has_answered = True
            self._backoff = Backoff(cap=self._longest_pause)
        self._backoff.succeed()
        down_seconds = self._standing.reached(self._thread)
        if self._told is not None:
            self._told = None
            self._log.info("database_back", connection=self._thread, down_seconds=round(down_seconds, 3))

    def failed(self, error: StoreError) -> None:
        """The database did not do what was asked.

        The connection is given up if it cannot be used again. `retry_at` says when the next try is worth it.
        """
        if isinstance(error, DatabaseUnavailable):
            self.close()
        self.retry_at = time.monotonic() + self._backoff.fail()
        self._counting.database_failed(error)
        down_seconds = self._standing.missed(self._thread)
        reason = str(error)
        every_seconds = REPORT_SECONDS if self._has_answered else REPORT_SECONDS_AT_START
        if reason != self._told or time.monotonic() - self._told_at >= every_seconds:
            self._told, self._told_at = reason, time.monotonic()
            self._log.warning(
                "database_unreachable", connection=self._thread, down_seconds=round(down_seconds, 3), error=reason
            )

    def hurry(self) -> None:
        """The process is about to end: try again soon and often from now on."""
        self._backoff = Backoff(base=HURRIED_SECONDS, cap=HURRIED_SECONDS)
        self.retry_at = min(self.retry_at, time.monotonic())

    def close(self) -> None:
        """Gives the connection up; never waits for the server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
