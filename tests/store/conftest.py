"""Connections of the store to a fresh database."""

from collections.abc import Callable, Iterator

import pytest

from orchestrator.store.connection import Connection


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
