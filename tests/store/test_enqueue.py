"""Enqueueing: from psql, on a caller's cursor of either driver, and through a session of our own."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import psycopg2
import psycopg2.extras
import pytest
from psycopg.rows import class_row, dict_row, namedtuple_row, scalar_row

from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.model import NewTask
from orchestrator.store.connection import Connection
from orchestrator.store.enqueue import BATCH, Cursor, enqueue, enqueue_many
from orchestrator.store.session import Session, open_session
from tests.store.rows import add_worker, at_once, claim, pid_of, value, values, wait_until

OpenCursor = Callable[[], Cursor]
DRIVERS: dict[str, Callable[[str], Any]] = {
    "psycopg2": psycopg2.connect,
    "psycopg2 dicts": lambda url: psycopg2.connect(url, cursor_factory=psycopg2.extras.RealDictCursor),
    "psycopg2 named tuples": lambda url: psycopg2.connect(url, cursor_factory=psycopg2.extras.NamedTupleCursor),
    "psycopg": psycopg.connect,
    "psycopg dicts": lambda url: psycopg.connect(url, row_factory=dict_row),
    "psycopg named tuples": lambda url: psycopg.connect(url, row_factory=namedtuple_row),
    "psycopg scalars": lambda url: psycopg.connect(url, row_factory=scalar_row),
    "psycopg objects": lambda url: psycopg.connect(url, row_factory=class_row(Found)),
    "psycopg client-side": lambda url: psycopg.connect(url, cursor_factory=psycopg.ClientCursor),
}


class Found:
    """A row as an object."""

    def __init__(self, id: str | None) -> None:
        self.id = id


@pytest.fixture(params=DRIVERS)
def callers_connection(request: pytest.FixtureRequest, database_url: str) -> Iterator[Any]:
    """A connection of the caller's: any driver, any kind of rows, in a transaction as usual."""
    connection = DRIVERS[request.param](database_url)
    yield connection
    connection.close()


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    session = open_session(database_url, within=10.0)
    yield session
    session.close()


def count(connection: Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM tasks", within=5.0)[0][0])


# On the caller's connection


def test_a_task_is_stored_with_all_its_options_and_only_when_the_caller_commits(
    callers_connection: Any, connection: Connection
) -> None:
    moment = datetime(2999, 1, 2, 3, 4, 5, tzinfo=UTC)
    payload = json.dumps({"to": 'ann\'s "quote" \\ % ü', "n": [1.5, None, True]})
    cursor = callers_connection.cursor()
    task_id = enqueue(
        cursor,
        NewTask("email", payload, 7, run_at=moment, idempotency_key="k%s", max_retries=0, timeout_seconds=2.5),
    )
    assert count(connection) == 0
    callers_connection.commit()
    columns = "type, priority, next_retry_at, idempotency_key, max_retries, timeout_seconds, status::text, attempts"
    assert values(connection, columns, task_id) == ("email", 7, moment, "k%s", 0, 2.5, "pending", 0)
    assert json.loads(value(connection, "payload::text", task_id)) == json.loads(payload)


def test_what_the_caller_rolls_back_is_not_stored(callers_connection: Any, connection: Connection) -> None:
    enqueue(callers_connection.cursor(), NewTask("t", "{}"))
    enqueue_many(callers_connection.cursor(), [NewTask("t", "{}")])
    callers_connection.rollback()
    assert count(connection) == 0


def test_many_tasks_keep_their_options_and_their_order(callers_connection: Any, connection: Connection) -> None:
    moment = datetime.now(tz=UTC) + timedelta(hours=1)
    new = [
        NewTask("a", '{"n": 0}'),
        NewTask("b", '{"n": "\'\\\\ü{},"}', priority=-3, max_retries=0),
        NewTask("c", "{}", run_at=moment),
        NewTask("d", "{}", delay_seconds=60.0, timeout_seconds=9.0),
        NewTask("a", "{}", idempotency_key="k"),
        NewTask("a", "{}", idempotency_key="k"),
    ]
    ids = enqueue_many(callers_connection.cursor(), new)
    callers_connection.commit()
    assert len(set(ids)) == 5
    assert ids[4] == ids[5]
    for task_id, task in zip(ids[:4], new, strict=False):
        columns = "type, priority, max_retries, timeout_seconds"
        expected = (task.type, task.priority, task.max_retries, task.timeout_seconds)
        assert values(connection, columns, task_id) == expected
        assert json.loads(value(connection, "payload::text", task_id)) == json.loads(task.payload)
    assert [value(connection, "next_retry_at", ids[n]) for n in (0, 2)] == [None, moment]
    assert value(connection, "extract(epoch FROM next_retry_at - now())::float", ids[3]) == pytest.approx(60, abs=5)


def test_an_existing_key_gives_the_existing_id_and_changes_nothing(
    callers_connection: Any, connection: Connection
) -> None:
    cursor = callers_connection.cursor()
    first = enqueue(cursor, NewTask("t", '{"n": 1}', idempotency_key="k"))
    callers_connection.commit()
    before = values(connection, "payload::text, priority, updated_at, created_at", first)
    assert enqueue(cursor, NewTask("t", '{"n": 2}', priority=9, idempotency_key="k")) == first
    assert enqueue_many(cursor, [NewTask("t", '{"n": 3}', idempotency_key="k")]) == [first]
    assert enqueue(cursor, NewTask("other", "{}", idempotency_key="k")) != first
    callers_connection.commit()
    assert values(connection, "payload::text, priority, updated_at, created_at", first) == before
    assert count(connection) == 2


def test_nothing_to_enqueue_is_no_statement(callers_connection: Any) -> None:
    assert enqueue_many(callers_connection.cursor(), []) == []


# Through a session


def test_a_session_commits_each_call(session: Session, connection: Connection) -> None:
    session.enqueue(NewTask("t", "{}"), within=5.0)
    session.enqueue_many([[NewTask("t", "{}"), NewTask("t", "{}")]], within=5.0)
    assert count(connection) == 3


def test_thousands_of_tasks_are_all_stored_in_their_order(session: Session, connection: Connection) -> None:
    amount = 2 * BATCH + 10
    batches = (
        [NewTask("t", f'{{"n": {n}}}') for n in range(start, min(start + BATCH, amount))]
        for start in range(0, amount, BATCH)
    )
    ids = session.enqueue_many(batches, within=10.0)
    rows = connection.execute("SELECT id::text FROM tasks ORDER BY (payload->>'n')::integer", within=10.0)
    assert [task_id for (task_id,) in rows] == ids
    assert [task_id[:18] for task_id in ids] == sorted(task_id[:18] for task_id in ids)


def test_tasks_with_keys_run_in_the_order_in_which_they_were_given(session: Session, connection: Connection) -> None:
    add_worker(connection)
    keys = ["z", "b", "y", "a"]
    ids = session.enqueue_many([[NewTask("t", "{}", idempotency_key=key) for key in keys]], within=5.0)
    assert [one.task_id for one in claim(connection, 4)] == ids


def test_a_refused_task_stores_none_of_its_call_and_the_session_goes_on(
    session: Session, connection: Connection
) -> None:
    batches = [[NewTask("t", "{}") for _ in range(BATCH)], [NewTask("t", '{"x": "\\u0000"}')]]
    with pytest.raises(StatementRefused):
        session.enqueue_many(batches, within=10.0)
    with pytest.raises(StatementRefused):
        session.enqueue(NewTask("t", '{"x": "\\u0000"}'), within=5.0)
    assert count(connection) == 0
    session.enqueue(NewTask("t", "{}"), within=5.0)
    assert count(connection) == 1


def test_a_session_that_the_server_ended_says_so_before_it_sends_anything(
    session: Session, connection: Connection, other: Connection
) -> None:
    rows = connection.execute(
        """
        SELECT pid FROM pg_stat_activity
        WHERE application_name = 'orchestrator-client' AND datname = current_database()
        """,
        within=5.0,
    )
    ((pid,),) = rows
    connection.execute("SELECT pg_terminate_backend(%(pid)s, 5000)", {"pid": pid}, within=10.0)
    assert pid_of(other) != pid
    wait_until(lambda: not still_there(connection, pid))
    with pytest.raises(DatabaseUnavailable) as failure:
        session.enqueue(NewTask("t", "{}"), within=5.0)
    assert not failure.value.sent
    assert not session.is_open


def still_there(connection: Connection, pid: int) -> bool:
    rows = connection.execute("SELECT FROM pg_stat_activity WHERE pid = %(pid)s", {"pid": pid}, within=5.0)
    return bool(rows)


# Times


@pytest.mark.parametrize(
    "task",
    [
        NewTask("t", "{}", delay_seconds=0.0),
        NewTask("t", "{}", delay_seconds=-5.0),
        NewTask("t", "{}", run_at=datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_what_is_due_already_need_not_wait_for_promotion(
    session: Session, connection: Connection, task: NewTask
) -> None:
    for task_id in (session.enqueue(task, within=5.0), *session.enqueue_many([[task]], within=5.0)):
        assert value(connection, "next_retry_at", task_id) is None


# Keys and races


def test_of_many_that_enqueue_one_key_at_once_all_get_the_same_id(database_url: str, connection: Connection) -> None:
    sessions = [open_session(database_url, within=10.0) for _ in range(6)]
    for number in range(10):
        task = NewTask("t", "{}", idempotency_key=f"key {number}")
        ids = at_once(
            *(partial(own.enqueue, task, within=20.0) for own in sessions[:3]),
            *(partial(own.enqueue_many, [[task, task]], within=20.0) for own in sessions[3:]),
        )
        assert len({*ids[:3], *(one for pair in ids[3:] for one in pair)}) == 1
    assert count(connection) == 10
    for session in sessions:
        session.close()


def test_batches_that_share_their_keys_in_opposite_orders_do_not_deadlock(
    database_url: str, connection: Connection
) -> None:
    tasks = [NewTask("t", "{}", idempotency_key=f"k{number}") for number in range(500)]
    first, second = open_session(database_url, within=10.0), open_session(database_url, within=10.0)
    found = at_once(
        lambda: first.enqueue_many([tasks], within=30.0),
        lambda: list(reversed(second.enqueue_many([list(reversed(tasks))], within=30.0))),
    )
    assert found[0] == found[1]
    assert count(connection) == 500
    first.close()
    second.close()


@pytest.mark.usefixtures("hears_refusals")
def test_a_key_that_is_being_added_by_an_open_transaction_is_waited_for(
    session: Session, database_url: str, connection: Connection
) -> None:
    with psycopg.connect(database_url) as caller:
        own = enqueue(caller.cursor(), NewTask("t", "{}", idempotency_key="k"))
        with pytest.raises(StatementRefused) as refusal:
            session.enqueue_many([[NewTask("t", "{}", idempotency_key="k")]], within=4.0)
        assert refusal.value.sqlstate == "57014"
    assert session.enqueue_many([[NewTask("t", "{}", idempotency_key="k")]], within=5.0) == [own]


def test_a_key_whose_transaction_rolled_back_is_free_again(session: Session, database_url: str) -> None:
    with psycopg.connect(database_url) as caller:
        lost = enqueue(caller.cursor(), NewTask("t", "{}", idempotency_key="k"))
        caller.rollback()
    assert session.enqueue(NewTask("t", "{}", idempotency_key="k"), within=5.0) != lost


# enqueue_task, from psql


def test_psql_enqueues_with_as_much_or_as_little_as_it_likes(connection: Connection) -> None:
    rows = connection.execute("SELECT enqueue_task('t')::text, enqueue_task('t', '{\"a\": 1}')::text", within=5.0)
    assert values(connection, "payload::text, priority, next_retry_at, max_retries", rows[0][0]) == (
        "{}",
        0,
        None,
        None,
    )
    assert value(connection, "payload::text", rows[0][1]) == '{"a": 1}'
    rows = connection.execute(
        """
        SELECT enqueue_task('t', '{}', priority => 3, delay => '1 hour', max_retries => 2, timeout => '1.5 minutes',
            idempotency_key => 'k')::text
        """,
        within=5.0,
    )
    columns = "priority, max_retries, timeout_seconds, idempotency_key, next_retry_at > now() + interval '59 minutes'"
    assert values(connection, columns, rows[0][0]) == (3, 2, 90.0, "k", True)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("enqueue_task('t', '[1]')", "JSON object"),
        ("enqueue_task('t', NULL)", "JSON object"),
        ("enqueue_task('t', 'null')", "JSON object"),
        ("enqueue_task('t', jsonb_build_object('x', repeat('a', 1048576)))", "1048576 bytes"),
        ("enqueue_task('t', delay => '1 s', run_at => now())", "not both"),
        ("enqueue_task('t', run_at => 'infinity')", "before the year 10000"),
        ("enqueue_task('t', run_at => '10000-01-01 00:00:00Z')", "before the year 10000"),
        ("enqueue_task('t', delay => '8000 years')", "before the year 10000"),
        ("enqueue_task(NULL)", "null value"),
        ("enqueue_task('')", "check constraint"),
        ("enqueue_task('t', max_retries => -1)", "check constraint"),
        ("enqueue_task('t', timeout => '0 s')", "check constraint"),
    ],
)
def test_psql_is_told_what_is_wrong_and_nothing_is_stored(connection: Connection, call: str, reason: str) -> None:
    with pytest.raises(StatementRefused, match=reason):
        connection.execute(f"SELECT {call}", within=5.0)
    assert count(connection) == 0
