"""A child's own connection: opened when needed, tried again with a jittered backoff, never in the way of an order."""

import time
from collections.abc import Callable

from orchestrator.errors import DatabaseUnavailable, StatementRefused, StoreError
from orchestrator.retry import chance
from orchestrator.store.connection import Connection
from orchestrator.store.prepared import settle
from orchestrator.telemetry import logs

CONNECT_SECONDS = 10.0

STATEMENT_SECONDS = 18.0
"""The server gives up a statement after so long, unless less is left: an exchange has 20 (statements.py)."""

LOCK_WAIT_SECONDS = 5.0
"""And its wait for a row or table that somebody has locked: meanwhile the child does nothing else."""

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0


class Database:
    """At most one connection; `connection` is None while there is none. `on_failure` hears why there is none."""

    def __init__(self, url: str, application_name: str, on_failure: Callable[[StoreError], object]) -> None:
        self._url = url
        self._name = application_name
        self._on_failure = on_failure
        self._backoff = 0.0
        self._next_try = 0.0
        self._connection: Connection | None = None
        self._abandoned: Connection | None = None
        self._log = logs.get("child")

    @property
    def connection(self) -> Connection | None:
        if self._connection is not None and not self._connection.is_open:
            self._connection = None
        return self._connection

    def descriptor(self) -> int | None:
        """The connection's file descriptor, if there is one."""
        connection = self.connection
        return connection.fileno() if connection is not None else None

    def seconds_to_next_try(self) -> float:
        return max(0.0, self._next_try - time.monotonic())

    def try_to_connect(self) -> bool:
        """One try, of CONNECT_SECONDS at most; a failed one says when the next is worth it (full jitter)."""
        try:
            self._connection = self._open()
        except DatabaseUnavailable as error:
            self._on_failure(error)
            if self._backoff == 0.0:
                self._log.warning("database_unreachable", error=str(error))
            self._backoff = min(LONGEST_BACKOFF_SECONDS, max(FIRST_BACKOFF_SECONDS, self._backoff * 2))
            self._next_try = time.monotonic() + chance.uniform(self._backoff / 4, self._backoff)
            return False
        if self._backoff:
            self._log.info("database_back")
        self._backoff = 0.0
        return True

    def _open(self) -> Connection:
        """StatementRefused, which no server that can be worked with says to so little, counts as unreachable."""
        deadline = time.monotonic() + CONNECT_SECONDS
        connection = Connection.open(self._url, within=CONNECT_SECONDS, application_name=self._name)
        try:
            left = max(1.0, deadline - time.monotonic())
            settle(connection, limit=STATEMENT_SECONDS, lock_limit=LOCK_WAIT_SECONDS, within=left)
        except StatementRefused as refusal:
            connection.close()
            raise DatabaseUnavailable(str(refusal)) from refusal
        return connection

    def lost(self, error: DatabaseUnavailable) -> None:
        """The connection failed in use; the first new try comes soon, but not from all children at once."""
        self._on_failure(error)
        self._log.warning("connection_lost", error=str(error))
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._next_try = time.monotonic() + chance.uniform(0.0, FIRST_BACKOFF_SECONDS)

    def abandon(self) -> None:
        """Open another one when it is wanted. This one's descriptor may be a file of the user's by now: it is never
        used again, nor closed, which would send a farewell.
        """
        self._abandoned, self._connection = self._connection, None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
