"""The server's clock is set back: by hours, and what is counted goes on being counted; or by less than a lease."""

import time

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.coordinator.duties.enqueued import Enqueued
from orchestrator.coordinator.guard import Guard
from orchestrator.coordinator.leadership import Leadership
from orchestrator.coordinator.standing import Lead, Standing
from orchestrator.model import Term
from orchestrator.store import leadership
from orchestrator.store.connection import Connection
from orchestrator.telemetry.metrics import TaskMetrics
from tests.fixtures.waiting import eventually
from tests.store.rows import PROCESS, add_tasks


@pytest.fixture
def clock(connection: Connection) -> None:
    """For this session the server's clock is some hours ahead, until it is `set_to` something else."""
    own = connection.execute("SELECT current_schema()", within=5.0)[0][0]
    connection.execute("CREATE TABLE ahead AS SELECT interval '3 hours' AS by", within=5.0)
    for name in ("clock_timestamp", "statement_timestamp", "now"):
        connection.execute(
            f"CREATE FUNCTION {name}() RETURNS timestamptz LANGUAGE sql VOLATILE "
            f"AS 'SELECT pg_catalog.{name}() + (SELECT by FROM {own}.ahead)'",
            within=5.0,
        )
    connection.execute(f"SET search_path = {own}, pg_catalog", within=5.0)


def set_to(connection: Connection, ahead: str) -> None:
    connection.execute("UPDATE ahead SET by = %(ahead)s::interval", {"ahead": ahead}, within=5.0)


def test_what_is_enqueued_until_the_hours_have_passed_again_is_counted_too_and_nothing_twice(
    connection: Connection, clock: None, term: int
) -> None:
    registry, standing = CollectorRegistry(), Standing()
    connection.execute("UPDATE leadership SET expires_at = 'infinity'", within=5.0)
    standing.leads(Lead("leader", Term(term, time.monotonic() + 60.0)))
    duty = Enqueued(standing, TaskMetrics(registry), lease_seconds=60.0, every_seconds=1.0)

    def counted() -> float:
        duty.run_once(connection)
        return registry.get_sample_value("tasks_enqueued_total", {"type": "t"}) or 0.0

    assert counted() == 0
    add_tasks(connection, 3)
    eventually(lambda: counted() == 3, within=10)
    position = _position(connection)

    set_to(connection, "0")
    assert counted() == 3
    add_tasks(connection, 4)
    eventually(lambda: counted() == 7, within=10)
    add_tasks(connection, 5)
    eventually(lambda: counted() == 12, within=10)
    assert _position(connection) == position, "whoever leads next need not count them again"

    set_to(connection, "3 hours")
    eventually(lambda: counted() == 12 and _position(connection) > position, within=10)
    add_tasks(connection, 6)
    eventually(lambda: counted() == 18, within=10)


def _position(connection: Connection) -> str:
    return str(connection.execute("SELECT counted_to::text FROM leadership", within=5.0)[0][0])


def test_a_lease_that_nobody_renews_is_waited_for_to_its_end_however_long_that_takes(
    connection: Connection, clock: None
) -> None:
    """Its holder went down with the machine, whose clock is set right as it comes up again. Who took it for renewed
    would leave with an exit code after which systemd starts nobody."""
    standing = Standing()
    guard = Guard(Leadership(process=PROCESS, lease_seconds=60.0, standing=standing), standing)
    term = leadership.acquire(connection, holder="gone", process=PROCESS, lease_seconds=60.0, within=5.0)
    assert term is not None
    assert guard.look(connection, "new") is not None
    set_to(connection, "3 hours -20 seconds")
    assert guard.look(connection, "new") is not None
    set_to(connection, "3 hours 2 minutes")
    assert guard.look(connection, "new") is None
    assert standing.lead is not None
