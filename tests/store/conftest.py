"""Connections of the store to a fresh database."""

from collections.abc import Callable, Iterator

import pytest

from orchestrator.store import leadership
from orchestrator.store.connection import Connection
from tests.store.rows import PROCESS, add_worker


@pytest.fixture
def connect(database_url: str) -> Iterator[Callable[[], Connection]]:
    """Call it for one more connection to the test's database."""
    opened: list[Connection] = []

    def open_one() -> Connection:
        opened.append(Connection.open(database_url, within=10.0, application_name="test"))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(connect: Callable[[], Connection]) -> Connection:
    return connect()


@pytest.fixture
def other(connect: Callable[[], Connection]) -> Connection:
    """A second session beside `connection`."""
    return connect()


@pytest.fixture
def term(connection: Connection) -> int:
    """The term in which the worker `leader` leads, since this moment."""
    add_worker(connection, "leader")
    term = leadership.acquire(connection, holder="leader", process=PROCESS, lease_seconds=60.0, within=5.0)
    assert term is not None
    return term
