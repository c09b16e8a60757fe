"""Settings that stay with a session that is nobody else's, and never with one that a pooler hands on."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from psycopg.conninfo import make_conninfo

from orchestrator.child.database import Database
from orchestrator.coordinator.session import Session
from orchestrator.coordinator.standing import Standing
from orchestrator.coordinator.waiting import Bell
from orchestrator.errors import StatementRefused
from orchestrator.store import holdings, peer
from orchestrator.store.connection import Connection
from orchestrator.store.prepared import execute_prepared, prepared, settle
from orchestrator.store.session import open_session
from orchestrator.telemetry.metrics import TaskMetrics

OWN = "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY name"
SHOW = prepared(
    "show",
    "SELECT %(names)s, array_agg(setting ORDER BY name) FROM pg_settings WHERE name = ANY (%(names)s) GROUP BY 1",
    {"names": "text[]"},
)
NAMES = "{enable_bitmapscan,enable_seqscan,jit,lock_timeout,plan_cache_mode,statement_timeout}"


class Watched(Connection):
    """Keeps what it sends."""

    is_pooled = False

    def _send(self, sql: str, params: Mapping[str, Any] | None, deadline: float) -> None:
        self.last = sql
        super()._send(sql, params, deadline)


class Pooled(Watched):
    """It was told of a process that is not its server's."""

    is_pooled = True

    @property
    def server_process(self) -> int:
        return super().server_process + 1


def of_a_child(url: str) -> Connection:
    database = Database(url, "test", print)
    assert database.try_to_connect() and database.connection is not None
    return database.connection


def of_a_client(url: str) -> Connection:
    return open_session(url, within=10.0)._connection


def of_a_supervisor(url: str) -> Connection:
    counting = TaskMetrics(CollectorRegistry())
    return Session(url, thread="pulse", standing=Standing(), counting=counting, abort=Bell(), longest_pause=1.0).open()


def shown(connection: Connection, *, within: float = 20.0, lock_within: float = 5.0) -> list[str]:
    """What holds while a prepared statement runs."""
    rows = execute_prepared(connection, SHOW, {"names": NAMES}, within=within, lock_within=lock_within)
    settings: list[str] = rows[0][1]
    return settings


def test_a_session_of_our_own_is_read_committed_whatever_its_role_says(connection: Connection) -> None:
    connection.execute("SET default_transaction_isolation = 'serializable'", within=5.0)
    settle(connection, limit=18.0, lock_limit=5.0, within=5.0)
    assert connection.execute("SHOW transaction_isolation", within=5.0) == [("read committed",)]


@pytest.mark.parametrize("kind", [Watched, Pooled])
def test_a_statement_runs_under_the_same_settings_whether_they_stay_or_are_sent(
    database_url: str, kind: type[Watched]
) -> None:
    connection = kind.open(database_url, within=10.0, application_name="test")
    settle(connection, limit=18.0, lock_limit=5.0, within=5.0)
    assert shown(connection) == ["off", "off", "off", "5000", "force_generic_plan", "18000"]
    assert ("SET" in connection.last) == connection.is_pooled
    assert len(connection.execute(OWN, within=5.0)) == (0 if connection.is_pooled else 11)
    connection.close()


def test_no_setting_stays_with_a_session_that_a_pooler_hands_on(database_url: str) -> None:
    connection = Pooled.open(database_url, within=10.0, application_name="test")
    peer.limit(connection, until=time.monotonic() + 5.0, only=True)
    assert connection.execute(OWN, within=5.0) == []
    connection.close()


@pytest.mark.parametrize("open_one", [of_a_child, of_a_supervisor])
def test_a_session_of_our_own_is_ended_by_no_limit_of_its_role(
    database_url: str, connection: Connection, open_one: Callable[[str], Connection]
) -> None:
    limits = ["idle_session_timeout"] + ["transaction_timeout"] * (connection.server_version >= 170000)
    options = " ".join(f"-c {name}=1min" for name in limits)
    own = open_one(make_conninfo(database_url, options=options))
    assert [own.execute(f"SHOW {name}", within=5.0) for name in limits] == [[("0",)]] * len(limits)
    own.close()


@pytest.mark.parametrize("open_one", [of_a_child, of_a_client, of_a_supervisor])
def test_the_server_asks_whether_we_are_there_as_we_ask_it_unless_its_owner_says_how(
    database_url: str, open_one: Callable[[str], Connection]
) -> None:
    sources = "SELECT name, source FROM pg_settings WHERE name LIKE 'tcp\\_%'"
    separator = "&" if "?" in database_url else "?"
    for options, idle in (("", "session"), (f"{separator}options=-ctcp_keepalives_idle%3D60", "client")):
        connection = open_one(database_url + options)
        assert dict(connection.execute(sources, within=5.0)) == {  # type: ignore[arg-type]
            "tcp_keepalives_idle": idle, "tcp_keepalives_interval": "session", "tcp_keepalives_count": "session",
            "tcp_user_timeout": "session",
        }  # fmt: skip
        connection.close()


def test_a_shorter_limit_is_sent_where_the_session_would_wait_too_long(database_url: str) -> None:
    connection = Watched.open(database_url, within=10.0, application_name="test")
    settle(connection, limit=18.0, lock_limit=5.0, within=5.0)
    assert shown(connection, within=10.0, lock_within=10.0)[-1] == "9000"
    assert shown(connection, within=40.0, lock_within=40.0)[-1] == "36000"
    assert shown(connection)[-1] == "18000"
    assert shown(connection, lock_within=2.0)[3] == "2000"
    assert shown(connection, lock_within=20.0)[3] == "5000", "the session's own is soon enough"
    connection.close()


def test_the_server_ends_what_a_settled_session_forgot(database_url: str) -> None:
    connection = Connection.open(database_url, within=10.0, application_name="test")
    settle(connection, limit=0.2, lock_limit=5.0, within=5.0)
    with pytest.raises(StatementRefused) as refusal:
        connection.execute("SELECT pg_sleep(60)", within=10.0)
    assert refusal.value.sqlstate == "57014"
    connection.close()


def test_a_childs_session_is_settled_and_a_new_one_again(database_url: str) -> None:
    database = Database(database_url, "test", print)
    for _ in range(2):
        assert database.try_to_connect()
        connection = database.connection
        assert connection is not None and connection.is_settled
        assert holdings.verdicts(connection, (), within=5.0) == {}
        database.close()
