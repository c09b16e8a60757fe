"""A session of the Client's own, for enqueueing outside of the caller's transactions. Used by user processes."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.model import NewTask
from orchestrator.store import peer
from orchestrator.store.connection import Connection
from orchestrator.store.enqueue import columns_of, enqueue_batch, enqueue_on


class Session:
    """Enqueues and commits, each call within its own deadline. Not to be shared by threads, nor across a fork.

    A forked child just drops its reference: psycopg2 closes a connection only in the process that opened it. Errors:
    DatabaseUnavailable, after which the session is closed, with `sent` true if the tasks may be stored all the same;
    StatementRefused, and then nothing is stored and the session goes on.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def is_open(self) -> bool:
        return self._connection.is_open

    def enqueue(self, task: NewTask, *, within: float) -> str:
        """Adds one task; its id. A server that has hung up meanwhile is noticed before anything is sent."""
        self._connection.wait(0)
        return enqueue_on(self._connection, task, within=within)

    def enqueue_many(self, batches: Iterable[Sequence[NewTask]], *, within: float) -> list[str]:
        """Adds tasks, all or none; their ids in the same order. `within` is for each batch.

        While the server is busy with one the next is asked for; what `batches` raises undoes all of them. So does a
        StatementRefused, that of the commit included.
        """
        self._connection.wait(0)
        upcoming = _Upcoming(batches)
        ids: list[str] = []
        try:
            self._connection.execute("BEGIN", within=within)
            while batch := upcoming.take():
                ids.extend(enqueue_batch(self._runner(within, meanwhile=upcoming.prepare), *batch))
        except DatabaseUnavailable as failure:
            failure.sent = False  # COMMIT was not
            raise
        except StatementRefused:
            self._connection.execute("ROLLBACK", within=within)
            raise
        self._connection.execute("COMMIT", within=within, may_repeat=False)
        return ids

    def close(self) -> None:
        self._connection.close()

    def _runner(self, within: float, meanwhile: Callable[[], None]) -> Any:
        def run(sql: str, params: Mapping[str, Any]) -> list[Any]:
            rows = self._connection.execute(sql, params, within=within, lock_within=within, meanwhile=meanwhile)
            return [row[0] for row in rows]

        return run


class _Upcoming:
    """The batches with their columns, one ahead."""

    def __init__(self, batches: Iterable[Sequence[NewTask]]) -> None:
        self._batches = iter(batches)
        self._next: tuple[Sequence[NewTask], Mapping[str, str]] | None = None
        self._is_prepared = False

    def prepare(self) -> None:
        if not self._is_prepared:
            batch = next(self._batches, ())
            self._next = (batch, columns_of(batch)) if batch else None
            self._is_prepared = True

    def take(self) -> tuple[Sequence[NewTask], Mapping[str, str]] | None:
        """The next batch; None: no more is left."""
        self.prepare()
        self._is_prepared = False
        return self._next


def open_session(url: str, *, within: float, application_name: str = "orchestrator-client") -> Session:
    """Connects within so many seconds, or DatabaseUnavailable."""
    until = time.monotonic() + within
    connection = Connection.open(url, within=within, application_name=application_name)
    peer.limit(connection, until=until)
    return Session(connection)
