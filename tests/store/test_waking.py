"""Notifications: sent when tasks arrive or come back, and only while somebody sleeps."""

from collections.abc import Callable

import pytest

from orchestrator.model import TaskStatus
from orchestrator.store import claims, upkeep, workers
from orchestrator.store.connection import Connection
from tests.store.rows import add_task, add_tasks, add_worker, claim, ending, finish, reference


@pytest.fixture
def listener(other: Connection) -> Connection:
    other.execute("LISTEN orchestrator_tasks", within=5.0)
    return other


@pytest.fixture
def sleeper(connection: Connection) -> Connection:
    """A connection of a worker that sleeps."""
    add_worker(connection)
    workers.set_sleeping(connection, "w", True, within=5.0)
    return connection


def heard(sender: Connection, listener: Connection) -> int:
    """How many notifications came of all that was committed before; a marker's arrival says that these are all."""
    sender.execute("NOTIFY orchestrator_tasks, 'end'", within=5.0)
    found: list[str] = []
    while "end" not in found:
        listener.wait(10.0)
        found += listener.notifications()
    return len(found) - 1


def test_an_insert_wakes_while_somebody_sleeps(sleeper: Connection, listener: Connection) -> None:
    add_task(sleeper)
    assert heard(sleeper, listener) == 1


def test_thousands_of_inserts_of_one_transaction_are_one_wake(sleeper: Connection, listener: Connection) -> None:
    add_tasks(sleeper, 5000)
    assert heard(sleeper, listener) == 1


def test_an_insert_sends_nothing_while_nobody_sleeps(sleeper: Connection, listener: Connection) -> None:
    workers.set_sleeping(sleeper, "w", False, within=5.0)
    add_tasks(sleeper, 10)
    assert heard(sleeper, listener) == 0


def test_only_a_registered_worker_can_sleep(connection: Connection, listener: Connection) -> None:
    workers.set_sleeping(connection, "nobody", True, within=5.0)
    add_tasks(connection, 1)
    assert heard(connection, listener) == 0


@pytest.mark.parametrize(
    "come_back",
    [
        lambda c, taken: claims.release(c, [reference(taken)], within=5.0),
        lambda c, taken: finish(c, [ending(taken, TaskStatus.PENDING)]),
        lambda c, taken: c.execute("UPDATE tasks SET status = 'pending', next_retry_at = NULL", within=5.0),
    ],
    ids=["release", "retry at once", "operator"],
)
def test_a_task_that_comes_back_wakes(
    sleeper: Connection, listener: Connection, come_back: Callable[[Connection, object], object]
) -> None:
    add_task(sleeper)
    (taken,) = claim(sleeper)
    heard(sleeper, listener)
    come_back(sleeper, taken)
    assert heard(sleeper, listener) == 1


def test_claims_outcomes_and_delayed_retries_wake_nobody(sleeper: Connection, listener: Connection) -> None:
    add_tasks(sleeper, 2)
    heard(sleeper, listener)
    first, second = claim(sleeper, 2)
    finish(sleeper, [ending(first), ending(second, TaskStatus.PENDING, delay_seconds=60.0)])
    upkeep.promote_due(sleeper, limit=10, within=5.0)
    assert heard(sleeper, listener) == 0
