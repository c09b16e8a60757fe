"""What the duties write: under the leader's term only, and for tasks of dead or missing workers only."""

import time
from collections.abc import Callable

import pytest

from orchestrator.errors import StatementRefused
from orchestrator.model import DEFAULT_MAX_RETRIES, Recovered, Start, TaskStatus, TaskType, Verdict
from orchestrator.store import claims, holdings, types, upkeep, workers
from orchestrator.store.connection import Connection
from tests.store.rows import (
    add_task,
    add_tasks,
    add_worker,
    at_once,
    claim,
    declare_dead,
    ending,
    finish,
    in_background,
    is_waiting_for_a_lock,
    pid_of,
    value,
    values,
    wait_until,
)


def recover(connection: Connection, term: int, limit: int = 100) -> list[Recovered]:
    return upkeep.recover(connection, term=term, holder="leader", limit=limit, within=5.0)


def claim_and_die(connection: Connection, *, is_running: bool, worker_id: str = "w") -> str:
    """One task is claimed (and started) by a worker that is then declared dead; the task's id."""
    add_worker(connection, worker_id)
    (taken,) = claim(connection, worker_id=worker_id)
    if is_running:
        start = Start(taken.task_id, taken.token, taken.attempt, time.monotonic())
        assert claims.mark_running(connection, [start], within=5.0) == 1
    declare_dead(connection, worker_id)
    return taken.task_id


# Recovery


def test_a_claimed_task_of_a_dead_worker_is_due_again_and_pays_nothing(connection: Connection, term: int) -> None:
    task_id = add_task(connection)
    claim_and_die(connection, is_running=False)
    assert recover(connection, term) == [Recovered(task_id, "t", TaskStatus.PENDING, 0, False, "w")]
    assert values(
        connection,
        "status::text, attempts, recoveries, next_retry_at, worker_id, slot, claim_token, claimed_at",
        task_id,
    ) == ("pending", 0, 1, None, None, None, None, None)
    assert "worker w died" in value(connection, "last_error", task_id)
    assert recover(connection, term) == []


def test_a_running_task_of_a_dead_worker_pays_an_attempt_and_waits_its_backoff(
    connection: Connection, term: int
) -> None:
    types.register(connection, [TaskType("t", retry_base_seconds=40.0, retry_cap_seconds=50.0)], within=5.0)
    task_id = add_task(connection, attempts=1)
    claim_and_die(connection, is_running=True)
    assert recover(connection, term) == [Recovered(task_id, "t", TaskStatus.PENDING, 2, True, "w")]
    assert values(connection, "status::text, attempts, recoveries, started_at", task_id) == ("pending", 2, 0, None)
    assert "worker w died while it ran this task, attempt 2" in value(connection, "last_error", task_id)
    assert 0 < value(connection, "extract(epoch FROM next_retry_at - now())::float", task_id) <= 50


@pytest.mark.parametrize(
    ("of_task", "of_type", "attempts_before", "status"),
    [
        (0, 9, 0, TaskStatus.DEAD_LETTER),
        (1, 0, 0, TaskStatus.PENDING),
        (1, 0, 1, TaskStatus.DEAD_LETTER),
        (None, 0, 0, TaskStatus.DEAD_LETTER),
        (None, 2, 1, TaskStatus.PENDING),
        (None, 2, 2, TaskStatus.DEAD_LETTER),
        (None, None, DEFAULT_MAX_RETRIES - 1, TaskStatus.PENDING),
        (None, None, DEFAULT_MAX_RETRIES, TaskStatus.DEAD_LETTER),
    ],
)
def test_a_running_task_is_a_dead_letter_after_its_last_attempt(
    connection: Connection,
    term: int,
    of_task: int | None,
    of_type: int | None,
    attempts_before: int,
    status: TaskStatus,
) -> None:
    if of_type is not None:
        types.register(connection, [TaskType("t", max_retries=of_type)], within=5.0)
    task_id = add_task(connection, attempts=attempts_before, max_retries=of_task)
    claim_and_die(connection, is_running=True)
    assert recover(connection, term) == [Recovered(task_id, "t", status, attempts_before + 1, True, "w")]
    ended = status is TaskStatus.DEAD_LETTER
    assert values(connection, "status::text, completed_at IS NOT NULL, worker_id", task_id) == (
        status,
        ended,
        "w" if ended else None,
    )


def test_an_attempt_that_is_marked_while_recovery_waits_for_the_lease_is_judged_with(
    connection: Connection, other: Connection, connect: Callable[[], Connection], term: int
) -> None:
    leader = connect()
    task_id = add_task(connection, max_retries=0)
    add_worker(connection, "w")
    (taken,) = claim(connection)
    declare_dead(connection, "w")
    other.execute("BEGIN; UPDATE leadership SET renewed_at = clock_timestamp()", within=5.0)
    backend = pid_of(leader)
    recovered = in_background(lambda: recover(leader, term))
    wait_until(lambda: is_waiting_for_a_lock(connection, backend))
    start = Start(taken.task_id, taken.token, taken.attempt, time.monotonic())
    assert claims.mark_running(connection, [start], within=5.0) == 1
    other.execute("COMMIT", within=5.0)
    assert recovered() == [Recovered(task_id, "t", TaskStatus.DEAD_LETTER, 1, True, "w")]


def test_tasks_of_a_worker_that_is_missing_are_recovered_too(connection: Connection, term: int) -> None:
    add_worker(connection)
    task_id = add_task(connection)
    claim(connection)
    workers.leave(connection, "w", within=5.0)
    assert [one.task_id for one in recover(connection, term)] == [task_id]


def test_a_row_that_somebody_marked_claimed_by_hand_is_recovered(connection: Connection, term: int) -> None:
    task_id = add_task(connection, status="claimed")
    assert recover(connection, term) == [Recovered(task_id, "t", TaskStatus.PENDING, 0, False, "")]


@pytest.mark.parametrize("status", ["claimed", "running"])
@pytest.mark.parametrize("column", ["worker_id", "claim_token", "slot"])
def test_a_row_without_a_whole_claim_is_recovered_though_its_worker_lives(
    connection: Connection, term: int, status: str, column: str
) -> None:
    add_worker(connection)
    whole = {"worker_id": "w", "claim_token": 5, "slot": 0}
    kept = add_task(connection, status=status, **whole)
    task_id = add_task(connection, status=status, **{**whole, column: None})
    assert [one.task_id for one in recover(connection, term)] == [task_id]
    assert values(connection, "status::text, claim_token, slot, worker_id", task_id) == ("pending", None, None, None)
    assert f"this task was {status}, but no child" in value(connection, "last_error", task_id)
    assert value(connection, "status::text", kept) == status


def test_tasks_of_the_living_are_left_alone(connection: Connection, term: int) -> None:
    add_worker(connection)
    add_tasks(connection, 3)
    taken = claim(connection, 3)
    assert recover(connection, term) == []
    assert finish(connection, [ending(one) for one in taken]).accepted == 3


def test_recovery_comes_in_batches_and_finds_what_was_claimed_after_the_first(
    connection: Connection, term: int
) -> None:
    add_worker(connection)
    add_tasks(connection, 5)
    claim(connection, 5)
    declare_dead(connection, "w")
    assert [len(recover(connection, term, limit=2)) for _ in range(4)] == [2, 2, 1, 0]
    # a paused worker's claim that commits late
    connection.execute("UPDATE tasks SET status = 'claimed', worker_id = 'w', claim_token = 7", within=5.0)
    assert len(recover(connection, term)) == 5


def test_the_outcome_of_a_recovered_task_is_stale(connection: Connection, term: int) -> None:
    add_worker(connection)
    add_tasks(connection, 1)
    (taken,) = claim(connection)
    declare_dead(connection, "w")
    recover(connection, term)
    batch = finish(connection, [ending(taken)])
    assert batch.accepted == 0
    assert holdings.verdicts(connection, batch.unaccepted, within=5.0) == {taken.token: Verdict.STALE}


def test_a_recovered_task_goes_on_with_its_next_attempt(connection: Connection, term: int) -> None:
    add_task(connection)
    claim_and_die(connection, is_running=True)
    recover(connection, term)
    connection.execute("UPDATE tasks SET next_retry_at = NULL", within=5.0)
    add_worker(connection, "next")
    (taken,) = claim(connection, worker_id="next")
    assert (taken.attempt, taken.is_running) == (2, False)


# The fence


@pytest.mark.parametrize(("term_offset", "holder"), [(-1, "leader"), (1, "leader"), (0, "other")])
def test_nothing_is_written_under_another_term_or_by_another_holder(
    connection: Connection, term: int, term_offset: int, holder: str
) -> None:
    add_tasks(connection, 1)
    claim_and_die(connection, is_running=False)
    add_worker(connection, "bystander")
    wrong = {"term": term + term_offset, "holder": holder, "within": 5.0}
    assert upkeep.recover(connection, limit=10, **wrong) == []  # type: ignore[arg-type]
    assert upkeep.declare_others_dead(connection, **wrong) == 0  # type: ignore[arg-type]
    connection.execute("UPDATE tasks SET status = 'pending'", within=5.0)
    assert upkeep.forget_dead_workers(connection, **wrong) == 0  # type: ignore[arg-type]


def test_nothing_is_written_after_the_lease_has_expired(connection: Connection, term: int) -> None:
    add_tasks(connection, 1)
    claim_and_die(connection, is_running=False)
    connection.execute("UPDATE leadership SET expires_at = clock_timestamp()", within=5.0)
    assert recover(connection, term) == []
    assert upkeep.declare_others_dead(connection, term=term, holder="leader", within=5.0) == 0


def test_a_leaders_write_that_cannot_lock_the_lease_gives_up_in_time(
    connection: Connection, other: Connection, term: int
) -> None:
    other.execute("BEGIN; SELECT FROM leadership FOR UPDATE", within=5.0)
    began = time.monotonic()
    with pytest.raises(StatementRefused) as refusal:
        upkeep.declare_others_dead(connection, term=term, holder="leader", within=2.0)
    assert refusal.value.sqlstate == "55P03"
    assert time.monotonic() - began < 5.0


def test_an_operators_open_transaction_holds_no_duty_up(connection: Connection, other: Connection, term: int) -> None:
    add_tasks(connection, 2)
    held = claim_and_die(connection, is_running=False)
    free = claim_and_die(connection, is_running=False, worker_id="x")
    other.execute("BEGIN", within=5.0)
    other.execute("UPDATE tasks SET priority = 1 WHERE id = %(id)s", {"id": held}, within=5.0)
    assert [one.task_id for one in recover(connection, term)] == [free]
    other.execute("ROLLBACK", within=5.0)
    assert [one.task_id for one in recover(connection, term)] == [held]


# Declaring dead, forgetting


def test_a_single_instance_declares_every_other_worker_dead(connection: Connection, term: int) -> None:
    add_worker(connection, "a")
    add_worker(connection, "b")
    assert upkeep.declare_others_dead(connection, term=term, holder="leader", within=5.0) == 2
    assert upkeep.declare_others_dead(connection, term=term, holder="leader", within=5.0) == 0
    assert {worker.id: worker.is_dead for worker in workers.list_all(connection, within=5.0)} == {
        "leader": False,
        "a": True,
        "b": True,
    }
    assert not workers.beat(connection, "a", gap_seconds=60.0, within=5.0)


def test_a_dead_worker_is_forgotten_once_it_owns_nothing(connection: Connection, term: int) -> None:
    add_tasks(connection, 1)
    claim_and_die(connection, is_running=False)
    workers.set_sleeping(connection, "leader", True, within=5.0)
    connection.execute("INSERT INTO sleepers VALUES ('w', true), ('gone', true)", within=5.0)
    forget = {"term": term, "holder": "leader", "within": 5.0}
    assert upkeep.forget_dead_workers(connection, **forget) == 0  # type: ignore[arg-type]
    recover(connection, term)
    assert upkeep.forget_dead_workers(connection, **forget) == 1  # type: ignore[arg-type]
    assert [worker.id for worker in workers.list_all(connection, within=5.0)] == ["leader"]
    assert connection.execute("SELECT worker_id FROM sleepers", within=5.0) == [("leader",)]


# Promotion


def test_what_has_become_due_is_claimable_after_promotion(connection: Connection) -> None:
    add_worker(connection)
    due = add_task(connection, next_retry_at="2020-01-01 00:00+00")
    waiting = add_task(connection, next_retry_at="2999-01-01 00:00+00")
    found = upkeep.promote_due(connection, limit=10, within=5.0)
    assert (found.promoted, found.is_ready) == (1, True)
    assert found.next_due_in is not None
    assert found.next_due_in > 86400
    assert [one.task_id for one in claim(connection, 5)] == [due]
    assert value(connection, "next_retry_at IS NOT NULL", waiting)


def test_promotion_keeps_to_its_limit_and_says_that_there_is_more(connection: Connection) -> None:
    for _ in range(5):
        add_task(connection, next_retry_at="2020-01-01 00:00+00")
    found = [upkeep.promote_due(connection, limit=2, within=5.0) for _ in range(4)]
    assert [one.promoted for one in found] == [2, 2, 1, 0]
    assert [one.next_due_in for one in found] == [0.0, 0.0, None, None]


def test_an_idle_queue_has_nothing_ready_and_nothing_to_come(connection: Connection) -> None:
    found = upkeep.promote_due(connection, limit=10, within=5.0)
    assert (found.promoted, found.is_ready, found.next_due_in) == (0, False, None)


def test_the_next_due_task_is_told_in_seconds(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO tasks (type, next_retry_at) VALUES ('t', now() + interval '90 s'), ('t', 'infinity')", within=5.0
    )
    found = upkeep.promote_due(connection, limit=10, within=5.0)
    assert found.next_due_in == pytest.approx(90, abs=30)


def test_a_task_that_waits_for_ever_is_never_due(connection: Connection) -> None:
    add_task(connection, next_retry_at="infinity")
    found = upkeep.promote_due(connection, limit=10, within=5.0)
    assert (found.promoted, found.is_ready, found.next_due_in) == (0, False, None)


def test_promotion_skips_a_locked_row(connection: Connection, other: Connection) -> None:
    held = add_task(connection, next_retry_at="2020-01-01 00:00+00")
    add_task(connection, next_retry_at="2021-01-01 00:00+00")
    other.execute("BEGIN", within=5.0)
    other.execute("SELECT FROM tasks WHERE id = %(id)s FOR UPDATE", {"id": held}, within=5.0)
    assert upkeep.promote_due(connection, limit=10, within=5.0).promoted == 1


def test_two_promotions_at_once_promote_each_task_once(connection: Connection, other: Connection) -> None:
    connection.execute(
        "INSERT INTO tasks (type, next_retry_at) SELECT 't', now() - interval '1 s' FROM generate_series(1, 2000)",
        within=5.0,
    )
    found = at_once(
        *(lambda own=own: upkeep.promote_due(own, limit=5000, within=10.0).promoted for own in (connection, other))
    )
    again = upkeep.promote_due(connection, limit=5000, within=10.0).promoted
    assert sum(found) + again == 2000
