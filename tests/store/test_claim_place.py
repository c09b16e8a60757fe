"""Claims that begin where an earlier one ended, and commits that wait for no disk."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.model import Start
from orchestrator.store import claims
from orchestrator.store.claims import Batch, Place
from orchestrator.store.connection import Connection
from tests.store.rows import add_task, add_tasks, add_worker, claim, ending, finish


def claim_from(connection: Connection, start: Place | None, limit: int = 1) -> Batch:
    return claims.finish_and_claim(connection, [], worker_id="w", slot=0, limit=limit, within=10.0, start=start)


def ids(batch: Batch) -> list[str]:
    return [each.task_id for each in batch.claims]


def test_a_claim_from_a_place_goes_on_in_the_queues_order(connection: Connection) -> None:
    add_worker(connection)
    first, second, third = (add_task(connection, created_at=f"2026-01-0{day}") for day in (1, 2, 3))
    low = add_task(connection, created_at="2025-01-01", priority=-1)
    batch = claim_from(connection, None, limit=2)
    assert ids(batch) == [first, second]
    connection.execute("UPDATE tasks SET status = 'pending' WHERE id = %(id)s", {"id": first}, within=5.0)
    urgent = add_task(connection, created_at="2025-01-01", priority=1)
    batch = claim_from(connection, batch.last, limit=9)
    assert ids(batch) == [urgent, third, low], "what was put back before the place is left for a claim from the front"
    assert ids(claim_from(connection, None)) == [first]


def test_tasks_of_one_moment_are_not_passed_over(connection: Connection) -> None:
    add_worker(connection)
    moment = "2026-01-01 00:00:00.123456+00"
    made = {add_task(connection, created_at=moment) for _ in range(4)}
    batch = claim_from(connection, None, limit=2)
    assert set(ids(batch)) | set(ids(claim_from(connection, batch.last, limit=2))) == made


def test_the_place_tells_of_the_last_claim(connection: Connection) -> None:
    add_worker(connection)
    add_task(connection, priority=7, created_at="2026-01-01 00:00:00.123456+00")
    place = claim_from(connection, None).last
    assert place is not None
    assert place.priority == 7
    told = connection.execute(
        "SELECT %(at)s::timestamptz = created_at FROM tasks", {"at": place.created_at}, within=5.0
    )
    assert told == [(True,)]
    assert claim_from(connection, None).last is None


def test_there_is_no_place_behind_what_was_left_out(connection: Connection) -> None:
    """A task that was recovered is claimed alone: one in the midst of a batch is left out of it."""
    add_worker(connection)
    add_task(connection)
    add_task(connection, recoveries=1)
    add_task(connection)
    batch = claim_from(connection, None, limit=3)
    assert (len(batch.claims), batch.last) == (2, None)


class Listening(Connection):
    """Keeps what it sends."""

    def execute(self, sql: str, params: Mapping[str, Any] | None = None, **more: Any) -> list[tuple[Any, ...]]:
        self.sent = sql
        return super().execute(sql, params, **more)


@pytest.mark.parametrize("is_durable", [True, False])
def test_only_a_claim_that_need_not_be_durable_waits_for_no_disk(
    connection: Connection, database_url: str, is_durable: bool
) -> None:
    add_worker(connection)
    listening = Listening.open(database_url, within=10.0, application_name="test")
    claims.finish_and_claim(listening, [], worker_id="w", slot=0, limit=1, within=5.0, is_durable=is_durable)
    assert ("SET LOCAL synchronous_commit=off" in listening.sent) is not is_durable
    assert listening.execute("SHOW synchronous_commit", within=5.0) == [("on",)], "it ends with the statement"
    listening.close()


@pytest.mark.parametrize("setting", ["on", "off"])
@pytest.mark.parametrize("asks", ["for it", "by a mark"])
def test_asking_for_the_disk_takes_to_it_what_was_claimed_before(
    connection: Connection, setting: str, asks: str
) -> None:
    add_worker(connection)
    add_tasks(connection, 100)
    connection.execute(f"SET synchronous_commit = {setting}", within=5.0)  # as the role's default
    batch = claims.finish_and_claim(connection, [], worker_id="w", slot=0, limit=100, within=10.0, is_durable=False)
    ((written,),) = connection.execute("SELECT pg_current_wal_insert_lsn()::text", within=5.0)
    if asks == "for it":
        claims.wait_for_disk(connection, within=5.0)
    else:
        first = batch.claims[0]
        start = Start(first.task_id, first.token, first.attempt, time.monotonic())
        assert claims.mark_running(connection, [start], within=5.0) == 1
    on_disk = connection.execute("SELECT pg_current_wal_flush_lsn() >= %(lsn)s::pg_lsn", {"lsn": written}, within=5.0)
    assert on_disk == [(True,)]
    assert len(batch.claims) == 100


def test_outcomes_written_take_an_earlier_claim_to_the_disk_with_them(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 200)
    taken = claim(connection, 100)
    claims.finish_and_claim(connection, [], worker_id="w", slot=0, limit=100, within=10.0, is_durable=False)
    ((written,),) = connection.execute("SELECT pg_current_wal_insert_lsn()::text", within=5.0)
    finish(connection, [ending(each) for each in taken])
    on_disk = connection.execute("SELECT pg_current_wal_flush_lsn() >= %(lsn)s::pg_lsn", {"lsn": written}, within=5.0)
    assert on_disk == [(True,)]
