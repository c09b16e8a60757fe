"""SIGHUP: new code for the next tasks, the old for those that run; broken code changes nothing."""

import signal
from pathlib import Path

import pytest

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually

# longer too: Python takes a source of the same size and second for the one that it has compiled
NEW = APP.replace('VERSION = "old"', 'VERSION = "new"\n')


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
        within=20,
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


@pytest.mark.slow
def test_pause_holds_claiming_through_a_reload_and_is_loud(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    worker.signal(signal.SIGUSR2)
    worker.wait_log("claiming_paused")
    task = queue.enqueue("quick")
    worker.signal(signal.SIGHUP)
    worker.wait_log("app_reloaded")
    eventually(lambda: worker.metric("worker_paused") == 1.0, within=15)

    assert worker.health()[0] == 200
    assert queue.task(task)["status"] == "pending"
    worker.signal(signal.SIGUSR2)
    worker.wait_log("claiming_resumed")

    queue.wait_status(task, "completed")
    eventually(lambda: worker.metric("worker_paused") == 0.0, within=15)


def test_reloads_in_the_midst_of_work_cost_no_task_an_attempt(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url)
    queue.rows("INSERT INTO tasks (type) SELECT 'quick' FROM generate_series(1, 3000)")
    first = set(worker.children().values())
    for reloads in (1, 2, 3):
        worker.signal(signal.SIGHUP)
        eventually(lambda reloads=reloads: worker.log().count("app_reloaded") == reloads, within=20)  # type: ignore[misc]
    queue.wait_empty()
    eventually(lambda: len(worker.children()) == 3 and not first & set(worker.children().values()), within=20)

    assert queue.rows("SELECT status::text, attempts, count(*) FROM tasks GROUP BY 1, 2") == [("completed", 1, 3000)]
    assert worker.stop() == 0


@pytest.mark.slow
def test_new_code_whose_children_cannot_start_does_not_cost_the_pool_its_old_ones(
    daemon: Start, queue: Queue, tmp_path: Path
) -> None:
    worker = daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url)
    old = set(worker.children().values())
    hook = '@app.on_child_start\ndef boot():\n    raise RuntimeError("no pool")\n'
    (tmp_path / "app.py").write_text(NEW + hook)
    worker.signal(signal.SIGHUP)
    worker.wait_log('start_hook_failed hook=boot error="RuntimeError: no pool')
    worker.wait_log('cause="a function marked @app.on_child_start raised; start_hook_failed tells what"')
    assert "Traceback" not in worker.log()
    eventually(lambda: worker.metric("worker_child_restarts_total", reason="boot") >= 1, within=15)

    for _ in range(5):
        assert queue.wait_status(queue.enqueue("quick"), "completed")["result"] in old
    assert len(old & set(worker.children().values())) == 2
    assert worker.health()[0] == 200

    (tmp_path / "app.py").write_text(NEW)
    worker.signal(signal.SIGHUP)
    eventually(lambda: len(worker.children()) == 3 and not old & set(worker.children().values()), within=15)
    assert queue.wait_status(queue.enqueue("quick"), "completed")["result"] not in old
