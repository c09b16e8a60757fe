"""Enqueueing in a transaction that SQLAlchemy or Django manages: it decides what becomes of the task.

The drivers' own connections are in test_client_in_transactions.py.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import django
import django.db
import psycopg
import pytest
import sqlalchemy.exc
import sqlalchemy.ext.asyncio as sqlalchemy_asyncio
from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from orchestrator import App, Client
from orchestrator.errors import OptionError, PayloadError
from orchestrator.new_tasks import ToEnqueue
from orchestrator.store.connection import Connection
from orchestrator.store.enqueue import BATCH

PAYLOAD = {"n": 1, "text": "100 % %s %(n)s %% :n ::text ? ä 'x' \\"}
KEY = "100 % :k"
IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)
MANY: list[ToEnqueue] = [
    {"type": "many", "payload": PAYLOAD, "idempotency_key": KEY, "delay": 5, "max_retries": 1, "timeout": 9.0},
    {"type": "many", "payload": PAYLOAD, "run_at": IN_AN_HOUR},
]
TAKES = (
    "connection= takes a psycopg2 or psycopg 3 connection, or on one of these drivers a SQLAlchemy Connection or"
    " Session or Django's connection, not "
)
NO_TABLES = (
    "this database has no tables for tasks yet, or old ones: run `orchestratord migrate`, or put their schema"
    " into this session's search_path"
)

app = App()


@app.task("handled")
def handler(text: str, n: int) -> None: ...


@pytest.fixture
def client() -> Iterator[Client]:
    """One whose own database cannot be reached."""
    with Client("postgres://nobody@nowhere.invalid/nothing") as client:
        yield client


Stored = Callable[[], set[str]]


@pytest.fixture
def stored(connection: Connection) -> Stored:
    """The ids that others see; each of these tasks has its payload unharmed."""

    def look() -> set[str]:
        rows = connection.execute("SELECT id::text, payload FROM tasks", within=5.0)
        assert [payload for _, payload in rows] == [PAYLOAD] * len(rows)
        return {task_id for task_id, _ in rows}

    return look


def add_all(client: Client, connection: Any) -> set[str]:
    """Tasks by each way of adding them; their ids."""
    ids = [
        client.enqueue("one", PAYLOAD, run_at=IN_AN_HOUR, connection=connection),
        client.enqueue("one", PAYLOAD, idempotency_key=KEY, delay=5.0, timeout=9.0, connection=connection),
        handler.options(connection=connection, priority=3).enqueue(**PAYLOAD),
        *client.enqueue_many(MANY, connection=connection),
        *client.enqueue_many([("many", PAYLOAD)], connection=connection),
    ]
    assert [type(task_id) for task_id in ids] == [str] * 6
    assert client.enqueue("one", {}, idempotency_key=KEY, connection=connection) == ids[1]
    return set(ids)


def add_all_and_fail(client: Client, connection: Any) -> None:
    add_all(client, connection)
    raise ZeroDivisionError


def refusal(client: Client, connection: Any) -> str:
    """What both ways of enqueueing say to a connection that they don't take."""
    with pytest.raises(OptionError) as one:
        client.enqueue("a", connection=connection)
    with pytest.raises(OptionError) as many:
        client.enqueue_many([("a", {})], connection=connection)
    assert str(one.value) == str(many.value)
    return str(one.value)


# SQLAlchemy


@pytest.fixture(params=["psycopg2", "psycopg"])
def engine(request: pytest.FixtureRequest, database_url: str) -> Iterator[Engine]:
    engine = create_engine(make_url(database_url).set(drivername=f"postgresql+{request.param}"))
    yield engine
    engine.dispose()


class OurSession(Session):
    """As SQLModel has one."""


@pytest.fixture(params=["Session", "a subclass", "scoped_session"])
def session(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Any]:
    made: dict[str, Callable[[], Any]] = {
        "Session": lambda: Session(engine),
        "a subclass": sessionmaker(engine, class_=OurSession),
        "scoped_session": lambda: scoped_session(sessionmaker(engine)),
    }
    with closing(made[request.param]()) as session:
        yield session


def test_a_sqlalchemy_connection_commits_and_rolls_back_what_was_enqueued_on_it(
    client: Client, engine: Engine, stored: Stored
) -> None:
    with engine.connect() as callers:
        add_all(client, callers)
        callers.rollback()
        ids = add_all(client, callers)
        assert stored() == set()
        callers.commit()
        assert stored() == ids
        client.enqueue("lost", connection=callers)
    assert stored() == ids


def test_a_session_commits_and_rolls_back_what_was_enqueued_in_it(client: Client, session: Any, stored: Stored) -> None:
    add_all(client, session)
    session.rollback()
    ids = add_all(client, session)
    assert stored() == set()
    session.commit()
    assert stored() == ids
    client.enqueue("lost", connection=session)
    session.close()
    assert stored() == ids


def test_a_block_of_sqlalchemys_ends_the_transaction_as_it_ends_itself(
    client: Client, engine: Engine, session: Any, stored: Stored
) -> None:
    with pytest.raises(ZeroDivisionError), engine.begin() as callers:
        add_all_and_fail(client, callers)
    with engine.begin() as callers:
        ids = add_all(client, callers)
    with session.begin():
        ids.add(client.enqueue("one", PAYLOAD, connection=session))
    with pytest.raises(ZeroDivisionError), session.begin():
        add_all_and_fail(client, session)
    assert stored() == ids


def test_a_savepoint_of_sqlalchemys_that_is_rolled_back_takes_its_tasks_along(
    client: Client, engine: Engine, session: Any, stored: Stored
) -> None:
    ids = set()
    with engine.connect() as connection:
        for callers in (connection, session):
            ids.add(client.enqueue("before", PAYLOAD, connection=callers))
            inner = callers.begin_nested()
            add_all(client, callers)
            inner.rollback()
            with callers.begin_nested():
                ids.add(client.enqueue("kept", PAYLOAD, connection=callers))
            callers.commit()
    assert stored() == ids


def test_a_session_in_a_transaction_that_was_there_before_leaves_the_end_to_it(
    client: Client, engine: Engine, stored: Stored
) -> None:
    """How test suites roll back what a test's session committed."""
    with engine.connect() as outer, outer.begin() as whole:
        with Session(outer, join_transaction_mode="create_savepoint") as session:
            add_all(client, session)
            session.commit()
        whole.rollback()
    assert stored() == set()


def test_what_the_session_added_and_the_task_are_seen_together(client: Client, engine: Engine, stored: Stored) -> None:
    with Session(engine) as session:
        session.execute(sqlalchemy.text("CREATE TABLE orders (n int)"))
        task_id = client.enqueue("one", PAYLOAD, connection=session)
        assert session.execute(sqlalchemy.text("SELECT id::text FROM tasks")).scalars().all() == [task_id]
        session.commit()
    assert stored() == {task_id}


def test_in_autocommit_mode_of_sqlalchemys_each_call_is_there_at_once(
    client: Client, engine: Engine, stored: Stored
) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as callers:
        ids = add_all(client, callers)
        assert stored() == ids
        callers.rollback()
    assert stored() == ids


@pytest.mark.parametrize("options", [{"stream_results": True}, {"yield_per": 1}], ids=str)
def test_a_connection_that_streams_its_rows_takes_tasks_too(
    client: Client, engine: Engine, stored: Stored, options: dict[str, Any]
) -> None:
    with engine.execution_options(**options).begin() as callers:
        ids = add_all(client, callers)
    assert stored() == ids


def test_thousands_come_back_in_order_from_a_session(client: Client, engine: Engine, connection: Connection) -> None:
    with Session(engine) as session, session.begin():
        ids = client.enqueue_many([("t", {"n": n}) for n in range(2 * BATCH + 10)], connection=session)
    rows = connection.execute("SELECT id::text FROM tasks ORDER BY (payload->>'n')::integer", within=10.0)
    assert [task_id for (task_id,) in rows] == ids


def test_errors_come_as_sqlalchemy_raises_them(client: Client, engine: Engine, session: Any) -> None:
    with engine.connect() as connection:
        for callers in (connection, session):
            callers.execute(sqlalchemy.text("SET search_path TO nowhere"))
            with pytest.raises(sqlalchemy.exc.ProgrammingError, match="enqueue_task") as failure:
                client.enqueue("one", connection=callers)
            assert failure.value.__notes__ == [NO_TABLES]
            callers.rollback()


def test_a_task_that_is_refused_begins_no_transaction_of_a_session(client: Client, engine: Engine) -> None:
    with Session(engine) as session:
        with pytest.raises(PayloadError):
            client.enqueue("one", {"n": object()}, connection=session)
        with pytest.raises(PayloadError):
            client.enqueue_many([("one", {"n": object()})], connection=session)
        assert not session.in_transaction()


def test_a_closed_connection_of_sqlalchemys_is_refused(client: Client, engine: Engine) -> None:
    callers = engine.connect()
    callers.close()
    assert refusal(client, callers) == "connection= is closed"


def test_what_makes_connections_is_refused_with_a_hint(client: Client, engine: Engine) -> None:
    assert refusal(client, engine) == f"{TAKES}sqlalchemy.engine.base.Engine: pass a Connection or Session of it"
    made = sessionmaker(engine)
    assert refusal(client, made) == f"{TAKES}sqlalchemy.orm.session.sessionmaker: pass a Session that it made"
    with closing(engine.raw_connection()) as pooled:
        said = refusal(client, pooled)
    assert said == f"{TAKES}sqlalchemy.pool.base._ConnectionFairy: pass its driver_connection"


def test_a_sqlalchemy_connection_to_another_database_is_refused(client: Client) -> None:
    engine = create_engine("sqlite://")
    with closing(engine.connect()) as connection, Session(engine) as session:
        for callers in (connection, session):
            assert refusal(client, callers) == f"{TAKES}SQLAlchemy's on sqlite+pysqlite"
        assert not session.in_transaction()
    engine.dispose()


def test_asyncio_connections_of_sqlalchemys_are_refused(client: Client, database_url: str) -> None:
    engine = sqlalchemy_asyncio.create_async_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    made = sqlalchemy_asyncio.async_sessionmaker(engine)
    for callers in (
        engine.connect(),
        made(),
        sqlalchemy_asyncio.async_scoped_session(made, scopefunc=lambda: None),
    ):
        says = "connection= takes no asynchronous connection: pass the one that its run_sync() hands on"
        assert refusal(client, callers) == says
    assert refusal(client, engine).endswith("AsyncEngine: pass what run_sync() of a connection of it hands on")
    assert refusal(client, made).endswith("async_sessionmaker: pass what run_sync() of a session that it made hands on")


def test_run_sync_of_an_asyncio_session_gives_one_that_is_taken(
    client: Client, database_url: str, stored: Stored
) -> None:
    engine = sqlalchemy_asyncio.create_async_engine(make_url(database_url).set(drivername="postgresql+psycopg"))

    async def enqueue_all() -> set[str]:
        async with sqlalchemy_asyncio.AsyncSession(engine) as session:
            await session.run_sync(lambda callers: add_all(client, callers))
            await session.rollback()
            ids = await session.run_sync(lambda callers: add_all(client, callers))
            await session.commit()
        async with engine.begin() as connection:
            ids.add(await connection.run_sync(lambda callers: client.enqueue("one", PAYLOAD, connection=callers)))
        await engine.dispose()
        return ids

    ids = asyncio.run(enqueue_all())
    assert stored() == ids


# Django


@pytest.fixture
def django_connection(database_url: str) -> Iterator[Any]:
    """django.db.connection, to this test's database: Django's settings are the process's, and made only once."""
    if not settings.configured:
        settings.configure(USE_TZ=True, LOGGING_CONFIG=None)
        django.setup()
    own = django.db.ConnectionHandler({"default": django_settings(database_url)})["default"]
    django.db.connections["default"] = own
    yield django.db.connection
    own.close()
    del django.db.connections["default"]


def django_settings(database_url: str) -> dict[str, Any]:
    found = dict(conninfo_to_dict(database_url))
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    named = {names[key]: found.pop(key) for key in names if key in found}
    return {"ENGINE": "django.db.backends.postgresql", **named, "OPTIONS": found}


@pytest.fixture(params=["connection", "connections['default']"])
def djangos(request: pytest.FixtureRequest, django_connection: Any) -> Any:
    """Either name that Django has for it."""
    return django_connection if request.param == "connection" else django.db.connections["default"]


def test_what_is_enqueued_in_an_atomic_block_is_committed_with_it(client: Client, djangos: Any, stored: Stored) -> None:
    with transaction.atomic():
        ids = add_all(client, djangos)
        assert stored() == set()
    assert stored() == ids


def test_what_is_enqueued_in_an_atomic_block_is_rolled_back_with_it(
    client: Client, djangos: Any, stored: Stored
) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add_all_and_fail(client, djangos)
    with transaction.atomic():
        ids = {client.enqueue("before", PAYLOAD, connection=djangos)}
        with pytest.raises(ZeroDivisionError), transaction.atomic():  # a savepoint
            add_all_and_fail(client, djangos)
    assert stored() == ids


def test_outside_of_an_atomic_block_each_call_is_there_at_once(client: Client, djangos: Any, stored: Stored) -> None:
    ids = add_all(client, djangos)
    assert stored() == ids
    djangos.close()
    assert stored() == ids
    ids.add(client.enqueue("one", PAYLOAD, connection=djangos))  # Django connects again
    assert stored() == ids


def test_django_may_log_the_statements(client: Client, djangos: Any, stored: Stored) -> None:
    djangos.force_debug_cursor = True
    with transaction.atomic():
        ids = add_all(client, djangos)
    assert stored() == ids
    assert any("enqueue_task" in query["sql"] for query in djangos.queries)


def test_parameters_may_be_bound_by_the_server(client: Client, django_connection: Any, stored: Stored) -> None:
    django_connection.settings_dict["OPTIONS"]["server_side_binding"] = True
    with transaction.atomic():
        ids = add_all(client, django_connection)
    assert stored() == ids


def test_errors_come_as_django_raises_them(client: Client, djangos: Any) -> None:
    djangos.cursor().execute("SET search_path TO nowhere")
    with pytest.raises(django.db.ProgrammingError, match="enqueue_task") as failure:
        client.enqueue("one", connection=djangos)
    assert isinstance(failure.value.__cause__, psycopg.errors.UndefinedFunction)
    assert failure.value.__notes__ == [NO_TABLES]


def test_django_connections_of_another_kind_are_refused(client: Client, django_connection: Any) -> None:
    sqlite = django.db.ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
    assert refusal(client, sqlite["default"]) == f"{TAKES}Django's to sqlite"
    assert refusal(client, sqlite).endswith(": pass one of its connections, connections['default'] for instance")
    assert refusal(client, cache) == f"{TAKES}django.utils.connection.ConnectionProxy"


# psycopg is what Django takes if it can be imported, so psycopg2's turn is in a process that has none
ON_PSYCOPG2 = """
import json, sys
sys.modules["psycopg"] = None

import django
from django.conf import settings
from django.db import connection, transaction
from orchestrator import Client

settings.configure(USE_TZ=True, DATABASES={"default": json.loads(sys.argv[1])})
django.setup()
payload = json.loads(sys.argv[2])
client = Client()
connection.force_debug_cursor = True

def add(many):
    tasks = [("many", payload), {"type": "many", "payload": payload, "idempotency_key": many}]
    return [client.enqueue("one", payload, delay=1.5, connection=connection),
            *client.enqueue_many(tasks, connection=connection)]

with transaction.atomic():
    ids = add("kept")
    try:
        with transaction.atomic():
            add("lost")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
connection.set_autocommit(False)
add("lost")
connection.rollback()
print(json.dumps([type(connection.connection).__module__, *ids]))
connection.close()
"""


def test_django_may_have_psycopg2(database_url: str, stored: Stored) -> None:
    arguments = [json.dumps(django_settings(database_url)), json.dumps(PAYLOAD)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ON_PSYCOPG2, *arguments], stdout=subprocess.PIPE, check=True, timeout=60
    )
    driver, *ids = json.loads(done.stdout)
    assert driver == "psycopg2.extensions"
    assert stored() == set(ids)
    assert len(ids) == 3
