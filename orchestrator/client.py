"""Enqueueing, from any process of the user's: over a few connections of its own, or in the caller's transaction.

Nothing is connected before the first task; what a fork inherits is dropped and replaced, never shared.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from orchestrator.callers_connection import CallersConnection, cursor_on
from orchestrator.config import without_password
from orchestrator.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    OptionError,
    Problem,
    StatementRefused,
)
from orchestrator.limits import client_timeout_problem
from orchestrator.model import NewTask
from orchestrator.new_tasks import NOTHING, ToEnqueue, checked_batch, has_key, new_task
from orchestrator.store.addresses import url_problem
from orchestrator.store.enqueue import BATCH, enqueue, enqueue_many
from orchestrator.store.failures import TRY_AGAIN_STATES, missing_tables
from orchestrator.store.session import Session, open_session

MAX_CONNECTIONS = 4
"""Threads that enqueue at the same moment share so many; more of them take turns."""

_TRIES = 5
"""Of a transaction that a deadlock or another's serializable one undoes."""

Row = TypeVar("Row")


class Client:
    """Enqueues tasks. One per process is enough: threads may share it, and a forked child may go on using it.

    `url`: the database (default: DATABASE_URL when the first task is enqueued). `timeout`: seconds within which each
    connection and each statement must be done. OptionError for what they cannot be.
    """

    def __init__(self, url: str | None = None, *, timeout: float = 30.0) -> None:
        if url is not None and not isinstance(url, str):
            raise OptionError(f"url is a str or None, not {type(url).__name__}")
        if (problem := client_timeout_problem(timeout)) is not None:
            raise OptionError(problem)
        self._url = url
        self._timeout = timeout
        self._sessions = _Sessions()

    def enqueue(
        self,
        type: str,
        payload: Mapping[str, Any] = NOTHING,
        *,
        priority: int = 0,
        delay: float | None = None,
        run_at: datetime | None = None,
        idempotency_key: str | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,
        connection: CallersConnection | None = None,
    ) -> str:
        """Add a task; its id. It runs once `delay` seconds have passed, or at `run_at`, the higher priority first.

        A second task of one type and idempotency key is not added: the id is the first's. `max_retries` and `timeout`
        (seconds): None means what the handler is registered with.

        With `connection` the task belongs to the caller's transaction, is committed or rolled back with it, and errors
        pass through as that library raises them. It is a psycopg2 or psycopg 3 connection, or on one of these drivers a
        SQLAlchemy Connection or Session, or Django's connection.

        EnqueueError: refused, nothing stored. DatabaseUnavailable: not stored, but if its `sent` is true it may be all
        the same; with an idempotency key just enqueue again. StatementRefused, nothing stored: the server said no, such
        as a trigger of yours or for want of a right. SchemaError: no tables are there. ConfigurationError: no such URL.
        """
        task = new_task(
            type,
            payload,
            priority=priority,
            delay=delay,
            run_at=run_at,
            idempotency_key=idempotency_key,
            max_retries=max_retries,
            timeout=timeout,
        )
        if connection is not None:
            return enqueue(cursor_on(connection), task)
        is_repeatable = idempotency_key is not None
        return self._run(lambda session: session.enqueue(task, within=self._timeout), is_repeatable)

    def enqueue_many(self, tasks: Iterable[ToEnqueue], *, connection: CallersConnection | None = None) -> list[str]:
        """Add tasks, all or none, thousands in one round trip; their ids in the same order.

        Each is a (type, payload), a dict with the arguments of `enqueue`, or a NewTask. `connection` and errors as for
        `enqueue`; an error names the task by its position. On a connection in autocommit mode each 2,000 tasks are one
        statement, committed by itself: there "all or none" needs a transaction.
        """
        given = list(tasks)
        if connection is not None:
            batch = checked_batch(given, 0, len(given))  # first: a Session begins a transaction when it is looked at
            return enqueue_many(cursor_on(connection), batch)
        first = checked_batch(given, 0, BATCH)
        if not first:
            return []

        def batches() -> Iterator[list[NewTask]]:
            """The next is looked at while the server is busy with the last: what it refuses undoes all of them."""
            yield first
            for start in range(BATCH, len(given), BATCH):
                yield checked_batch(given, start, BATCH)

        is_repeatable = all(has_key(task) for task in given)

        def transaction(session: Session) -> list[str]:
            return session.enqueue_many(batches(), within=self._timeout)

        for tries_left in reversed(range(_TRIES)):
            try:
                return self._run(transaction, is_repeatable)
            except StatementRefused as refused:  # then nothing is stored
                if not tries_left or refused.sqlstate not in TRY_AGAIN_STATES:
                    raise
        raise AssertionError("BUG: the last try neither returned nor raised")

    def close(self) -> None:
        """Close the connections that are idle. The client can be used again; it would open new ones."""
        self._own_sessions().drop_idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, statement: Callable[[Session], Row], is_repeatable: bool) -> Row:
        """Run it on an idle session, or a new one. If an idle one turns out to be dead, once more on a new one.

        But only if that cannot add anything twice: it was not sent, or has a key.
        """
        sessions = self._own_sessions()
        sessions.begin_turn(self._timeout)
        try:
            session = sessions.take_idle()
            if session is not None:
                try:
                    return sessions.use(session, statement)
                except DatabaseUnavailable as failure:
                    if failure.sent and not is_repeatable:
                        raise
                    sessions.drop_idle()  # what killed one has probably killed all: a restarted server
            return sessions.use(self._open(), statement)
        except StatementRefused as refused:
            if not refused.blames_lock:
                raise
            raise DatabaseUnavailable(
                f"tasks is locked by another session, or the server is too slow: {refused}"
            ) from refused
        finally:
            sessions.end_turn()

    def _own_sessions(self) -> "_Sessions":
        if self._sessions.pid != os.getpid():
            self._sessions = _Sessions()
        return self._sessions

    def _open(self) -> Session:
        url = self._url if self._url is not None else os.environ.get("DATABASE_URL")
        if not url:
            raise ConfigurationError(
                [Problem("DATABASE_URL", url, "write postgres://user:password@host:port/database")]
            )
        if (reason := url_problem(url)) is not None:
            raise ConfigurationError([Problem("DATABASE_URL", without_password(url), reason)])
        return open_session(url, within=self._timeout)


class _Sessions:
    """The sessions of one process: at most MAX_CONNECTIONS, each used by one thread at a time."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._idle: list[Session] = []  # append and pop are atomic
        self._turns: SimpleQueue[None] = SimpleQueue()  # a semaphore in C; threading's costs a call a tenth
        for _ in range(MAX_CONNECTIONS):
            self._turns.put(None)

    def begin_turn(self, within: float) -> None:
        """Takes the right to use one session, waited for at most `within` seconds."""
        try:
            self._turns.get(timeout=within)
        except Empty:
            busy = f"all {MAX_CONNECTIONS} connections of this client were busy for {within:g} s"
            raise DatabaseUnavailable(busy) from None

    def end_turn(self) -> None:
        self._turns.put(None)

    def take_idle(self) -> Session | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def use(self, session: Session, statement: Callable[[Session], Row]) -> Row:
        """Run it; afterwards the session is idle, or closed if it may be amid a transaction."""
        is_sound = False
        try:
            row = statement(session)
            is_sound = True
        except StatementRefused as refused:
            is_sound = True
            if (cure := missing_tables(refused)) is not None:
                raise cure from refused
            raise
        finally:
            if is_sound and session.is_open:
                self._idle.append(session)
            else:
                session.close()
        return row

    def drop_idle(self) -> None:
        while (session := self.take_idle()) is not None:
            session.close()
