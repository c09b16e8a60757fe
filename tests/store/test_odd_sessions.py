"""Settings of a role or a database that change how PostgreSQL reads and writes: what is stored stays the same."""

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg2
import pytest
from psycopg.conninfo import make_conninfo

from orchestrator.model import NewTask, TaskStatus, TaskType
from orchestrator.store import types
from orchestrator.store.connection import Connection
from orchestrator.store.enqueue import enqueue_many
from orchestrator.store.session import open_session
from tests.store.rows import add_task, add_worker, claim, ending, finish, values

ODD = (
    "array_nulls=off standard_conforming_strings=off backslash_quote=off bytea_output=escape DateStyle=German"
    " IntervalStyle=sql_standard TimeZone=America/St_Johns quote_all_identifiers=on transform_null_equals=on"
)
MOMENT = datetime(2999, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
TEXTS = ("NULL", "back\\slash\\'", "quo'te\"", "")
TASKS = [
    NewTask("t", '{"text": "NULL"}'),
    NewTask("t", "{}", 3, run_at=MOMENT, max_retries=0),
    NewTask("t", "{}", idempotency_key="NULL", timeout_seconds=2.5),
    NewTask("t", "{}", delay_seconds=86400.0, idempotency_key="\\'"),
    NewTask("t", "{}"),
]
STORED = [
    (0, None, None, None, None, False),
    (3, MOMENT, None, 0, None, True),
    (0, None, "NULL", None, 2.5, False),
    (0, None, "\\'", None, None, True),
    (0, None, None, None, None, False),
]


@pytest.fixture
def odd_url(database_url: str) -> str:
    return make_conninfo(database_url, options=" ".join(f"-c {setting}" for setting in ODD.split()))


@pytest.fixture
def odd(odd_url: str) -> Iterator[Connection]:
    connection = Connection.open(odd_url, within=10.0, application_name="test")
    yield connection
    connection.close()


@pytest.mark.parametrize("are_keyed", [False, True])
@pytest.mark.parametrize("is_callers", [False, True])
def test_many_tasks_are_stored_as_they_are_in_any_session(
    odd_url: str, connection: Connection, is_callers: bool, are_keyed: bool
) -> None:
    tasks = TASKS if are_keyed else [task._replace(idempotency_key=None) for task in TASKS]
    if is_callers:
        callers = psycopg2.connect(odd_url)
        with callers, callers.cursor() as cursor:
            ids = enqueue_many(cursor, tasks)
        callers.close()
    else:
        session = open_session(odd_url, within=10.0)
        ids = session.enqueue_many([tasks], within=5.0)
        session.close()
    columns = (
        "priority, CASE WHEN max_retries = 0 THEN next_retry_at END, idempotency_key, max_retries, timeout_seconds,"
        " next_retry_at IS NOT NULL"
    )
    stored = [values(connection, columns, task_id) for task_id in ids]
    assert stored == [row if are_keyed else (*row[:2], None, *row[3:]) for row in STORED]


def test_claims_outcomes_and_types_are_as_they_are_in_any_session(odd: Connection, connection: Connection) -> None:
    add_worker(odd)
    types.register(odd, [TaskType("one", 3, None), TaskType("two", 0, None)], within=5.0)
    types.register(odd, [TaskType("three", 3, 1.5), TaskType("four", 3, None)], within=5.0)
    limits = {each.name: each.timeout_seconds for each, _ in types.list_all(odd, within=5.0)}
    assert limits == {"one": None, "two": None, "three": 1.5, "four": None}

    for _ in (*TEXTS, None):
        add_task(odd)
    first, *claimed = claim(odd, len(TEXTS) + 1)
    outcomes = [ending(each, TaskStatus.FAILED, error=text) for each, text in zip(claimed, TEXTS, strict=True)]
    assert finish(odd, [ending(first, result='"NULL"'), *outcomes]).accepted == len(outcomes) + 1
    assert values(connection, "last_error, result::text", first.task_id) == (None, '"NULL"')
    assert [values(connection, "last_error", each.task_id)[0] for each in claimed] == [text or None for text in TEXTS]
