"""Every SQL statement of the operations guide, to the letter."""

import pytest

from orchestrator.model import TaskStatus
from orchestrator.store import holdings, workers
from orchestrator.store.connection import Connection
from tests.store.rows import add_task, add_worker, claim, ending, finish, value, values

PENDING_BY_TYPE = """
-- Pending tasks by type
SELECT type, COUNT(*) 
FROM tasks 
WHERE status = 'pending' 
GROUP BY type;
"""  # noqa: W291

DEAD_LETTERS = """
-- Dead letter tasks
SELECT id, type, last_error, attempts 
FROM tasks 
WHERE status = 'dead_letter' 
ORDER BY updated_at DESC;
"""  # noqa: W291

RUNNING = """
-- Currently running tasks
SELECT id, type, worker_id, started_at 
FROM tasks 
WHERE status = 'running';
"""  # noqa: W291

ORPHANED = """
-- Orphaned tasks (assigned to non-existent workers)
SELECT t.id, t.type, t.worker_id 
FROM tasks t 
LEFT JOIN workers w ON t.worker_id = w.id 
WHERE t.status IN ('claimed', 'running') 
  AND t.worker_id IS NOT NULL 
  AND w.id IS NULL;
"""  # noqa: W291

RETRY_ONE = """
-- Retry a specific dead-letter task
UPDATE tasks 
SET status = 'pending', 
    attempts = 0, 
    next_retry_at = NULL 
WHERE id = 'task-uuid-here';
"""  # noqa: W291

RETRY_TYPE = """
-- Retry all dead-letter tasks of a type
UPDATE tasks 
SET status = 'pending', 
    attempts = 0, 
    next_retry_at = NULL 
WHERE status = 'dead_letter' 
  AND type = 'example:task';
"""  # noqa: W291

RECENT_HEARTBEATS = "SELECT id, last_heartbeat FROM workers WHERE last_heartbeat > now() - interval '30 s'"


def die(connection: Connection, type_name: str) -> str:
    """A task of this type that has ended as a dead letter; its id."""
    task_id = add_task(connection, type=type_name, priority=1)
    (taken,) = claim(connection)
    assert taken.task_id == task_id
    finish(connection, [ending(taken, TaskStatus.DEAD_LETTER, error=f"{type_name} failed", attempt=4)])
    return task_id


@pytest.fixture(autouse=True)
def _worker(connection: Connection) -> None:
    add_worker(connection)


def test_pending_tasks_by_type(connection: Connection) -> None:
    add_task(connection, type="a")
    add_task(connection, type="a", next_retry_at="2999-01-01 00:00+00")
    add_task(connection, type="b")
    add_task(connection, type="b", status="completed")
    assert sorted(connection.execute(PENDING_BY_TYPE, within=5.0)) == [("a", 2), ("b", 1)]


def test_dead_letter_tasks_the_latest_first(connection: Connection) -> None:
    first = die(connection, "a")
    second = die(connection, "b")
    assert connection.execute(DEAD_LETTERS, within=5.0) == [
        (second, "b", "b failed", 4),
        (first, "a", "a failed", 4),
    ]


def test_currently_running_tasks(connection: Connection) -> None:
    task_id = add_task(connection, recoveries=1)
    claim(connection)
    ((found, type_name, worker_id, started_at),) = connection.execute(RUNNING, within=5.0)
    assert (found, type_name, worker_id) == (task_id, "t", "w")
    assert started_at is not None


def test_orphaned_tasks(connection: Connection) -> None:
    task_id = add_task(connection)
    claim(connection)
    assert connection.execute(ORPHANED, within=5.0) == []
    workers.leave(connection, "w", within=5.0)
    assert connection.execute(ORPHANED, within=5.0) == [(task_id, "t", "w")]


def test_the_manual_retry_of_one_task(connection: Connection) -> None:
    task_id = die(connection, "a")
    untouched = die(connection, "a")
    before = value(connection, "updated_at", task_id)
    connection.execute(RETRY_ONE.replace("task-uuid-here", task_id), within=5.0)
    columns = (
        "status::text, attempts, next_retry_at, worker_id, slot, claim_token, claimed_at, started_at, completed_at"
    )
    assert values(connection, columns, task_id) == ("pending", 0, *[None] * 7)
    assert value(connection, "updated_at", task_id) > before
    assert value(connection, "status::text", untouched) == "dead_letter"
    (taken,) = claim(connection, 5)
    assert (taken.task_id, taken.attempt) == (task_id, 1)


def test_the_manual_retry_of_all_dead_letters_of_a_type(connection: Connection) -> None:
    ids = {die(connection, "example:task") for _ in range(3)}
    die(connection, "other")
    connection.execute(RETRY_TYPE, within=5.0)
    assert {one.task_id for one in claim(connection, 9)} == ids


def test_a_manual_retry_of_a_task_that_waits_for_its_backoff_makes_it_due_at_once(connection: Connection) -> None:
    task_id = add_task(connection)
    (taken,) = claim(connection)
    finish(connection, [ending(taken, TaskStatus.PENDING, error="oh", delay_seconds=3600.0)])
    assert claim(connection) == ()
    connection.execute(RETRY_ONE.replace("task-uuid-here", task_id), within=5.0)
    assert [one.task_id for one in claim(connection)] == [task_id]


def test_a_manual_retry_of_a_running_task_fences_the_execution_that_goes_on(connection: Connection) -> None:
    task_id = add_task(connection)
    (taken,) = claim(connection)
    connection.execute(RETRY_ONE.replace("task-uuid-here", task_id), within=5.0)
    assert finish(connection, [ending(taken)]).accepted == 0
    assert holdings.owned(connection, "w", None, within=5.0) == []


def test_the_claimable_index_that_the_guide_names_exists(connection: Connection) -> None:
    rows = connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'idx_tasks_claimable'", within=5.0)
    assert len(rows) == 1
    assert " WHERE " in rows[0][0]


def test_recent_heartbeats_are_seen_in_the_workers_table(connection: Connection) -> None:
    rows = connection.execute(RECENT_HEARTBEATS, within=5.0)
    assert [worker_id for worker_id, _ in rows] == ["w"]
