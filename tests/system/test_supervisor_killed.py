"""kill -9 of the supervisor: nothing of it survives, and the next start takes over at once and finishes all."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    return Gates(tmp_path)


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_its_children_are_gone_and_the_next_start_recovers_and_finishes_all(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    first = daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url)
    name = first.health()[1]["worker_id"]
    held, spawned = queue.enqueue("hold"), queue.enqueue("spawn", max_retries=0)
    gates.wait_running("hold")
    gates.wait_running("spawn")
    eventually(lambda: {queue.task(task)["status"] for task in (held, spawned)} == {"running"}, within=5)
    pids = [*first.children().values(), first.forkserver()]

    first.kill()
    eventually(lambda: all(_has_ended(pid) for pid in pids), within=2, why="its children are gone")
    gates.open("hold")
    began = time.monotonic()
    second = daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url)

    assert time.monotonic() - began < 5, "it does not wait for the lease of a dead process"
    assert second.wait_log("recover_stale_tasks")
    done = queue.wait_status(held, "completed")
    assert done["attempts"] == 2
    lost = queue.task(spawned)
    assert lost["status"] == "dead_letter"
    assert lost["attempts"] == 1
    assert name in lost["last_error"]
    eventually(lambda: _has_ended(gates.sleeper()), within=5, why="what its task left is killed too")
    assert queue.rows("SELECT id FROM workers") == [(second.health()[1]["worker_id"],)]


def test_what_was_only_claimed_pays_nothing(daemon: Start, queue: Queue) -> None:
    first = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    name = first.health()[1]["worker_id"]
    first.signal(signal.SIGSTOP)
    task = queue.enqueue("quick")
    queue.rows(  # what a child does that dies before it starts the task
        "UPDATE tasks SET status = 'claimed', worker_id = %s, slot = 0, claim_token = nextval('claim_tokens') "
        "WHERE id = %s AND status = 'pending' RETURNING id",
        name,
        task,
    )
    os.kill(first.pid, signal.SIGKILL)
    first.process.wait(5)

    daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)

    done = queue.wait_status(task, "completed")
    assert done["attempts"] == 1
    assert done["recoveries"] == 1
