"""Tasks as people handle them."""

from datetime import UTC, datetime

import pytest

from orchestrator.model import Task, TaskStatus
from orchestrator.store import tasks
from orchestrator.store.connection import Connection
from orchestrator.store.retention import START
from orchestrator.store.times import EARLIEST, LATEST
from tests.store.plans import Recorder, buffers
from tests.store.rows import add_many, add_task, add_worker, claim, ending, finish, value, values


def listed(connection: Connection, status: TaskStatus | None = None, type_name: str | None = None) -> list[str]:
    found = tasks.list_tasks(connection, status=status, type=type_name, limit=100, within=5.0)
    return [task.id for task in found]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_times_that_python_has_not_are_shown_as_the_nearest_that_it_has(connection: Connection, zone: str) -> None:
    connection.execute(f"SET TimeZone = '{zone}'", within=5.0)
    nearest = {
        "-infinity": EARLIEST,
        "0044-03-15 12:00:00Z BC": EARLIEST,
        "0001-01-01 00:00:00Z": EARLIEST,
        "2026-03-04 05:06:07Z": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        "9999-12-31 23:59:59.999999Z": LATEST,
        "20000-01-01 00:00:00Z": LATEST,
        "infinity": LATEST,
    }
    for text, moment in nearest.items():
        task = tasks.show(connection, add_task(connection, next_retry_at=text), within=5.0)
        assert task is not None
        assert task.next_retry_at == moment, text
        assert task.next_retry_at.tzinfo is UTC


def test_a_list_for_people_reads_no_payloads(connection: Connection) -> None:
    add_task(connection, payload='{"to": "ann"}', result="[1]", last_error="é" * 5000)
    add_task(connection)
    brief = tasks.list_tasks(connection, status=None, type=None, limit=9, within=5.0, are_whole=False)
    assert [(task.payload, task.result, task.last_error) for task in brief] == [
        (None, None, None),
        (None, None, "é" * tasks.BEGINNING),
    ]


def test_a_task_is_shown_whole(connection: Connection) -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    task_id = add_task(
        connection,
        type="email",
        status="dead_letter",
        payload='{"to": "ann"}',
        priority=4,
        idempotency_key="k",
        attempts=3,
        max_retries=2,
        timeout_seconds=1.5,
        recoveries=1,
        worker_id="w",
        slot=6,
        created_at=moment,
        claimed_at=moment,
        started_at=moment,
        completed_at=moment,
        updated_at=moment,
        last_error="oh",
        result="[1]",
    )
    assert tasks.show(connection, task_id, within=5.0) == Task(
        id=task_id,
        type="email",
        status=TaskStatus.DEAD_LETTER,
        payload='{"to": "ann"}',
        priority=4,
        idempotency_key="k",
        attempts=3,
        max_retries=2,
        timeout_seconds=1.5,
        recoveries=1,
        worker_id="w",
        slot=6,
        created_at=moment,
        claimed_at=moment,
        started_at=moment,
        completed_at=moment,
        updated_at=moment,
        next_retry_at=None,
        last_error="oh",
        result="[1]",
    )


@pytest.mark.parametrize("task_id", ["", "x", "01a20ad8-6e93-7144-921c-17098b26d471"])
def test_what_is_not_there_is_not_shown(connection: Connection, task_id: str) -> None:
    assert tasks.show(connection, task_id, within=5.0) is None
    assert tasks.retry(connection, [task_id], within=5.0) == []
    assert tasks.cancel(connection, [task_id], within=5.0) == []
    assert tasks.statuses(connection, [task_id], within=5.0) == {}


def test_lists_are_by_status_and_type_the_newest_first(connection: Connection) -> None:
    first = add_task(connection, type="a")
    second = add_task(connection, type="b", status="failed")
    third = add_task(connection, type="a", status="failed")
    assert listed(connection) == [third, second, first]
    assert listed(connection, TaskStatus.FAILED) == [third, second]
    assert listed(connection, None, "a") == [third, first]
    assert listed(connection, TaskStatus.FAILED, "a") == [third]
    assert listed(connection, TaskStatus.RUNNING) == []
    limited = tasks.list_tasks(connection, status=None, type=None, limit=1, within=5.0)
    assert [task.id for task in limited] == [third]


@pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.DEAD_LETTER])
def test_a_retried_task_begins_anew(connection: Connection, status: TaskStatus) -> None:
    add_worker(connection)
    task_id = add_task(connection, attempts=2, recoveries=1)
    (taken,) = claim(connection)
    finish(connection, [ending(taken, status, error="oh")])
    assert tasks.retry(connection, [task_id, "no uuid", task_id.upper()], within=5.0) == [task_id]
    assert tasks.retry(connection, [task_id], within=5.0) == []
    assert values(
        connection,
        "status::text, attempts, recoveries, next_retry_at, worker_id, claim_token, started_at, completed_at, result",
        task_id,
    ) == ("pending", 0, 0, None, None, None, None, None, None)
    assert value(connection, "last_error", task_id) == "oh"
    (again,) = claim(connection)
    assert (again.task_id, again.attempt) == (task_id, 1)


def test_what_has_not_ended_is_not_retried(connection: Connection) -> None:
    add_worker(connection)
    task_id = add_task(connection)
    assert tasks.retry(connection, [task_id], within=5.0) == []
    claim(connection)
    assert tasks.retry(connection, [task_id], within=5.0) == []


def test_all_dead_letters_of_a_type_are_retried_in_batches(connection: Connection) -> None:
    for _ in range(5):
        add_task(connection, type="a", status="dead_letter", attempts=4)
    add_task(connection, type="b", status="dead_letter")
    add_task(connection, type="a", status="failed")

    def retry() -> int:
        return tasks.retry_dead_letters(connection, type="a", limit=3, within=5.0)

    def count(type_name: str | None) -> int:
        return tasks.count_dead_letters(connection, type=type_name, within=5.0)

    assert (count("a"), count(None), count("c")) == (5, 6, 0)
    assert [retry(), retry(), retry()] == [3, 2, 0]
    assert len(listed(connection, TaskStatus.PENDING, "a")) == 5
    assert tasks.retry_dead_letters(connection, type=None, limit=9, within=5.0) == 1


def retry_stretch(
    connection: Connection, after: str, *, status: TaskStatus = TaskStatus.FAILED, type: str | None = "a"
) -> tuple[int, str | None]:
    return tasks.retry_stretch(connection, status=status, type=type, after=after, size=6, limit=2, within=5.0)


def test_what_failed_is_retried_in_one_walk_along_the_ids(connection: Connection, other: Connection) -> None:
    ids = [add_task(connection, type="a", status="failed", attempts=4) for _ in range(5)]
    sixth = add_task(connection, type="b", status="failed")
    ids += [add_task(connection, type="a", status=status) for status in ("completed", "completed", "failed", "failed")]
    other.execute("BEGIN", within=5.0)
    other.execute("SELECT FROM tasks WHERE id = %(id)s FOR UPDATE", {"id": ids[3]}, within=5.0)

    after: str | None = START
    steps = []
    while after is not None:
        done, after = retry_stretch(connection, after)
        connection.execute("UPDATE tasks SET status = 'failed' WHERE type = 'a' AND status = 'pending'", within=5.0)
        steps.append((done, after))

    assert steps == [(2, ids[1]), (1, ids[3]), (2, ids[7]), (1, None)], "what is locked is left, what fails again too"
    assert retry_stretch(connection, START, status=TaskStatus.PENDING, type=None) == (0, sixth)
    assert retry_stretch(connection, START, type="b") == (1, sixth)
    assert values(connection, "status::text, attempts", ids[3]) == ("failed", 4)


def test_a_step_of_retrying_what_failed_reads_no_further_than_its_stretch(
    connection: Connection, recorder: Recorder
) -> None:
    add_many(connection, 20_000, status="'completed'")
    for settings in ("SELECT", "ANALYZE tasks"):
        connection.execute(settings, within=60.0)
        done, after = tasks.retry_stretch(
            recorder, status=TaskStatus.FAILED, type=None, after=START, size=1000, limit=1000, within=5.0
        )
        assert (done, after is None) == (0, False)
        assert buffers(recorder.plan()) < 100


def test_what_else_is_in_the_table_costs_the_retry_of_dead_letters_nothing(
    connection: Connection, recorder: Recorder
) -> None:
    """Who has 100 million completed ones, and they stay for RETENTION, would wait longer than a command does."""
    add_many(connection, 20_000)
    connection.execute("UPDATE tasks SET status = 'completed'", within=60.0)
    add_many(connection, 200)
    connection.execute("UPDATE tasks SET status = 'dead_letter' WHERE status = 'pending'", within=60.0)
    connection.execute("VACUUM ANALYZE tasks", within=60.0)
    for type_name in (None, "t"):
        tasks.count_dead_letters(recorder, type=type_name, within=5.0)
        assert buffers(recorder.plan()) < 40
        tasks.retry_dead_letters(recorder, type=type_name, limit=10, within=5.0)
        assert buffers(recorder.plan()) < 300  # the table has 400


@pytest.mark.parametrize("next_retry_at", [None, "2999-01-01 00:00+00"])
def test_a_pending_task_is_cancelled(connection: Connection, next_retry_at: str | None) -> None:
    add_worker(connection)
    task_id = add_task(connection, next_retry_at=next_retry_at)
    other = add_task(connection, status="completed")
    assert tasks.cancel(connection, [other, task_id], within=5.0) == [task_id]
    assert tasks.cancel(connection, [task_id], within=5.0) == []
    assert tasks.statuses(connection, [task_id, other, "x"], within=5.0) == {
        task_id: TaskStatus.FAILED,
        other: TaskStatus.COMPLETED,
    }
    columns = "status::text, last_error, next_retry_at, completed_at IS NOT NULL"
    assert values(connection, columns, task_id) == ("failed", "cancelled", None, True)
    assert claim(connection) == ()


def test_a_claimed_task_is_not_cancelled(connection: Connection) -> None:
    add_worker(connection)
    task_id = add_task(connection)
    (taken,) = claim(connection)
    assert tasks.cancel(connection, [task_id], within=5.0) == []
    assert finish(connection, [ending(taken)]).accepted == 1
