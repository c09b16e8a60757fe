"""SIGHUP: new code for the next tasks, the old for those that run; broken code changes nothing."""

import signal
from pathlib import Path

import pytest

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually

NEW = APP.replace('VERSION = "old"', 'VERSION = "new"')


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    return Gates(tmp_path)


def test_new_code_serves_and_a_task_that_runs_ends_on_the_old(
    daemon: Start, queue: Queue, gates: Gates, tmp_path: Path
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    old = queue.enqueue("hold", {"name": "before"})
    gates.wait_running("before")
    old_children = set(worker.children().values())
    (tmp_path / "app.py").write_text(NEW)

    worker.signal(signal.SIGHUP)
    worker.wait_log("app_reloaded")
    gates.open("before")

    assert queue.wait_status(old, "completed")["result"]["version"] == "old"
    eventually(
        lambda: len(worker.children()) == 2 and not old_children & set(worker.children().values()),
        within=10,
        why="all children are new",
    )
    gates.open("after")
    assert queue.wait_status(queue.enqueue("hold", {"name": "after"}), "completed")["result"]["version"] == "new"


def test_broken_code_is_reported_and_the_old_goes_on(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    children = worker.children()
    (tmp_path / "app.py").write_text("raise RuntimeError('half an edit')\n")

    worker.signal(signal.SIGHUP)
    assert "half an edit" in worker.wait_log("app_reload_failed")

    assert worker.children() == children
    assert queue.wait_status(queue.enqueue("quick"), "completed")["attempts"] == 1
    assert worker.health()[0] == 200
    (tmp_path / "app.py").write_text(NEW)
    worker.signal(signal.SIGHUP)
    worker.wait_log("app_reloaded")


def test_pause_holds_claiming_through_a_reload_and_is_loud(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    worker.signal(signal.SIGUSR2)
    worker.wait_log("claiming_paused")
    task = queue.enqueue("quick")
    worker.signal(signal.SIGHUP)
    worker.wait_log("app_reloaded")
    eventually(lambda: worker.metric("worker_paused") == 1.0, within=5)

    assert worker.health()[0] == 200
    assert queue.task(task)["status"] == "pending"
    worker.signal(signal.SIGUSR2)
    worker.wait_log("claiming_resumed")

    queue.wait_status(task, "completed")
    eventually(lambda: worker.metric("worker_paused") == 0.0, within=5)
