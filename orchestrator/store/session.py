"""A session of the Client's own, for enqueueing outside of the caller's transactions. Used by user processes."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.model import NewTask
from orchestrator.store.connection import Connection
from orchestrator.store.enqueue import enqueue_many_with, enqueue_with


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
        return enqueue_with(self._runner(within), task)

    def enqueue_many(self, tasks: Sequence[NewTask], *, within: float) -> list[str]:
        """Adds tasks, all or none; their ids in the same order. `within` is for each statement of some thousands."""
        self._connection.wait(0)
        try:
            self._connection.execute("BEGIN", within=within)
            ids = enqueue_many_with(self._runner(within), tasks)
        except DatabaseUnavailable as failure:
            failure.sent = False  # COMMIT was not
            raise
        except StatementRefused:
            self._connection.execute("ROLLBACK", within=within)
            raise
        self._connection.execute("COMMIT", within=within)
        return ids

    def close(self) -> None:
        self._connection.close()

    def _runner(self, within: float) -> Any:
        def run(sql: str, params: Mapping[str, Any]) -> list[Any]:
            return [row[0] for row in self._connection.execute(sql, params, within=within, lock_within=within)]

        return run


def open_session(url: str, *, within: float, application_name: str = "orchestrator-client") -> Session:
    """Connects within so many seconds, or DatabaseUnavailable."""
    return Session(Connection.open(url, within=within, application_name=application_name))
