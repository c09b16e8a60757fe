"""A child's exchange with the database: small batches in one statement, large ones claimed first and then finished."""

import os
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.board.child_half import ChildBoard
from orchestrator.board.layout import Word
from orchestrator.board.memory import create_memory
from orchestrator.child.database import Database
from orchestrator.child.ledger import MANY, Ledger
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.errors import DatabaseUnavailable
from orchestrator.model import Claim, Outcome, TaskStatus
from orchestrator.store.connection import Connection
from orchestrator.store.schema import migrate
from orchestrator.telemetry.metrics import TaskMetrics
from tests.store.rows import add_tasks, add_worker, in_background, wait_until
from tests.store.wire import Wire

COUNT = MANY + 5


class Desk:
    """A child's ledger, and what a loop would do with it."""

    def __init__(self, url: str) -> None:
        self.registry = CollectorRegistry()
        self._descriptor = create_memory("test", 2 * COUNT)
        self.board = ChildBoard(self._descriptor)
        self.database = Database(url, "test")
        assert self.database.try_to_connect()
        metrics = TaskMetrics(self.registry)
        self.ledger = Ledger(self.board, self.database, metrics, worker_id="w", slot=0)

    def claim(self, limit: int = COUNT) -> tuple[Claim, ...]:
        batch = self.ledger.exchange(limit)
        self.board.publish([(claim, 3) for claim in batch.claims])
        return batch.claims

    def run(self, claims: tuple[Claim, ...], **more: object) -> None:
        """Each is completed at once."""
        for index, claim in enumerate(claims):
            began = self.board.start(0) / 1e9
            outcome = Outcome(claim.task_id, claim.token, claim.type, TaskStatus.COMPLETED, 1, began, time.monotonic())
            outcome = outcome._replace(**{name: value for name, value in more.items() if index == 0})
            self.board.end(outcome)
            self.ledger.add(index, outcome)

    def counted(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"type": "t", **labels})

    def close(self) -> None:
        self.database.close()
        self.board.close()
        os.close(self._descriptor)


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    desk = Desk(database_url)
    yield desk
    desk.close()


def statuses(connection: Connection) -> dict[str, int]:
    rows = connection.execute("SELECT status::text, count(*) FROM tasks GROUP BY 1", within=5.0)
    return {status: count for status, count in rows}  # noqa: C416 rows are wider to mypy


def test_a_large_batch_is_finished_and_the_next_is_claimed_for_good(desk: Desk, connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 2 * COUNT)
    desk.run(desk.claim())
    ((before,),) = connection.execute("SELECT pg_current_wal_insert_lsn()::text", within=5.0)
    assert len(desk.claim()) == COUNT
    assert statuses(connection) == {"completed": COUNT, "claimed": COUNT}
    ahead = "SELECT pg_current_wal_flush_lsn() > %(before)s::pg_lsn"
    assert connection.execute(ahead, {"before": before}, within=5.0) == [(True,)]
    assert desk.counted("tasks_completed_total", status="success") == COUNT


def test_what_is_claimed_while_no_outcome_is_accepted_is_on_the_disk_all_the_same(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 2 * COUNT)
    desk.run(desk.claim())
    connection.execute("UPDATE tasks SET status = 'pending' WHERE status = 'claimed'", within=5.0)
    ((before,),) = connection.execute("SELECT pg_current_wal_insert_lsn()::text", within=5.0)
    assert len(desk.claim()) == COUNT
    assert statuses(connection) == {"pending": COUNT, "claimed": COUNT}
    ahead = "SELECT pg_current_wal_flush_lsn() > %(before)s::pg_lsn"
    assert connection.execute(ahead, {"before": before}, within=5.0) == [(True,)]
    assert desk.counted("tasks_stale_completions_total") == COUNT


def test_an_outcome_that_cannot_be_stored_costs_neither_its_batch_nor_the_claims(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 2 * COUNT)
    desk.run(desk.claim(), result="no JSON")
    assert len(desk.claim()) == COUNT
    assert statuses(connection) == {"completed": COUNT, "claimed": COUNT}
    odd = connection.execute("SELECT result->>'note' FROM tasks WHERE result IS NOT NULL", within=5.0)
    assert odd == [("the result could not be stored",)]


def test_outcomes_whose_reply_was_lost_are_kept_and_what_was_claimed_before_them_is_not_run(
    private_postgres_tcp: PrivatePostgres,
) -> None:
    url = private_postgres_tcp.url()
    connection = Connection.open(url, within=10.0, application_name="test")
    migrate(connection, within=20.0)
    add_worker(connection)
    add_tasks(connection, 3 * COUNT)
    wire = Wire("127.0.0.1", private_postgres_tcp.port)
    desk = Desk(url.replace(f":{private_postgres_tcp.port}", f":{wire.port}") + "?sslmode=disable")
    claims = desk.claim()
    desk.run(claims)
    wire.loses_reply_to = claims[0].task_id.encode()  # stands in the statement that finishes, not in the claim
    exchange = in_background(lambda: desk.ledger.exchange(COUNT))
    wait_until(lambda: statuses(connection).get("completed") == COUNT)
    wire.cut()
    with pytest.raises(DatabaseUnavailable):
        exchange()
    assert len(desk.ledger) == COUNT and desk.ledger.is_unsure
    assert statuses(connection) == {"completed": COUNT, "claimed": COUNT, "pending": COUNT}
    assert desk.board.word(Word.COUNT) == COUNT and desk.board.word(Word.STARTED) == COUNT, "the old batch still"
    desk.close()
    wire.close()
    connection.close()
