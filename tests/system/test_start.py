"""The first minutes with the daemon: it starts, says what runs, serves, and goes."""

import re
import signal

from tests.fixtures.daemon import Queue, Start

APP = """
from orchestrator import App
app = App()

@app.task("greet")
def greet(name: str) -> str:
    return f"hello {name}"
"""


def test_a_start_tells_what_runs_a_task_is_done_and_an_idle_worker_leaves_at_once(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url, SHUTDOWN_TIMOUT="2m")
    task = queue.wait_status(queue.enqueue("greet", {"name": "Ann"}), "completed")

    assert task["result"] == "hello Ann"
    assert task["attempts"] == 1
    line = worker.wait_log("starting")
    for told in (
        "version=",
        "host=",
        "database=",
        "pool=3",
        "app=app:app",
        'mode="single instance"',
        "metrics=http://",
    ):
        assert told in line
    assert "variable_not_used variable=SHUTDOWN_TIMOUT perhaps=SHUTDOWN_TIMEOUT" in worker.log()
    assert "greet" in worker.wait_log("app_loaded")
    assert re.search(r"ready in \d+\.\d s", worker.log())
    assert sorted(worker.children()) == [0, 1, 2]

    worker.signal(signal.SIGTERM)
    assert worker.wait_exit(within=10) == 0
    assert queue.one("SELECT count(*) FROM workers") == 0


def test_a_start_without_an_app_or_memory_for_it_warns_of_what_becomes_of_tasks(daemon: Start, queue: Queue) -> None:
    flags = ("--pool-size", "1", "--distributed", "--task-memory-limit", "1MB")
    worker = daemon(None, *flags, DATABASE_URL=queue.url)
    line = worker.wait_log("no_app")
    assert "WARNING" in line and "tasks of other types end failed" in line and "ORCHESTRATOR_APP" in line
    line = worker.wait_log("memory_limit_too_small")
    assert "WARNING" in line and "TASK_MEMORY_LIMIT (1MB): every task would be killed" in line
