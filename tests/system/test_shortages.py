"""A worker to which the machine refuses something at work goes on with what it has, and makes up for it later."""

import os
import resource
import signal
from pathlib import Path

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.proc import is_alive
from tests.fixtures.waiting import eventually


def test_without_a_descriptor_to_spare_it_outlives_its_children_and_ends_later_what_they_left(
    daemon: Start, queue: Queue, gates: Gates, tmp_path: Path
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    spawned = queue.enqueue("spawn")
    child = gates.wait_running("spawn")
    sleeper = int((tmp_path / "sleeper").read_text())
    _, hard = before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{worker.pid}/fd")}
    first_free = next(number for number in range(len(used) + 1) if number not in used)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (first_free, hard))
    os.kill(child, signal.SIGKILL)
    worker.wait_log("leftovers_not_sought")
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)
    eventually(lambda: not is_alive(sleeper), within=10, why="what the child left is ended")
    assert queue.wait_status(spawned, "completed")["attempts"] == 2
    assert worker.stop() == 0
