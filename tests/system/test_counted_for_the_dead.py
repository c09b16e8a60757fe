"""A child that is killed while its outcome is on its way: the outcome counts, once, as what it was."""

import os
import signal
from contextlib import closing

import psycopg2

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.waiting import eventually

APP = """
import os, time
from orchestrator import App

app = App()

@app.task("large", max_retries=0)
def large() -> str:
    while not os.path.exists("go"):
        time.sleep(0.01)
    return "y" * 70_000
"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_a_large_result_that_a_child_wrote_just_before_it_was_killed_is_counted(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    task_id = queue.enqueue("large")
    queue.wait_status(task_id, "running")
    with closing(psycopg2.connect(queue.url)) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM tasks WHERE id = %s FOR UPDATE", (task_id,))
        (worker.log_path.parent / "go").touch()
        eventually(lambda: queue.one(WAITING) == 1, within=20, why="the child's statement waits for the row")
        os.kill(worker.children()[0], signal.SIGKILL)
        eventually(lambda: queue.one(WAITING) == 2, within=20, why="the supervisor's waits behind it")
        other.commit()
    queue.wait_status(task_id, "completed")
    counted = "tasks_completed_total"
    eventually(lambda: worker.metric(counted, type="large", status="success") == 1, within=20, why="it is counted")
    assert worker.metric(counted, type="large", status="failed") == 0
    assert worker.metric("task_duration_seconds_count", type="large") == 1
