"""The forkserver can be killed at any time: another is there within a second, and no task notices."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.fleet import SLACK
from tests.fixtures.gates import APP, Gates
from tests.fixtures.proc import cpu_seconds
from tests.fixtures.waiting import eventually


def test_a_new_one_is_there_within_a_second_and_running_tasks_are_untouched(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    held = queue.enqueue("hold")
    child = gates.wait_running("hold")
    before = worker.children()
    idle = next(pid for pid in before.values() if pid != child)

    killed, killed_at = worker.forkserver(), time.monotonic()
    os.kill(killed, signal.SIGKILL)
    worker.wait_log("forkserver_died")
    assert worker.forkserver() != killed
    assert time.monotonic() - killed_at < 1 + SLACK
    assert worker.children() == before
    assert queue.wait_status(queue.enqueue("quick"), "completed")["result"] == idle
    assert worker.health()[0] == 200

    os.kill(idle, signal.SIGKILL)
    eventually(lambda: len(set(worker.children().values()) - {child, idle}) == 1, within=20, why="the new one forks")
    gates.open("hold")
    done = queue.wait_status(held, "completed")
    assert done["attempts"] == 1
    assert done["result"]["pid"] == child


def test_killed_together_with_the_children_it_would_replace_the_pool_is_back(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    worker = daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url)
    crashed = queue.enqueue("hold", max_retries=1)
    gates.wait_running("hold")
    before = worker.children()
    for pid in (worker.forkserver(), *before.values()):
        os.kill(pid, signal.SIGKILL)

    eventually(
        lambda: len(worker.children()) == 3 and not set(before.values()) & set(worker.children().values()), within=10
    )
    gates.open("hold")
    done = queue.wait_status(crashed, "completed")
    assert done["attempts"] == 2
    assert "killed by SIGKILL" in done["last_error"]
    assert worker.stop() == 0


@pytest.mark.slow
def test_one_that_cannot_import_the_app_any_more_leaves_the_children_at_work_and_is_tried_again(
    daemon: Start, queue: Queue, tmp_path: Path
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    children = worker.children()
    (tmp_path / "app.py").write_text("raise RuntimeError('half a deployment')\n")
    os.kill(worker.forkserver(), signal.SIGKILL)
    assert "half a deployment" in worker.wait_log("app_not_loaded")

    assert worker.children() == children
    assert queue.wait_status(queue.enqueue("quick"), "completed")["result"] in children.values()
    (tmp_path / "app.py").write_text(APP)
    os.kill(children[0], signal.SIGKILL)
    eventually(lambda: sorted(worker.children()) == [0, 1] and worker.children() != children, within=15)
    assert queue.wait_status(queue.enqueue("quick"), "completed")["attempts"] == 1


def test_a_pool_whose_children_cannot_be_replaced_since_the_app_does_not_load_any_more_is_not_healthy(
    daemon: Start, queue: Queue, tmp_path: Path
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    (tmp_path / "app.py").write_text("raise RuntimeError('half a deployment')\n")
    os.kill(worker.forkserver(), signal.SIGKILL)
    worker.wait_log("app_not_loaded")
    assert worker.health()[0] == 200  # all children are there
    os.kill(worker.children()[0], signal.SIGKILL)

    code, facts = eventually(lambda: found if (found := worker.health())[0] != 200 else None, within=20)
    assert code == 503
    assert facts["reason"] == "1 of 2 children are missing, and the app cannot be loaded to replace them"
    assert worker.metric("worker_slots", state="backing_off") == 1
    (tmp_path / "app.py").write_text(APP)
    worker.signal(signal.SIGHUP)
    eventually(lambda: worker.health()[0] == 200 and len(worker.children()) == 2, within=20, why="it is well again")


@pytest.mark.slow
def test_while_the_app_cannot_be_imported_a_missing_child_keeps_no_processor_busy(
    daemon: Start, queue: Queue, tmp_path: Path
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    missing = worker.children()[0]
    (tmp_path / "app.py").write_text("import time\ntime.sleep(600)\n")
    os.kill(worker.forkserver(), signal.SIGKILL)
    worker.wait_log("forkserver_died")
    os.kill(missing, signal.SIGKILL)
    worker.wait_log("child_died")

    used, until = cpu_seconds(worker.pid), time.monotonic() + 2
    eventually(lambda: time.monotonic() > until, within=15)
    assert cpu_seconds(worker.pid) - used < 0.12


@pytest.mark.slow
def test_an_app_that_closes_every_descriptor_and_goes_on_importing_is_ended_and_told(
    daemon: Start, queue: Queue, tmp_path: Path
) -> None:
    app = "import os, time\nos.closerange(3, 1000)\nopen('deaf', 'w')\ntime.sleep(600)"
    worker = daemon(app, "--pool-size", "2", is_awaited=False, DATABASE_URL=queue.url)
    eventually((tmp_path / "deaf").exists, within=60, why="its end is closed")
    worker.wait_log("forkserver_died.*SIGKILL")
    assert worker.wait_exit() == 3
    assert "the process that imported it ended" in worker.wait_log("start_failed")


@pytest.mark.slow
def test_while_new_code_is_tried_nobody_waits_for_the_forkserver_that_was_killed_meanwhile(
    daemon: Start, queue: Queue, tmp_path: Path
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    old = worker.forkserver()
    (tmp_path / "app.py").write_text("import time\nopen('importing', 'w')\ntime.sleep(600)\n")
    worker.signal(signal.SIGHUP)
    eventually((tmp_path / "importing").exists, within=20, why="the import has begun")
    os.kill(old, signal.SIGKILL)
    worker.wait_log("forkserver_died")

    until = time.monotonic() + 0.3
    eventually(lambda: time.monotonic() > until, within=15, why="the backoff is over")
    used, until = cpu_seconds(worker.pid), time.monotonic() + 2
    eventually(lambda: time.monotonic() > until, within=15)
    assert cpu_seconds(worker.pid) - used < 0.08
