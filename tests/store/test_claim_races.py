"""Owners, leaders and operators at once, each on a connection of its own: nothing is done twice, nothing is lost."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.model import Claim, ClaimRef, TaskStatus, Verdict
from orchestrator.store import claims, holdings, leadership, upkeep
from orchestrator.store.connection import Connection
from tests.store.rows import (
    PROCESS,
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
    reference,
    value,
    values,
    wait_until,
)

Connect = Callable[[], Connection]


def test_no_two_claims_take_the_same_task(connect: Connect, connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 2000)

    def drain(own: Connection, slot: int) -> list[Claim]:
        taken: list[Claim] = []
        while batch := claim(own, 7, slot=slot):
            taken.extend(batch)
        return taken

    connections = [connect() for _ in range(8)]
    taken = at_once(*(lambda own=own, slot=slot: drain(own, slot) for slot, own in enumerate(connections)))
    everything = [one for batch in taken for one in batch]
    assert len(everything) == 2000
    assert len({one.task_id for one in everything}) == 2000
    assert len({one.token for one in everything}) == 2000


def test_every_task_is_finished_once_by_owners_that_also_give_back_and_retry(
    connect: Connect, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 400)

    def work(own: Connection, slot: int) -> Counter[str]:
        counted: Counter[str] = Counter()
        held: list[Claim] = []
        while True:
            batch = claims.finish_and_claim(
                own, [ending(one) for one in held], worker_id="w", slot=slot, limit=10, within=20.0
            )
            counted["completed"] += batch.accepted
            assert batch.unaccepted == ()
            if not batch.claims:
                return counted
            kept, retried, returned = batch.claims[:4], batch.claims[4:5], batch.claims[5:]
            counted["returned"] += claims.release(own, [reference(one) for one in returned], within=20.0)
            if retried and retried[0].attempt == 1:
                counted["retried"] += finish(own, [ending(retried[0], TaskStatus.PENDING)]).accepted
                retried = ()
            held = [*kept, *retried]

    connections = [connect() for _ in range(6)]
    counts = at_once(*(lambda own=own, slot=slot: work(own, slot) for slot, own in enumerate(connections)))
    total = sum(counts, Counter[str]())
    assert total["completed"] == 400
    assert total["retried"] > 0
    rows = connection.execute("SELECT count(*), sum(attempts) FROM tasks WHERE status = 'completed'", within=5.0)
    assert rows == [(400, 400 + total["retried"])]


def test_owner_and_supervisor_writing_the_same_outcomes_end_each_task_once(
    connect: Connect, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 300)
    outcomes = [ending(one) for one in claim(connection, 300)]
    first, second = connect(), connect()
    batches = at_once(lambda: finish(first, outcomes), lambda: finish(second, list(reversed(outcomes))))
    assert batches[0].accepted + batches[1].accepted == 300
    late = [outcome for batch in batches for outcome in batch.unaccepted]
    assert set(holdings.verdicts(connection, late, within=5.0).values()) <= {Verdict.BY_CHILD}


def test_an_outcome_and_the_recovery_of_its_worker_never_both_count(connect: Connect, connection: Connection) -> None:
    add_worker(connection, "leader")
    term = leadership.acquire(connection, holder="leader", process=PROCESS, lease_seconds=60.0, within=5.0)
    assert term is not None
    owner, leader = connect(), connect()
    for round_number in range(30):
        worker_id = add_worker(connection, f"w{round_number}")
        add_tasks(connection, 20)
        taken = claim(connection, 20, worker_id=worker_id)
        declare_dead(connection, worker_id)
        batch, recovered = at_once(
            partial(finish, owner, [ending(one) for one in taken]),
            lambda: upkeep.recover(leader, term=term, holder="leader", limit=100, within=10.0),
        )
        assert batch.accepted + len(recovered) <= 20  # what was locked is skipped, and seen next time
        recovered += upkeep.recover(leader, term=term, holder="leader", limit=100, within=10.0)
        assert batch.accepted + len(recovered) == 20
        assert {one.task_id for one in recovered} == {outcome.task_id for outcome in batch.unaccepted}
        connection.execute("DELETE FROM tasks", within=5.0)


def test_recovery_skips_a_row_that_its_owner_is_just_finishing(connection: Connection, other: Connection) -> None:
    add_worker(connection, "leader")
    term = leadership.acquire(connection, holder="leader", process=PROCESS, lease_seconds=60.0, within=5.0)
    assert term is not None
    add_worker(connection)
    task_id = add_task(connection)
    (taken,) = claim(connection)
    declare_dead(connection, "w")
    other.execute("BEGIN", within=5.0)
    assert finish(other, [ending(taken)]).accepted == 1
    assert upkeep.recover(connection, term=term, holder="leader", limit=10, within=5.0) == []
    other.execute("COMMIT", within=5.0)
    assert upkeep.recover(connection, term=term, holder="leader", limit=10, within=5.0) == []
    assert value(connection, "status::text", task_id) == "completed"


def test_recovery_leaves_alone_what_a_living_worker_claims_while_it_looks(
    connect: Connect, connection: Connection
) -> None:
    """The row passes from a dead worker to a living one between recovery's snapshot and its lock."""
    add_worker(connection, "leader")
    term = leadership.acquire(connection, holder="leader", process=PROCESS, lease_seconds=60.0, within=5.0)
    assert term is not None
    add_worker(connection, "dead")
    task_id = add_task(connection)
    (old,) = claim(connection, worker_id="dead")
    declare_dead(connection, "dead")
    add_worker(connection, "alive")
    # a lock on the table that holds recovery between its snapshot and its first row
    blocker, leader = connect(), connect()
    leader.execute("SELECT 1", within=5.0)
    pid = pid_of(leader)
    blocker.execute("BEGIN; SELECT FROM leadership FOR UPDATE", within=5.0)
    recovering = in_background(lambda: upkeep.recover(leader, term=term, holder="leader", limit=10, within=20.0))
    wait_until(lambda: is_waiting_for_a_lock(connection, pid))
    claims.release(connection, [reference(old)], within=5.0)
    (new,) = claim(connection, worker_id="alive")
    blocker.execute("COMMIT", within=5.0)
    assert recovering() == []
    assert values(connection, "worker_id, claim_token, status::text", task_id) == ("alive", new.token, "claimed")


def test_a_deadlock_between_two_writers_is_settled_without_their_noticing(
    connect: Connect, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 2)
    a, b = claim(connection, 2)
    operator = connect()
    operator.execute("SET deadlock_timeout = '60s'", within=5.0)  # so that the other one is the victim
    operator.execute("BEGIN", within=5.0)
    operator.execute("UPDATE tasks SET priority = 1 WHERE id = %(id)s", {"id": b.task_id}, within=5.0)
    writer = connect()
    pid = pid_of(writer)
    writing = in_background(lambda: finish(writer, [ending(a), ending(b)]))
    wait_until(lambda: is_waiting_for_a_lock(connection, pid))
    crossing = in_background(
        lambda: operator.execute(
            "UPDATE tasks SET priority = 1 WHERE id = %(id)s; COMMIT", {"id": a.task_id}, within=20.0
        )
    )
    crossing()
    assert writing().accepted == 2


def test_roles_with_a_stricter_isolation_level_claim_all_the_same(connect: Connect, connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 200)

    def drain(own: Connection) -> int:
        taken = 0
        while True:
            try:
                batch = claim(own, 5)
            except StatementRefused as refusal:
                if refusal.sqlstate == "40001":  # said, and nothing is lost
                    continue
                raise
            if not batch:
                return taken
            taken += len(batch)

    connections = [connect() for _ in range(3)]
    for own in connections:
        own.execute("SET default_transaction_isolation = 'repeatable read'", within=5.0)
    assert sum(at_once(*(lambda own=own: drain(own) for own in connections))) == 200


def test_a_claim_that_its_client_gave_up_does_not_commit_later(connect: Connect, connection: Connection) -> None:
    """A ghost: claimed for a worker that has asked what it owns, was told nothing, and never asks again."""
    add_worker(connection)
    task_id = add_task(connection)
    operator, claimer = connect(), connect()
    pid = pid_of(claimer)
    operator.execute("BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE", within=5.0)
    began = time.monotonic()
    with pytest.raises((StatementRefused, DatabaseUnavailable)):
        claims.finish_and_claim(claimer, [], worker_id="w", slot=0, limit=1, within=0.5)
    assert time.monotonic() - began < 8.0
    wait_until(lambda: not is_waiting_for_a_lock(operator, pid))
    operator.execute("COMMIT", within=5.0)
    wait_until(
        lambda: (
            connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = %(pid)s AND state = 'active'",
                {"pid": pid},
                within=5.0,
            )
            == [(0,)]
        )
    )
    assert value(connection, "status::text", task_id) == "pending"


def test_writers_of_other_rows_do_not_make_a_claim_wait(connection: Connection, other: Connection) -> None:
    add_worker(connection)
    held = add_task(connection, priority=9)
    free = add_task(connection)
    other.execute("BEGIN", within=5.0)
    other.execute("SELECT FROM tasks WHERE id = %(id)s FOR UPDATE", {"id": held}, within=5.0)
    assert [one.task_id for one in claim(connection, 5)] == [free]
    other.execute("ROLLBACK", within=5.0)
    assert [one.task_id for one in claim(connection, 5)] == [held]


def test_release_by_the_supervisor_and_start_by_the_child_agree_on_one_fate(
    connect: Connect, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 200)
    taken = claim(connection, 200)
    references = [ClaimRef(one.task_id, one.token) for one in taken]
    child, supervisor = connect(), connect()
    batch, released = at_once(
        lambda: finish(child, [ending(one) for one in taken]),
        lambda: claims.release(supervisor, list(reversed(references)), within=10.0),
    )
    assert batch.accepted + released == 200
    rows = connection.execute("SELECT status::text, count(*) FROM tasks GROUP BY status", within=5.0)
    assert dict(rows) == {
        status: count for status, count in (("completed", batch.accepted), ("pending", released)) if count
    }
