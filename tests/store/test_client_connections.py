"""Enqueueing on connections of the client's own: how many there are, and what happens when one dies on the way."""

import os
import threading
import time
from contextlib import closing
from typing import Any

import psycopg
import pytest

from orchestrator import Client
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.errors import DatabaseUnavailable, OptionError, StatementRefused
from orchestrator.store.connection import Connection
from orchestrator.store.schema import migrate
from tests.fixtures.clients import Look, backends
from tests.fixtures.waiting import eventually
from tests.store.wire import Wire

# Connections of the client's own


def test_one_connection_is_kept_and_used_again(client: Client, look: Look) -> None:
    assert backends(look) == []
    client.enqueue("a")
    first = backends(look)
    client.enqueue("a")
    client.enqueue_many([("a", {})])
    assert len(first) == 1
    assert backends(look) == first


def test_a_closed_client_has_no_connection_and_can_be_used_again(client: Client, look: Look) -> None:
    client.enqueue("a")
    client.close()
    eventually(lambda: backends(look) == [], within=5.0)
    client.enqueue("a")
    assert len(backends(look)) == 1


def test_a_statement_that_is_refused_leaves_the_connection_in_use(client: Client, look: Look) -> None:
    client.enqueue("a")
    first = backends(look)
    look("ALTER TABLE tasks ADD CHECK (type <> 'forbidden')")
    with pytest.raises(StatementRefused) as refused:
        client.enqueue("forbidden")
    assert refused.value.sqlstate == "23514"
    with pytest.raises(StatementRefused):
        client.enqueue_many([("a", {}), ("forbidden", {})])
    client.enqueue("a")
    assert backends(look) == first
    assert look("SELECT count(*) FROM tasks") == [(2,)]


@pytest.mark.usefixtures("hears_refusals")
def test_a_table_that_somebody_locks_is_a_database_that_is_not_available(database_url: str, look: Look) -> None:
    with Client(database_url, timeout=5.0) as client:
        client.enqueue("before")
        first = backends(look)
        look("BEGIN; LOCK TABLE tasks")
        for enqueue in (lambda: client.enqueue("a"), lambda: client.enqueue_many([("a", {})])):
            with pytest.raises(DatabaseUnavailable, match="locked by another session, or the server is too") as failure:
                enqueue()
            assert not failure.value.sent
        look("ROLLBACK")
        client.enqueue("after")
        assert backends(look) == first
    assert look("SELECT type FROM tasks ORDER BY id") == [("before",), ("after",)]


@pytest.mark.parametrize("sqlstate", ["57014", "55P03"])
def test_what_the_server_gives_up_waiting_for_is_not_stored(client: Client, look: Look, sqlstate: str) -> None:
    look(
        "CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION 'gave up' USING ERRCODE = '{sqlstate}'; END $$"
    )
    look("CREATE TRIGGER give_up BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION give_up()")
    with pytest.raises(DatabaseUnavailable, match="too slow: gave up") as failure:
        client.enqueue("a", idempotency_key="k")
    assert not failure.value.sent


@pytest.mark.parametrize("timeout", [-1, 0, float("nan"), float("inf"), 1e300, 10**400, "5", None, True])
def test_a_timeout_that_cannot_be_kept_is_refused_at_once(timeout: Any) -> None:
    with pytest.raises(OptionError, match=r"timeout=.*: write seconds, more than 0 and at most 2000000"):
        Client(timeout=timeout)


def test_the_longest_timeout_can_be_kept(database_url: str) -> None:
    with Client(database_url, timeout=2_000_000) as client:
        client.enqueue("a")
        client.enqueue_many([("a", {})])


@pytest.mark.parametrize("url", [5, b"postgres://u:s3cret@h/x"])
def test_an_address_that_is_no_text_is_refused_at_once_and_not_repeated(url: Any) -> None:
    with pytest.raises(OptionError, match="url is a str or None") as failure:
        Client(url)
    assert "s3cret" not in str(failure.value)


def test_a_connection_that_the_server_closed_meanwhile_is_replaced(client: Client, look: Look) -> None:
    client.enqueue("a")
    [pid] = backends(look)
    look(f"SELECT pg_terminate_backend({pid})")
    eventually(lambda: not os.path.exists(f"/proc/{pid}") and backends(look) == [], within=5.0)
    client.enqueue("a")
    assert look("SELECT count(*) FROM tasks") == [(2,)]


def test_threads_share_a_client_and_few_connections(client: Client, look: Look) -> None:
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(20):
                client.enqueue("a", {"thread": thread, "n": n})
        except BaseException as error:  # noqa: BLE001 told to the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(backends(look)))
    for thread in threads:
        thread.join()
    assert failures == []
    assert look("SELECT count(DISTINCT payload) FROM tasks") == [(240,)]
    assert 1 <= most <= 4


def test_a_forked_child_gets_a_connection_of_its_own(client: Client, look: Look) -> None:
    client.enqueue("parent")
    before = backends(look)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            client.enqueue("child")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    client.enqueue("parent")
    assert set(before) <= set(backends(look))
    assert look("SELECT type, count(*) FROM tasks GROUP BY 1 ORDER BY 1") == [("child", 1), ("parent", 2)]


# Replies that get lost


@pytest.fixture
def server(private_postgres_tcp: PrivatePostgres) -> PrivatePostgres:
    connection = Connection.open(private_postgres_tcp.url(), within=10.0, application_name="test")
    with closing(connection):
        migrate(connection, within=30.0)
    return private_postgres_tcp


def test_a_task_whose_fate_is_unknown_is_never_sent_twice(server: PrivatePostgres, wire: Wire) -> None:
    url = f"postgres://postgres:{server.password}@127.0.0.1:{wire.port}/postgres?sslmode=disable"
    with Client(url, timeout=2.0) as client, psycopg.connect(server.url(), autocommit=True) as observer:

        def count() -> int:
            return len(observer.execute("SELECT FROM tasks").fetchall())

        client.enqueue("a")
        wire.loses_replies = True
        with pytest.raises(DatabaseUnavailable) as failure:
            client.enqueue("a")
        assert failure.value.sent
        eventually(lambda: count() == 2, within=5.0)
        wire.loses_replies = False
        client.enqueue("a")
        assert count() == 3


def test_a_task_with_a_key_is_tried_again_and_stored_once(server: PrivatePostgres, wire: Wire) -> None:
    url = f"postgres://postgres:{server.password}@127.0.0.1:{wire.port}/postgres?sslmode=disable"
    with Client(url, timeout=10.0) as client, psycopg.connect(server.url(), autocommit=True) as observer:

        def stored() -> list[str]:
            return [task_id for (task_id,) in observer.execute("SELECT id::text FROM tasks").fetchall()]

        client.enqueue("first", idempotency_key="first")
        wire.loses_replies = True
        ids: list[str] = []
        thread = threading.Thread(target=lambda: ids.append(client.enqueue("a", idempotency_key="k")))
        thread.start()
        eventually(lambda: len(stored()) == 2, within=5.0)
        wire.loses_replies = False
        wire.cut()
        thread.join(20)
        assert len(stored()) == 2
        assert ids[0] in stored()


def test_an_unreachable_server_is_an_error_within_the_deadline(server: PrivatePostgres, wire: Wire) -> None:
    url = f"postgres://postgres:{server.password}@127.0.0.1:{wire.port}/postgres?sslmode=disable"
    wire.is_silent = True
    began = time.monotonic()
    with Client(url, timeout=0.5) as client, pytest.raises(DatabaseUnavailable) as failure:
        client.enqueue("a")
    assert not failure.value.sent
    assert time.monotonic() - began < 8.0
