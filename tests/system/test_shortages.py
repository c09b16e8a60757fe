"""A worker to which the machine refuses something at work goes on with what it has, and makes up for it later."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.proc import is_alive
from tests.fixtures.waiting import eventually

TRACER = """
import ctypes, sys, time
PTRACE_SEIZE = 0x4206
assert ctypes.CDLL(None).ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None) == 0
print("traced", flush=True)
time.sleep(600)
"""


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """A debugger that does not look: until it has gone, the kernel tells nobody else of the end of this process."""
    with subprocess.Popen([sys.executable, "-c", TRACER, str(pid)], stdout=subprocess.PIPE) as tracer:
        try:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == b"traced\n"
            yield
        finally:
            tracer.kill()


def test_without_a_descriptor_to_spare_it_outlives_its_children_and_ends_later_what_they_left(
    daemon: Start, queue: Queue, gates: Gates, tmp_path: Path
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    spawned = queue.enqueue("spawn")
    child = gates.wait_running("spawn")
    sleeper = int((tmp_path / "sleeper").read_text())
    _, hard = before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    looks = [set(map(int, os.listdir(f"/proc/{worker.pid}/fd"))) for _ in range(20)]
    used = set.intersection(*looks)  # without what it has open for a moment
    first_free = next(number for number in range(len(used) + 1) if number not in used)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (first_free, hard))
    os.kill(child, signal.SIGKILL)
    worker.wait_log("leftovers_not_sought")
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)
    eventually(lambda: not is_alive(sleeper), within=20, why="what the child left is ended")
    assert queue.wait_status(spawned, "completed")["attempts"] == 2
    assert worker.stop() == 0


@pytest.mark.slow
def test_a_child_that_even_a_kill_does_not_end_holds_up_no_drain_and_its_task_runs_again(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    worker = daemon(APP, "--pool-size", "2", "--shutdown-timeout", "0s", DATABASE_URL=queue.url)
    held = queue.enqueue("hold")
    child = gates.wait_running("hold")
    with traced(child):
        assert worker.stop() == 1
        worker.wait_log(f"child_outlives_kill.*pid={child}")
        worker.wait_log("drain_ended requeued=1")
        task = queue.task(held)
        assert (task["status"], task["attempts"]) == ("pending", 0)
