"""A connection never holds its caller longer than asked, and says what became of the session."""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import psycopg2.extensions
import pytest

from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.errors import DatabaseUnavailable, DeadlineExceeded, StatementRefused
from orchestrator.store import connecting
from orchestrator.store.connecting import LOOK_UP_SECONDS
from orchestrator.store.connection import Connection
from orchestrator.store.limits import limits
from orchestrator.store.readiness import Interrupted
from tests.fixtures.database import private_server
from tests.store.rows import in_background, pid_of, wait_until
from tests.store.wire import Wire

Connect = Callable[[], Connection]
SLEEPING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND query ~ '^SELECT pg_sleep' AND state = 'active'
"""


@contextmanager
def taking_at_most(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.fixture
def tcp_url(private_postgres_tcp: PrivatePostgres) -> str:
    return private_postgres_tcp.url()


def through(wire: Wire, server: PrivatePostgres) -> str:
    return f"postgres://postgres:{server.password}@127.0.0.1:{wire.port}/postgres?sslmode=disable"


class Quick:
    """A driver's connection whose server has always answered before it is polled."""

    def __init__(self, raw: object) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> object:
        return getattr(self._raw, name)

    def poll(self) -> object:
        select.select([self._raw], [], [], 5.0)
        return self._raw.poll()  # type: ignore[attr-defined]


def test_an_answer_that_came_while_the_statement_was_sent_is_there(connection: Connection) -> None:
    connection._raw = Quick(connection._raw)
    connection.send("SELECT 1", within=5.0)
    assert connection.has_answer()
    assert connection.receive(within=5.0) == [(1,)]
    assert not connection.has_answer()


# One statement, or several


def test_the_rows_of_the_last_statement_come_back(connection: Connection) -> None:
    assert connection.execute("SELECT 1; SELECT 2, 'x' UNION ALL SELECT 3, NULL", within=5.0) == [(2, "x"), (3, None)]
    assert connection.execute("CREATE TEMPORARY TABLE u ()", within=5.0) == []


def test_several_statements_are_one_transaction(connection: Connection) -> None:
    with pytest.raises(StatementRefused) as refusal:
        connection.execute("INSERT INTO tasks (type) VALUES ('t'); SELECT 1 / 0", within=5.0)
    assert refusal.value.sqlstate == "22012"
    assert connection.execute("SELECT count(*) FROM tasks", within=5.0) == [(0,)]


def test_a_refused_statement_leaves_the_connection_usable(connection: Connection) -> None:
    with pytest.raises(StatementRefused, match="does not exist"):
        connection.execute("SELECT * FROM nowhere", within=5.0)
    assert connection.is_open
    assert connection.execute("SELECT 1", within=5.0) == [(1,)]


def test_a_refusal_does_not_repeat_the_data_of_the_statement(connection: Connection) -> None:
    with pytest.raises(StatementRefused) as refusal:
        connection.execute("SELECT %(x)s::integer", {"x": "confidential"}, within=5.0)
    assert "\n" not in str(refusal.value)
    assert "LINE" not in str(refusal.value)


@pytest.mark.parametrize("text", ["nul \0", "half a surrogate \ud800"])
def test_a_parameter_that_cannot_be_sent_is_refused_before_anything_is(connection: Connection, text: str) -> None:
    with pytest.raises(StatementRefused, match="cannot be sent"):
        connection.execute("SELECT %(x)s", {"x": text}, within=5.0)
    assert connection.execute("SELECT 1", within=5.0) == [(1,)]


def test_the_version_of_the_server_is_known(connection: Connection) -> None:
    assert connection.server_version >= 140000


# Deadlines


def test_a_slow_statement_ends_at_its_deadline_and_the_connection_with_it(connection: Connection) -> None:
    with taking_at_most(8.0), pytest.raises(DeadlineExceeded) as failure:
        connection.execute("SELECT pg_sleep(30)", within=0.3)
    assert failure.value.sent
    assert not connection.is_open
    with pytest.raises(DatabaseUnavailable) as closed:
        connection.execute("SELECT 1", within=5.0)
    assert not closed.value.sent


def test_a_slow_statement_behind_a_quick_one_ends_at_its_deadline_too(connection: Connection) -> None:
    with taking_at_most(8.0), pytest.raises(DeadlineExceeded):
        connection.execute("SELECT pg_sleep(0.1); SELECT pg_sleep(30); SELECT 1", within=0.4)


def test_the_server_ends_a_statement_too_if_asked(connection: Connection) -> None:
    with pytest.raises(StatementRefused) as refusal:
        connection.execute(limits(0.2, 5.0) + "SELECT pg_sleep(30)", within=10.0)
    assert refusal.value.sqlstate == "57014"
    assert connection.execute("SHOW statement_timeout", within=5.0) == [("0",)]


def test_the_server_ends_a_wait_for_a_lock_if_asked(connection: Connection, other: Connection) -> None:
    other.execute("BEGIN; LOCK TABLE tasks", within=5.0)
    with pytest.raises(StatementRefused) as refusal:
        connection.execute("DELETE FROM tasks", within=10.0, lock_within=0.2)
    assert refusal.value.sqlstate == "55P03"


def test_what_the_client_gives_up_the_server_ends(connection: Connection, other: Connection) -> None:
    pid = pid_of(connection)
    with pytest.raises((DeadlineExceeded, StatementRefused)):
        connection.execute("SELECT pg_sleep(60)", within=0.3, lock_within=0.3)
    wait_until(
        lambda: (
            other.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = %(p)s AND state = 'active'", {"p": pid}, within=5.0
            )
            == [(0,)]
        ),
        within=5.0,
    )


def test_a_server_that_accepts_and_says_nothing_costs_no_more_than_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with taking_at_most(8.0), pytest.raises(DeadlineExceeded, match=f"127.0.0.1:{port}"):
            Connection.open(f"postgres://a:secret@127.0.0.1:{port}/x", within=0.4, application_name="test")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_a_refusal_in_the_servers_own_language_and_encoding_is_a_refusal(encoding: str) -> None:
    words = "SFATAL\0C28P01\0MPasswort-Authentifizierung für »ann« fehlgeschlagen\0\0".encode(encoding)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            with listener.accept()[0] as peer:
                peer.recv(1024)
                peer.sendall(b"E" + (len(words) + 4).to_bytes(4, "big") + words)

        server = threading.Thread(target=refuse)
        server.start()
        port = listener.getsockname()[1]
        url = f"postgres://ann@127.0.0.1:{port}/db?sslmode=disable&gssencmode=disable"
        with pytest.raises(DatabaseUnavailable, match=rf"127.0.0.1:{port}: .*Passwort-.* f.r .ann. fehlgeschlagen$"):
            Connection.open(url, within=5.0, application_name="test")
        server.join()


def test_a_network_that_falls_silent_costs_no_more_than_the_deadline(
    private_postgres_tcp: PrivatePostgres, wire: Wire
) -> None:
    connection = Connection.open(through(wire, private_postgres_tcp), within=10.0, application_name="test")
    wire.is_silent = True
    with taking_at_most(8.0), pytest.raises(DeadlineExceeded):
        connection.execute("SELECT 1", within=0.4)
    assert not connection.is_open


def test_a_lost_reply_says_that_the_statement_was_sent(private_postgres_tcp: PrivatePostgres, wire: Wire) -> None:
    connection = Connection.open(through(wire, private_postgres_tcp), within=10.0, application_name="test")
    connection.execute("CREATE TABLE done ()", within=5.0)
    wire.loses_replies = True
    with pytest.raises(DeadlineExceeded) as failure:
        connection.execute("INSERT INTO done DEFAULT VALUES", within=0.5)
    assert failure.value.sent
    with psycopg.connect(private_postgres_tcp.url(), autocommit=True) as observer:
        wait_until(lambda: observer.execute("SELECT count(*) FROM done").fetchone() == (1,))


def test_a_cut_connection_is_noticed_at_once(private_postgres_tcp: PrivatePostgres, wire: Wire) -> None:
    connection = Connection.open(through(wire, private_postgres_tcp), within=10.0, application_name="test")
    requests = wire.requests
    result = in_background(lambda: connection.execute("SELECT pg_sleep(30)", within=20.0))
    wait_until(lambda: wire.requests > requests)
    with taking_at_most(5.0):
        wire.cut()
        with pytest.raises(DatabaseUnavailable):
            result()
    assert not connection.is_open


# Signals and the interrupt


def test_the_interrupt_ends_a_running_statement_at_once(database_url: str) -> None:
    reader, writer = os.pipe()
    try:
        connection = Connection.open(database_url, within=10.0, application_name="test", interrupt=reader)
        result = in_background(lambda: connection.execute("SELECT pg_sleep(30)", within=20.0))
        os.write(writer, b"x")
        with taking_at_most(5.0), pytest.raises(Interrupted):
            result()
        assert not connection.is_open
    finally:
        os.close(reader)
        os.close(writer)


def test_the_interrupt_ends_connecting_at_once() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgres://127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{silent.getsockname()[1]}/x"
        with taking_at_most(5.0), pytest.raises(Interrupted):
            Connection.open(url, within=20.0, application_name="test", interrupt=reader)
    os.close(reader)
    os.close(writer)


def test_the_interrupt_ends_a_wait_and_leaves_the_connection_open(database_url: str) -> None:
    reader, writer = os.pipe()
    connection = Connection.open(database_url, within=10.0, application_name="test", interrupt=reader)
    os.write(writer, b"x")
    with taking_at_most(5.0):
        connection.wait(20.0)
    assert connection.is_open
    connection.close()
    os.close(reader)
    os.close(writer)


def signal_once_it_runs(observer: Connection, connection: Connection) -> Callable[[], None]:
    """SIGUSR1 for this process as soon as the connection runs what it executes next. The end of that."""
    pid = pid_of(connection)

    def send() -> None:
        wait_until(lambda: observer.execute(SLEEPING, within=5.0) == [(pid,)])
        os.kill(os.getpid(), signal.SIGUSR1)

    return in_background(send)


def test_signals_are_handled_while_a_statement_runs(connection: Connection, other: Connection) -> None:
    """The handler ends it: it would take longer than it may."""
    reader, writer = os.pipe()
    previous = signal.signal(signal.SIGUSR1, lambda *_: os.write(writer, b"x"))
    try:
        was_sent = signal_once_it_runs(other, connection)
        end = f"SELECT pg_cancel_backend(({SLEEPING}))"
        ended = in_background(lambda: (os.read(reader, 1), other.execute(end, within=5.0)))
        with taking_at_most(10.0), pytest.raises(StatementRefused, match="user request"):
            connection.execute("SELECT pg_sleep(30)", within=20.0)
        was_sent()
        ended()
    finally:
        signal.signal(signal.SIGUSR1, previous)
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("kind", [Exception, ValueError])
def test_an_exception_from_a_signal_handler_passes_and_closes_the_connection(
    connection: Connection, other: Connection, kind: type[Exception]
) -> None:
    class Alarm(kind):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    previous = signal.signal(signal.SIGUSR1, ring)
    try:
        was_sent = signal_once_it_runs(other, connection)
        with taking_at_most(10.0), pytest.raises(Alarm):
            connection.execute("SELECT pg_sleep(30)", within=20.0)
        was_sent()
        assert not connection.is_open
    finally:
        signal.signal(signal.SIGUSR1, previous)


# The server goes away


def test_a_terminated_session_is_unavailable_and_not_refused(connection: Connection, other: Connection) -> None:
    pid = pid_of(connection)
    result = in_background(lambda: connection.execute("SELECT pg_sleep(30)", within=20.0))
    wait_until(lambda: other.execute("SELECT pg_terminate_backend(%(p)s)", {"p": pid}, within=5.0) == [(True,)])
    with pytest.raises(DatabaseUnavailable) as failure:
        result()
    assert not isinstance(failure.value, DeadlineExceeded)
    assert "\n" not in str(failure.value)
    assert not connection.is_open


def test_a_session_terminated_while_idle_is_noticed_by_the_next_wait(connection: Connection, other: Connection) -> None:
    other.execute("SELECT pg_terminate_backend(%(p)s)", {"p": pid_of(connection)}, within=5.0)
    with taking_at_most(5.0), pytest.raises(DatabaseUnavailable) as failure:
        connection.wait(20.0)
    assert not failure.value.sent
    assert not connection.is_open


@pytest.mark.parametrize("way", ["stop", "crash"])
def test_a_restart_in_the_middle_of_a_statement_is_survived(private_postgres: PrivatePostgres, way: str) -> None:
    url = private_postgres.url()
    connection = Connection.open(url, within=10.0, application_name="test")
    idle = Connection.open(url, within=10.0, application_name="test")
    result = in_background(lambda: connection.execute("SELECT pg_sleep(60)", within=30.0))
    wait_until(lambda: idle.execute(SLEEPING, within=5.0) != [])
    getattr(private_postgres, way)()
    with taking_at_most(10.0), pytest.raises(DatabaseUnavailable) as failure:
        result()
    assert failure.value.sent
    with pytest.raises(DatabaseUnavailable):
        idle.execute("SELECT 1", within=5.0)
    with pytest.raises(DatabaseUnavailable):
        Connection.open(url, within=1.0, application_name="test")
    private_postgres.start()
    again = Connection.open(private_postgres.url(), within=10.0, application_name="test")
    assert again.execute("SELECT 1", within=5.0) == [(1,)]
    again.close()


def test_a_read_only_server_is_unavailable_and_not_refused(connection: Connection) -> None:
    connection.execute("SET default_transaction_read_only = on", within=5.0)
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        connection.execute("DELETE FROM tasks", within=5.0)
    assert not connection.is_open


# Connecting


def test_a_full_server_says_so() -> None:
    with private_server(settings={"max_connections": "8"}) as server:
        opened = [Connection.open(server.url(), within=10.0, application_name="test") for _ in range(8)]
        with pytest.raises(DatabaseUnavailable, match="the server has no free connection"):
            Connection.open(server.url(), within=10.0, application_name="test")
        opened[0].close()

        def opens() -> bool:
            with contextlib.suppress(DatabaseUnavailable):  # the server may still be about to take leave of the other
                opened.append(Connection.open(server.url(), within=10.0, application_name="test"))
            return len(opened) == 9

        wait_until(opens)
        for connection in opened:
            connection.close()


def test_a_full_role_says_so(private_postgres_tcp: PrivatePostgres, tcp_url: str) -> None:
    with psycopg.connect(tcp_url, autocommit=True) as session:
        session.execute("CREATE ROLE narrow LOGIN PASSWORD 'p' CONNECTION LIMIT 0")
    url = f"postgres://narrow:p@127.0.0.1:{private_postgres_tcp.port}/postgres"
    with pytest.raises(DatabaseUnavailable, match="the server has no free connection"):
        Connection.open(url, within=10.0, application_name="test")


def test_a_missing_database_is_named_and_the_password_is_not(tcp_url: str) -> None:
    password = psycopg.conninfo.conninfo_to_dict(tcp_url)["password"]
    with pytest.raises(DatabaseUnavailable, match='"nowhere" does not exist') as failure:
        Connection.open(tcp_url.rpartition("/")[0] + "/nowhere", within=10.0, application_name="test")
    assert str(password) not in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_wrong_password_is_not_repeated(private_postgres_tcp: PrivatePostgres) -> None:
    url = f"postgres://postgres:wrong-secret@127.0.0.1:{private_postgres_tcp.port}/postgres"
    with pytest.raises(DatabaseUnavailable, match="password authentication failed") as failure:
        Connection.open(url, within=10.0, application_name="test")
    assert "wrong-secret" not in str(failure.value)


def test_a_dead_host_is_passed_over(private_postgres_tcp: PrivatePostgres) -> None:
    password, port = private_postgres_tcp.password, private_postgres_tcp.port
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:1,127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{port}"
        url = f"postgres://postgres:{password}@{hosts}/postgres?target_session_attrs=read-write"
        with taking_at_most(10.0):
            connection = Connection.open(url, within=4.0, application_name="test")
    assert connection.execute("SELECT inet_server_port()", within=5.0) == [(port,)]
    connection.close()


def test_a_name_that_takes_long_to_look_up_leaves_the_next_host_its_time(
    private_postgres_tcp: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = connecting.connection

    def slow(dsn: str, **settings: int) -> object:
        if "slow.invalid" in dsn:
            until = time.monotonic() + 1.6
            wait_until(lambda: time.monotonic() > until)
        return begin(dsn, **settings)

    monkeypatch.setattr(connecting, "connection", slow)
    server = private_postgres_tcp
    url = f"postgres://postgres:{server.password}@slow.invalid:1,127.0.0.1:{server.port}/postgres?sslmode=disable"
    connection = Connection.open(url, within=1.5, application_name="test")
    assert connection.is_open
    connection.close()


def test_where_eventlet_has_taken_poll_away_select_does(tcp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll")
    reading, writing = os.pipe()
    connection = Connection.open(tcp_url, within=5.0, application_name="test", interrupt=reading)
    large = "x" * 4_000_000  # does not fit into the socket: it is waited for until there is room
    assert connection.execute("SELECT %(large)s", {"large": large}, within=10.0) == [(large,)]
    os.write(writing, b"!")
    with pytest.raises(Interrupted):
        connection.execute("SELECT pg_sleep(10)", within=5.0)
    os.close(reading)
    os.close(writing)
    connection = Connection.open(tcp_url, within=5.0, application_name="test")
    with taking_at_most(2.0), pytest.raises(DeadlineExceeded):
        connection.execute("SELECT pg_sleep(10)", within=0.1)


def test_a_tracer_that_wraps_the_drivers_connections_does_not_wrap_ours(
    private_postgres_tcp: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = psycopg2.connect
    monkeypatch.setattr(psycopg2, "connect", lambda *args, **settings: Quick(connect(*args, **settings)))
    connection = Connection.open(private_postgres_tcp.url(), within=5.0, application_name="test")
    assert connection.execute("SELECT 1", within=5.0) == [(1,)]
    connection.close()


def test_a_read_only_host_is_passed_over_unless_the_url_takes_any(
    private_postgres_tcp: PrivatePostgres,
) -> None:
    with private_server(listens_tcp=True, settings={"default_transaction_read_only": "on"}) as standby:
        with psycopg.connect(private_postgres_tcp.url(), autocommit=True) as session:
            session.execute(f"ALTER ROLE postgres PASSWORD '{standby.password}'")
        hosts = f"127.0.0.1:{standby.port},127.0.0.1:{private_postgres_tcp.port}"
        url = f"postgres://postgres:{standby.password}@{hosts}/postgres"
        anywhere = Connection.open(url + "?target_session_attrs=any", within=10.0, application_name="test")
        assert anywhere.execute("SELECT inet_server_port()", within=5.0) == [(standby.port,)]
        writable = Connection.open(url, within=10.0, application_name="test")
        assert writable.execute("SELECT inet_server_port()", within=5.0) == [(private_postgres_tcp.port,)]
        anywhere.close()
        writable.close()


def test_every_host_that_failed_is_named() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1: .*127\.0\.0\.1:2: "):
        Connection.open("postgres://127.0.0.1:1,127.0.0.1:2/x", within=5.0, application_name="test")


def test_a_server_that_is_starting_is_unavailable(private_postgres: PrivatePostgres) -> None:
    private_postgres.stop()
    with pytest.raises(DatabaseUnavailable):
        Connection.open(private_postgres.url(), within=5.0, application_name="test")


def test_the_connection_says_who_it_is(database_url: str) -> None:
    connection = Connection.open(database_url, within=10.0, application_name="orchestratord: child 3")
    assert connection.execute("SHOW application_name", within=5.0) == [("orchestratord: child 3",)]
    assert connection.execute("SHOW client_encoding", within=5.0) == [("UTF8",)]
    connection.close()


# Notifications


def test_each_call_tells_beforehand_by_when_it_will_have_returned(database_url: str) -> None:
    told: list[float] = []
    began = time.monotonic()
    connection = Connection.open(database_url, within=10.0, application_name="test", on_call=told.append)
    assert told == [pytest.approx(began + 10.0 + LOOK_UP_SECONDS, abs=4.0)]
    with pytest.raises(DeadlineExceeded):
        connection.execute("SELECT pg_sleep(30)", within=0.3)
    assert told[1:] == [pytest.approx(began + 0.3, abs=4.0)]


def test_notifications_end_a_wait_and_are_kept(connection: Connection, other: Connection) -> None:
    connection.execute("LISTEN a", within=5.0)
    other.execute("NOTIFY a, 'one'", within=5.0)
    with taking_at_most(5.0):
        connection.wait(20.0)
    assert connection.notifications() == ["one"]
    assert connection.notifications() == []


def test_notifications_that_come_with_a_reply_end_the_next_wait(connection: Connection, other: Connection) -> None:
    connection.execute("LISTEN a", within=5.0)
    other.execute("NOTIFY a, 'two'", within=5.0)
    pid = pid_of(connection)
    wait_until(lambda: not other.execute("SELECT pg_notification_queue_usage() > 0", within=5.0)[0][0] and pid > 0)
    connection.execute("SELECT 1", within=5.0)
    with taking_at_most(8.0):
        connection.wait(20.0)
    assert connection.notifications() == ["two"]


def test_a_wait_without_anything_ends_in_time(connection: Connection) -> None:
    with taking_at_most(8.0):
        connection.wait(0.1)
    assert connection.notifications() == []
    assert connection.is_open


def test_closing_twice_or_in_the_middle_of_a_statement_does_no_harm(connection: Connection) -> None:
    connection.close()
    connection.close()
    assert not connection.is_open
    with pytest.raises(DatabaseUnavailable):
        connection.wait(0.1)


def test_the_users_own_connections_keep_their_behaviour(connection: Connection) -> None:
    """A wait callback is global to psycopg2: with one, the user's connections in this process would be driven by us."""
    assert connection.execute("SELECT 1", within=5.0) == [(1,)]
    assert psycopg2.extensions.get_wait_callback() is None
