"""The database goes away, comes back, cuts connections, is full or locked: nothing is lost or run twice."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.daemon import Queue, Start
from tests.fixtures.database import private_server
from tests.fixtures.waiting import eventually
from tests.fixtures.working import (
    SHORT,
    WORKING,
    all_ran_once,
    enqueue_numbers,
    leader_status,
    notes,
    queue_at,
    wait_counted,
)


@pytest.fixture
def server(private_postgres: PrivatePostgres) -> Iterator[PrivatePostgres]:
    with closing(queue_at(private_postgres.url()).connection):
        yield private_postgres


def test_tasks_that_end_while_the_database_is_gone_keep_their_outcomes(
    server: PrivatePostgres, daemon: Start, tmp_path: Path
) -> None:
    queue = Queue(server.url())
    sizes = {1: 1, 2: 1000, 3: 100 << 10}
    running = {n: queue.enqueue("wait", {"n": n, "until": "go", "size": size}) for n, size in sizes.items()}
    dying = queue.enqueue("die", {"n": 4, "until": "go"})
    worker = daemon(WORKING, "--pool-size", "4", *SHORT, DATABASE_URL=server.url())
    for task_id in (*running.values(), dying):
        queue.wait_status(task_id, "running")
    pids = worker.children()
    waiting = [queue.enqueue("quick", {"n": n}) for n in range(20)]

    server.crash()
    (tmp_path / "go").touch()

    eventually(lambda: sum(notes(tmp_path)[f"ended {n}"] for n in (1, 2, 3, 4)) == 4, within=20)
    eventually(lambda: worker.health()[0] == 503, within=20, why="the page says so")

    def living() -> tuple[int, int]:
        """How many children there are, and how many of them were there before."""
        now = set(worker.children().values())
        return len(now), len(now & set(pids.values()))

    eventually(lambda: living() == (4, 3), within=20, why="the one that died is replaced, the others live")
    server.start()

    queue = Queue(server.url())
    queue.wait_empty(within=20)
    for n, task_id in running.items():
        task = queue.task(task_id)
        assert (task["status"], task["attempts"], task["last_error"]) == ("completed", 1, None)
        assert task["result"] == "y" * sizes[n]
    task = queue.task(dying)
    assert (task["status"], task["attempts"]) == ("dead_letter", 1)
    assert task["last_error"].startswith("the child was killed by SIGKILL")
    assert [queue.task(each)["status"] for each in waiting] == ["completed"] * 20
    assert max(notes(tmp_path).values()) == 1, "nothing ran twice"
    worker.wait_log("database_back")
    eventually(lambda: worker.health()[0] == 200, within=20)
    wait_counted(worker, 3, "tasks_completed_total", type="wait", status="success")
    wait_counted(worker, 1, "tasks_completed_total", type="die", status="failed")
    assert worker.stop() == 0


def test_restarts_of_the_database_in_the_midst_of_work_run_nothing_twice_but_what_a_crash_made_it_forget(
    server: PrivatePostgres, daemon: Start, tmp_path: Path
) -> None:
    queue = Queue(server.url())
    enqueue_numbers(queue, "brief", 1500)
    worker = daemon(WORKING, "--pool-size", "4", *SHORT, DATABASE_URL=server.url())

    for done, end in ((200, server.stop), (500, server.crash)):
        eventually(lambda done=done: notes(tmp_path).total() >= done, within=20)  # type: ignore[misc]
        end()
        server.start()

    queue = Queue(server.url())
    queue.wait_empty(within=30)
    assert queue.rows("SELECT DISTINCT status::text, attempts, last_error FROM tasks") == [("completed", 1, None)]
    ran = notes(tmp_path)
    assert ran.keys() == {f"ran {n}" for n in range(1, 1501)}
    again = ran.total() - 1500
    stale = "tasks_stale_completions_total"
    # each is told of, by its child or by the supervisor; by both if both asked at once
    eventually(lambda: again <= worker.metric(stale, type="brief") <= 2 * again, within=20, why=f"{again} ran again")
    assert worker.stop() == 0


def test_connections_that_are_cut_in_the_midst_of_work_lose_nothing(
    queue: Queue, daemon: Start, tmp_path: Path
) -> None:
    enqueue_numbers(queue, "brief", 1500)
    worker = daemon(WORKING, "--pool-size", "4", *SHORT, DATABASE_URL=queue.url)
    cut = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name LIKE %s AND datname = current_database()
    """

    for goal, whose in enumerate(
        ("orchestratord child%", "orchestratord%", "orchestratord coordinator", "%child 1"), 1
    ):
        eventually(lambda goal=goal: notes(tmp_path).total() >= 200 * goal, within=20)  # type: ignore[misc]
        eventually(lambda whose=whose: queue.one(cut, whose) >= 1, within=20, why="they are back")  # type: ignore[misc]

    queue.wait_empty(within=30)
    all_ran_once(queue, tmp_path, 1500)
    wait_counted(worker, 1500, "tasks_completed_total", type="brief", status="success")
    assert worker.metric("tasks_stale_completions_total", type="brief") == 0
    assert worker.stop() == 0


@pytest.mark.slow
def test_a_server_with_too_few_connections_is_told_with_numbers_and_used_as_it_is(
    daemon: Start, tmp_path: Path
) -> None:
    settings = {"max_connections": "16", "superuser_reserved_connections": "1"}
    with private_server(settings=settings) as server:
        queue = queue_at(server.url())
        queue.rows("CREATE ROLE small LOGIN")
        queue.rows("GRANT ALL ON SCHEMA public TO small")
        queue.rows("GRANT ALL ON ALL TABLES IN SCHEMA public TO small")
        queue.rows("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO small")
        url = server.url().replace("postgres@", "small@", 1)
        others = [psycopg2.connect(server.url()) for _ in range(7)]
        worker = daemon(WORKING, "--pool-size", "10", DATABASE_URL=url)

        line = worker.wait_log("too_few_connections")
        for told in ("needed=12", "pool_size=10", "max_connections=16", "reserved=1", "used_by_others=8"):
            assert told in line
        enqueue_numbers(queue, "brief", 200)
        queue.wait_empty(within=20)
        all_ran_once(queue, tmp_path, 200)
        assert "the server has no free connection" in worker.log()
        connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'orchestratord child%'"
        assert 0 < queue.one(connected) < 10
        assert len(worker.children()) == 10
        assert worker.health()[0] == 200

        for each in others:
            each.close()
        eventually(lambda: queue.one(connected) == 10, within=20, why="those that waited have tried again")
        assert worker.stop() == 0
        queue.connection.close()


def test_a_locked_table_is_waited_for(queue: Queue, daemon: Start, tmp_path: Path) -> None:
    running = queue.enqueue("wait", {"n": 0, "until": "go"})
    worker = daemon(WORKING, "--pool-size", "3", *SHORT, DATABASE_URL=queue.url)
    queue.wait_status(running, "running")
    operator = psycopg2.connect(queue.url)
    blocked = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
          AND query_start < clock_timestamp() - interval '3 seconds'
    """

    with operator, operator.cursor() as cursor:
        cursor.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        locked_at = queue.one("SELECT clock_timestamp()")
        (tmp_path / "go").touch()
        eventually(lambda: queue.one(blocked) > 0, within=20, why="somebody has waited for it for three seconds")
        assert worker.health()[0] == 200, "the database is there"
        renewed = "SELECT renewed_at > %s FROM leadership"
        eventually(lambda: queue.one(renewed, locked_at), within=20, why="the lease is renewed meanwhile")
    operator.close()
    enqueue_numbers(queue, "quick", 50)

    queue.wait_empty(within=20)
    assert queue.rows("SELECT DISTINCT status::text, attempts, last_error FROM tasks") == [("completed", 1, None)]
    assert notes(tmp_path) == Counter(["began 0", "ended 0", *(f"ran {n}" for n in range(1, 51))])
    eventually(lambda: leader_status(worker) == 1, within=15)
