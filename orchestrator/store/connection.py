"""A connection whose every wait has a deadline of the client's own. Supervisor threads and children use it, one each.

psycopg2's asynchronous mode, driven by a loop of ours: no server, pooler or network that falls silent can hold a caller
longer than it asked for, signals are handled while a statement runs, and nothing global is changed (psycopg2's wait
callback would change the connections of the user's code in the same process as well). Always autocommit: a statement,
or several in one string, is one transaction. Must never block on closing, nor be shared by threads or across a fork.
"""

import select
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NoReturn, Self

import psycopg2
from psycopg2.extensions import (
    POLL_OK,
    POLL_WRITE,
    TRANSACTION_STATUS_ACTIVE,
    TRANSACTION_STATUS_IDLE,
    register_type,
)

from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.store.connecting import OnCall, connect, drive
from orchestrator.store.failures import TRY_AGAIN_STATES, meaning, one_line
from orchestrator.store.limits import SessionLimits
from orchestrator.store.readiness import Readiness
from orchestrator.store.times import TIMES

_TRIES = 5

_SENT_AT_ONCE_BYTES = 4096
"""No socket has so little room that of so short a statement something is left to be sent."""

_NEWS_SECONDS = 0.02
"""But should there be, we wait no longer than this before we look."""


class Connection:
    """One session with the database. After DatabaseUnavailable or DeadlineExceeded it is closed: open another."""

    __slots__ = ("_cursor", "_is_answered", "_limits", "_on_call", "_raw", "_readiness", "_refusal", "prepared")

    def __init__(self, raw: Any, readiness: Readiness, on_call: OnCall | None) -> None:
        self._raw = raw
        register_type(TIMES, raw)
        self._cursor = raw.cursor()
        self._readiness = readiness
        self._on_call = on_call
        self._refusal: StatementRefused | None = None
        self._is_answered = False  # before `send` was over
        self._limits = SessionLimits()
        self.prepared: set[str] = set()  # names of statements that this session should have (prepared.py)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        within: float,
        application_name: str,
        interrupt: int | None = None,
        on_call: OnCall | None = None,
    ) -> Self:
        """Connects to the first server of `url` that takes us, within so many seconds over all of them.

        Each server gets an equal share of the time that is left. DatabaseUnavailable says in one line, without the
        password, what each server said. Looking a name up is the system resolver's and is bounded by its own timeouts.
        """
        raw, readiness = connect(
            url, within=within, application_name=application_name, interrupt=interrupt, on_call=on_call
        )
        return cls(raw, readiness, on_call)

    def execute(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        within: float,
        lock_within: float | None = None,
        meanwhile: Callable[[], None] | None = None,
        may_repeat: bool = True,
    ) -> list[tuple[Any, ...]]:
        """Runs one statement, or several as one transaction, and returns the rows of the last.

        `meanwhile` is called once it is sent, before its reply is waited for; what it raises closes the connection.

        With `lock_within` the server itself ends it as well: a little before `within` is over, so that its refusal
        still arrives, or sooner if it waits for a lock so long. After a deadlock it is tried again, if it may be
        repeated: a COMMIT that is refused has ended its transaction, and the next one would commit nothing.
        DatabaseUnavailable (with `sent`: its fate is unknown), DeadlineExceeded and Interrupted leave the connection
        closed, StatementRefused leaves it usable and nothing changed. Whatever a signal handler raises closes it too.
        """
        deadline = time.monotonic() + within
        if lock_within is not None:
            sql = self._limits.prefix(within, lock_within) + sql
        for attempt in range(1, _TRIES + 1):
            try:
                return self._run(sql, params, deadline, meanwhile)
            except StatementRefused as refusal:
                is_over = not may_repeat or attempt == _TRIES
                if is_over or refusal.sqlstate not in TRY_AGAIN_STATES or self._is_in_transaction():
                    raise
        raise AssertionError("BUG: the last try neither returned nor raised")

    def settle(self, settings: str, *, limit: float, lock_limit: float, within: float) -> None:
        """Has these settings (SETs), and limits of so many seconds for each statement and for its wait for a lock, stay
        with the session, if it is ours alone: then they need not be sent with every statement, for which the server
        takes longer than for some.

        A pooler that may hand it to others makes up the process id that it tells its clients.
        """
        ((server_pid,),) = self.execute("SELECT pg_backend_pid()", within=within)
        if server_pid == self.server_process:
            standing = SessionLimits(limit, lock_limit)
            self.execute(standing.settings + settings, within=within)
            self._limits = standing

    @property
    def is_settled(self) -> bool:
        """Whether what was given to `settle` stays with the session."""
        return self._limits.are_set

    def _is_in_transaction(self) -> bool:
        return bool(self._raw.info.transaction_status != TRANSACTION_STATUS_IDLE)

    def send(
        self, sql: str, params: Mapping[str, Any] | None = None, *, within: float, lock_within: float = inf
    ) -> None:
        """Sends what `execute` runs, limited to so many seconds by the server too, and waits for no answer: `receive`
        must get that before anything else is sent. Raises what `execute` does, but no StatementRefused."""
        deadline = time.monotonic() + within
        self._send(self._limits.prefix(within, lock_within) + sql, params, deadline)
        try:
            self._flush(deadline)
        except StatementRefused as refusal:
            self._refusal = refusal  # so soon: it is the answer

    def has_answer(self) -> bool:
        """Whether something has come from the server, so that `receive` will hardly have to wait."""
        if self._refusal is not None or self._is_answered:
            return True
        return bool(self._readiness.wait(self._raw.fileno(), select.POLLIN, 0.0))

    def receive(self, *, within: float) -> list[tuple[Any, ...]]:
        """The rows of what was sent. Raises as `execute` does, but tries nothing again."""
        refusal, self._refusal, self._is_answered = self._refusal, None, False
        if refusal is not None:
            raise refusal
        if self._raw.closed:
            raise DatabaseUnavailable("the connection is closed", sent=True)
        return self._receive(time.monotonic() + within)

    def _run(
        self, sql: str, params: Mapping[str, Any] | None, deadline: float, meanwhile: Callable[[], None] | None = None
    ) -> list[tuple[Any, ...]]:
        self._send(sql, params, deadline)
        if meanwhile is not None:
            deadline += self._do(meanwhile)
        return self._receive(deadline, is_news=True)

    def _send(self, sql: str, params: Mapping[str, Any] | None, deadline: float) -> None:
        if self._raw.closed:
            raise DatabaseUnavailable("the connection is closed")
        if self._on_call is not None:
            self._on_call(deadline)
        try:
            self._cursor.execute(sql, params)
        except BaseException as error:  # noqa: BLE001 which _fail raises
            self._fail(error)

    def _flush(self, deadline: float) -> None:
        try:
            while (state := self._raw.poll()) == POLL_WRITE:
                self._readiness.await_events(self._raw.fileno(), select.POLLOUT, deadline)
            self._is_answered = state == POLL_OK
        except BaseException as error:  # noqa: BLE001 which _fail raises
            self._fail(error)

    def _receive(self, deadline: float, *, is_news: bool = False) -> list[tuple[Any, ...]]:
        """`is_news`: it was sent just now, so there can be no answer yet. (The driver would find that out too, but a
        small insert takes a tenth longer then.)"""
        try:
            if is_news and len(self._cursor.query) <= _SENT_AT_ONCE_BYTES:
                self._readiness.wait(self._raw.fileno(), select.POLLIN, min(deadline, time.monotonic() + _NEWS_SECONDS))
            drive(self._raw, deadline, self._readiness)
            return self._cursor.fetchall() if self._cursor.description else []
        except BaseException as error:  # noqa: BLE001 which _fail raises
            self._fail(error)

    def _fail(self, error: BaseException) -> NoReturn:
        """Raises what `execute` says of what went wrong; the connection is closed if it is of no more use."""
        if isinstance(error, psycopg2.Error | ValueError) and not self._is_somebody_elses(error):
            meant = meaning(self._raw, error)
            if isinstance(meant, DatabaseUnavailable):
                self.close()
            raise meant from error
        self.close()
        if isinstance(error, DatabaseUnavailable):
            error.sent = True
        raise error

    def _is_somebody_elses(self, error: Exception) -> bool:
        """Whether a signal handler has raised it. The driver's own ValueErrors come before it sends (a value that it
        cannot write), or from a reply (UnicodeDecodeError)."""
        is_plain = not isinstance(error, psycopg2.Error | UnicodeDecodeError)
        return is_plain and self._raw.info.transaction_status == TRANSACTION_STATUS_ACTIVE

    def _do(self, meanwhile: Callable[[], None]) -> float:
        """How many seconds it took. What it raises is the caller's own business, whatever kind it is of."""
        began = time.monotonic()
        try:
            meanwhile()
        except BaseException:
            self.close()
            raise
        return time.monotonic() - began

    def wait(self, timeout: float) -> None:
        """Waits until a notification is there, the interrupt descriptor is readable, or `timeout` seconds are over.

        DatabaseUnavailable if the connection is lost meanwhile.
        """
        deadline = time.monotonic() + timeout
        while not self._raw.closed and not self._raw.notifies:
            if self._readiness.wait(self._raw.fileno(), select.POLLIN, deadline) is not True:
                return
            try:
                self._raw.poll()
            except psycopg2.Error as error:
                self.close()
                raise DatabaseUnavailable(one_line(error)) from error
        if self._raw.closed:
            raise DatabaseUnavailable("the connection is closed")

    def notifications(self) -> list[str]:
        """The payloads of the notifications that arrived since the last call."""
        payloads = [notification.payload for notification in self._raw.notifies]
        self._raw.notifies.clear()
        return payloads

    @property
    def has_notifications(self) -> bool:
        """Whether `notifications` would return any."""
        return bool(self._raw.notifies)

    @property
    def is_open(self) -> bool:
        return not self._raw.closed

    @property
    def server_process(self) -> int:
        """The process id of the session, or what a pooler has made up."""
        return int(self._raw.info.backend_pid)

    @property
    def server_version(self) -> int:
        """As 150018 for 15.18."""
        return int(self._raw.server_version)

    @property
    def server_encoding(self) -> str:
        """As UTF8."""
        return str(self._raw.info.parameter_status("server_encoding"))

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def close(self) -> None:
        """Never blocks and never fails; a statement under way is abandoned."""
        try:
            self._raw.close()
        except psycopg2.Error:
            pass
