"""The database threads at work: heartbeats, lease, wake-ups, duties, outages, and what they cost when idle."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.coordinator.duties.audit import Audit
from orchestrator.coordinator.duties.census import Census
from orchestrator.coordinator.standing import Standing
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.mailbox import Activity, Audited, DeclaredDead, LeaseLost, Registered, WorkIsDue
from orchestrator.model import NewTask
from orchestrator.store.connection import Connection
from tests.fixtures.coordination import Database, Events, MakeWorker, Reports, Worker, eventually, workers_of
from tests.fixtures.psql import empty_all_tables


def is_asleep(database: Database, worker_id: str) -> bool:
    return bool(database.value("SELECT is_sleeping FROM sleepers WHERE worker_id = %s", worker_id))


def sleeping(database: Database, make_worker: MakeWorker) -> Worker:
    """One whose poll is far away and whose children sleep, as everybody knows."""
    worker = make_worker(claim_interval=60.0)
    worker_id = worker.serve()
    eventually(lambda: is_asleep(database, worker_id))
    worker.reports.take()
    return worker


def pending(worker: Worker) -> Mapping[str, int] | None:
    counts = worker.coordination.status().counts
    return None if counts is None else counts.pending


def test_the_worker_beats_and_renews(database: Database, make_worker: MakeWorker) -> None:
    worker = make_worker(leader_term=3.0)
    worker_id = worker.serve()

    def beats() -> tuple[object, ...]:
        return database.rows(
            "SELECT last_heartbeat, renewed_at, leader_until FROM workers, leadership WHERE workers.id = %s",
            worker_id,
        )[0]

    first = beats()
    eventually(lambda: all(now > then for now, then in zip(beats(), first, strict=True)))  # type: ignore[operator]
    assert database.value("SELECT term FROM leadership") == 1


def test_a_worker_whose_row_and_lease_somebody_deleted_registers_and_leads_again(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    worker_id = worker.serve()
    term = database.value("SELECT term FROM leadership")
    empty_all_tables(database.url)
    new_id = worker.reports.wait(DeclaredDead).worker_id
    assert new_id != worker_id
    eventually(lambda: database.value("SELECT holder FROM leadership") == new_id)
    assert database.value("SELECT term FROM leadership") > term
    beat = database.value("SELECT last_heartbeat FROM workers WHERE id = %s", new_id)
    eventually(lambda: database.value("SELECT last_heartbeat FROM workers WHERE id = %s", new_id) > beat)


def test_an_insert_wakes_a_sleeping_worker_without_waiting_for_its_poll(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = sleeping(database, make_worker)
    database.enqueue()
    worker.reports.wait(WorkIsDue)  # sooner than by its poll: at least 45 s after the last


def test_an_insert_wakes_the_child_that_was_offered_and_the_loop_need_not(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = sleeping(database, make_worker)
    woken = threading.Event()
    worker.sleeper.offer(lambda: woken.set() is None)
    database.enqueue()
    assert woken.wait(10.0)
    assert worker.reports.wait(WorkIsDue).has_woken
    database.enqueue()
    assert not worker.reports.wait(WorkIsDue).has_woken, "nobody was offered since"


def test_a_burst_of_inserts_is_no_burst_of_reports(database: Database, make_worker: MakeWorker) -> None:
    worker = sleeping(database, make_worker)
    began = time.monotonic()
    for _ in range(300):
        database.enqueue()
    seconds = time.monotonic() - began
    worker.reports.wait(WorkIsDue)
    assert Counter(type(report) for report in worker.reports.take())[WorkIsDue] <= seconds / 0.005 + 2


def test_a_worker_whose_notifications_are_lost_finds_the_task_by_polling(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = make_worker(claim_interval=0.3, cleanup_interval=60.0)
    worker.serve()
    database.run("ALTER TABLE tasks DISABLE TRIGGER USER")
    worker.reports.take()
    database.enqueue()
    worker.reports.wait(WorkIsDue)


def test_what_came_while_the_pool_was_busy_is_seen_when_a_child_falls_asleep(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = make_worker(claim_interval=60.0)
    worker.serve(has_sleepers=False)
    worker.reports.take()
    database.enqueue()
    worker.coordination.post(Activity(has_sleepers=True, is_claiming=True))
    worker.reports.wait(WorkIsDue)


def test_a_task_that_waits_is_promoted_at_its_time_though_the_poll_is_far_away(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = make_worker(claim_interval=60.0)
    database.run("INSERT INTO tasks (type, next_retry_at) VALUES ('t', clock_timestamp() + interval '1 second')")
    worker.serve()  # which may take longer than that second
    worker.reports.wait(WorkIsDue)
    while database.value("SELECT next_retry_at FROM tasks") is not None:
        worker.reports.wait(WorkIsDue)  # the one before came of the start


def test_a_paused_worker_asks_nothing_and_promotes_nothing(database: Database, make_worker: MakeWorker) -> None:
    worker = make_worker(claim_interval=0.05)
    worker.serve()
    worker.coordination.post(Activity(has_sleepers=True, is_claiming=False))
    worker.settle()
    database.run("INSERT INTO tasks (type, next_retry_at) VALUES ('t', now())")
    worker.reports.take()
    eventually(lambda: pending(worker) == {"t": 1})
    assert WorkIsDue not in {type(report) for report in worker.reports.take()}
    assert database.value("SELECT next_retry_at FROM tasks") is not None


def test_a_worker_that_was_declared_dead_goes_on_under_a_new_id(database: Database, make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker_id = worker.serve()
    database.run("UPDATE workers SET declared_dead_at = now() WHERE id = %s", worker_id)
    new_id = worker.reports.wait(DeclaredDead).worker_id
    assert new_id != worker_id
    eventually(lambda: database.value("SELECT holder FROM leadership") == new_id)
    eventually(lambda: worker.coordination.status().is_leader)
    assert worker.coordination.status().worker_id == new_id
    eventually(lambda: is_asleep(database, new_id))
    database.enqueue()
    worker.reports.wait(WorkIsDue)
    eventually(lambda: database.rows("SELECT id FROM workers") == [(new_id,)])


def test_a_worker_whose_row_was_deleted_registers_again_and_its_tasks_are_recovered(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    worker_id = worker.serve()
    task_id, _ = database.claim(worker_id)
    database.run("DELETE FROM workers")
    new_id = worker.reports.wait(DeclaredDead).worker_id
    eventually(lambda: database.value("SELECT status FROM tasks WHERE id = %s", task_id) == "pending")
    assert database.rows("SELECT id FROM workers") == [(new_id,)]


def test_rows_of_missing_workers_are_recovered_while_the_worker_runs(
    database: Database, make_worker: MakeWorker, events: Events
) -> None:
    worker = make_worker()
    worker.serve()
    database.claim("nobody")
    database.claim("nobody", status="running", attempts=2)
    eventually(lambda: worker.count("tasks_recovered_total", type="t") == 2)
    assert sum(int(facts["recovered"]) for facts in events.of("recover_stale_tasks")) == 2
    assert worker.count("tasks_dead_letter_total", type="t") == 1


def test_a_lease_in_anothers_hands_is_reported_once_and_nothing_more_is_done_under_it(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    worker.serve()
    database.run(
        "UPDATE leadership SET holder = 'usurper', term = term + 1, expires_at = clock_timestamp() + interval '1 hour'"
    )
    assert worker.reports.wait(LeaseLost).holder.startswith("usurper")
    assert not worker.coordination.status().is_leader
    database.claim("nobody")
    database.run("DELETE FROM workers")
    time_of_counts = worker.coordination.status().counts
    assert database.value("SELECT status FROM tasks") == "claimed"
    assert worker.coordination.status().counts == time_of_counts
    assert DeclaredDead not in {type(report) for report in worker.reports.seen}


def test_a_worker_beats_also_while_whatever_it_asks_about_the_lease_is_refused(
    database: Database, make_worker: MakeWorker
) -> None:
    """Of a fleet with a role for each worker, one's rights may be missing: it must not be taken for dead."""
    worker_id = make_worker().serve()
    database.run("ALTER TABLE leadership RENAME TO moved")
    beat = "SELECT last_heartbeat FROM workers WHERE id = %s"
    first = database.value(beat, worker_id)
    eventually(lambda: database.value(beat, worker_id) > first + timedelta(seconds=1))
    database.run("ALTER TABLE moved RENAME TO leadership")
    renewed = database.value("SELECT renewed_at FROM leadership")
    eventually(lambda: database.value("SELECT renewed_at FROM leadership") > renewed)


def test_a_lease_that_ran_out_is_taken_again_if_nobody_else_has_it(database: Database, make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.serve()
    database.run("UPDATE leadership SET expires_at = clock_timestamp() - interval '1 second'")
    eventually(lambda: (worker.coordination.status().term or 0) > 1)  # which is None while it does not lead
    assert LeaseLost not in {type(report) for report in worker.reports.seen}


def test_a_worker_that_cannot_renew_leads_no_more_by_its_own_clock_and_again_when_it_can(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    worker.serve()
    with database.connection.transaction():
        database.run("SELECT FROM leadership FOR UPDATE")
        eventually(lambda: not worker.coordination.status().is_leader)
        assert worker.coordination.status().term is None
    eventually(lambda: worker.coordination.status().is_leader)
    assert LeaseLost not in {type(report) for report in worker.reports.seen}


def test_a_database_that_is_crashed_and_started_again_finds_the_worker_as_it_was(
    private_postgres: PrivatePostgres, events: Events
) -> None:
    both = {"pulse", "coordinator"}
    with workers_of(private_postgres.url()) as make:
        worker = make(leader_term=10.0, heartbeat_interval=0.2)
        worker_id = worker.serve()
        private_postgres.stop()
        eventually(lambda: not worker.coordination.status().is_database_reachable)
        eventually(lambda: worker.coordination.status().down_seconds > 0.3)
        eventually(lambda: {facts["connection"] for facts in events.of("database_unreachable")} == both)
        private_postgres.start()
        eventually(lambda: worker.coordination.status().is_database_reachable)
        assert worker.coordination.status().down_seconds == 0
        database = Database(private_postgres.url())
        eventually(lambda: is_asleep(database, worker_id))
        worker.reports.take()
        database.enqueue()
        worker.reports.wait(WorkIsDue)
        assert [row[0] for row in database.rows("SELECT id FROM workers")] == [worker_id]
        eventually(lambda: len(events.of("database_back")) >= 2)
        database.connection.close()


def test_pending_and_running_tasks_are_counted_by_type_in_a_bounded_time(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    worker_id = worker.serve()
    for _ in range(3):
        database.enqueue("a")
    database.run("INSERT INTO tasks (type, next_retry_at) VALUES ('a', now() + interval '1 hour')")
    database.claim(worker_id, status="running", attempts=1)

    def counted() -> bool:
        counts = worker.coordination.status().counts
        return counts is not None and counts.pending == {"a": 4} and counts.running == {"t": 1}

    eventually(counted, within=8.0)


def test_a_distributed_worker_that_does_not_lead_counts_nothing(database: Database, make_worker: MakeWorker) -> None:
    patient: dict[str, Any] = {"distributed": True, "leader_term": 30.0, "worker_timeout": 30.0}
    leader, follower = make_worker(**patient), make_worker(**patient)
    leader.serve()
    follower.serve()
    eventually(lambda: leader.coordination.status().counts is not None)
    eventually(lambda: leader.coordination.status().workers_total == follower.coordination.status().workers_total == 2)
    assert follower.coordination.status().counts is None
    assert not follower.coordination.status().is_leader


def test_what_anybody_enqueues_is_counted_exactly(database: Database, make_worker: MakeWorker) -> None:
    for _ in range(3):
        database.enqueue("before")
    worker = make_worker()
    worker.serve()
    open_transaction = Database(database.url)
    for number in range(20):
        database.enqueue("a")
        if number % 5 == 0:
            database.terminate_others() if number == 10 else None
    eventually(lambda: worker.counts("tasks_enqueued_total").get("a") == 20, within=20.0)
    assert worker.counts("tasks_enqueued_total").get("before", 0) == 3
    worker.coordination.stop(within=5.0)
    open_transaction.connection.close()
    for _ in range(4):
        database.enqueue("a")
    successor = make_worker()
    successor.serve()
    eventually(lambda: successor.counts("tasks_enqueued_total").get("a") == 4, within=20.0)


def test_example_tasks_are_enqueued_once(database: Database, make_worker: MakeWorker) -> None:
    examples = (NewTask("example:task", "{}"), NewTask("example:slow", "{}", idempotency_key="own"))
    workers = [make_worker(distributed=True, examples=examples) for _ in range(2)]
    for worker in workers:
        worker.serve()
    eventually(lambda: database.value("SELECT count(*) FROM tasks") == 2)
    for worker in workers:
        worker.settle()
    assert sorted(database.rows("SELECT type FROM tasks")) == [("example:slow",), ("example:task",)]


def test_owned_claims_are_audited_until_nothing_is_owned(database: Database, make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker_id = worker.serve()
    task_id, _ = database.claim(worker_id)

    def finds_it() -> bool:
        return any(isinstance(each, Audited) and each.claims for each in worker.reports.take())

    worker.coordination.post(Activity(has_sleepers=True, is_claiming=True))
    eventually(finds_it)
    database.run("UPDATE tasks SET status = 'completed' WHERE id = %s", task_id)
    eventually(lambda: worker.reports.wait(Audited).claims == ())


def test_audits_rest_until_no_claim_of_the_time_of_the_last_stir_can_be_under_way(connection: Connection) -> None:
    standing, reports = Standing(), Reports()
    audit = Audit(standing, reports.mailbox, every_seconds=5.0, claim_seconds=0.5)
    assert not audit.is_wanted(), "there is no worker yet"
    standing.registered("w")
    for stirred in (False, True):
        if stirred:
            standing.stirred()
        began = time.monotonic()
        for _ in range(2):
            assert audit.is_wanted()
            audit.run_once(connection)
        assert not audit.is_wanted() or time.monotonic() - began > 0.5, "whoever was sent found nothing, twice"
        eventually(audit.is_wanted, within=5)
        assert time.monotonic() - began > 0.5, "what was still being committed then is found by a last look"
        audit.run_once(connection)
        assert not audit.is_wanted()
    assert {report.claims for report in reports.take() if isinstance(report, Audited)} == {()}


def test_both_threads_survive_what_they_did_not_expect(
    database: Database, make_worker: MakeWorker, events: Events
) -> None:
    worker = make_worker()
    worker.serve()
    database.run("ALTER TABLE tasks RENAME COLUMN next_retry_at TO renamed")
    eventually(lambda: events.of("duty_refused"))
    database.run("ALTER TABLE tasks RENAME COLUMN renamed TO next_retry_at")
    database.run("ALTER TABLE workers RENAME COLUMN last_heartbeat TO renamed")
    eventually(lambda: not worker.coordination.status().is_database_reachable)
    database.run("ALTER TABLE workers RENAME COLUMN renamed TO last_heartbeat")
    eventually(lambda: worker.coordination.status().is_database_reachable)
    database.enqueue()
    worker.reports.wait(WorkIsDue)
    assert Registered in {type(report) for report in worker.reports.seen}


def test_a_remnant_whose_row_is_locked_does_not_keep_the_worker_from_serving_and_is_buried_later(
    database: Database, make_worker: MakeWorker
) -> None:
    database.run("INSERT INTO workers (id, hostname, pool_size, version) VALUES ('old', 'h', 1, '1')")
    database.claim("old")
    worker = make_worker()
    with database.connection.transaction():
        database.run("SELECT FROM workers WHERE id = 'old' FOR UPDATE")
        worker.serve()
        assert worker.count("tasks_recovered_total", type="t") == 0
    eventually(lambda: worker.count("tasks_recovered_total", type="t") == 1)
    eventually(lambda: len(database.rows("SELECT id FROM workers")) == 1)


def test_a_count_that_took_long_is_repeated_so_rarely_that_it_costs_one_percent_of_the_time(
    database: Database,
) -> None:
    connection = Connection.open(database.url, within=5.0, application_name="test")
    census = Census(Standing(), has_begun=lambda: True, every_seconds=20.0)
    eventually(lambda: census.run_once(connection) == 20.0)  # one that was held up takes longer to the next
    database.run("BEGIN; LOCK TABLE tasks")

    def release() -> None:
        """Once the count has waited for 0.3 s."""
        eventually(lambda: database.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        since = time.monotonic()
        eventually(lambda: time.monotonic() - since > 0.3)
        database.run("ROLLBACK")

    unlock = threading.Thread(target=release)
    unlock.start()
    assert (census.run_once(connection) or 0.0) >= 25.0
    unlock.join()
    connection.close()


def test_a_queue_that_grew_at_once_is_counted_to_its_end_by_the_next_count(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is added by the million is about to be run: a count that takes much longer than the last can wait."""
    monkeypatch.setattr("orchestrator.coordinator.duties.census.SHORT", 5)
    connection = Connection.open(database.url, within=5.0, application_name="test")
    standing = Standing()
    census = Census(standing, has_begun=lambda: True, every_seconds=20.0)

    def counted() -> int:
        census.run_once(connection)
        counts = standing.snapshot().counts
        assert counts is not None
        return counts.pending.get("t", 0)

    add = "INSERT INTO tasks (type) SELECT 't' FROM generate_series(1, %s)"
    database.run(add, 20)
    assert counted() == 20, "the first goes to the end"
    database.run(add, 200)
    assert [counted(), counted()] == [20, 220]
    database.run("DELETE FROM tasks")
    assert counted() == 0
    database.run(add, 60)
    assert [counted(), counted(), counted()] == [0, 0, 60]
    connection.close()
