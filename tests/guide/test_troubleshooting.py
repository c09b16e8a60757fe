"""The guide's "Troubleshooting": each trouble is made, seen where the guide says to look, and cured as it says."""

import signal

import psycopg2
import pytest

from orchestrator.store.connection import Connection
from tests.fixtures.daemon import Queue, Start
from tests.fixtures.fleet import ELECTED, SLACK, TIMEOUT, Fleet
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually
from tests.guide.text import code
from tests.store.rows import add_tasks, add_worker, claim

ORPHANED = code("Orphaned tasks (assigned to non-existent workers)")

# Tasks stuck in claimed status

BURST = """
INSERT INTO tasks (type) SELECT CASE n WHEN 40 THEN 'hold' ELSE 'quick' END FROM generate_series(1, 100) AS n
"""
ORPHAN = """
INSERT INTO tasks (type, status, worker_id, slot, claim_token, claimed_at)
VALUES ('quick', 'claimed', 'gone-1-abc123', 0, nextval('claim_tokens'), now()) RETURNING id::text
"""


def test_a_worker_that_crashed_after_claiming_leaves_tasks_claimed_and_a_restart_recovers_them(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    first = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    queue.enqueue("hold", {"name": "before"})
    gates.wait_running("before")
    queue.rows(BURST)
    first.signal(signal.SIGSTOP)  # or it would hand back what waits behind `hold`; its child goes on
    gates.open("before")
    gates.wait_running("hold")
    first.kill()
    stuck = queue.one("SELECT count(*) FROM tasks WHERE status = 'claimed'")
    assert stuck > 0
    gates.open("hold")

    second = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    assert f"recovered={stuck} " in second.wait_log("recover_stale_tasks")
    queue.wait_empty()
    assert queue.rows("SELECT DISTINCT status::text FROM tasks") == [("completed",)]


def test_the_leader_recovers_orphaned_tasks_every_cleanup_interval(fleet: Fleet, queue: Queue) -> None:
    patient = {"HEARTBEAT_INTERVAL": "1h", "WORKER_TIMEOUT": "1d", "LEADER_TERM": "1h", "CLEANUP_INTERVAL": "1s"}
    leader = fleet.add(APP, DATABASE_URL=queue.url, **patient)
    for number in (1, 2):
        queue.rows("BEGIN")
        task_id = queue.one(ORPHAN)
        assert queue.rows(ORPHANED) == [(task_id, "quick", "gone-1-abc123")]
        queue.rows("COMMIT")
        eventually(lambda: queue.rows(ORPHANED) == [], within=1.0 + SLACK)
        assert queue.wait_status(task_id, "completed")["attempts"] == 1
        eventually(lambda number=number: leader.log().count("recover_stale_tasks") == number, within=15)  # type: ignore[misc]
    assert "workers=gone-1-abc123" in leader.wait_log("recover_stale_tasks")


# High task_claim_duration_seconds


def test_a_database_that_is_slow_to_answer_a_claim_shows_in_its_duration(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    worker.signal(signal.SIGUSR2)
    worker.wait_log("paused")
    queue.enqueue("quick")
    operator = psycopg2.connect(queue.url)
    # a child that plans ahead waits for the same lock, no longer than 2 seconds
    waits = """
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
          AND query LIKE '%%orchestrator_claim%%' AND query_start < clock_timestamp() - interval '2500 ms'
    """
    with operator, operator.cursor() as cursor:
        cursor.execute("LOCK TABLE tasks IN SHARE ROW EXCLUSIVE MODE")
        worker.signal(signal.SIGUSR2)
        eventually(lambda: queue.one(waits) == 1, within=20)
    operator.close()
    queue.wait_empty()

    def slow_claims() -> float:
        quick = worker.metric("task_claim_duration_seconds_bucket", le="1.0") or 0
        return (worker.metric("task_claim_duration_seconds_count") or 0) - quick

    eventually(lambda: slow_claims() >= 1, within=20)


def test_without_its_index_a_claim_reads_the_whole_queue_and_with_it_hardly_more_than_it_takes(
    connection: Connection,
) -> None:
    rows = connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'idx_tasks_claimable'", within=5.0)
    assert len(rows) == 1 and " WHERE " in rows[0][0], "it exists and is partial"
    add_worker(connection)
    add_tasks(connection, 20_000)
    connection.execute("VACUUM ANALYZE tasks", within=60.0)
    read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'tasks'"

    def rows_read(before: str) -> int:
        connection.execute(f"BEGIN; {before}", within=5.0)
        claim(connection, 10)
        ((count,),) = connection.execute(read, within=5.0)
        connection.execute("ROLLBACK", within=5.0)
        return int(count)

    assert rows_read("") < 50
    assert rows_read("DROP INDEX idx_tasks_claimable") >= 20_000


@pytest.mark.slow
def test_half_the_worker_pool_size_halves_the_largest_claim(daemon: Start, queue: Queue) -> None:
    largest = "SELECT count(*) FROM tasks WHERE worker_id = %s GROUP BY slot, claimed_at ORDER BY 1 DESC LIMIT 1"
    found = {}
    for size in (4, 2):
        worker = daemon(APP, "--pool-size", str(size), DATABASE_URL=queue.url)
        name = worker.health()[1]["worker_id"]

        def is_reached(name: str = name, limit: int = 10 * size) -> bool:
            queue.rows("INSERT INTO tasks (type) SELECT 'quick' FROM generate_series(1, 1000)")
            queue.wait_empty()
            return bool(queue.one(largest, name) >= limit)

        eventually(is_reached, within=30)
        found[size] = queue.one(largest, name)
        assert worker.stop() == 0
    assert found == {4: 40, 2: 20}


# No leader elected


def test_when_all_workers_have_crashed_nobody_leads_until_one_is_back(fleet: Fleet, queue: Queue) -> None:
    recent = f"SELECT id FROM workers WHERE last_heartbeat > now() - interval '{TIMEOUT} s'"
    for _ in range(2):
        fleet.add(APP, is_awaited=False, DATABASE_URL=queue.url)
    for each in fleet.workers:
        each.wait_ready()
    fleet.leader()
    eventually(lambda: len(queue.rows(recent)) == 2, within=20, why="both have beaten recently")

    for each in fleet.workers:
        each.kill()
    eventually(lambda: queue.rows(recent) == [], within=TIMEOUT + SLACK, why="no entry has a recent last_heartbeat")
    assert queue.one("SELECT count(*) FROM workers") == 2
    eventually(lambda: queue.one("SELECT expires_at < clock_timestamp() FROM leadership"), within=ELECTED + SLACK)

    back = fleet.add(APP, DATABASE_URL=queue.url)
    assert fleet.leader() is back
    name = back.health()[1]["worker_id"]
    eventually(lambda: queue.rows(recent) == [(name,)], within=15)
    eventually(lambda: queue.one("SELECT count(*) FROM workers") == 1, within=TIMEOUT + SLACK)


def test_a_registration_that_the_database_refuses_is_in_the_log(daemon: Start, queue: Queue) -> None:
    queue.rows("ALTER TABLE workers ADD CONSTRAINT closed CHECK (hostname = 'nobody')")
    worker = daemon(APP, "--pool-size", "1", is_awaited=False, DATABASE_URL=queue.url)
    said = worker.wait_log("ERROR +registration_failed")
    assert f"-{worker.pid}-" in said
    assert "closed" in said
    assert worker.health()[0] == 503

    queue.rows("ALTER TABLE workers DROP CONSTRAINT closed")
    worker.wait_ready()


@pytest.mark.slow
def test_a_registration_anew_that_the_database_refuses_is_in_the_log_too(fleet: Fleet, queue: Queue) -> None:
    worker = fleet.add(APP, DATABASE_URL=queue.url)
    queue.rows("BEGIN; ALTER TABLE workers ADD CONSTRAINT closed CHECK (hostname = 'nobody') NOT VALID")
    queue.rows("DELETE FROM workers; COMMIT")
    worker.wait_log("registration_failed")
    queue.rows("ALTER TABLE workers DROP CONSTRAINT closed")
    worker.wait_log("worker_declared_dead")
    queue.wait_status(queue.enqueue("quick"), "completed")
