"""The whole daemon under a service manager's socket: what it tells through a life, and while the database is away."""

import signal
from pathlib import Path

import pytest

from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.daemon import Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.notices import Notices
from tests.fixtures.waiting import eventually


def test_a_life_is_told_as_it_goes(daemon: Start, queue: Queue, gates: Gates, notices: Notices, tmp_path: Path) -> None:
    worker = daemon(APP, "--pool-size", "2", "--distributed", DATABASE_URL=queue.url, NOTIFY_SOCKET=notices.address)
    eventually(lambda: notices.told("READY=1"), within=20)
    assert "ready in" in worker.log(), "not before the pool was up"
    task_id = queue.enqueue("hold")
    gates.wait_running("hold")
    eventually(lambda: notices.status == "1/2 running, leader, term 1", within=20)

    (tmp_path / "app.py").write_text("raise RuntimeError('half an edit')\n")
    notices.lines.clear()
    worker.signal(signal.SIGHUP)
    eventually(lambda: notices.told("READY=1"), within=20)
    said = [line for line in notices.lines if not line.startswith("STATUS=")]
    assert said[0] == "RELOADING=1" and said[1].startswith("MONOTONIC_USEC=") and said[2:] == ["READY=1"]
    eventually(lambda: "the app as it is now does not load" in notices.status, within=20)

    worker.signal(signal.SIGTERM)
    eventually(lambda: notices.told("STOPPING=1") and notices.told("EXTEND_TIMEOUT_USEC="), within=20)
    eventually(lambda: notices.status == "draining, 1/2 running", within=20)
    gates.open("hold")
    assert worker.wait_exit() == 0
    assert queue.task(task_id)["status"] == "completed"


@pytest.mark.slow
def test_a_database_that_is_away_is_told_and_neither_starves_the_watchdog_nor_lets_the_start_run_out_of_time(
    daemon: Start, private_postgres: PrivatePostgres, notices: Notices
) -> None:
    private_postgres.stop()
    environment = {"NOTIFY_SOCKET": notices.address, "WATCHDOG_USEC": "1000000", "DATABASE_WAIT": "5m"}
    daemon(APP, "--pool-size", "1", is_awaited=False, DATABASE_URL=private_postgres.url(), **environment)
    waits = "starting, waiting for the database, unreachable for "
    eventually(lambda: notices.told("EXTEND_TIMEOUT_USEC=") and notices.status.startswith(waits), within=60)
    notices.lines.clear()
    eventually(lambda: notices.take() is not None and notices.lines.count("WATCHDOG=1") >= 4, within=10)
    private_postgres.start()
    eventually(lambda: notices.told("READY=1"), within=40)
    private_postgres.stop()
    eventually(lambda: "database unreachable for" in notices.status, within=40)
    notices.lines.clear()
    eventually(lambda: notices.take() is not None and notices.lines.count("WATCHDOG=1") >= 4, within=10)
    private_postgres.start()


def test_a_pool_is_up_when_every_seat_has_had_its_child_even_if_children_leave_after_each_task(
    daemon: Start, queue: Queue, notices: Notices
) -> None:
    slow_to_boot = "\n@app.on_child_start\ndef boot():\n    time.sleep(0.4)\n"
    queue.rows("SELECT enqueue_task('quick', '{}') FROM generate_series(1, 300)")
    daemon(
        APP + slow_to_boot,
        "--pool-size",
        "3",
        is_awaited=False,
        DATABASE_URL=queue.url,
        MAX_TASKS_PER_CHILD="1",
        NOTIFY_SOCKET=notices.address,
    )
    eventually(lambda: notices.told("READY=1"), within=60)
