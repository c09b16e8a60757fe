"""The rows of `workers`."""

import time

import pytest

from orchestrator.model import Start
from orchestrator.store import claims, leadership, workers
from orchestrator.store.connection import Connection
from tests.store.rows import PROCESS, add_tasks, add_worker, claim, declare_dead


def register(connection: Connection, worker_id: str) -> bool:
    return workers.register(
        connection, worker_id=worker_id, hostname="host-1", pool_size=4, version="1.2.3", within=5.0
    )


def test_a_registered_worker_is_listed_with_all_that_is_known_of_it(connection: Connection) -> None:
    assert register(connection, "host-1-7-abc")
    (worker,) = workers.list_all(connection, within=5.0)
    assert (worker.id, worker.hostname, worker.pool_size, worker.version) == ("host-1-7-abc", "host-1", 4, "1.2.3")
    assert (worker.is_leader, worker.leader_until, worker.is_dead) == (False, None, False)
    assert 0 <= worker.heartbeat_age_seconds < 5
    assert worker.started_at.tzinfo is not None
    assert worker.last_heartbeat >= worker.started_at


def test_what_a_worker_has_and_its_term_are_listed_with_it(connection: Connection) -> None:
    for worker_id in ("busy", "idle"):
        add_worker(connection, worker_id)
    add_tasks(connection, 3)
    taken = claim(connection, 3, worker_id="busy")
    starts = [Start(taken[0].task_id, taken[0].token, 1, time.monotonic())]
    assert claims.mark_running(connection, starts, within=5.0) == 1
    term = leadership.acquire(connection, holder="idle", process=PROCESS, lease_seconds=60.0, within=5.0)

    busy, idle = workers.list_all(connection, within=5.0)
    assert (busy.tasks_claimed, busy.tasks_running, busy.term) == (2, 1, None)
    assert (idle.tasks_claimed, idle.tasks_running, idle.term) == (0, 0, term)
    declare_dead(connection, "busy")
    assert workers.count_living(connection, within=5.0) == 1


def test_registering_again_after_a_lost_reply_changes_nothing(connection: Connection) -> None:
    assert register(connection, "w")
    (before,) = workers.list_all(connection, within=5.0)
    assert register(connection, "w")
    (after,) = workers.list_all(connection, within=5.0)
    assert after.started_at == before.started_at


def test_a_beat_renews_the_heartbeat(connection: Connection) -> None:
    add_worker(connection)
    connection.execute("UPDATE workers SET last_heartbeat = now() - interval '1 minute'", within=5.0)
    assert workers.list_all(connection, within=5.0)[0].heartbeat_age_seconds == pytest.approx(60, abs=5)
    assert workers.beat(connection, "w", gap_seconds=60.0, within=5.0)
    assert workers.list_all(connection, within=5.0)[0].heartbeat_age_seconds < 5


def test_a_worker_that_was_declared_dead_stays_dead(connection: Connection) -> None:
    add_worker(connection)
    declare_dead(connection, "w")
    assert not workers.beat(connection, "w", gap_seconds=60.0, within=5.0)
    assert not register(connection, "w")
    assert workers.list_all(connection, within=5.0)[0].is_dead


def test_a_worker_whose_row_is_gone_learns_it_from_its_beat(connection: Connection) -> None:
    assert not workers.beat(connection, "w", gap_seconds=60.0, within=5.0)


def test_leaving_takes_the_row_away_and_may_be_repeated(connection: Connection) -> None:
    add_worker(connection)
    workers.set_sleeping(connection, "w", True, within=5.0)
    workers.leave(connection, "w", within=5.0)
    workers.leave(connection, "w", within=5.0)
    assert workers.list_all(connection, within=5.0) == []
    assert connection.execute("SELECT * FROM sleepers", within=5.0) == []


def test_workers_are_listed_in_the_order_of_their_start(connection: Connection) -> None:
    for worker_id in ("c", "a", "b"):
        add_worker(connection, worker_id)
    assert [worker.id for worker in workers.list_all(connection, within=5.0)] == ["c", "a", "b"]


def test_a_lease_that_has_run_out_is_not_shown_as_leadership(connection: Connection) -> None:
    add_worker(connection)
    connection.execute("UPDATE workers SET is_leader = true, leader_until = now() - interval '1 s'", within=5.0)
    assert not workers.list_all(connection, within=5.0)[0].is_leader
