"""The coordinator's orders: what is written, counted and reported, also when the database goes away in between."""

import time
from contextlib import closing

import psycopg
import pytest

from orchestrator.coordinator import shelf
from orchestrator.coordinator.coordinator import PATIENT_SECONDS
from orchestrator.mailbox import (
    Activity,
    Audit,
    Audited,
    Begin,
    Finish,
    MarkRunning,
    Release,
    Released,
    Serving,
    Types,
    Written,
)
from orchestrator.model import ClaimRef, Outcome, OwnedClaim, Start, TaskStatus, TaskType
from orchestrator.store.connection import Connection
from tests.fixtures.coordination import Database, MakeWorker, Worker, eventually
from tests.store.rows import finish


def outcome(task_id: str, token: int, status: TaskStatus = TaskStatus.COMPLETED, **facts: object) -> Outcome:
    now = time.monotonic()
    values: dict[str, object] = {"attempt": 1, "started_monotonic": now - 2.0, "ended_monotonic": now - 1.0}
    return Outcome(task_id=task_id, token=token, type="t", status=status, **{**values, **facts})  # type: ignore[arg-type]


@pytest.fixture
def worker(make_worker: MakeWorker) -> Worker:
    """A worker that serves and has no idle children."""
    worker = make_worker(heartbeat_interval=1.0, leader_term=5.0)
    worker.serve(has_sleepers=False)
    worker.reports.take()
    return worker


def me(worker: Worker) -> str:
    return worker.coordination.status().worker_id or ""


def test_outcomes_are_written_reported_and_counted_by_how_they_ended(database: Database, worker: Worker) -> None:
    ended = [
        outcome(*database.claim(me(worker)), TaskStatus.COMPLETED, result='{"answer": 42}'),
        outcome(*database.claim(me(worker)), TaskStatus.FAILED, error="no handler"),
        outcome(*database.claim(me(worker)), TaskStatus.DEAD_LETTER, error="crashed", attempt=4),
        outcome(*database.claim(me(worker)), TaskStatus.PENDING, error="crashed", delay_seconds=3600.0),
    ]
    worker.coordination.post(Finish(tuple(ended)))
    assert set(worker.reports.wait(Written).tokens) == {each.token for each in ended}
    found = {row[0]: row[1:] for row in database.rows("SELECT id::text, status::text, attempts, last_error FROM tasks")}
    assert [found[each.task_id] for each in ended] == [
        ("completed", 1, None),
        ("failed", 1, "no handler"),
        ("dead_letter", 4, "crashed"),
        ("pending", 1, "crashed"),
    ]
    assert database.value("SELECT result->>'answer' FROM tasks WHERE id = %s", ended[0].task_id) == "42"
    assert worker.count("tasks_completed_total", type="t", status="success") == 1
    assert worker.count("tasks_completed_total", type="t", status="failed") == 2
    assert worker.count("tasks_dead_letter_total", type="t") == 1
    assert worker.count("task_retries_total", type="t", attempt="1") == 1
    assert worker.count("task_duration_seconds_count", type="t") == 4
    worker.settle()


def test_an_outcome_that_was_written_and_counted_is_reported_and_not_counted_again(
    database: Database, worker: Worker
) -> None:
    ended = outcome(*database.claim(me(worker)))
    worker.coordination.post(Finish((ended,)))
    worker.reports.wait(Written)
    worker.coordination.post(Finish((ended,)))
    assert worker.reports.wait(Written) == Written((ended.token,))
    assert worker.count("tasks_completed_total", type="t", status="success") == 1


def write_as_child(url: str, ended: Outcome) -> None:
    connection = Connection.open(url, within=10.0, application_name="child")
    assert finish(connection, [ended]).accepted == 1
    connection.close()


@pytest.mark.parametrize("is_dead", [False, True])
def test_an_outcome_that_its_child_has_written_is_counted_here_if_the_child_is_dead(
    database: Database, worker: Worker, is_dead: bool
) -> None:
    ended = outcome(*database.claim(me(worker)))
    write_as_child(database.url, ended)
    worker.coordination.post(Finish((ended,), is_estate=is_dead))
    assert worker.reports.wait(Written) == Written((ended.token,), () if is_dead else (ended.token,))
    assert worker.count("tasks_completed_total", type="t", status="success") == is_dead


def test_an_outcome_that_its_child_wrote_while_our_statement_was_lost_is_the_childs_to_count(
    database: Database, worker: Worker
) -> None:
    ended = outcome(*database.claim(me(worker)))
    with closing(psycopg.connect(database.url)) as other:
        other.execute("SELECT FROM tasks FOR UPDATE")
        worker.coordination.post(Finish((ended,)))
        waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        first = eventually(lambda: database.value(waiting))
        database.run("SELECT pg_terminate_backend(%s)", first)
        eventually(lambda: database.value(waiting) not in (None, first))  # it tries again
        # what the child's statement would change
        other.execute("UPDATE tasks SET status = 'completed', ended_token = claim_token, attempts = 1")
        other.commit()
    assert worker.reports.wait(Written) == Written((ended.token,), by_child=(ended.token,))
    assert worker.count("tasks_completed_total", type="t", status="success") == 0


def test_a_stale_outcome_changes_nothing_and_is_reported_with_what_has_become_of_the_task(
    database: Database, worker: Worker
) -> None:
    task_id, token = database.claim(me(worker))
    database.run("UPDATE tasks SET status = 'pending' WHERE id = %s", task_id)
    good = outcome(*database.claim(me(worker)))
    ended = outcome(task_id, token)
    worker.coordination.post(Finish((ended, good)))
    assert worker.reports.wait(Written) == Written((good.token,))
    written = worker.reports.wait(Written)
    (stale,) = written.stale
    assert (written.tokens, stale.outcome, stale.now["status_now"]) == ((token,), ended, "pending")
    assert database.value("SELECT status FROM tasks WHERE id = %s", task_id) == "pending"
    assert database.value("SELECT status FROM tasks WHERE id = %s", good.task_id) == "completed"
    assert worker.count("tasks_completed_total", type="t", status="success") == 1


def test_an_outcome_that_cannot_be_stored_costs_no_other_and_ends_without_its_texts(
    database: Database, worker: Worker
) -> None:
    ended = [outcome(*database.claim(me(worker)), result="1") for _ in range(9)]
    ended[4] = outcome(ended[4].task_id, ended[4].token, result="no JSON", error="\x00")
    worker.coordination.post(Finish(tuple(ended)))
    worker.settle()
    assert database.value("SELECT count(*) FROM tasks WHERE status = 'completed'") == 9
    assert "could not be stored" in database.value("SELECT last_error FROM tasks WHERE id = %s", ended[4].task_id)
    assert worker.count("tasks_completed_total", type="t", status="success") == 9


def test_claims_are_handed_back_without_an_attempt(database: Database, worker: Worker) -> None:
    claimed = ClaimRef(*database.claim(me(worker)))
    running = ClaimRef(*database.claim(me(worker), status="running", attempts=1))
    lost = ClaimRef(running.task_id, 987654)
    worker.coordination.post(Release((claimed, running, lost), "drain"))
    worker.settle()
    assert database.rows("SELECT DISTINCT status::text, attempts, worker_id FROM tasks") == [("pending", 0, None)]
    assert worker.count("tasks_released_total", reason="drain") == 2
    assert worker.reports.wait(Released) == Released("drain")


def test_a_start_is_marked_and_an_end_that_follows_makes_the_mark_needless(database: Database, worker: Worker) -> None:
    running, done = database.claim(me(worker)), database.claim(me(worker))
    began = time.monotonic() - 1.0
    worker.coordination.post(MarkRunning((Start(*running, 1, began), Start(*done, 1, began))))
    worker.coordination.post(Finish((outcome(*done),)))
    worker.settle()
    rows = dict(database.rows("SELECT id::text, status::text || ' ' || attempts FROM tasks"))
    assert rows == {running[0]: "running 1", done[0]: "completed 1"}
    assert 0.9 < database.value("SELECT extract(epoch FROM now() - started_at) FROM tasks WHERE status = 'running'") < 9


def test_an_audit_tells_what_the_database_thinks_is_ours(database: Database, worker: Worker) -> None:
    mine = database.claim(me(worker))
    database.claim("another")
    worker.coordination.post(Audit(0))
    while (audited := worker.reports.wait(Audited)).slot is None:
        pass
    assert audited == Audited(0, (OwnedClaim(*mine, 0),))
    worker.coordination.post(Audit(1))
    while (audited := worker.reports.wait(Audited)).slot is None:
        pass
    assert audited == Audited(1, ())


def test_types_of_a_reloaded_app_are_registered(database: Database, worker: Worker) -> None:
    worker.coordination.post(Types((TaskType("new", max_retries=7),), "tests"))
    worker.settle()
    assert database.value("SELECT max_retries FROM task_types WHERE type = 'new'") == 7


def test_orders_given_while_the_database_is_away_are_carried_out_when_it_is_back(
    database: Database, worker: Worker
) -> None:
    ended = [outcome(*database.claim(me(worker))) for _ in range(50)]
    backs = [ClaimRef(*database.claim(me(worker))) for _ in range(50)]
    name = database.value("SELECT current_database()")
    other = Database(database.url.replace(name, "postgres"))
    other.run(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    database.terminate_others()
    for position in range(50):
        worker.coordination.post(Finish((ended[position],)))
        worker.coordination.post(Release((backs[position],), "drain"))
    eventually(lambda: not worker.coordination.status().is_database_reachable)
    assert worker.coordination.outstanding == 100
    other.run(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    other.connection.close()
    worker.settle()
    assert database.rows("SELECT status::text, count(*) FROM tasks GROUP BY 1 ORDER BY 1") == [
        ("completed", 50),
        ("pending", 50),
    ]
    assert worker.count("tasks_completed_total", type="t", status="success") == 50
    eventually(lambda: worker.coordination.status().is_database_reachable)


def test_two_orders_about_one_claim_keep_their_order(database: Database, worker: Worker) -> None:
    handed_back, ended = database.claim(me(worker)), database.claim(me(worker))
    name = database.value("SELECT current_database()")
    database.terminate_others()
    worker.coordination.post(Release((ClaimRef(*handed_back),), "drain"))
    worker.coordination.post(Finish((outcome(*handed_back),)))
    worker.coordination.post(Finish((outcome(*ended),)))
    worker.coordination.post(Release((ClaimRef(*ended),), "drain"))
    worker.settle()
    rows = dict(database.rows("SELECT id::text, status::text FROM tasks"))
    assert rows == {handed_back[0]: "pending", ended[0]: "completed"}, name


def test_an_order_that_a_lock_holds_up_delays_no_other_kind_for_ever(database: Database, worker: Worker) -> None:
    ended = outcome(*database.claim(me(worker)))
    with database.connection.transaction():
        database.run("SELECT FROM tasks WHERE id = %s FOR UPDATE", ended.task_id)
        worker.coordination.post(Finish((ended,)))
        eventually(lambda: worker.coordination.outstanding == 1)
    worker.reports.wait(Written)
    assert database.value("SELECT status FROM tasks") == "completed"


def test_stop_writes_what_is_left_before_the_worker_goes(database: Database, worker: Worker) -> None:
    claims = [database.claim(me(worker)) for _ in range(1000)]
    worker.coordination.post(Finish(tuple(outcome(*claim) for claim in claims)))
    worker.coordination.stop(within=5.0)
    assert worker.coordination.outstanding == 0
    assert database.value("SELECT count(*) FROM tasks WHERE status = 'completed'") == 1000
    assert database.value("SELECT count(*) FROM workers") == 0


def test_stop_keeps_to_its_time_when_a_lock_holds_up_the_orders(database: Database, worker: Worker) -> None:
    ended = outcome(*database.claim(me(worker)))
    with database.connection.transaction():
        database.run("LOCK TABLE tasks")
        worker.coordination.post(Finish((ended,)))
        began = time.monotonic()
        worker.coordination.stop(within=2.0)
        assert time.monotonic() - began < 4.0, "the lock is held for longer"
    assert worker.coordination.outstanding == 1
    assert database.value("SELECT count(*) FROM workers") == 0


def test_begin_again_is_harmless(database: Database, worker: Worker) -> None:
    mine = database.claim(me(worker))
    worker.coordination.post(Begin((TaskType("t"),), "tests"))
    assert worker.reports.wait(Serving).recovered == 0
    assert database.value("SELECT claim_token FROM tasks") == mine[1]


def test_whether_somebody_sleeps_is_told_at_once_and_that_nobody_does_a_little_later(
    database: Database, worker: Worker
) -> None:
    def sleeping() -> list[bool]:
        return [row[0] for row in database.rows("SELECT is_sleeping FROM sleepers")]

    worker.coordination.post(Activity(has_sleepers=True, is_claiming=True))
    worker.settle()
    assert sleeping() == [True]
    worker.coordination.post(Activity(has_sleepers=False, is_claiming=True))
    worker.settle()
    assert sleeping() == [False]
    worker.coordination.post(Activity(has_sleepers=True, is_claiming=True))
    worker.coordination.post(Activity(has_sleepers=True, is_claiming=False))
    worker.settle()
    assert sleeping() == [False]


def test_however_many_rows_are_locked_what_is_ordered_after_that_is_done_at_once(
    database: Database, worker: Worker
) -> None:
    locked = [database.claim(me(worker)) for _ in range(12)]
    book = worker.coordination._book
    with closing(psycopg.connect(database.url)) as other:
        other.execute("SELECT FROM tasks WHERE id = ANY (%s) FOR UPDATE", ([task_id for task_id, _ in locked],))
        worker.coordination.post(Finish(tuple(outcome(*claim) for claim in locked[:4])))
        worker.coordination.post(Release(tuple(ClaimRef(*claim) for claim in locked[4:8]), "drain"))
        worker.coordination.post(MarkRunning(tuple(Start(*claim, 1, time.monotonic()) for claim in locked[8:])))
        eventually(lambda: len(book.held()) == 12)
        ended, handed_back, started = (database.claim(me(worker)) for _ in range(3))
        worker.coordination.post(Finish((outcome(*ended),)))
        worker.coordination.post(Release((ClaimRef(*handed_back),), "drain"))
        worker.coordination.post(MarkRunning((Start(*started, 1, time.monotonic()),)))
        eventually(lambda: worker.coordination.outstanding == 12)
        other.rollback()
    worker.settle()
    assert not book.held()
    statuses = "SELECT status::text, count(*) FROM tasks GROUP BY 1 ORDER BY 1"
    assert database.rows(statuses) == [("completed", 5), ("pending", 5), ("running", 5)]


def test_rows_that_an_operator_has_locked_hold_up_nothing_beside_them(database: Database, worker: Worker) -> None:
    locked, running = database.claim(me(worker)), database.claim(me(worker))
    ended = [outcome(*database.claim(me(worker))) for _ in range(9)]
    ended[4] = outcome(*locked)
    handed_back = [ClaimRef(*database.claim(me(worker))) for _ in range(5)]
    handed_back[2] = ClaimRef(*running)
    starts = [Start(*database.claim(me(worker)), 1, time.monotonic()) for _ in range(3)]
    marked = "SELECT count(*) FROM tasks WHERE status = 'running'"
    with closing(psycopg.connect(database.url)) as other:
        other.execute("SELECT FROM tasks WHERE id = ANY (%s) FOR UPDATE", ([locked[0], running[0], starts[1].task_id],))
        worker.coordination.post(Finish(tuple(ended)))
        worker.coordination.post(Release(tuple(handed_back), "drain"))
        worker.coordination.post(MarkRunning(tuple(starts)))
        eventually(lambda: database.value("SELECT count(*) FROM tasks WHERE status = 'completed'") == 8)
        eventually(lambda: database.value("SELECT count(*) FROM tasks WHERE status = 'pending'") == 4)
        eventually(lambda: database.value(marked) == 2)
        eventually(lambda: worker.coordination.outstanding == 3)
        other.rollback()
    worker.settle()
    assert database.value("SELECT status FROM tasks WHERE id = %s", locked[0]) == "completed"
    assert database.value(marked) == 3


def test_what_a_constraint_of_the_users_refuses_holds_up_nothing_beside_it_and_loses_nothing(
    database: Database, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "PUT_OFF_SECONDS", 0.1)
    database.run("ALTER TABLE tasks ADD CONSTRAINT obstinate CHECK (priority <> 7 OR status = 'claimed')")
    claims = [[database.claim(me(worker), priority=7 * (n == 4)) for n in range(9)] for _ in range(3)]
    worker.coordination.post(Finish(tuple(outcome(*claim, result="1", error="odd") for claim in claims[0])))
    worker.coordination.post(Release(tuple(ClaimRef(*claim) for claim in claims[1]), "drain"))
    worker.coordination.post(MarkRunning(tuple(Start(*claim, 1, time.monotonic()) for claim in claims[2])))
    statuses = "SELECT status::text, count(*) FROM tasks GROUP BY 1 ORDER BY 1"
    left = [("claimed", 3), ("completed", 8), ("pending", 8), ("running", 8)]
    eventually(lambda: database.rows(statuses) == left)
    worker.coordination.post(Finish((outcome(*database.claim(me(worker)), result="1", error="odd"),)))
    worker.coordination.post(Release((ClaimRef(*database.claim(me(worker))),), "drain"))
    eventually(lambda: worker.coordination.outstanding == 3)
    database.run("ALTER TABLE tasks DROP CONSTRAINT obstinate")
    worker.settle()
    ended = "SELECT DISTINCT result::text, last_error FROM tasks WHERE status = 'completed'"
    assert database.rows(ended) == [("1", "odd")]
    assert worker.count("tasks_completed_total", type="t", status="success") == 10


def test_outcomes_are_planned_ahead_once_a_connection_and_nothing_is_written(
    database: Database, worker: Worker
) -> None:
    def planned() -> list[object]:
        session = worker.coordination._coordinator._session.connection
        return [] if session is None else [name for name in session.prepared if "finish_for_children" in name]

    eventually(lambda: len(planned()) == 1)
    database.terminate_others()
    eventually(lambda: not worker.coordination.status().is_database_reachable)
    eventually(lambda: len(planned()) == 1)
    assert worker.count("tasks_completed_total", type="t", status="success") == 0


def test_there_is_time_for_outcomes_unless_the_database_is_away_or_a_duty_is_carried_out(
    database: Database, worker: Worker
) -> None:
    coordination = worker.coordination
    eventually(lambda: coordination.has_time)
    duty = next(iter(coordination._coordinator._schedule._entries.values())).duty
    seen: list[bool] = []
    run_once = duty.run_once

    def look(connection: Connection) -> float | None:
        seen.append(coordination.has_time)
        return run_once(connection)

    duty.run_once = look  # type: ignore[method-assign]
    coordination._coordinator._schedule.hasten(duty.name)
    coordination._book.ring()
    eventually(lambda: len(seen) > 0)
    assert not any(seen)
    eventually(lambda: coordination.has_time)
    name = database.value("SELECT current_database()")
    with closing(Database(database.url.replace(name, "postgres")).connection) as other:
        other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        database.terminate_others()
        coordination.post(Finish((outcome("00000000-0000-0000-0000-000000000000", 1),)))
        eventually(lambda: not coordination.has_time)
        other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    eventually(lambda: coordination.has_time, within=15.0)


def test_a_duty_waits_for_orders_but_not_for_long(database: Database, worker: Worker) -> None:
    """There are orders as long as there is one about a row that is locked."""
    ended = outcome(*database.claim(me(worker)))
    book, schedule = worker.coordination._book, worker.coordination._coordinator._schedule
    with closing(psycopg.connect(database.url)) as other:
        other.execute("SELECT FROM tasks WHERE id = %s FOR UPDATE", (ended.task_id,))
        worker.coordination.post(Finish((ended,)))
        eventually(lambda: len(book.held()) == 1)
        entry = schedule._entries["audit"]
        ran_at: list[float] = []
        run_once = entry.duty.run_once

        def note(connection: Connection) -> float | None:
            ran_at.append(time.monotonic())
            return run_once(connection)

        entry.duty.run_once = note  # type: ignore[method-assign]
        entry.due_at = due_at = time.monotonic()
        book.ring()
        eventually(lambda: len(ran_at) > 0)
        assert ran_at[0] >= due_at + PATIENT_SECONDS
        other.rollback()
    worker.settle()
