"""Periodic tasks in the database: whose they are, and that each moment is enqueued once."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from orchestrator.errors import StatementRefused
from orchestrator.model import PeriodicTask
from orchestrator.store import periodic
from orchestrator.store.connection import Connection
from orchestrator.store.periodic import Registered
from tests.store.rows import value, values

DAILY = PeriodicTask("daily", "report", "0 3 * * *", "Europe/Berlin", '{"region": "eu"}', 5, 0, 9.0, "due_at")
PLAIN = PeriodicTask("plain", "t", "* * * * *", "UTC", "{}")
LATER = datetime(2030, 1, 1, 2, tzinfo=UTC)


def listed(connection: Connection) -> dict[str, Registered]:
    return {each.task.name: each for each in periodic.list_all(connection, within=5.0)[1]}


def add(connection: Connection, term: int, registered: Registered, due_at: datetime = LATER) -> str | None:
    return periodic.enqueue_due(connection, registered, due_at, shown="then", term=term, holder="leader", within=5.0)


def test_what_an_app_registers_is_read_as_it_was(connection: Connection) -> None:
    now, found = periodic.list_all(connection, within=5.0)
    assert (found, now.tzinfo is not None) == ([], True)
    periodic.register(connection, "shop:app", [DAILY, PLAIN], within=5.0)
    now, found = periodic.list_all(connection, within=5.0)
    assert [(each.task, each.app) for each in found] == [(DAILY, "shop:app"), (PLAIN, "shop:app")]
    assert all(now - timedelta(minutes=1) < each.last_due_at <= now for each in found)


def test_the_newest_start_of_an_app_wins_and_others_keep_theirs(connection: Connection) -> None:
    other = PLAIN._replace(name="other")
    periodic.register(connection, "shop:app", [DAILY, PLAIN], within=5.0)
    periodic.register(connection, "other:app", [other], within=5.0)
    before = listed(connection)
    changed, moved = DAILY._replace(payload="{}", due_as=None), PLAIN._replace(cron="*/5 * * * *")
    periodic.register(connection, "shop:app", [changed, moved], within=5.0)
    after = listed(connection)
    assert (after["daily"].task, after["plain"].task) == (changed, moved)
    assert after["daily"].last_due_at == before["daily"].last_due_at
    assert after["plain"].last_due_at > before["plain"].last_due_at, "it is due at other times from now on"
    periodic.register(connection, "shop:app", [], within=5.0)
    assert list(listed(connection)) == ["other"]
    periodic.register(connection, "shop:app", [other], within=5.0)
    assert listed(connection)["other"].app == "shop:app"


def test_what_is_only_missing_is_put_back_and_nothing_else_is_touched(connection: Connection) -> None:
    periodic.register(connection, "shop:app", [DAILY], within=5.0)
    periodic.register(connection, "shop:app", [PLAIN], within=5.0, only_missing=True)
    periodic.register(connection, "shop:app", [DAILY._replace(type="x")], within=5.0, only_missing=True)
    assert {name: each.task for name, each in listed(connection).items()} == {"daily": DAILY, "plain": PLAIN}


def test_a_moment_is_enqueued_once(connection: Connection, term: int) -> None:
    periodic.register(connection, "shop:app", [DAILY], within=5.0)
    registered = listed(connection)["daily"]
    task_id = add(connection, term, registered)
    assert task_id is not None
    columns = "type, payload, priority, max_retries, timeout_seconds, idempotency_key, status"
    assert values(connection, columns, task_id) == (
        "report", {"region": "eu", "due_at": "then"}, 5, 0, 9.0, "daily@2030-01-01T02:00:00Z", "pending",
    )  # fmt: skip
    assert listed(connection)["daily"].last_due_at == LATER
    assert add(connection, term, registered) is None, "somebody has done it since it was read"
    assert connection.execute("SELECT count(*) FROM tasks", within=5.0) == [(1,)]


def test_only_the_leader_adds_any(connection: Connection, term: int) -> None:
    periodic.register(connection, "shop:app", [PLAIN], within=5.0)
    registered = listed(connection)["plain"]
    assert add(connection, term - 1, registered) is None
    connection.execute("UPDATE leadership SET expires_at = now()", within=5.0)
    assert add(connection, term, registered) is None
    assert listed(connection)["plain"] == registered
    assert connection.execute("SELECT count(*) FROM tasks", within=5.0) == [(0,)]


def test_what_was_changed_since_it_was_read_is_not_added(connection: Connection, term: int) -> None:
    periodic.register(connection, "shop:app", [PLAIN], within=5.0)
    registered = listed(connection)["plain"]
    connection.execute("UPDATE periodic_tasks SET timezone = 'Asia/Tokyo'", within=5.0)
    assert add(connection, term, registered) is None
    assert periodic.remove(connection, "plain", within=5.0)
    assert not periodic.remove(connection, "plain", within=5.0)
    assert add(connection, term, registered) is None


def test_a_clock_that_was_set_back_has_no_moment_added_twice(connection: Connection, term: int) -> None:
    periodic.register(connection, "shop:app", [PLAIN], within=5.0)
    first = add(connection, term, listed(connection)["plain"])
    assert first is not None
    earlier = LATER - timedelta(minutes=1)
    assert add(connection, term, listed(connection)["plain"], earlier) is not None, "it is the time that counts"
    assert add(connection, term, listed(connection)["plain"]) is None
    assert listed(connection)["plain"].last_due_at == LATER
    assert value(connection, "payload", first) == {}
    assert connection.execute("SELECT count(*) FROM tasks", within=5.0) == [(2,)]


def test_a_clock_that_was_ahead_is_no_reason_to_wait(connection: Connection, term: int, database_url: str) -> None:
    periodic.register(connection, "shop:app", [PLAIN, DAILY], within=5.0)
    ahead = "UPDATE periodic_tasks SET last_due_at = now() + interval '1 h' WHERE name = 'plain'"
    connection.execute(ahead, within=5.0)
    before = listed(connection)
    periodic.set_back(connection, term=term - 1, holder="leader", within=5.0)
    assert listed(connection) == before
    periodic.set_back(connection, term=term, holder="leader", within=5.0)
    now, _ = periodic.list_all(connection, within=5.0)
    assert before["daily"].last_due_at <= listed(connection)["plain"].last_due_at <= now
    assert listed(connection)["daily"] == before["daily"]
    connection.execute("UPDATE periodic_tasks SET last_due_at = now() + interval '1 h'", within=5.0)
    with psycopg.connect(database_url) as operator:
        operator.execute("SELECT FROM periodic_tasks WHERE name = 'plain' FOR UPDATE")
        periodic.set_back(connection, term=term, holder="leader", within=5.0)
        now, found = periodic.list_all(connection, within=5.0)
    assert [each.task.name for each in found if each.last_due_at > now] == ["plain"]


@pytest.mark.parametrize("moment", ["-infinity", "infinity", "0001-01-01 BC", "0001-01-01", "20000-01-01"])
def test_a_moment_that_python_has_not_everywhere_is_refused(connection: Connection, moment: str) -> None:
    """One such row would keep all others from their time."""
    periodic.register(connection, "shop:app", [PLAIN], within=5.0)
    with pytest.raises(StatementRefused, match="last_due_at"):
        connection.execute("UPDATE periodic_tasks SET last_due_at = %(moment)s", {"moment": moment}, within=5.0)
