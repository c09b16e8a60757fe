"""What the server has room for, as an ordinary role sees it."""

import os
from collections.abc import Callable, Iterator

import psycopg.conninfo
import pytest

from orchestrator.store import server
from orchestrator.store.connection import Connection
from tests.store.rows import add_task, add_worker

Connect = Callable[[], Connection]


@pytest.fixture
def plain_role(connection: Connection) -> Iterator[str]:
    """A role without any rights beyond logging in, and at most five times."""
    role = f"plain_{os.getpid()}"
    connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT 5", within=5.0)
    yield role
    connection.execute(f"DROP ROLE {role}", within=5.0)


def test_connections_of_all_roles_are_counted_for_any_role(
    connect: Connect, connection: Connection, plain_role: str
) -> None:
    others = [connect() for _ in range(4)]
    connection.execute(f"SET ROLE {plain_role}", within=5.0)
    found = server.capacity(connection, within=5.0)
    connection.execute("RESET ROLE", within=5.0)
    assert found.in_use >= len(others) + 1
    assert found.role_limit == 5
    assert found.database_limit is None
    assert found.ceiling == 5
    assert 0 < found.reserved < found.max_connections
    assert found.free == found.max_connections - found.reserved - found.in_use


def test_the_limit_of_the_database_counts_too(connection: Connection, database_url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 7", within=5.0)
    found = server.capacity(connection, within=5.0)
    assert (found.database_limit, found.ceiling) == (7, 7)


def test_a_listener_hears_of_new_tasks(connection: Connection, other: Connection) -> None:
    add_worker(connection)
    connection.execute("INSERT INTO sleepers VALUES ('w', true)", within=5.0)
    server.listen(other, within=5.0)
    add_task(connection)
    other.wait(10.0)
    assert other.notifications() == [""]
