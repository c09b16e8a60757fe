"""The connections of the caller's that tasks can be added on, and how a statement runs on each.

Used in any process of the user's. It imports none of their libraries, of which most users have one: a connection is
known by the names of its classes. Nothing here commits or rolls back.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from orchestrator.errors import OptionError
from orchestrator.store.enqueue import Cursor

_ASYNCIO = frozenset({"sqlalchemy.AsyncConnection", "sqlalchemy.AsyncSession", "sqlalchemy.async_scoped_session"})
_SESSIONS = frozenset({"sqlalchemy.Session", "sqlalchemy.scoped_session"})
_DJANGOS = frozenset({"django.BaseDatabaseWrapper", "django.ConnectionProxy"})
_DRIVERS = frozenset({"psycopg2", "psycopg"})

_INSTEAD = {
    "sqlalchemy.Engine": "a Connection or Session of it",
    "sqlalchemy.PoolProxiedConnection": "its driver_connection",
    "sqlalchemy.AsyncEngine": "what run_sync() of a connection of it hands on",
    "sqlalchemy.sessionmaker": "a Session that it made",
    "sqlalchemy.async_sessionmaker": "what run_sync() of a session that it made hands on",
    "django.ConnectionHandler": "one of its connections, connections['default'] for instance",
}
"""What makes connections, or wraps one, is easily taken for one."""


class _HasCursor(Protocol):
    """psycopg2's and psycopg 3's connections."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any: ...


class _SqlalchemyConnection(Protocol):
    def exec_driver_sql(self, *args: Any, **kwargs: Any) -> Any: ...


class _SqlalchemySession(Protocol):
    """A Session, and a scoped_session too."""

    def connection(self, *args: Any, **kwargs: Any) -> Any: ...


class _Proxy(Protocol):
    """Django's connection, of which nothing more can be seen where its types are not installed (django-stubs)."""

    def __getattr__(self, name: str, /) -> Any: ...


CallersConnection = _HasCursor | _SqlalchemyConnection | _SqlalchemySession | _Proxy
"""What `connection=` takes, as far as types can tell: an asynchronous connection looks the same and is refused."""


def cursor_on(connection: CallersConnection) -> Cursor:
    """What runs statements in the transaction of `connection`; OptionError if it is none that we can use."""
    given: Any = connection
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in _classes(given)}
    if "psycopg.AsyncConnection" in kinds or ("psycopg2.connection" in kinds and given.async_):
        raise OptionError("connection= takes no asynchronous connection: its transaction cannot be joined by a call")
    if kinds & _ASYNCIO:
        raise OptionError("connection= takes no asynchronous connection: pass the one that its run_sync() hands on")
    cursor: Cursor
    if "psycopg.Connection" in kinds:
        cursor = _psycopg_cursor(_open(given))
    elif "psycopg2.connection" in kinds:
        cursor = _open(given).cursor()
    elif "sqlalchemy.Connection" in kinds:
        cursor = _SqlalchemyCursor(_open(_of_known_driver(given)))
    elif kinds & _SESSIONS:
        _of_known_driver(given.get_bind())  # before it begins a transaction, or connects at all
        cursor = _SqlalchemyCursor(given.connection())
    elif kinds & _DJANGOS:
        cursor = _django_cursor(given)
    else:
        raise _refusal(_name(given), _instead_of(kinds))
    return cursor


def _classes(given: Any) -> Iterable[type]:
    """Its own, and those of what it stands for: a tracer's wrapper (Datadog's, Elastic's), a LocalProxy of Flask's."""
    return {*type(given).__mro__, *given.__class__.__mro__}


def _psycopg_cursor(connection: Any) -> Cursor:
    """A cursor of psycopg 3's, whatever rows the caller's own factory makes."""
    cursor: Cursor = connection.cursor(row_factory=_tuple_rows)
    if any(kind.__name__ == "RawCursorMixin" for kind in _classes(cursor)):  # it knows $1, and no names
        cursor = sys.modules["psycopg"].Cursor(connection, row_factory=_tuple_rows)
    return cursor


def _django_cursor(connection: Any) -> Cursor:
    """A cursor of Django's; one that was closed is connected anew, as Django does."""
    vendor = getattr(connection, "vendor", None)  # None: django.core.cache.cache, a ConnectionProxy too
    if vendor != "postgresql":
        raise _refusal(_name(connection) if vendor is None else f"Django's to {vendor}")
    cursor: Cursor = connection.cursor()
    return cursor


class _SqlalchemyCursor:
    """Runs statements through a SQLAlchemy Connection.

    On the driver's own cursor they would be part of no transaction that SQLAlchemy knows of: commit() would have
    nothing to commit, and what was added would be rolled back with the connection's return to its pool.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._ids: list[Any] = []

    def execute(self, sql: str, params: Mapping[str, Any] | None = None, /) -> None:
        # Rows that are streamed, by options of the caller's connection, come from a DECLARE CURSOR, which takes no
        # INSERT. autocommit: outside of a transaction SQLAlchemy 1.4 commits what it takes for a change, which a SELECT
        # isn't; 2 ignores the word.
        options = {"stream_results": False, "yield_per": None, "autocommit": True}
        self._ids = self._connection.exec_driver_sql(sql, params, execution_options=options).scalars().all()

    def fetchall(self) -> list[Any]:
        return self._ids


def _open(connection: Any) -> Any:
    """The connection itself; OptionError if it is closed."""
    if connection.closed:
        raise OptionError("connection= is closed")
    return connection


def _of_known_driver(bind: Any) -> Any:
    """A SQLAlchemy Connection or Engine itself; OptionError if its driver doesn't speak our parameters."""
    if bind.dialect.driver not in _DRIVERS:
        raise _refusal(f"SQLAlchemy's on {bind.dialect.name}+{bind.dialect.driver}")
    return bind


def _name(given: object) -> str:
    return f"{type(given).__module__}.{type(given).__name__}"


def _instead_of(kinds: Iterable[str]) -> str | None:
    return next((_INSTEAD[kind] for kind in kinds if kind in _INSTEAD), None)


def _refusal(given: str, instead: str | None = None) -> OptionError:
    hint = "" if instead is None else f": pass {instead}"
    return OptionError(
        "connection= takes a psycopg2 or psycopg 3 connection, or on one of these drivers a SQLAlchemy Connection or"
        f" Session or Django's connection, not {given}{hint}"
    )


def _tuple_rows(cursor: object) -> Callable[[Any], Any]:
    """A psycopg 3 row factory."""
    return tuple
