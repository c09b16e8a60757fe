"""The database threads at start: registration, the guard, what is said when it cannot work."""

import socket
import subprocess
import sys
import threading
import time
from typing import Any

import psycopg
import pytest

from orchestrator.coordinator.coordinator import THREAD as COORDINATOR
from orchestrator.coordinator.process import this_process
from orchestrator.coordinator.pulse import THREAD as PULSE
from orchestrator.mailbox import Begin, DeclaredDead, Registered, Serving, StartFailed
from orchestrator.model import Process
from orchestrator.store.connection import Connection
from orchestrator.store.schema import SCHEMA_VERSION
from tests.fixtures.coordination import TYPES, Database, Events, MakeWorker, eventually, workers_of
from tests.fixtures.ports import kept_port

ELSEWHERE = Process(boot_id="b", pid_namespace="pid:[1]", hostname="elsewhere", pid=7, start_ticks=1)


def a_dead_process() -> Process:
    """A process of this machine that has ended."""
    code = "from orchestrator.coordinator.process import this_process as p; q = p(); print(q.pid, q.start_ticks)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return this_process()._replace(pid=int(said[0]), start_ticks=int(said[1]))


def test_a_worker_creates_the_schema_registers_and_serves(empty_database_url: str) -> None:
    with workers_of(empty_database_url) as make:
        worker = make()
        worker_id = worker.serve()
        database = Database(empty_database_url)
        assert database.rows("SELECT id, pool_size, version, is_leader FROM workers") == [(worker_id, 2, "1.2.3", True)]
        assert database.rows("SELECT type, max_retries FROM task_types") == [("t", 1)]
        assert worker_id.startswith(f"{socket.gethostname()}-")
        status = worker.coordination.status()
        assert status.is_leader and status.is_database_reachable and status.workers_total == 1
        assert status.worker_id == worker_id and status.waiting_for is None
        database.connection.close()


def test_a_given_worker_id_is_registered(make_worker: MakeWorker) -> None:
    assert make_worker(worker_id="host-1-abc").register() == "host-1-abc"


def test_a_database_that_cannot_be_reached_fails_the_start_in_words_without_the_password() -> None:
    with kept_port() as port, workers_of(f"postgresql://ann:sesame@127.0.0.1:{port}/shop") as make:
        began = time.monotonic()
        failed = make(database_wait=1.0).start().reports.wait(StartFailed)
        assert failed.exit_code == 4
        assert "127.0.0.1" in failed.message and "refused" in failed.message
        assert "sesame" not in failed.message
        assert 0.9 < time.monotonic() - began < 5.0


def test_a_server_that_says_nothing_is_waited_for_no_longer_than_database_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://ann@127.0.0.1:{silent.getsockname()[1]}/shop"
        with workers_of(url) as make:
            began = time.monotonic()
            assert make(database_wait=1.0).start().reports.wait(StartFailed).exit_code == 4
            assert time.monotonic() - began < 5.0


def test_a_database_that_comes_within_the_wait_is_used(database: Database, make_worker: MakeWorker) -> None:
    name = database.value("SELECT current_database()")
    with psycopg.connect(database.url, dbname="postgres", autocommit=True) as other:
        database.connection.close()
        other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        worker = make_worker().start()
        eventually(lambda: not worker.coordination.status().is_database_reachable)
        assert worker.coordination.status().down_seconds > 0
        other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    worker.reports.wait(Registered)
    assert worker.coordination.status().is_database_reachable


def test_a_newer_schema_is_refused(database: Database, make_worker: MakeWorker) -> None:
    database.run("UPDATE orchestrator_schema SET version = 1000")
    failed = make_worker().start().reports.wait(StartFailed)
    assert failed.exit_code == 6
    assert "1000" in failed.message


VERSION = "SELECT version FROM orchestrator_schema"
OLDER = "UPDATE orchestrator_schema SET version = version - 1"


def test_an_older_schema_is_upgraded_once_the_app_is_there(database: Database, make_worker: MakeWorker) -> None:
    """One that cannot be imported would leave a database on which the older version cannot start either."""
    database.run(OLDER)
    worker = make_worker().start()
    looked = "SELECT FROM pg_stat_activity WHERE application_name = %s AND state = 'idle' AND query LIKE %s"
    eventually(lambda: database.rows(looked, f"orchestratord {PULSE}", f"%{VERSION}"))
    assert database.value(VERSION) == SCHEMA_VERSION - 1
    worker.coordination.app_loaded()
    worker.reports.wait(Registered)
    assert database.value(VERSION) == SCHEMA_VERSION


def test_an_upgrade_has_nobody_wait_behind_it_for_the_end_of_a_long_transaction(
    database: Database, make_worker: MakeWorker, events: Events
) -> None:
    database.run(OLDER)
    with psycopg.connect(database.url) as reader:
        reader.execute("SELECT FROM tasks")
        worker = make_worker()
        worker.coordination.app_loaded()
        worker.start()
        (told,) = eventually(lambda: events.of("upgrade_waits_for_transactions"))
        assert told == {"backend_pids": str(reader.info.backend_pid)}
        assert database.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == 0
        assert database.value(VERSION) == SCHEMA_VERSION - 1
    worker.reports.wait(Registered)
    assert database.value(VERSION) == SCHEMA_VERSION


def test_a_second_single_instance_refuses_and_leaves_the_first_and_its_schema_alone(
    database: Database, make_worker: MakeWorker
) -> None:
    first = make_worker(leader_term=4.0)
    first_id = first.serve()
    task_id, _ = database.claim(first_id)
    database.run(OLDER)
    second = make_worker(process=ELSEWHERE, leader_term=4.0)
    second.coordination.app_loaded()
    failed = second.start().reports.wait(StartFailed)
    assert failed.exit_code == 5
    assert database.value(VERSION) == SCHEMA_VERSION - 1
    assert first_id in failed.message
    assert database.value("SELECT worker_id FROM tasks WHERE id = %s", task_id) == first_id
    assert [row[0] for row in database.rows("SELECT id FROM workers")] == [first_id]
    assert first.coordination.status().is_leader


def test_a_lease_that_nobody_renews_is_waited_for_and_then_taken(database: Database, make_worker: MakeWorker) -> None:
    database.run(
        "UPDATE leadership SET holder = 'gone', term = 5, renewed_at = clock_timestamp(),"
        " expires_at = clock_timestamp() + interval '1 hour'"
    )
    worker = make_worker().start()
    eventually(lambda: worker.coordination.status().waiting_for == "gone")
    database.run("UPDATE leadership SET expires_at = clock_timestamp() + interval '0.3 seconds'")
    worker.reports.wait(Registered)
    status = worker.coordination.status()
    assert status.term == 6
    assert status.waiting_for is None


def hold_lease(database: Database, process: Process) -> None:
    database.run(
        "UPDATE leadership SET holder = 'gone', term = 5, renewed_at = clock_timestamp(),"
        " expires_at = clock_timestamp() + interval '1 hour', holder_process = jsonb_build_object("
        "'boot_id', %s::text, 'pid_namespace', %s::text, 'hostname', %s::text, 'pid', %s::int, 'start_ticks', %s::int)",
        process.boot_id,
        process.pid_namespace,
        process.hostname,
        process.pid,
        process.start_ticks,
    )


def test_the_lease_of_a_process_of_this_machine_that_is_gone_is_taken_at_once(
    database: Database, make_worker: MakeWorker
) -> None:
    hold_lease(database, a_dead_process())
    make_worker().start().reports.wait(Registered)
    assert database.value("SELECT term FROM leadership") == 6


@pytest.mark.parametrize("process", [this_process(), ELSEWHERE], ids=["lives", "elsewhere"])
def test_the_lease_of_a_process_that_lives_or_cannot_be_seen_is_not_taken(
    process: Process, database: Database, make_worker: MakeWorker
) -> None:
    hold_lease(database, process)
    worker = make_worker().start()
    eventually(lambda: worker.coordination.status().waiting_for == "gone")
    database.run("UPDATE leadership SET renewed_at = clock_timestamp(), expires_at = expires_at + interval '1 minute'")
    failed = worker.reports.wait(StartFailed)
    assert failed.exit_code == 5
    assert str(process.pid) in failed.message
    assert process.hostname in failed.message


def test_what_an_earlier_run_left_is_recovered_before_serving(database: Database, make_worker: MakeWorker) -> None:
    database.run("INSERT INTO workers (id, hostname, pool_size, version) VALUES ('old', 'h', 1, '1')")
    claimed, _ = database.claim("old")
    running, _ = database.claim("missing", status="running", attempts=1)
    spent, _ = database.claim("old", status="running", attempts=2)
    for _ in range(450):
        database.claim("old")
    worker = make_worker()
    worker.register()
    worker.coordination.post(Begin(TYPES, "tests"))
    assert worker.reports.wait(Serving).recovered == 453
    found = dict(database.rows("SELECT id::text, status::text || ' ' || attempts || ' ' || recoveries FROM tasks"))
    assert found[claimed] == "pending 0 1"
    assert found[running] == "pending 1 0"
    assert found[spent] == "dead_letter 2 0"
    assert database.value("SELECT count(*) FROM workers WHERE id = 'old'") == 0
    assert worker.count("tasks_recovered_total", type="t") == 453
    assert worker.count("tasks_dead_letter_total", type="t") == 1
    assert worker.count("task_retries_total", type="t", attempt="1") == 1


def test_a_distributed_worker_leaves_the_tasks_of_living_workers_alone(
    database: Database, make_worker: MakeWorker
) -> None:
    database.run("INSERT INTO workers (id, hostname, pool_size, version) VALUES ('other', 'h', 1, '1')")
    database.claim("other")
    database.claim("missing")
    worker = make_worker(distributed=True, worker_timeout=60.0)
    worker.register()
    worker.coordination.post(Begin(TYPES, "tests"))
    assert worker.reports.wait(Serving).recovered == 1
    assert database.rows("SELECT worker_id FROM tasks WHERE status = 'claimed'") == [("other",)]
    assert database.value("SELECT declared_dead_at FROM workers WHERE id = 'other'") is None
    eventually(lambda: worker.coordination.status().workers_total == 2)


def test_of_two_distributed_workers_one_leads_and_the_other_follows_when_it_leaves(
    database: Database, make_worker: MakeWorker
) -> None:
    patient: dict[str, Any] = {"distributed": True, "leader_term": 60.0, "worker_timeout": 60.0}
    workers = [make_worker(process=ELSEWHERE, **patient), make_worker(**patient)]
    for worker in workers:
        worker.serve()
    leaders = [worker for worker in workers if worker.coordination.status().is_leader]
    assert leaders == [workers[0]]
    leaders[0].coordination.stop(within=5.0)
    eventually(lambda: workers[1].coordination.status().is_leader)  # long before the lease would have run out
    assert database.rows("SELECT id FROM workers WHERE is_leader") == [(workers[1].coordination.status().worker_id,)]


def test_a_registration_that_is_refused_is_told_at_the_start_and_later_too(
    database: Database, make_worker: MakeWorker, events: Events
) -> None:
    database.run("ALTER TABLE workers ADD CONSTRAINT closed CHECK (hostname = 'nobody')")
    worker = make_worker().start()
    eventually(lambda: events.of("registration_failed"))
    database.run("ALTER TABLE workers DROP CONSTRAINT closed")
    worker.reports.wait(Registered)

    told = len(events.of("registration_failed"))
    database.run("ALTER TABLE workers ADD CONSTRAINT closed CHECK (hostname = 'nobody') NOT VALID")
    database.run("DELETE FROM workers")
    eventually(lambda: len(events.of("registration_failed")) > told)
    database.run("ALTER TABLE workers DROP CONSTRAINT closed")
    worker.reports.wait(DeclaredDead)


def test_a_server_with_too_few_connections_is_told_at_start_with_the_numbers(
    database: Database, make_worker: MakeWorker, events: Events
) -> None:
    name = database.value("SELECT current_database()")
    make_worker(pool_size=2).register()
    assert events.of("too_few_connections") == []
    database.run(f'ALTER DATABASE "{name}" CONNECTION LIMIT 30')
    make_worker(pool_size=30, distributed=True).register()
    (facts,) = events.of("too_few_connections")
    assert (facts["needed"], facts["pool_size"], facts["database_limit"]) == (32, 30, 30)
    assert facts["max_connections"] == int(database.value("SHOW max_connections"))


def test_stop_ends_the_wait_for_a_database_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, workers_of("unused") as make:
        worker = make(url=f"postgresql://ann@127.0.0.1:{silent.getsockname()[1]}/shop").start()
        eventually(lambda: {"pulse", "coordinator"} <= {thread.name for thread in threading.enumerate()})
        began = time.monotonic()
        worker.coordination.stop(within=3.0)
        assert time.monotonic() - began < 8.0, "it would wait for 10 s"
        eventually(lambda: not {"pulse", "coordinator"} & {thread.name for thread in threading.enumerate()})


def test_who_is_told_to_stop_while_it_connects_registers_no_more(
    database: Database, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker()
    coordination = worker.coordination
    session = coordination._pulse._session
    connect, end = session.open, coordination._end
    connects, may_connect = threading.Event(), threading.Event()

    def open_late(*, within: float) -> Connection:
        connects.set()
        assert may_connect.wait(10.0)
        return connect(within=within)

    def end_late(name: str, by: float) -> None:
        if name == COORDINATOR:
            may_connect.set()
            eventually(lambda: not coordination._threads[PULSE].is_alive() or coordination.status().is_leader)
        end(name, by)

    monkeypatch.setattr(session, "open", open_late)
    monkeypatch.setattr(coordination, "_end", end_late)
    worker.start()
    assert connects.wait(10.0)
    coordination.stop(within=2.0)
    assert database.rows("SELECT id FROM workers") == []
    assert database.value("SELECT holder FROM leadership") is None


def test_stop_takes_the_row_and_the_lease_back_and_ends_both_threads(
    database: Database, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    worker.serve()
    worker.coordination.stop(within=5.0)
    assert database.rows("SELECT id FROM workers") == []
    assert database.value("SELECT expires_at <= clock_timestamp() FROM leadership")
    assert database.rows("SELECT * FROM sleepers") == []
    assert not {"pulse", "coordinator"} & {thread.name for thread in threading.enumerate()}
    make_worker(process=ELSEWHERE).start().reports.wait(Registered)


def test_stop_may_come_before_start_and_twice(make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.coordination.stop(within=1.0)
    worker.register()
    worker.coordination.stop(within=5.0)
    worker.coordination.stop(within=5.0)
