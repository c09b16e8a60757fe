"""Enqueueing in the transaction of a caller who has a connection of psycopg2 or psycopg 3.

Those of SQLAlchemy and Django are in test_callers_connection.py.
"""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg
import psycopg.rows
import psycopg2
import psycopg2.extras
import pytest

from orchestrator import Client, NewTask
from orchestrator.errors import OptionError, PayloadError
from orchestrator.new_tasks import ToEnqueue
from tests.fixtures.clients import Look, backends


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
    one = client.enqueue("one", {"n": 1, "text": "100 % ä"}, run_at=datetime.now(UTC), connection=callers)
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


class Traced:
    """A connection or cursor as Datadog's and Elastic's tracers wrap it, and Flask's LocalProxy."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @property
    def __class__(self) -> Any:
        return type(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        return Traced(self.inner.cursor(*args, **kwargs))


def test_a_connection_that_a_tracer_has_wrapped_is_taken_too(client: Client, callers: Any, look: Look) -> None:
    one = client.enqueue("one", {"n": 1}, connection=Traced(callers))
    two = client.enqueue_many(BOTH, connection=Traced(callers))
    callers.commit()
    assert {task_id for (task_id,) in look("SELECT id::text FROM tasks")} == {one, *two}


def test_a_task_that_is_refused_leaves_the_transaction_alone(client: Client, callers: Any, look: Look) -> None:
    callers.cursor().execute("CREATE TABLE mine (n int)")
    with pytest.raises(PayloadError):
        client.enqueue("one", {"n": object()}, connection=callers)
    callers.commit()
    assert look("SELECT * FROM mine") == []


def test_the_drivers_own_errors_pass_through(client: Client, callers: Any) -> None:
    callers.cursor().execute("SET search_path TO nowhere")
    with pytest.raises((psycopg.errors.UndefinedFunction, psycopg2.errors.UndefinedFunction)) as failure:
        client.enqueue("one", connection=callers)
    assert "run `orchestratord migrate`" in failure.value.__notes__[0]
    with pytest.raises((psycopg.errors.InFailedSqlTransaction, psycopg2.errors.InFailedSqlTransaction)) as failure:
        client.enqueue("one", connection=callers)
    assert not hasattr(failure.value, "__notes__")


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
