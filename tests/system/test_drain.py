"""The end of a worker: drained, hurried, or at once; nothing is lost, nothing stays, whatever the children do."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually

UNTOUCHED = "SELECT count(*) FROM tasks WHERE status <> 'pending' OR attempts <> 0 OR worker_id IS NOT NULL"


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    return Gates(tmp_path)


def test_term_lets_running_tasks_finish_and_hands_back_the_rest(daemon: Start, queue: Queue, gates: Gates) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    held = queue.enqueue("hold")
    gates.wait_running("hold")
    waiting = queue.enqueue("quick")

    worker.signal(signal.SIGTERM)
    worker.wait_log("drain_started")
    eventually(lambda: worker.health()[0] == 503, within=5)
    gates.open("hold")

    assert worker.wait_exit(within=10) == 0
    assert queue.task(held)["status"] == "completed"
    assert queue.task(waiting)["status"] == "pending"
    assert queue.task(waiting)["attempts"] == 0
    assert queue.one("SELECT count(*) FROM workers") == 0


def test_a_drain_that_runs_out_of_time_requeues_what_runs_free_of_charge(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    worker = daemon(APP, "--pool-size", "3", "--shutdown-timeout", "1s", DATABASE_URL=queue.url)
    tasks = [queue.enqueue("hold"), queue.enqueue("hang"), queue.enqueue("spawn")]
    for name in ("hold", "hang", "spawn"):
        gates.wait_running(name)
    eventually(lambda: all(queue.task(task)["status"] == "running" for task in tasks), within=5)

    began = time.monotonic()
    worker.signal(signal.SIGTERM)

    assert worker.wait_exit(within=1 + 5) == 1
    assert time.monotonic() - began > 1
    assert queue.one(UNTOUCHED) == 0
    assert not Path(f"/proc/{gates.sleeper()}/stat").exists() or _is_zombie(gates.sleeper())


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)]
)
def test_a_second_signal_or_quit_does_not_wait(
    daemon: Start, queue: Queue, gates: Gates, signals: tuple[signal.Signals, ...]
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    queue.enqueue("hang")
    gates.wait_running("hang")

    worker.signal(signals[0])
    if len(signals) > 1:
        worker.wait_log("drain_started")
        worker.signal(signals[1])

    assert worker.wait_exit(within=5) == 1
    assert queue.one(UNTOUCHED) == 0


def test_term_at_any_moment_of_the_start_ends_it_and_claims_nothing(daemon: Start, queue: Queue) -> None:
    for index in range(20):
        queue.enqueue("quick", idempotency_key=str(index))
    for moment in ("", "starting", "lease_acquired", "app_loaded", "worker_registered"):
        worker = daemon(APP, "--pool-size", "4", is_awaited=False, DATABASE_URL=queue.url)
        if moment:
            worker.wait_log(moment)
        worker.signal(signal.SIGTERM)
        # before anything of ours runs, the signal has its default effect
        assert worker.wait_exit(within=10) in ((0, -signal.SIGTERM) if not moment else (0,))

    assert queue.one("SELECT count(*) FROM tasks WHERE status IN ('claimed', 'running')") == 0
    assert queue.one("SELECT count(*) FROM tasks WHERE attempts > 1") == 0
    assert queue.one("SELECT count(*) FROM workers") == 0


def test_signals_to_children_and_to_all_do_no_harm(daemon: Start, queue: Queue, gates: Gates) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    held = queue.enqueue("hold")
    child = gates.wait_running("hold")
    before = worker.children()
    for pid in (*before.values(), worker.forkserver()):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN):
            os.kill(pid, number)
    gates.open("hold")

    assert queue.wait_status(held, "completed")["result"]["pid"] == child
    assert queue.wait_status(queue.enqueue("quick"), "completed")["attempts"] == 1
    assert worker.children() == before


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
