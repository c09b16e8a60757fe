"""Enqueueing for real: what is stored, in whose transaction, and what happens when the connection dies on the way."""

import asyncio
import datetime
import enum
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import psycopg
import psycopg.rows
import psycopg2
import psycopg2.extras
import pytest

from orchestrator import App, Client, NewTask
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    OptionError,
    PayloadError,
    SchemaError,
    StatementRefused,
)
from orchestrator.examples import example_tasks
from orchestrator.new_tasks import ToEnqueue
from orchestrator.store.connection import Connection
from orchestrator.store.schema import migrate
from tests.fixtures.waiting import eventually
from tests.store.wire import Wire

UTC = datetime.UTC


def offset(**amount: int) -> datetime.timezone:
    return datetime.timezone(datetime.timedelta(**amount))


@pytest.fixture
def client(database_url: str) -> Iterator[Client]:
    with Client(database_url, timeout=10.0) as client:
        yield client


@pytest.fixture
def look(database_url: str) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    """Runs a statement on a connection of its own and returns the rows."""
    with psycopg.connect(database_url, autocommit=True) as connection:

        def run(query: str) -> list[tuple[Any, ...]]:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

        yield run


Look = Callable[[str], list[tuple[Any, ...]]]


def backends(look: Look) -> list[int]:
    """Pids of the server processes that clients are connected to."""
    rows = look(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'orchestrator-client'"
        " AND datname = current_database() ORDER BY pid"
    )
    return [int(pid) for (pid,) in rows]


# What is stored


def test_a_task_is_stored_with_what_was_given(client: Client, look: Look) -> None:
    task_id = client.enqueue(
        "email:send", {"to": "änn€", "n": [1, None]}, priority=7, idempotency_key="k", max_retries=0, timeout=2.5
    )
    assert look(
        "SELECT id::text, type, payload, status::text, priority, idempotency_key, max_retries, timeout_seconds,"
        " next_retry_at, attempts FROM tasks"
    ) == [(task_id, "email:send", {"to": "änn€", "n": [1, None]}, "pending", 7, "k", 0, 2.5, None, 0)]


def test_what_is_not_given_is_left_to_the_handler(client: Client, look: Look) -> None:
    client.enqueue("a")
    assert look(
        "SELECT payload, priority, idempotency_key, max_retries, timeout_seconds, next_retry_at FROM tasks"
    ) == [({}, 0, None, None, None, None)]


def test_a_delay_and_a_moment_are_waited_for(client: Client, look: Look) -> None:
    soon = datetime.datetime.now(UTC) + datetime.timedelta(hours=2)
    client.enqueue("delayed", delay=3600.0)
    client.enqueue("at", run_at=soon)
    client.enqueue("past", run_at=soon - datetime.timedelta(days=1))
    client.enqueue("at once", delay=0)
    client.enqueue_many([{"type": "many", "delay": 3600.0}, {"type": "many at", "run_at": soon}])
    waits: dict[str, Any] = dict(look("SELECT type, next_retry_at - clock_timestamp() FROM tasks"))
    assert waits["past"] is waits["at once"] is None
    for name, expected in (("delayed", 3600), ("many", 3600), ("at", 7200), ("many at", 7200)):
        assert expected - 60 < waits[name].total_seconds() <= expected


@pytest.mark.parametrize(
    "amount", [{"seconds": 3, "microseconds": 5}, {"hours": 23, "minutes": 59}, {"hours": -23, "seconds": -59}]
)
def test_a_moment_may_have_any_offset_that_python_knows(client: Client, look: Look, amount: dict[str, int]) -> None:
    moment = datetime.datetime(2100, 1, 1, tzinfo=offset(**amount))
    client.enqueue("one", run_at=moment)
    client.enqueue_many([{"type": "many", "run_at": moment}])
    assert look("SELECT next_retry_at FROM tasks") == [(moment,), (moment,)]


def test_the_first_and_the_last_moment_are_taken(client: Client, look: Look) -> None:
    last = datetime.datetime.max.replace(tzinfo=UTC)
    client.enqueue("a", run_at=last)
    client.enqueue("a", run_at=datetime.datetime.min.replace(tzinfo=UTC))
    assert look("SELECT next_retry_at FROM tasks ORDER BY 1") == [(last,), (None,)]


def test_a_key_that_is_there_gives_its_task_and_changes_nothing(client: Client, look: Look) -> None:
    first = client.enqueue("a", {"n": 1}, idempotency_key="k")
    assert client.enqueue("a", {"n": 2}, priority=5, idempotency_key="k") == first
    assert client.enqueue_many([{"type": "a", "payload": {"n": 3}, "idempotency_key": "k"}]) == [first]
    assert client.enqueue("b", idempotency_key="k") != first
    assert look("SELECT payload, priority FROM tasks WHERE type = 'a'") == [({"n": 1}, 0)]


def refuse_commits(look: Look, count: int) -> None:
    """So many transactions that add tasks fail in their COMMIT, as those of SERIALIZABLE sessions may."""
    look("CREATE SEQUENCE commits")
    look(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('commits') <= {count} THEN "
        "RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure'; END IF; "
        "RETURN NULL; END $$"
    )
    look(
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON tasks DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )


def test_a_commit_that_is_refused_is_never_taken_for_one_that_succeeded(client: Client, look: Look) -> None:
    refuse_commits(look, 1000)
    with pytest.raises(StatementRefused, match="could not serialize"):
        client.enqueue_many([("email", {"n": 1})])
    assert look("SELECT count(*) FROM tasks") == [(0,)]


def test_a_transaction_whose_commit_was_refused_is_made_again(client: Client, look: Look) -> None:
    refuse_commits(look, 2)
    ids = client.enqueue_many([("email", {"n": 1})])
    assert look("SELECT id::text FROM tasks") == [(ids[0],)]


def test_many_tasks_in_all_spellings_come_back_in_order(client: Client, look: Look) -> None:
    ids = client.enqueue_many(
        [
            ("pair", {"n": 0}),
            {"type": "dict", "payload": {"n": 1}, "priority": 3},
            NewTask("new", '{"n": 2}', max_retries=9),
            {"type": "key", "payload": {"n": 3}, "idempotency_key": "same"},
            {"type": "key", "payload": {"n": 4}, "idempotency_key": "same"},
        ]
    )
    assert ids[3] == ids[4]
    stored = {task_id: (type_, n) for task_id, type_, n in look("SELECT id::text, type, payload->'n' FROM tasks")}
    assert [stored[task_id] for task_id in ids] == [("pair", 0), ("dict", 1), ("new", 2), ("key", 3), ("key", 3)]


def test_thousands_are_stored_in_order_and_none_is_no_work(client: Client, look: Look) -> None:
    ids = client.enqueue_many(("bulk", {"n": n}) for n in range(12_000))
    assert [task_id for (task_id,) in look("SELECT id::text FROM tasks ORDER BY (payload->'n')::int")] == ids
    assert client.enqueue_many([]) == []


def test_a_bad_one_among_thousands_is_named_and_undoes_all_of_them(client: Client, look: Look) -> None:
    """Those before it were on their way to the server when it was looked at."""
    tasks: list[ToEnqueue] = [("bulk", {"n": n}) for n in range(12_000)]
    tasks[9_999] = ("bulk", {"n": float("nan")})
    with pytest.raises(PayloadError, match=r"task 9999: payload\.n"):
        client.enqueue_many(tasks)
    assert look("SELECT count(*) FROM tasks") == [(0,)]
    assert len(client.enqueue_many(tasks[:100])) == 100


def test_what_a_payload_raises_when_it_is_read_reaches_the_caller_and_the_client_goes_on(
    client: Client, look: Look
) -> None:
    class Unreadable(Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            raise ValueError("no items today")

        def __iter__(self) -> Iterator[str]:
            raise ValueError("no items today")

        def __len__(self) -> int:
            return 1

    tasks: list[ToEnqueue] = [("bulk", {"n": n}) for n in range(5_000)]
    tasks[4_500] = ("bulk", Unreadable())
    with pytest.raises(ValueError, match="no items today"):
        client.enqueue_many(tasks)
    assert look("SELECT count(*) FROM tasks") == [(0,)]
    assert client.enqueue("bulk", {"n": 1})


def test_numbers_may_be_of_a_kind_of_their_own_in_bulk_too(client: Client, look: Look) -> None:
    class Urgency(int, enum.Enum):
        HIGH = 7

    client.enqueue_many([{"type": "t", "priority": Urgency.HIGH, "max_retries": Urgency.HIGH}])
    assert look("SELECT priority, max_retries FROM tasks") == [(7, 7)]


def test_the_built_in_examples_can_be_enqueued(client: Client, look: Look) -> None:
    assert len(client.enqueue_many(example_tasks())) == look("SELECT count(*) FROM tasks")[0][0] > 0


# What is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"type": ""}, "task type"),
        ({"type": "x" * 201}, "longer than 200 bytes"),
        ({"type": 7}, "is a str"),
        ({"priority": 2**31}, "priority="),
        ({"priority": 1.5}, "priority="),
        ({"delay": -1}, "delay="),
        ({"delay": float("nan")}, "delay="),
        ({"delay": "30s"}, "delay="),
        ({"run_at": datetime.datetime(2030, 1, 1)}, "aware datetime"),  # noqa: DTZ001 that is the case
        ({"run_at": "tomorrow"}, "aware datetime"),
        ({"run_at": datetime.datetime.max.replace(tzinfo=offset(hours=-23, minutes=-59))}, "years 1 to 9999 of UTC"),
        ({"run_at": datetime.datetime.min.replace(tzinfo=offset(hours=1))}, "years 1 to 9999 of UTC"),
        ({"delay": 1, "run_at": datetime.datetime(2030, 1, 1, tzinfo=UTC)}, "not both"),
        ({"idempotency_key": ""}, "idempotency_key="),
        ({"idempotency_key": "a\x00"}, "NUL"),
        ({"idempotency_key": "\ud800"}, "surrogate"),
        ({"idempotency_key": "x" * 1001}, "1001 bytes"),
        ({"max_retries": -1}, "max_retries="),
        ({"timeout": 0}, "timeout="),
    ],
)
def test_an_option_out_of_range_is_refused_and_nothing_is_stored(
    client: Client, look: Look, options: dict[str, Any], says: str
) -> None:
    arguments = {"type": "a", **options}
    with pytest.raises(OptionError, match=says):
        client.enqueue(**arguments)
    with pytest.raises(OptionError, match=f"task 1: .*{says}"):
        client.enqueue_many([("fine", {}), arguments])
    assert look("SELECT * FROM tasks") == []


@pytest.mark.parametrize(
    "task",
    [
        ("a",),
        ("a", {}, 3),
        "a",
        None,
        {"payload": {}},
        {"type": "a", "retries": 3},
    ],
)
def test_what_is_no_task_is_refused_by_its_position(client: Client, task: Any) -> None:
    with pytest.raises(OptionError, match="task 0: write"):
        client.enqueue_many([task])


@pytest.mark.parametrize("payload", ["[1]", "{", '{"a": NaN}', '{"a": "\\u0000"}'])
def test_a_new_task_is_checked_too(client: Client, look: Look, payload: str) -> None:
    with pytest.raises(PayloadError, match="task 1: "):
        client.enqueue_many([NewTask("a", "{}"), NewTask("a", payload)])
    assert look("SELECT * FROM tasks") == []


def test_without_an_address_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not set"):
        Client().enqueue("a")


@pytest.mark.parametrize(
    "url", ["postgres://u:s3c@r3t@127.0.0.1:1/db", "postgres://u:s3c/r3t", "postgres://u:s3c@h:r3t/x"]
)
def test_an_address_that_cannot_be_told_is_a_setting_to_correct(url: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        Client(url).enqueue_many([("a", {})])
    assert "DATABASE_URL" in str(failure.value)
    assert not any(part in str(failure.value) for part in ("s3c", "r3t"))


def test_a_database_without_tables_says_what_to_do(empty_database_url: str) -> None:
    with Client(empty_database_url) as client, pytest.raises(SchemaError, match="orchestratord migrate"):
        client.enqueue("a")


# Handlers


def test_a_handler_enqueues_to_the_database_of_the_environment(
    database_url: str, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App()

    @app.task("email:send")
    def send_email(to: str, subject: str = "", **more: str) -> None: ...

    monkeypatch.setenv("DATABASE_URL", database_url)
    ids = [
        send_email.enqueue(to="ann"),
        send_email.enqueue("ann", "Hi", cc="bob"),
        send_email.options(priority=10, delay=60.0, idempotency_key="welcome-42").enqueue(to="ann", subject="Hi"),
    ]
    app.client.close()
    rows = look("SELECT id::text, payload, priority, idempotency_key, next_retry_at IS NULL FROM tasks ORDER BY id")
    assert rows == [
        (ids[0], {"to": "ann"}, 0, None, True),
        (ids[1], {"to": "ann", "subject": "Hi", "cc": "bob"}, 0, None, True),
        (ids[2], {"to": "ann", "subject": "Hi"}, 10, "welcome-42", False),
    ]


def test_a_handler_enqueues_in_the_callers_transaction(database_url: str, look: Look) -> None:
    app = App()

    @app.task("a")
    def handler(n: int) -> None: ...

    with psycopg.connect(database_url) as connection:
        handler.options(connection=connection).enqueue(n=1)
        connection.rollback()
        handler.options(connection=connection).enqueue(n=2)
    assert look("SELECT payload FROM tasks") == [({"n": 2},)]


# In the caller's transaction


@pytest.fixture(
    params=[
        "psycopg2", "psycopg2 dict rows", "psycopg2 named rows", "psycopg 3", "psycopg 3 raw", "psycopg 3 class rows"
    ]
)  # fmt: skip
def callers(request: pytest.FixtureRequest, database_url: str) -> Iterator[Any]:
    """A connection as users have them."""
    match request.param:
        case "psycopg2":
            made: Any = psycopg2.connect(database_url)
        case "psycopg2 dict rows":
            made = psycopg2.connect(database_url, cursor_factory=psycopg2.extras.RealDictCursor)
        case "psycopg2 named rows":
            made = psycopg2.connect(database_url, cursor_factory=psycopg2.extras.NamedTupleCursor)
        case "psycopg 3":
            made = psycopg.connect(database_url)
        case "psycopg 3 raw":
            made = psycopg.connect(database_url, cursor_factory=psycopg.RawCursor)
        case _:
            made = psycopg.connect(database_url, row_factory=psycopg.rows.class_row(NewTask))
    with closing(made):
        yield made


BOTH: list[ToEnqueue] = [
    {"type": "many", "payload": {"n": 2}, "idempotency_key": "k", "delay": 5, "max_retries": 1, "timeout": 9.0},
    ("many", {"n": 3}),
]


def test_what_is_enqueued_in_a_transaction_is_committed_with_it(client: Client, callers: Any, look: Look) -> None:
    one = client.enqueue("one", {"n": 1, "text": "100 % ä"}, run_at=datetime.datetime.now(UTC), connection=callers)
    two = client.enqueue_many(BOTH, connection=callers)
    assert look("SELECT * FROM tasks") == []
    callers.commit()
    assert {task_id for (task_id,) in look("SELECT id::text FROM tasks")} == {one, *two}
    assert backends(look) == []  # no connection of the client's own was needed


def test_what_is_enqueued_in_a_transaction_is_rolled_back_with_it(client: Client, callers: Any, look: Look) -> None:
    client.enqueue("one", {"n": 1}, connection=callers)
    client.enqueue_many(BOTH, connection=callers)
    callers.rollback()
    assert look("SELECT * FROM tasks") == []


def test_a_task_that_is_refused_leaves_the_transaction_alone(client: Client, callers: Any, look: Look) -> None:
    callers.cursor().execute("CREATE TABLE mine (n int)")
    with pytest.raises(PayloadError):
        client.enqueue("one", {"n": object()}, connection=callers)
    callers.commit()
    assert look("SELECT * FROM mine") == []


def test_the_drivers_own_errors_pass_through(client: Client, callers: Any) -> None:
    callers.cursor().execute("SET search_path TO nowhere")
    with pytest.raises((psycopg.errors.UndefinedFunction, psycopg2.errors.UndefinedFunction)):
        client.enqueue("one", connection=callers)


def test_a_closed_connection_is_refused(client: Client, callers: Any) -> None:
    callers.close()
    with pytest.raises(OptionError, match="closed"):
        client.enqueue("a", connection=callers)


def test_a_connection_of_another_kind_is_refused(client: Client, database_url: str, look: Look) -> None:
    asynchronous = psycopg2.connect(database_url, async_=True)
    with closing(asynchronous):
        psycopg2.extras.wait_select(asynchronous)
        with pytest.raises(OptionError, match="asynchronous"):
            client.enqueue("a", connection=asynchronous)
    with pytest.raises(OptionError, match=r"not builtins\.object"):
        client.enqueue("a", connection=object())  # type: ignore[arg-type]
    with psycopg.connect(database_url) as connection, pytest.raises(OptionError, match=r"Cursor"):
        client.enqueue_many([("a", {})], connection=connection.cursor())  # type: ignore[arg-type]
    assert look("SELECT * FROM tasks") == []


async def _connect(url: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(url)


def test_an_asyncio_connection_is_refused(client: Client, database_url: str) -> None:
    async def attempt() -> None:
        async with await _connect(database_url) as connection:
            client.enqueue("a", connection=connection)

    with pytest.raises(OptionError, match="asynchronous"):
        asyncio.run(attempt())


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


def test_a_table_that_somebody_locks_is_a_database_that_is_not_available(database_url: str, look: Look) -> None:
    with Client(database_url, timeout=1.0) as client:
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
    assert backends(look)[0:1] == before
    assert look("SELECT type, count(*) FROM tasks GROUP BY 1 ORDER BY 1") == [("child", 1), ("parent", 2)]


# Replies that get lost


@pytest.fixture
def server(private_postgres_tcp: PrivatePostgres) -> PrivatePostgres:
    connection = Connection.open(private_postgres_tcp.url(), within=10.0, application_name="test")
    with closing(connection):
        migrate(connection, within=30.0)
    return private_postgres_tcp


@pytest.fixture
def wire(server: PrivatePostgres) -> Iterator[Wire]:
    wire = Wire("127.0.0.1", server.port)
    yield wire
    wire.close()


def test_a_task_whose_fate_is_unknown_is_never_sent_twice(server: PrivatePostgres, wire: Wire) -> None:
    url = f"postgres://postgres:{server.password}@127.0.0.1:{wire.port}/postgres?sslmode=disable"
    with Client(url, timeout=1.0) as client, psycopg.connect(server.url(), autocommit=True) as observer:

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
    assert time.monotonic() - began < 3.0
