"""Counts, and the registry of types."""

from datetime import UTC, datetime, timedelta

from orchestrator.model import TaskStatus, TaskType
from orchestrator.store import statistics, types
from orchestrator.store.connection import Connection
from tests.store.rows import add_many, add_task, add_tasks, add_worker, claim

STATUSES = ["pending", "claimed", "running", "completed", "failed", "dead_letter"]


def test_pending_counts_the_due_and_the_waiting_and_running_only_the_running(connection: Connection) -> None:
    for status in STATUSES:
        add_task(connection, type="a", status=status)
    add_task(connection, type="a", next_retry_at="2999-01-01 00:00+00")
    add_task(connection, type="b", status="running")
    assert sorted(each[:3] for each in statistics.counts(connection, within=5.0) or ()) == [
        ("a", TaskStatus.PENDING, 2),
        ("a", TaskStatus.RUNNING, 1),
        ("b", TaskStatus.RUNNING, 1),
    ]


def test_the_counts_tell_for_how_long_a_task_has_been_due_and_nothing_of_what_waits(connection: Connection) -> None:
    add_task(connection, type="a", updated_at=datetime.now(UTC) - timedelta(seconds=90))
    add_task(connection, type="a")
    add_task(connection, type="b", next_retry_at="2999-01-01 00:00+00", updated_at="2020-01-01 00:00+00")
    (a, b) = sorted(statistics.counts(connection, within=5.0) or ())
    assert a[2] == 2 and 89 <= a[3] < 150
    assert (b[2], b[3]) == (1, 0)


def test_a_queue_of_as_many_as_one_would_count_at_most_is_not_counted(connection: Connection) -> None:
    add_tasks(connection, 5)
    add_task(connection, next_retry_at="2999-01-01 00:00+00")
    add_task(connection, status="running")
    assert statistics.counts(connection, within=5.0, most=6) is None
    counted = statistics.counts(connection, within=5.0, most=7)
    assert sorted(each[1:3] for each in counted or ()) == [(TaskStatus.PENDING, 6), (TaskStatus.RUNNING, 1)]


def test_an_empty_queue_counts_nothing(connection: Connection) -> None:
    assert statistics.counts(connection, within=5.0) == []
    assert statistics.totals(connection, within=5.0) == []


def test_totals_count_every_status(connection: Connection) -> None:
    for status in STATUSES:
        add_task(connection, type="a", status=status)
    add_task(connection, type="b", status="failed")
    assert statistics.totals(connection, within=5.0) == [
        *(("a", TaskStatus(status), 1) for status in STATUSES),
        ("b", TaskStatus.FAILED, 1),
    ]


def test_finished_tasks_cost_the_counts_nothing(connection: Connection, other: Connection) -> None:
    add_worker(connection)
    add_many(connection, 50_000)
    connection.execute("UPDATE tasks SET status = 'completed'", within=60.0)
    add_tasks(connection, 20)
    claim(connection, 5)
    connection.execute("VACUUM ANALYZE tasks", within=60.0)
    other.execute("BEGIN", within=5.0)  # the counters below are this transaction's
    statistics.counts(other, within=5.0)
    rows = other.execute(
        """
        SELECT sum(seq_tup_read), sum(idx_tup_fetch) < 1000 FROM pg_stat_xact_user_tables WHERE relname = 'tasks'
        """,
        within=5.0,
    )
    assert rows == [(0, True)]


def test_the_newest_registration_of_a_type_wins(connection: Connection) -> None:
    types.register(connection, [TaskType("b", 1), TaskType("a", 2, 30.0, 0.5, 60.0)], within=5.0)
    (first, first_seen), _ = types.list_all(connection, within=5.0)
    assert first == TaskType("a", 2, 30.0, 0.5, 60.0)
    types.register(connection, [TaskType("a", 0)], within=5.0)
    (again, again_seen), (other, _) = types.list_all(connection, within=5.0)
    assert (again, other.name) == (TaskType("a", 0), "b")
    assert again_seen > first_seen


def test_of_types_that_may_have_been_lost_only_those_that_are_missing_are_registered(connection: Connection) -> None:
    types.register(connection, [TaskType("a", 1)], within=5.0)
    types.register(connection, [TaskType("a", 7), TaskType("b", 7)], within=5.0, only_missing=True)
    assert [each for each, _ in types.list_all(connection, within=5.0)] == [TaskType("a", 1), TaskType("b", 7)]


def test_an_app_without_types_registers_nothing(connection: Connection) -> None:
    types.register(connection, [], within=5.0)
    assert types.list_all(connection, within=5.0) == []


def test_types_that_nobody_serves_are_found_by_their_pending_tasks(connection: Connection) -> None:
    types.register(connection, [TaskType("served")], within=5.0)
    add_task(connection, type="served")
    add_task(connection, type="forgotten")
    add_task(connection, type="forgotten", next_retry_at="2999-01-01 00:00+00")
    add_task(connection, type="over", status="completed")
    assert types.unserved(connection, within=5.0) == [("forgotten", 2)]
