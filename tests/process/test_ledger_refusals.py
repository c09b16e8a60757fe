"""Outcomes that the database refuses or whose row is locked: the others are written, and each counts once."""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from orchestrator.board.layout import Word
from orchestrator.board.supervisor_half import SupervisorBoard
from orchestrator.child import database, refusals, statements
from orchestrator.child.database import STATEMENT_SECONDS
from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.model import Claim
from orchestrator.store.claims import finish_and_claim, finish_for_children
from orchestrator.store.connection import Connection
from tests.fixtures.desk import COUNT, Desk, statuses
from tests.store.rows import add_tasks, add_worker, wait_until

END_BLOCKED = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, hears_refusals: None) -> None:
    """The server lets the ledger wait for a locked row no longer than a moment."""
    monkeypatch.setattr(statements, "EXCHANGE_SECONDS", 6.0)


@pytest.fixture
def soon_past_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has a session of the ledger's wait for a lock no longer than a moment."""
    monkeypatch.setattr(database, "LOCK_WAIT_SECONDS", 0.3)


def run_all(desk: Desk, connection: Connection, count: int) -> tuple[Claim, ...]:
    """So many tasks are claimed and have run; none of their outcomes is written."""
    add_worker(connection)
    add_tasks(connection, count)
    claims = desk.claim(count)
    desk.run(claims)
    return claims


def lock(other: Connection, claim: Claim) -> None:
    """Somebody else locks this claim's row, until `unlock`."""
    other.execute("BEGIN", within=5.0)
    other.execute("SELECT FROM tasks WHERE id = %(id)s FOR UPDATE", {"id": claim.task_id}, within=5.0)


def run_beside(desk: Desk, connection: Connection, spoil: Callable[[Claim], None], is_busy: bool) -> Claim:
    """A batch has run, and somebody has spoilt the row of this one of it; a busy desk has run the next one too: the
    first is sent behind that one's claims, and heard of after those."""
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    if is_busy:
        desk.get_busy()
    claims = desk.claim()
    desk.run(claims)
    spoil(claims[4])
    if is_busy:
        desk.run(desk.claim())
    return claims[4]


def run_beside_a_locked(desk: Desk, connection: Connection, other: Connection, is_busy: bool) -> Claim:
    return run_beside(desk, connection, lambda claim: lock(other, claim), is_busy)


def take_over(desk: Desk, connection: Connection) -> int:
    """As the supervisor does: write what the child gave up, once nobody has locked it. How many there were."""
    seen = SupervisorBoard(desk.descriptor)
    view = seen.read()
    assert view is not None
    given_up = [each for each in view.outcomes if each.token in view.given_up]
    finish_for_children(connection, given_up, within=5.0)
    seen.mark_written(view.given_up)
    seen.close()
    return len(given_up)


def forbid_to_end(connection: Connection, claim: Claim) -> None:
    """As a constraint of the user's may."""
    check = "ALTER TABLE tasks ADD CHECK (claim_token <> %(token)s OR status = 'claimed')"
    connection.execute(check, {"token": claim.token}, within=5.0)


def unlock(other: Connection) -> None:
    other.execute("ROLLBACK", within=5.0)


@pytest.mark.parametrize("is_busy", [False, True])
def test_an_outcome_that_cannot_be_stored_costs_neither_its_batch_nor_the_claims(
    desk: Desk, connection: Connection, is_busy: bool
) -> None:
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    if is_busy:
        desk.get_busy()
    desk.run(desk.claim(), result="no JSON")
    assert len(desk.claim()) == COUNT
    desk.ledger.hear()
    completed = 3 * COUNT if is_busy else COUNT
    assert statuses(connection) == {"completed": completed, "claimed": COUNT, "pending": 5 * COUNT - completed}
    odd = connection.execute("SELECT result->>'note' FROM tasks WHERE result IS NOT NULL", within=5.0)
    assert odd == [("the result could not be stored",)]
    assert desk.counted("tasks_completed_total", status="success") == completed
    assert desk.registry.get_sample_value("database_errors_total", {"kind": "refused"})
    assert len(desk.unwritten) == 0


def test_what_was_written_one_by_one_before_the_connection_was_lost_is_neither_written_nor_counted_again(
    desk: Desk, connection: Connection, database_url: str
) -> None:
    add_worker(connection)
    add_tasks(connection, 3)
    claims = desk.claim()
    desk.run(claims, result="no JSON")
    other = Connection.open(database_url, within=10.0, application_name="other")
    lock(other, claims[-1])
    with ThreadPoolExecutor(1) as pool:
        exchange = pool.submit(desk.ledger.exchange, 0)
        wait_until(lambda: bool(connection.execute(END_BLOCKED, within=5.0)))
        with pytest.raises(DatabaseUnavailable):
            exchange.result(10)
    other.close()
    assert desk.board.word(Word.WRITTEN) == len(claims) - 1 and len(desk.unwritten) == 1
    wait_until(desk.database.try_to_connect)
    desk.ledger.exchange(0)
    assert desk.counted("tasks_completed_total", status="success") == len(claims), "each once"


@pytest.mark.parametrize("is_busy", [False, True])
def test_an_outcome_that_a_constraint_of_the_users_refuses_is_left_to_the_supervisor_and_the_child_goes_on(
    desk: Desk, connection: Connection, is_busy: bool
) -> None:
    refused = run_beside(desk, connection, lambda claim: forbid_to_end(connection, claim), is_busy)
    with pytest.raises(StatementRefused, match="constraint"):
        desk.ledger.exchange(COUNT)
    completed = statuses(connection)["completed"]
    assert desk.counted("tasks_completed_total", status="success") == completed
    assert desk.database.connection is not None
    with pytest.raises(StatementRefused, match="taken over"):
        desk.claim()
    with closing(SupervisorBoard(desk.descriptor)) as seen:
        view = seen.read()
        assert view is not None and view.given_up == {refused.token}
        seen.mark_written(view.given_up)
    assert len(desk.claim()) == COUNT
    desk.ledger.hear()
    assert statuses(connection)["completed"] == (4 * COUNT if is_busy else COUNT) - 1
    assert desk.counted("tasks_completed_total", status="success") == statuses(connection)["completed"]
    assert len(desk.unwritten) == 0


def test_a_large_result_waits_for_an_outcome_before_it_that_is_refused_for_good(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 3)
    *brief, long = desk.claim(3)
    desk.run(tuple(brief))
    large = desk.run_large(long)
    forbid_to_end(connection, brief[0])
    for _ in range(2):
        with pytest.raises(StatementRefused):
            desk.ledger.exchange(0, extra=(large,))
        assert statuses(connection) == {"completed": 1, "claimed": 2}
    with closing(SupervisorBoard(desk.descriptor)) as seen:
        seen.mark_written(frozenset({brief[0].token}))
    desk.ledger.exchange(0, extra=(large,))
    assert statuses(connection) == {"completed": 2, "claimed": 1}
    assert desk.board.is_written and desk.board.has_settled
    assert desk.counted("tasks_completed_total", status="success") == 2


def test_outcomes_that_cannot_be_sent_do_not_stop_the_claims_for_ever(desk: Desk, connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    desk.get_busy()
    desk.run(desk.claim(), error="a NUL: \0")
    with pytest.raises(DatabaseUnavailable):
        desk.claim()
    wait_until(desk.database.try_to_connect)
    assert len(desk.claim()) == COUNT
    assert statuses(connection)["completed"] == 3 * COUNT


@pytest.mark.usefixtures("impatient")
def test_a_row_that_somebody_has_locked_keeps_its_outcome_waiting_and_no_other(
    desk: Desk, connection: Connection, other: Connection
) -> None:
    claims = run_all(desk, connection, 9)
    lock(other, claims[4])
    for _ in range(2):
        with pytest.raises(StatementRefused):
            desk.ledger.exchange(0)
        assert connection.execute("SELECT count(*) FROM tasks WHERE status = 'completed'", within=5.0) == [(8,)]
        assert len(desk.unwritten) == 1
    unlock(other)
    assert take_over(desk, connection) == 1
    desk.ledger.exchange(0)
    assert connection.execute("SELECT count(*) FROM tasks WHERE status = 'completed'", within=5.0) == [(9,)]
    assert desk.board.is_written
    assert desk.counted("tasks_completed_total", status="success") == 8, "the ninth is the supervisor's to count"


@pytest.mark.usefixtures("soon_past_locks")
@pytest.mark.parametrize("is_busy", [False, True])
def test_a_child_waits_for_a_locked_row_for_less_than_a_statement_may_take(
    desk: Desk, connection: Connection, other: Connection, is_busy: bool
) -> None:
    began = time.monotonic()
    run_beside_a_locked(desk, connection, other, is_busy)
    with pytest.raises(StatementRefused, match="lock timeout"):
        desk.ledger.exchange(COUNT)
    assert time.monotonic() - began < STATEMENT_SECONDS / 2
    unlock(other)
    assert take_over(desk, connection) == 1
    assert len(desk.claim()) == COUNT


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("is_busy", [False, True])
def test_once_the_supervisor_has_taken_over_what_is_locked_the_child_goes_on(
    desk: Desk, connection: Connection, other: Connection, is_busy: bool
) -> None:
    locked = run_beside_a_locked(desk, connection, other, is_busy)
    with pytest.raises(StatementRefused):
        desk.ledger.exchange(COUNT)
    unlock(other)
    for act in (desk.ledger.send, lambda: desk.ledger.exchange(COUNT)):
        with pytest.raises(StatementRefused):
            act()  # else it were written by us, and counted by whoever has taken it over
    seen = SupervisorBoard(desk.descriptor)
    view = seen.read()
    assert view is not None and [each.token for each in view.outcomes] == [locked.token]
    assert view.given_up == {locked.token}
    seen.mark_written(view.given_up)
    assert len(desk.claim()) == COUNT
    assert len(desk.unwritten) == 0
    assert statuses(connection)["completed"] == (4 * COUNT if is_busy else COUNT) - 1
    seen.close()


@pytest.mark.usefixtures("impatient")
def test_what_came_too_late_is_told_though_a_row_beside_it_is_locked(
    desk: Desk, connection: Connection, other: Connection
) -> None:
    claims = run_all(desk, connection, 3)
    retry = "UPDATE tasks SET status = 'pending' WHERE id = %(id)s"
    connection.execute(retry, {"id": claims[1].task_id}, within=5.0)
    lock(other, claims[0])
    with pytest.raises(StatementRefused):
        desk.ledger.exchange(0)
    assert desk.counted("tasks_stale_completions_total") == 1
    assert desk.counted("tasks_completed_total", status="success") == 1
    assert len(desk.unwritten) == 1


@pytest.mark.usefixtures("impatient")
def test_when_all_is_locked_the_child_does_not_try_each_outcome(
    desk: Desk, connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "PAST_LOCKS_SECONDS", 0.25)
    claims = run_all(desk, connection, 100)
    other.execute("BEGIN; LOCK TABLE tasks IN SHARE MODE", within=5.0)
    began = time.monotonic()
    with pytest.raises(StatementRefused):
        desk.ledger.exchange(0)
    assert time.monotonic() - began < 5.0, "which at a tenth of a second each it would not be"
    seen = SupervisorBoard(desk.descriptor)
    view = seen.read()
    assert view is not None and view.given_up == {claim.token for claim in claims}
    seen.close()


def test_a_large_result_that_is_refused_may_follow_outcomes_that_the_supervisor_has_written(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 3)
    *brief, long = desk.claim(3)
    desk.run(tuple(brief))
    seen = SupervisorBoard(desk.descriptor)
    view = seen.read()
    assert view is not None
    finish_for_children(connection, view.outcomes[1:], within=5.0)
    seen.mark_written(frozenset(each.token for each in view.outcomes[1:]))
    connection.execute("ALTER TABLE tasks ADD CHECK (length(result::text) < 100000)", within=5.0)

    large = desk.run_large(long)
    desk.ledger.exchange(0, extra=(large,))
    assert connection.execute("SELECT count(*) FROM tasks WHERE status = 'completed'", within=5.0) == [(3,)]
    assert desk.board.is_written
    seen.close()


@pytest.mark.usefixtures("impatient")
def test_what_was_written_past_a_locked_row_before_the_connection_was_lost_is_not_counted_again(
    desk: Desk, connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = run_all(desk, connection, 3)
    lock(other, claims[-1])
    monkeypatch.setattr(statements, "LOCK_SECONDS", 20.0)  # time enough to lose the connection meanwhile
    left = itertools.chain([6.0], itertools.repeat(200.0))  # only what is tried first is refused soon
    monkeypatch.setattr(statements.Statements, "left", lambda _: next(left))
    with ThreadPoolExecutor(1) as pool:
        exchange = pool.submit(desk.ledger.exchange, 0)
        wait_until(lambda: statuses(connection).get("completed") == 2)
        wait_until(lambda: bool(connection.execute(END_BLOCKED, within=5.0)))
        with pytest.raises(DatabaseUnavailable):
            exchange.result(10)
    assert len(desk.unwritten) == 1
    unlock(other)
    wait_until(desk.database.try_to_connect)
    desk.ledger.exchange(0)
    assert statuses(connection) == {"completed": 3}
    assert desk.counted("tasks_completed_total", status="success") == 3, "each once"


@pytest.mark.usefixtures("impatient")
def test_a_large_result_may_follow_outcomes_of_which_the_last_was_written_past_a_locked_row(
    desk: Desk, connection: Connection, other: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 4)
    *brief, long = desk.claim(4)
    desk.run(tuple(brief))
    large = desk.run_large(long)
    lock(other, brief[1])
    with pytest.raises(StatementRefused):
        desk.ledger.exchange(0, extra=(large,))
    unlock(other)
    assert take_over(desk, connection) == 1
    desk.ledger.exchange(0, extra=(large,))
    assert statuses(connection) == {"completed": 4}
    assert desk.board.is_written and desk.board.has_settled
    assert desk.counted("tasks_completed_total", status="success") == 3, "the fourth is the supervisor's to count"


@pytest.mark.usefixtures("impatient")
def test_what_the_supervisor_found_written_is_counted_once_though_a_row_beside_it_is_locked(
    desk: Desk, connection: Connection, other: Connection
) -> None:
    claims = run_all(desk, connection, 2)
    found = desk.unwritten.left_to_us()[:1]
    finish_and_claim(connection, found, worker_id="w", slot=0, limit=0, within=5.0)  # by us; the reply was lost
    seen = SupervisorBoard(desk.descriptor)
    seen.mark_written(frozenset({found[0].token}), by_child=frozenset({found[0].token}))
    lock(other, claims[1])
    for _ in range(2):
        with pytest.raises(StatementRefused):
            desk.ledger.exchange(0)
    assert desk.counted("tasks_completed_total", status="success") == 1
    unlock(other)
    assert take_over(desk, connection) == 1
    desk.ledger.exchange(0)
    assert desk.counted("tasks_completed_total", status="success") == 1, "the second is the supervisor's to count"
    assert desk.board.is_written and len(desk.unwritten) == 0
    seen.close()
