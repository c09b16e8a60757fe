"""A child's exchange with the database: small batches in one statement, large ones claimed first and then finished."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from math import inf

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.board.child_half import ChildBoard
from orchestrator.board.layout import Word
from orchestrator.board.memory import create_memory
from orchestrator.board.supervisor_half import SupervisorBoard
from orchestrator.child import statements
from orchestrator.child.database import Database
from orchestrator.child.ledger import COMPANY, SEND_SECONDS, SLOW_SECONDS, Ledger
from orchestrator.child.statements import BUSY_AFTER
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.model import Claim, Outcome, TaskStatus
from orchestrator.store.claims import finish_and_claim, finish_for_children
from orchestrator.store.connection import Connection
from orchestrator.store.schema import migrate
from orchestrator.telemetry.metrics import TaskMetrics
from tests.store.rows import add_tasks, add_worker, wait_until
from tests.store.wire import Wire

COUNT = COMPANY // 2 + 1  # the outcomes of one batch and the next are more than wait for each other
END_BLOCKED = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class Desk:
    """A child's ledger, and what a loop would do with it."""

    def __init__(self, url: str) -> None:
        self.registry = CollectorRegistry()
        self.descriptor = create_memory("test", 4 * COUNT)
        self.board = ChildBoard(self.descriptor)
        self.database = Database(url, "test")
        assert self.database.try_to_connect()
        metrics = TaskMetrics(self.registry)
        self.ledger = Ledger(self.board, self.database, metrics, worker_id="w", slot=0)
        self.unwritten = self.ledger.unwritten

    def claim(self, limit: int = COUNT) -> tuple[Claim, ...]:
        batch = self.ledger.exchange(limit)
        self.board.publish([(claim, 3) for claim in batch.claims])
        return batch.claims

    def run(self, claims: tuple[Claim, ...], **more: object) -> None:
        """Each is completed at once."""
        for number, claim in enumerate(claims):
            index = self.board.word(Word.STARTED)
            began = self.board.start(0) / 1e9
            outcome = Outcome(claim.task_id, claim.token, claim.type, TaskStatus.COMPLETED, 1, began, time.monotonic())
            outcome = outcome._replace(**{name: value for name, value in more.items() if number == 0})
            self.board.end(outcome)
            self.unwritten.add(index, outcome)

    def run_large(self, claim: Claim) -> Outcome:
        """It has just ended, with a result that the board has no room for."""
        began = self.board.start(0) / 1e9
        self.board.handler_ended()
        result = '"' + "x" * 200_000 + '"'
        return Outcome(claim.task_id, claim.token, "t", TaskStatus.COMPLETED, 1, began, time.monotonic(), result=result)

    def get_busy(self) -> None:
        """So many batches that from now on outcomes are sent and not waited for."""
        for _ in range(BUSY_AFTER):
            self.run(self.claim())

    def counted(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"type": "t", **labels})

    def close(self) -> None:
        self.database.close()
        self.board.close()
        os.close(self.descriptor)


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    desk = Desk(database_url)
    yield desk
    desk.close()


def statuses(connection: Connection) -> dict[str, int]:
    rows = connection.execute("SELECT status::text, count(*) FROM tasks GROUP BY 1", within=5.0)
    return {status: count for status, count in rows}  # noqa: C416 rows are wider to mypy


def is_flushed(connection: Connection, before: str) -> bool:
    ahead = "SELECT pg_current_wal_flush_lsn() > %(before)s::pg_lsn"
    return bool(connection.execute(ahead, {"before": before}, within=5.0)[0][0])


def written_to(connection: Connection) -> str:
    return str(connection.execute("SELECT pg_current_wal_insert_lsn()::text", within=5.0)[0][0])


def test_a_batch_is_finished_for_good_and_the_next_is_claimed(desk: Desk, connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 2 * COUNT)
    desk.run(desk.claim())
    before = written_to(connection)
    assert len(desk.claim()) == COUNT
    assert statuses(connection) == {"completed": COUNT, "claimed": COUNT}
    assert is_flushed(connection, before)
    assert desk.counted("tasks_completed_total", status="success") == COUNT


def test_while_there_is_more_and_more_the_next_batch_is_claimed_before_it_is_known_what_became_of_the_last(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    desk.get_busy()
    done = (BUSY_AFTER - 1) * COUNT
    claims = desk.claim()
    assert (len(claims), len(desk.unwritten), desk.board.word(Word.COUNT)) == (COUNT, COUNT, 2 * COUNT)
    assert desk.counted("tasks_completed_total", status="success") == done
    desk.run(claims[:5])
    wait_until(lambda: statuses(connection)["completed"] == done + COUNT)
    wait_until(lambda: desk.ledger.has_answer)

    desk.ledger.hear()

    assert not desk.ledger.has_answer
    assert desk.counted("tasks_completed_total", status="success") == done + COUNT
    assert (len(desk.unwritten), desk.board.word(Word.WRITTEN), desk.board.word(Word.ENDED)) == (5, COUNT, COUNT + 5)
    desk.ledger.exchange(0)
    assert desk.counted("tasks_completed_total", status="success") == done + COUNT + 5
    assert desk.board.word(Word.WRITTEN) == COUNT + 5


def test_while_there_is_more_and_more_few_outcomes_wait_for_those_of_the_next_batch(
    desk: Desk, connection: Connection
) -> None:
    few = COMPANY // 4 + 1
    later = time.monotonic() + 60.0  # however slow this machine is, none of them has waited for long
    add_worker(connection)
    add_tasks(connection, 5 * few)
    for _ in range(BUSY_AFTER):
        desk.run(desk.claim(few), ended_monotonic=later)
    oldest = desk.unwritten.oldest_end
    desk.run(desk.claim(few), ended_monotonic=later)
    assert statuses(connection)["completed"] == (BUSY_AFTER - 1) * few
    assert (len(desk.unwritten), desk.unwritten.oldest_end) == (2 * few, oldest), "what waits tells since when"
    assert desk.board.word(Word.WRITTEN) == 0
    desk.run(desk.claim(few), ended_monotonic=later)
    desk.claim(few)

    assert desk.unwritten.oldest_end == inf, "three batches and a fourth are too many: they were sent"
    wait_until(lambda: statuses(connection)["completed"] == (BUSY_AFTER + 2) * few)
    desk.ledger.hear()
    assert (len(desk.unwritten), desk.board.word(Word.WRITTEN)) == (0, 3 * few)
    assert desk.counted("tasks_completed_total", status="success") == (BUSY_AFTER + 2) * few


def test_outcomes_that_a_slow_claim_has_kept_waiting_wait_for_no_company(desk: Desk, connection: Connection) -> None:
    few = COMPANY // 4
    add_worker(connection)
    add_tasks(connection, (BUSY_AFTER + 1) * few)
    for _ in range(BUSY_AFTER - 1):
        desk.run(desk.claim(few))
    desk.run(desk.claim(few), ended_monotonic=time.monotonic() - SEND_SECONDS)
    desk.claim(few)
    assert desk.unwritten.oldest_end == inf, "they were sent before the next batch begins"


def test_after_a_slow_task_it_is_known_what_became_of_it_before_the_next_begins(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 4 * COUNT)
    desk.get_busy()
    desk.run(desk.claim(1), started_monotonic=time.monotonic() - 2 * SLOW_SECONDS)
    assert len(desk.claim(1)) == 1
    assert len(desk.unwritten) == 0
    assert desk.counted("tasks_completed_total", status="success") == BUSY_AFTER * COUNT + 1


def test_a_batch_that_has_no_place_behind_the_last_waits_until_that_is_written(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 9 * COUNT)
    desk.get_busy()
    seen = set()
    for _ in range(6):
        claims = desk.claim()
        assert len(claims) == COUNT
        seen.add(desk.board.word(Word.COUNT))
        desk.run(claims)
    assert seen == {COUNT, 2 * COUNT, 3 * COUNT, 4 * COUNT}
    desk.ledger.exchange(0)
    assert statuses(connection) == {"completed": 8 * COUNT, "pending": COUNT}
    assert desk.counted("tasks_completed_total", status="success") == 8 * COUNT


def test_a_task_that_was_recovered_runs_only_once_its_attempt_is_on_the_disk(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 1)
    connection.execute("UPDATE tasks SET recoveries = 1", within=5.0)
    before = written_to(connection)
    (claim,) = desk.claim()
    assert claim.is_running
    assert is_flushed(connection, before)


@pytest.mark.parametrize("has_told", [False, True])
def test_a_stale_outcome_is_counted_unless_the_supervisor_did_while_the_child_was_busy(
    desk: Desk, connection: Connection, has_told: bool
) -> None:
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    desk.get_busy()
    take_away = """
        UPDATE tasks AS t SET status = 'pending' FROM (SELECT * FROM tasks WHERE status = 'claimed' LIMIT 1) AS one
        WHERE t.id = one.id RETURNING one.claim_token
    """
    ((token,),) = connection.execute(take_away, within=5.0)
    desk.claim()  # sends the outcomes
    wait_until(lambda: desk.ledger.has_answer)
    if has_told:
        with closing(SupervisorBoard(desk.descriptor)) as board:
            assert board.mark_written(frozenset({token})) == [token]
    desk.ledger.hear()
    assert desk.counted("tasks_stale_completions_total") == (None if has_told else 1)


def test_a_claim_that_brings_little_tells_whether_it_left_something_out(desk: Desk, connection: Connection) -> None:
    """Tasks that were recovered come one by one; for the second another child is to be woken."""
    add_worker(connection)
    add_tasks(connection, 2)
    connection.execute("UPDATE tasks SET recoveries = 1", within=5.0)
    desk.run(desk.claim(5))
    assert desk.ledger.is_more_due
    assert len(desk.claim(5)) == 1
    assert not desk.ledger.is_more_due


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
    assert len(desk.unwritten) == 0


def test_what_was_written_one_by_one_before_the_connection_was_lost_is_neither_written_nor_counted_again(
    desk: Desk, connection: Connection, database_url: str
) -> None:
    add_worker(connection)
    add_tasks(connection, 3)
    claims = desk.claim()
    desk.run(claims, result="no JSON")
    other = Connection.open(database_url, within=10.0, application_name="other")
    other.execute("BEGIN", within=5.0)
    other.execute("SELECT FROM tasks WHERE id = %(id)s FOR UPDATE", {"id": claims[-1].task_id}, within=5.0)
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


def test_of_a_connection_that_was_given_up_nothing_is_read_any_more(desk: Desk, connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    desk.get_busy()
    desk.claim()
    old = desk.database.connection
    desk.database.abandon()  # its descriptor may be a file of the user's by now
    assert desk.database.try_to_connect()
    wait_until(lambda: statuses(connection)["completed"] == BUSY_AFTER * COUNT)
    assert len(desk.unwritten) == COUNT
    desk.ledger.exchange(0)
    assert desk.counted("tasks_completed_total", status="success") == BUSY_AFTER * COUNT, "each once"
    assert len(desk.unwritten) == 0
    assert old is not None
    old.close()


def test_outcomes_whose_reply_was_lost_are_kept_and_the_batch_behind_them_can_run(
    private_postgres_tcp: PrivatePostgres,
) -> None:
    url = private_postgres_tcp.url()
    connection = Connection.open(url, within=10.0, application_name="test")
    migrate(connection, within=20.0)
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    wire = Wire("127.0.0.1", private_postgres_tcp.port)
    desk = Desk(url.replace(f":{private_postgres_tcp.port}", f":{wire.port}") + "?sslmode=disable")
    desk.get_busy()
    first = desk.board.word(Word.COUNT)
    ended = connection.execute("SELECT id::text FROM tasks WHERE status = 'claimed' LIMIT 1", within=5.0)
    wire.loses_reply_to = ended[0][0].encode()  # stands in the statement that finishes, not in the claim
    claims = desk.claim()
    assert len(claims) == COUNT
    wait_until(lambda: statuses(connection).get("completed") == BUSY_AFTER * COUNT)
    wire.cut()
    with pytest.raises(DatabaseUnavailable):
        desk.ledger.hear()
    assert len(desk.unwritten) == COUNT
    assert desk.counted("tasks_completed_total", status="success") == (BUSY_AFTER - 1) * COUNT
    assert desk.board.word(Word.COUNT) == first + COUNT and desk.board.word(Word.STARTED) == first
    desk.run(claims)
    desk.database._url = url  # past the wire
    wait_until(desk.database.try_to_connect)
    assert desk.ledger.exchange(0).claims == ()
    assert desk.counted("tasks_completed_total", status="success") == (BUSY_AFTER + 1) * COUNT, "each once"
    desk.close()
    wire.close()
    connection.close()


def test_a_retry_that_is_due_at_once_is_written_before_anything_else_runs(desk: Desk, connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    desk.get_busy()
    claims = desk.claim()
    assert len(desk.unwritten) == COUNT, "sent, and not heard of"
    desk.run(claims, status=TaskStatus.PENDING, error="again")
    desk.claim()
    assert len(desk.unwritten) == 0
    assert desk.counted("task_retries_total", attempt="1") == 1


def test_all_that_may_be_called_is_planned_ahead_once_and_nothing_is_claimed(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 3 * COUNT)
    session = desk.database.connection
    assert session is not None

    def calls() -> int:
        rows = session.execute("SELECT sum(generic_plans)::integer FROM pg_prepared_statements", within=5.0)
        return int(rows[0][0])

    desk.ledger.plan_ahead()
    planned = set(session.prepared)
    desk.ledger.plan_ahead()
    assert (calls(), len(planned)) == (5, 5)
    assert statuses(connection) == {"pending": 3 * COUNT}
    desk.get_busy()
    desk.run(desk.claim())
    desk.ledger.exchange(0)
    assert session.prepared == planned
    assert calls() > 5


def test_a_connection_that_is_lost_while_it_plans_ahead_is_dropped(desk: Desk, connection: Connection) -> None:
    others = "FROM pg_stat_activity WHERE application_name = 'test' AND pid <> pg_backend_pid()"
    connection.execute(f"SELECT pg_terminate_backend(pid) {others}", within=5.0)
    wait_until(lambda: connection.execute(f"SELECT {others}", within=5.0) == [])
    with pytest.raises(DatabaseUnavailable):
        desk.ledger.plan_ahead()
    assert desk.database.connection is None
    desk.ledger.plan_ahead()  # and there is nothing to do without one


def test_a_row_that_somebody_has_locked_keeps_its_outcome_waiting_and_no_other(
    desk: Desk, connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "EXCHANGE_SECONDS", 0.6)
    add_worker(connection)
    add_tasks(connection, 9)
    claims = desk.claim(9)
    desk.run(claims)
    other.execute("BEGIN", within=5.0)
    other.execute("SELECT FROM tasks WHERE id = %(id)s FOR UPDATE", {"id": claims[4].task_id}, within=5.0)
    for _ in range(2):
        with pytest.raises(StatementRefused):
            desk.ledger.exchange(0)
        assert connection.execute("SELECT count(*) FROM tasks WHERE status = 'completed'", within=5.0) == [(8,)]
        assert len(desk.unwritten) == 1
    seen = SupervisorBoard(desk.descriptor)
    view = seen.read()
    assert view is not None and [each.token for each in view.outcomes] == [claims[4].token]
    seen.close()

    other.execute("ROLLBACK", within=5.0)
    desk.ledger.exchange(0)
    assert connection.execute("SELECT count(*) FROM tasks WHERE status = 'completed'", within=5.0) == [(9,)]
    assert desk.board.is_written
    assert desk.counted("tasks_completed_total", status="success") == 9


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


def test_what_was_written_past_a_locked_row_before_the_connection_was_lost_is_not_counted_again(
    desk: Desk, connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "EXCHANGE_SECONDS", 0.6)
    add_worker(connection)
    add_tasks(connection, 3)
    claims = desk.claim(3)
    desk.run(claims)
    other.execute("BEGIN", within=5.0)
    other.execute("SELECT FROM tasks WHERE id = %(id)s FOR UPDATE", {"id": claims[-1].task_id}, within=5.0)
    monkeypatch.setattr(statements, "LOCK_SECONDS", 20.0)  # time enough to lose the connection meanwhile
    with ThreadPoolExecutor(1) as pool:
        exchange = pool.submit(desk.ledger.exchange, 0)
        wait_until(lambda: statuses(connection).get("completed") == 2)
        wait_until(lambda: bool(connection.execute(END_BLOCKED, within=5.0)))
        with pytest.raises(DatabaseUnavailable):
            exchange.result(10)
    assert len(desk.unwritten) == 1
    other.execute("ROLLBACK", within=5.0)
    wait_until(desk.database.try_to_connect)
    desk.ledger.exchange(0)
    assert statuses(connection) == {"completed": 3}
    assert desk.counted("tasks_completed_total", status="success") == 3, "each once"


def test_a_large_result_may_follow_outcomes_of_which_the_last_was_written_past_a_locked_row(
    desk: Desk, connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "EXCHANGE_SECONDS", 0.6)
    add_worker(connection)
    add_tasks(connection, 4)
    *brief, long = desk.claim(4)
    desk.run(tuple(brief))
    large = desk.run_large(long)
    other.execute("BEGIN", within=5.0)
    other.execute("SELECT FROM tasks WHERE id = %(id)s FOR UPDATE", {"id": brief[1].task_id}, within=5.0)
    with pytest.raises(StatementRefused):
        desk.ledger.exchange(0, extra=(large,))
    other.execute("ROLLBACK", within=5.0)
    desk.ledger.exchange(0, extra=(large,))
    assert statuses(connection) == {"completed": 4}
    assert desk.board.is_written and desk.board.has_settled
    assert desk.counted("tasks_completed_total", status="success") == 4


def test_what_the_supervisor_found_written_is_counted_once_though_a_row_beside_it_is_locked(
    desk: Desk, connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "EXCHANGE_SECONDS", 0.6)
    add_worker(connection)
    add_tasks(connection, 2)
    claims = desk.claim(2)
    desk.run(claims)
    found = desk.unwritten.left_to_us()[:1]
    finish_and_claim(connection, found, worker_id="w", slot=0, limit=0, within=5.0)  # by us; the reply was lost
    seen = SupervisorBoard(desk.descriptor)
    seen.mark_written(frozenset({found[0].token}), by_child=frozenset({found[0].token}))
    other.execute("BEGIN", within=5.0)
    other.execute("SELECT FROM tasks WHERE id = %(id)s FOR UPDATE", {"id": claims[1].task_id}, within=5.0)
    for _ in range(2):
        with pytest.raises(StatementRefused):
            desk.ledger.exchange(0)
    assert desk.counted("tasks_completed_total", status="success") == 1
    other.execute("ROLLBACK", within=5.0)
    desk.ledger.exchange(0)
    assert desk.counted("tasks_completed_total", status="success") == 2
    assert desk.board.is_written and len(desk.unwritten) == 0
    seen.close()
