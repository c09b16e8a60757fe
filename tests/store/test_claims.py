"""What an owner of claims writes: each statement, its fence, and what it answers when the reply was lost."""

import json
import time

import pytest

from orchestrator.errors import StatementRefused
from orchestrator.model import MAX_PAYLOAD_BYTES, OwnedClaim, Start, TaskStatus, Verdict
from orchestrator.store import claims, holdings
from orchestrator.store.connection import Connection
from tests.store.rows import (
    add_task,
    add_tasks,
    add_worker,
    claim,
    declare_dead,
    ending,
    finish,
    reference,
    value,
    values,
)


def test_a_claim_carries_all_that_a_child_needs(connection: Connection) -> None:
    add_worker(connection)
    task_id = add_task(
        connection, type="email", payload='{"to": "ann", "n": 1.50}', max_retries=7, timeout_seconds=2.5, attempts=2
    )
    (taken,) = claim(connection, slot=3)
    assert (taken.task_id, taken.type, taken.attempt) == (task_id, "email", 3)
    assert taken.payload is not None
    assert json.loads(taken.payload) == {"to": "ann", "n": 1.5}
    assert (taken.max_retries, taken.timeout_seconds, taken.is_running) == (7, 2.5, False)
    assert values(connection, "status::text, worker_id, slot, claim_token, attempts, started_at", task_id) == (
        "claimed",
        "w",
        3,
        taken.token,
        2,
        None,
    )
    assert value(connection, "claimed_at <= clock_timestamp() AND updated_at = claimed_at", task_id)


def test_an_unset_limit_stays_unset_in_the_claim(connection: Connection) -> None:
    add_worker(connection)
    add_task(connection)
    (taken,) = claim(connection)
    assert (taken.max_retries, taken.timeout_seconds) == (None, None)


def test_claims_come_by_priority_and_then_by_age(connection: Connection) -> None:
    add_worker(connection)
    late = add_task(connection, created_at="2026-01-02 00:00+00")
    urgent = add_task(connection, created_at="2026-01-03 00:00+00", priority=5)
    early = add_task(connection, created_at="2026-01-01 00:00+00")
    idle = add_task(connection, created_at="2020-01-01 00:00+00", priority=-1)
    assert [taken.task_id for taken in claim(connection, 10)] == [urgent, early, late, idle]


def test_a_claim_takes_exactly_its_limit(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 10)
    assert [len(claim(connection, limit)) for limit in (3, 0, 5, 5, 5)] == [3, 0, 5, 2, 0]


def test_rows_at_the_same_place_of_other_tables_beneath_ours_are_not_claimed(connection: Connection) -> None:
    """Somebody keeps old tasks in a table that inherits from ours; or has made partitions, one for each type."""
    connection.execute("CREATE TABLE tasks_archive () INHERITS (tasks)", within=5.0)
    archived = "INSERT INTO tasks_archive (type, status) SELECT 't', 'completed' FROM generate_series(1, 9)"
    connection.execute(archived, within=5.0)
    add_worker(connection)
    add_tasks(connection, 4)
    taken = [
        claims.finish_and_claim(connection, [], worker_id="w", slot=0, limit=2, within=5.0, start=start).claims
        for start in (None, claims.Place(0, "-infinity"))
    ]
    assert [len(batch) for batch in taken] == [2, 2]
    assert connection.execute("SELECT count(*) FROM tasks WHERE status = 'completed'", within=5.0) == [(9,)]


def test_what_waits_is_not_claimed(connection: Connection) -> None:
    add_worker(connection)
    add_task(connection, next_retry_at="2999-01-01 00:00+00")
    assert claim(connection) == ()


def test_every_claim_has_a_token_of_its_own(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 3)
    tokens: set[int] = set()
    for _ in range(3):
        taken = claim(connection, 3)
        tokens.update(one.token for one in taken)
        claims.release(connection, [reference(one) for one in taken], within=5.0)
    assert len(tokens) == 9


def test_a_worker_without_a_row_claims_nothing(connection: Connection) -> None:
    add_tasks(connection, 1)
    batch = claims.finish_and_claim(connection, [], worker_id="w", slot=0, limit=1, within=5.0)
    assert (batch.claims, batch.is_registered) == ((), False)


def test_a_worker_that_was_declared_dead_claims_nothing_but_may_still_finish(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 2)
    (taken,) = claim(connection)
    declare_dead(connection, "w")
    batch = claims.finish_and_claim(connection, [ending(taken)], worker_id="w", slot=0, limit=1, within=5.0)
    assert (batch.accepted, batch.claims, batch.is_registered) == (1, (), False)


def test_finishing_and_claiming_are_one_statement(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 3)
    first = claim(connection, 2)
    batch = claims.finish_and_claim(
        connection, [ending(one) for one in first], worker_id="w", slot=0, limit=2, within=5.0
    )
    assert (batch.accepted, batch.unaccepted, len(batch.claims), batch.is_registered) == (2, (), 1, True)


def test_a_completed_task_keeps_its_result_and_its_real_times(connection: Connection) -> None:
    add_worker(connection)
    task_id = add_task(connection)
    (taken,) = claim(connection)
    finish(connection, [ending(taken, result='{"sent": true}')])
    assert values(connection, "status::text, attempts, result::text, last_error, worker_id", task_id) == (
        "completed",
        1,
        '{"sent": true}',
        None,
        "w",
    )
    ages = values(
        connection,
        "extract(epoch FROM now() - started_at)::float, extract(epoch FROM completed_at - started_at)::float",
        task_id,
    )
    assert 1.9 < ages[0] < 30.0
    assert ages[1] == pytest.approx(1.0, abs=0.01)


HARMFUL = [
    "it's",
    "$$); DROP TABLE tasks; --",
    "$",
    "$1 $$ $a$",
    "%(ids)s %s %%",
    'back\\slash "quoted" \\',
    "äöü € 𝄞",
    "\x7f\t\n",
]


@pytest.mark.parametrize("text", HARMFUL)
@pytest.mark.parametrize("has_dollar_beside", [False, True])
def test_a_result_comes_to_the_table_as_it_is(connection: Connection, text: str, has_dollar_beside: bool) -> None:
    add_worker(connection)
    add_tasks(connection, 2)
    one, other = claim(connection, 2)
    beside = json.dumps("$" if has_dollar_beside else "no dollar")
    results = [json.dumps({"text": text}, ensure_ascii=False), beside]
    finish(connection, [ending(one, result=results[0]), ending(other, result=results[1])])
    found = [value(connection, "result::text", each.task_id) for each in (one, other)]
    assert [json.loads(str(each)) for each in found] == [{"text": text}, json.loads(beside)]


@pytest.mark.parametrize("text", ['["a\x00b"]', '["\ud800"]'])
def test_what_no_statement_can_hold_is_refused_and_changes_nothing(connection: Connection, text: str) -> None:
    add_worker(connection)
    add_task(connection)
    (taken,) = claim(connection)
    with pytest.raises(StatementRefused):
        finish(connection, [ending(taken, result=text)])
    assert value(connection, "status::text", taken.task_id) == "claimed"


def test_a_retry_leaves_the_row_wholly_pending_until_its_time(connection: Connection) -> None:
    add_worker(connection)
    task_id = add_task(connection)
    (taken,) = claim(connection)
    finish(connection, [ending(taken, TaskStatus.PENDING, error="oh no", delay_seconds=60.0)])
    assert values(
        connection,
        "status::text, attempts, last_error, worker_id, slot, claim_token, claimed_at, started_at, completed_at,"
        " result",
        task_id,
    ) == ("pending", 1, "oh no", None, None, None, None, None, None, None)
    assert value(connection, "extract(epoch FROM next_retry_at - now())::float", task_id) == pytest.approx(60, abs=30)
    assert claim(connection) == ()


def test_a_retry_without_delay_can_be_claimed_at_once_as_the_next_attempt(connection: Connection) -> None:
    add_worker(connection)
    add_task(connection)
    (first,) = claim(connection)
    finish(connection, [ending(first, TaskStatus.PENDING)])
    (second,) = claim(connection)
    assert (second.task_id, second.attempt) == (first.task_id, 2)
    assert second.token != first.token


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.DEAD_LETTER])
def test_a_task_that_ended_badly_keeps_its_error(connection: Connection, status: TaskStatus) -> None:
    add_worker(connection)
    task_id = add_task(connection)
    (taken,) = claim(connection)
    error = "it's {\"broken\"}, NULL, \\ and 'quoted'\n50 % off → ü"
    finish(connection, [ending(taken, status, error=error)])
    assert values(connection, "status::text, last_error, next_retry_at", task_id) == (status, error, None)


def test_a_mixed_batch_of_outcomes_ends_each_task_as_it_should(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 4)
    a, b, c, d = claim(connection, 4)
    batch = finish(
        connection,
        [
            ending(a, result="[1]"),
            ending(b, TaskStatus.PENDING, error="later", delay_seconds=5.0),
            ending(c, TaskStatus.FAILED, error="never"),
            ending(d, TaskStatus.DEAD_LETTER, error="enough"),
        ],
    )
    assert batch.accepted == 4
    found = [values(connection, "status::text, last_error, result::text", one.task_id) for one in (a, b, c, d)]
    assert found == [
        ("completed", None, "[1]"),
        ("pending", "later", None),
        ("failed", "never", None),
        ("dead_letter", "enough", None),
    ]


def test_an_outcome_of_a_claim_that_has_passed_on_changes_nothing_and_is_stale(connection: Connection) -> None:
    add_worker(connection)
    task_id = add_task(connection)
    (first,) = claim(connection)
    claims.release(connection, [reference(first)], within=5.0)
    (second,) = claim(connection)
    late = ending(first, TaskStatus.FAILED, error="from the past")
    batch = finish(connection, [late])
    assert (batch.accepted, batch.unaccepted) == (0, (late,))
    assert holdings.verdicts(connection, batch.unaccepted, within=5.0) == {first.token: Verdict.STALE}
    assert values(connection, "status::text, claim_token, last_error", task_id) == ("claimed", second.token, None)


@pytest.mark.parametrize(
    "status", [TaskStatus.COMPLETED, TaskStatus.PENDING, TaskStatus.FAILED, TaskStatus.DEAD_LETTER]
)
def test_an_outcome_whose_reply_was_lost_is_repeated_and_not_stale(connection: Connection, status: TaskStatus) -> None:
    add_worker(connection)
    task_id = add_task(connection)
    (taken,) = claim(connection)
    outcome = ending(taken, status, delay_seconds=5.0)
    finish(connection, [outcome])
    before = values(connection, "status::text, updated_at, next_retry_at, completed_at", task_id)
    batch = finish(connection, [outcome])
    assert batch.unaccepted == (outcome,)
    assert holdings.verdicts(connection, batch.unaccepted, within=5.0) == {taken.token: Verdict.BY_CHILD}
    assert values(connection, "status::text, updated_at, next_retry_at, completed_at", task_id) == before


def test_what_its_supervisor_wrote_for_a_child_is_known_from_what_the_child_wrote(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 2)
    one, other = (ending(each) for each in claim(connection, 2))
    finish(connection, [one])
    batch = claims.finish_for_children(connection, [one, other], within=5.0)
    assert (batch.accepted, batch.unaccepted) == (1, (one,))
    assert claims.finish_for_children(connection, [other], within=5.0).accepted == 0
    assert finish(connection, [other]).accepted == 0
    assert holdings.verdicts(connection, [one, other], within=5.0) == {
        one.token: Verdict.BY_CHILD, other.token: Verdict.BY_SUPERVISOR
    }  # fmt: skip


def test_a_repeated_retry_is_recognised_even_while_the_next_attempt_runs(connection: Connection) -> None:
    add_worker(connection)
    add_task(connection)
    (first,) = claim(connection)
    finish(connection, [ending(first, TaskStatus.PENDING)])
    (second,) = claim(connection)
    assert holdings.verdicts(connection, [ending(first)], within=5.0) == {first.token: Verdict.BY_CHILD}
    assert finish(connection, [ending(second)]).accepted == 1


def test_only_the_unaccepted_of_a_batch_are_named(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 3)
    a, b, c = claim(connection, 3)
    finish(connection, [ending(b)])
    batch = finish(connection, [ending(a), ending(b), ending(c)])
    assert (batch.accepted, [outcome.token for outcome in batch.unaccepted]) == (2, [b.token])


def test_an_operators_retry_makes_the_execution_that_goes_on_stale(connection: Connection) -> None:
    add_worker(connection)
    task_id = add_task(connection)
    (taken,) = claim(connection)
    connection.execute("UPDATE tasks SET status = 'pending', attempts = 0, next_retry_at = NULL", within=5.0)
    assert finish(connection, [ending(taken)]).accepted == 0
    assert holdings.verdicts(connection, [ending(taken)], within=5.0) == {taken.token: Verdict.STALE}
    (again,) = claim(connection)
    assert (again.task_id, again.attempt) == (task_id, 1)
    assert again.token != taken.token


def test_the_outcome_of_a_deleted_task_is_stale(connection: Connection) -> None:
    add_worker(connection)
    add_task(connection)
    (taken,) = claim(connection)
    connection.execute("DELETE FROM tasks", within=5.0)
    batch = finish(connection, [ending(taken)])
    assert holdings.verdicts(connection, batch.unaccepted, within=5.0) == {taken.token: Verdict.STALE}


def test_an_outcome_that_the_database_refuses_changes_nothing(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 2)
    good, bad = claim(connection, 2)
    with pytest.raises(StatementRefused) as refusal:
        finish(connection, [ending(good), ending(bad, result='{"a": "\\u0000"}')])
    assert refusal.value.sqlstate == "22P05"
    assert value(connection, "status::text", good.task_id) == "claimed"
    assert finish(connection, [ending(good)]).accepted == 1


def test_a_payload_that_is_too_large_comes_as_none(connection: Connection) -> None:
    add_worker(connection)
    shell = len('{"x": ""}')
    add_task(connection, payload=json.dumps({"x": "a" * (MAX_PAYLOAD_BYTES - shell)}))
    add_task(connection, payload=json.dumps({"x": "a" * (MAX_PAYLOAD_BYTES - shell + 1)}))
    fits, too_large = claim(connection, 2)
    assert fits.payload is not None
    assert len(fits.payload) == MAX_PAYLOAD_BYTES
    assert too_large.payload is None


def test_a_payload_of_fifty_megabytes_does_not_stop_the_queue(connection: Connection) -> None:
    add_worker(connection)
    connection.execute(
        "INSERT INTO tasks (type, payload) VALUES ('t', jsonb_build_object('x', repeat('ab', 25000000)))", within=60.0
    )
    add_task(connection)
    assert [one.payload for one in claim(connection, 2)] == [None, "{}"]


def test_deeply_nested_and_enormous_numbers_are_claimed_undecoded(connection: Connection) -> None:
    add_worker(connection)
    deep = '{"x": ' + "[" * 3000 + "]" * 3000 + "}"
    long = '{"x": ' + "9" * 5000 + "}"
    add_task(connection, payload=deep)
    add_task(connection, payload=long)
    assert [one.payload for one in claim(connection, 2)] == [deep, long]


def test_a_batch_of_large_payloads_ends_early(connection: Connection) -> None:
    add_worker(connection)
    connection.execute(
        """
        INSERT INTO tasks (type, payload) SELECT 't', jsonb_build_object('x',
            (SELECT string_agg(md5((i * 100000 + j)::text), '') FROM generate_series(1, 30000) AS j))
        FROM generate_series(1, 12) AS i
        """,
        within=60.0,
    )
    assert [len(claim(connection, 12)) for _ in range(3)] == [8, 4, 0]


def test_a_recovered_task_is_claimed_alone_and_running(connection: Connection) -> None:
    add_worker(connection)
    suspect = add_task(connection, recoveries=1, priority=1)
    add_tasks(connection, 2)
    (alone,) = claim(connection, 10)
    assert (alone.task_id, alone.is_running, alone.attempt) == (suspect, True, 1)
    assert values(connection, "status::text, attempts, started_at IS NOT NULL", suspect) == ("running", 1, True)
    assert len(claim(connection, 10)) == 2


def test_a_recovered_task_behind_others_is_left_for_a_claim_of_its_own(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 2)
    suspects = [add_task(connection, recoveries=2), add_task(connection, recoveries=1)]
    add_tasks(connection, 1)
    first = claim(connection, 10)
    assert len(first) == 3
    assert not {one.task_id for one in first} & set(suspects)
    assert [[one.task_id for one in claim(connection, 10)] for _ in range(3)] == [[suspects[0]], [suspects[1]], []]


def test_outcome_and_release_of_a_task_claimed_alone_count_its_attempt_once(connection: Connection) -> None:
    add_worker(connection)
    task_id = add_task(connection, recoveries=1)
    (taken,) = claim(connection)
    claims.release(connection, [reference(taken)], within=5.0)
    assert value(connection, "attempts", task_id) == 0
    (taken,) = claim(connection)
    finish(connection, [ending(taken)])
    assert value(connection, "attempts", task_id) == 1


def test_marking_running_records_attempt_and_start_of_what_is_still_claimed(connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 3)
    a, b, c = claim(connection, 3)
    finish(connection, [ending(b)])
    claims.release(connection, [reference(c)], within=5.0)
    started = time.monotonic() - 0.25
    starts = [Start(one.task_id, one.token, one.attempt, started) for one in (a, b, c)]
    assert claims.mark_running(connection, starts, within=5.0) == 1
    assert claims.mark_running(connection, starts, within=5.0) == 0
    assert values(connection, "status::text, attempts", a.task_id) == ("running", 1)
    age = value(connection, "extract(epoch FROM now() - started_at)::float", a.task_id)
    assert 0.2 < age < 30.0
    assert value(connection, "status::text", b.task_id) == "completed"
    assert finish(connection, [ending(a)]).accepted == 1


def test_release_hands_back_without_using_an_attempt(connection: Connection) -> None:
    add_worker(connection)
    add_task(connection)
    add_task(connection, attempts=2)
    waiting, running = claim(connection, 2)
    claims.mark_running(connection, [Start(running.task_id, running.token, 3, time.monotonic())], within=5.0)
    references = [reference(waiting), reference(running)]
    assert claims.release(connection, references, within=5.0) == 2
    assert claims.release(connection, references, within=5.0) == 0
    columns = "status::text, attempts, worker_id, slot, claim_token, claimed_at, started_at, next_retry_at"
    assert values(connection, columns, waiting.task_id) == ("pending", 0, *[None] * 6)
    assert values(connection, columns, running.task_id) == ("pending", 2, *[None] * 6)
    assert [one.attempt for one in claim(connection, 2)] == [1, 3]


def test_an_outcome_after_release_is_stale(connection: Connection) -> None:
    add_worker(connection)
    add_task(connection)
    (taken,) = claim(connection)
    claims.release(connection, [reference(taken)], within=5.0)
    batch = finish(connection, [ending(taken)])
    assert holdings.verdicts(connection, batch.unaccepted, within=5.0) == {taken.token: Verdict.STALE}


def test_owned_tells_what_a_lost_reply_has_claimed(connection: Connection, other: Connection) -> None:
    add_worker(connection)
    add_worker(connection, "x")
    add_tasks(connection, 4)
    (first,) = claim(connection, slot=0)
    (second,) = claim(connection, slot=1)
    claim(connection, worker_id="x", slot=0)
    claims.mark_running(connection, [Start(second.task_id, second.token, 1, time.monotonic())], within=5.0)
    assert holdings.owned(other, "w", 0, within=5.0) == [OwnedClaim(first.task_id, first.token, 0)]
    assert set(holdings.owned(other, "w", None, within=5.0)) == {
        OwnedClaim(first.task_id, first.token, 0),
        OwnedClaim(second.task_id, second.token, 1),
    }
    assert holdings.owned(other, "w", 7, within=5.0) == []
    finish(connection, [ending(first)])
    claims.release(connection, [reference(second)], within=5.0)
    assert holdings.owned(other, "w", None, within=5.0) == []
