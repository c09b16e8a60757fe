"""Handlers that take too long, in the real daemon: asked first, killed then, with all that they started."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from orchestrator.supervisor.reaper import FROZEN_SECONDS
from tests.fixtures.daemon import Queue, Start
from tests.fixtures.fleet import SLACK
from tests.fixtures.waiting import eventually

HANGING = """
import ctypes, os, signal, subprocess, time
from orchestrator import App, RetryPolicy

app = App()
keeping_the_lock = ctypes.PyDLL(None)

def start_subprocesses() -> None:
    mine = subprocess.Popen(["sleep", "600"])
    own_session = subprocess.Popen(["sleep", "600"], start_new_session=True)
    daemonised = subprocess.run(["setsid", "sh", "-c", DAEMON], stdout=subprocess.PIPE, text=True, check=True).stdout
    forked = os.fork()
    if forked == 0:
        os.setsid()
        while True:
            time.sleep(60)
    with open("pids", "a") as pids:
        pids.write(f"{os.getpid()} {mine.pid} {own_session.pid} {daemonised.strip()} {forked}\\n")

DAEMON = "sleep 600 >/dev/null & echo $!"

def block_every_signal() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

@app.task("hang:python", max_retries=0, timeout=2.0)
def hang_in_python() -> None:
    start_subprocesses()
    block_every_signal()
    while True:
        pass

@app.task("hang:c", max_retries=0, timeout=2.0)
def hang_in_c() -> None:
    start_subprocesses()
    block_every_signal()
    keeping_the_lock.sleep(600)

@app.task("hang:stopped", max_retries=0, timeout=2.0)
def hang_stopped() -> None:
    start_subprocesses()
    os.kill(os.getpid(), signal.SIGSTOP)

@app.task("hang:readable", max_retries=1, timeout=0.4, retry=RetryPolicy(base=0.0, cap=0.0))
def hang_where_a_stack_can_be_had() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    while True:
        keeping_the_lock.sleep(600)

@app.task("quick")
def quick() -> None:
    pass
"""


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_never_returns_and_blocks_every_signal_is_killed_with_its_subprocesses(
    queue: Queue, daemon: Start, tmp_path: Path
) -> None:
    worker = daemon(HANGING, "--pool-size", "4", "--task-kill-grace", "300ms", DATABASE_URL=queue.url)
    hanging = [queue.enqueue("hang:python"), queue.enqueue("hang:c"), queue.enqueue("hang:stopped")]
    readable = queue.enqueue("hang:readable")

    def started() -> list[int]:
        pids = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
        assert len(pids) == 15
        return [int(pid) for pid in pids]

    processes = eventually(started, within=20)
    assert all(is_alive(pid) for pid in processes)
    quick = [queue.enqueue("quick") for _ in range(20)]

    for task_id in hanging:
        task = queue.wait_status(task_id, "dead_letter", within=20)
        assert task["attempts"] == 1
        first, second = task["last_error"].splitlines()[:2]
        assert first == "killed by SIGKILL: it ran longer than its time limit and grace, 2.3 s together"
        assert second.startswith("no Python stack: the child did not answer (")
        ran = (task["completed_at"] - task["started_at"]).total_seconds()
        assert 2.3 <= ran < 2.6 + SLACK, "limit, grace, the time that is given to answer, and little more"
    eventually(lambda: not any(is_alive(pid) for pid in processes), within=15, why="all of its processes are gone")

    task = queue.wait_status(readable, "dead_letter", within=20)
    assert task["attempts"] == 2
    stack = re.findall(r'File ".*/(.*)", line \d+ in (.*)', task["last_error"])
    assert stack == [("app.py", "hang_where_a_stack_can_be_had")]
    assert [queue.wait_status(each, "completed")["attempts"] for each in quick] == [1] * 20
    eventually(lambda: worker.metric("worker_child_restarts_total", reason="timeout") == 5, within=15)
    eventually(lambda: len(worker.children()) == 4, within=20, why="every slot is back")


SLOW = """
import asyncio, time
from orchestrator import App, RetryPolicy, TaskTimeout, current_task

app = App()

def wait(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)

@app.task("sync", max_retries=1, timeout=0.3, retry=RetryPolicy(base=0.0, cap=0.0))
def sync() -> str:
    if current_task().attempt == 1:
        wait(60)
    return "the second time it was quick"

@app.task("async", max_retries=0, timeout=0.3)
async def asynchronous() -> None:
    await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))

@app.task("tidy", timeout=0.3)
def tidy() -> str:
    try:
        wait(60)
    except TaskTimeout:
        wait(0.1)
        return "half done"

@app.task("stubborn", max_retries=0, timeout=0.3)
def stubborn() -> None:
    while True:
        try:
            wait(60)
        except BaseException:
            pass

@app.task("stubborn:async", max_retries=0, timeout=0.3)
async def stubborn_async() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@app.task("default", max_retries=0)
def default() -> None:
    wait(60)

@app.task("generous", max_retries=0, timeout=60.0)
def generous() -> float | None:
    limit = current_task().timeout_seconds
    wait(60)

@app.task("quick")
def quick() -> None:
    pass
"""


def test_a_soft_time_limit_is_raised_in_the_handler_and_only_the_stubborn_are_killed(
    queue: Queue, daemon: Start
) -> None:
    worker = daemon(
        SLOW, "--pool-size", "8", "--task-timeout", "400ms", "--task-kill-grace", "1s", DATABASE_URL=queue.url
    )
    before = worker.children()
    began = time.monotonic()
    sync, asynchronous, tidy, default = (queue.enqueue(name) for name in ("sync", "async", "tidy", "default"))
    overruled = queue.enqueue("generous", timeout="200 milliseconds")

    asked = queue.wait_status(sync, "completed", within=15)
    assert asked["attempts"] == 2
    assert asked["result"] == "the second time it was quick"
    assert asked["last_error"].startswith("orchestrator.errors.TaskTimeout: the task's time limit of 0.3 s is up")
    assert "in wait" in asked["last_error"], "it tells where the time was spent"
    for task_id, limit in ((asynchronous, "0.3"), (default, "0.4"), (overruled, "0.2")):
        task = queue.wait_status(task_id, "dead_letter", within=15)
        assert f"the task's time limit of {limit} s is up" in task["last_error"]
        ran = (task["completed_at"] - task["started_at"]).total_seconds()
        assert float(limit) <= ran < float(limit) + SLACK
    assert queue.wait_status(tidy, "completed", within=15)["result"] == "half done"
    assert time.monotonic() - began < 10
    assert worker.children() == before, "all children live"

    stubborn = {queue.enqueue("stubborn"): "in stubborn", queue.enqueue("stubborn:async"): "in run_forever"}
    for task_id, frame in stubborn.items():
        task = queue.wait_status(task_id, "dead_letter", within=15)
        assert task["attempts"] == 1
        assert "it ran longer than its time limit and grace, 1.3 s together" in task["last_error"]
        assert frame in task["last_error"], "the Python stack"
    eventually(lambda: len(worker.children()) == 8, within=20)
    assert len(set(before.items()) - set(worker.children().items())) == 2, "only theirs were replaced"
    assert queue.wait_status(queue.enqueue("quick"), "completed")["attempts"] == 1


def test_a_time_limit_that_ends_just_after_its_task_hits_nobody(queue: Queue, daemon: Start) -> None:
    app = """
    import time
    from orchestrator import App

    app = App()

    @app.task("close", max_retries=0, timeout=0.02)
    def close(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    @app.task("next", max_retries=0)
    def next_one() -> None:
        end = time.monotonic() + 0.005
        while time.monotonic() < end:
            pass
    """
    worker = daemon(app, "--pool-size", "2", "--task-kill-grace", "0", DATABASE_URL=queue.url)
    queue.rows(
        """
        INSERT INTO tasks (type, payload)
        SELECT CASE n % 2 WHEN 0 THEN 'close' ELSE 'next' END,
            CASE n % 2 WHEN 0 THEN jsonb_build_object('seconds', 0.017 + 0.00003 * n) ELSE '{}' END
        FROM generate_series(1, 200) AS n ORDER BY n
        """
    )

    queue.wait_empty()

    innocent = "SELECT DISTINCT status::text, attempts, last_error FROM tasks WHERE type = 'next'"
    assert queue.rows(innocent) == [("completed", 1, None)]
    ends = dict(queue.rows("SELECT status::text, count(*) FROM tasks WHERE type = 'close' GROUP BY 1"))
    assert ends.get("completed", 0) > 0 and ends.get("dead_letter", 0) > 0, ends
    errors = queue.rows("SELECT DISTINCT split_part(last_error, E'\\n', 1) FROM tasks WHERE last_error IS NOT NULL")
    for (error,) in errors:
        assert "time limit" in error
    assert os.path.exists(f"/proc/{worker.pid}")


def test_a_start_hook_that_took_the_timers_signal_takes_no_task_its_time_limit(queue: Queue, daemon: Start) -> None:
    app = """
    import signal, time
    from orchestrator import App

    app = App()

    @app.on_child_start
    def connect() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # it has limited its own time, say

    @app.task("sleep", max_retries=0, timeout=0.1)
    def sleep() -> None:
        time.sleep(60)
    """
    worker = daemon(app, "--pool-size", "1", DATABASE_URL=queue.url)
    before = worker.children()
    task = queue.wait_status(queue.enqueue("sleep"), "dead_letter")
    assert task["last_error"].startswith("orchestrator.errors.TaskTimeout")
    assert worker.children() == before


FROZEN = """
import time
from orchestrator import App, TaskTimeout

app = App()

@app.task("tidy", max_retries=0, timeout=1.0)
def tidy() -> str:
    try:
        open("tidy.runs", "w").close()
        time.sleep(600)
    except TaskTimeout:
        time.sleep(0.5)
    return "tidied up"
"""


@pytest.mark.slow
def test_a_task_whose_time_ran_out_while_all_was_frozen_has_its_grace_afterwards(
    queue: Queue, daemon: Start, tmp_path: Path
) -> None:
    """As a container that is paused, or a machine that swaps."""
    worker = daemon(FROZEN, "--pool-size", "1", "--task-kill-grace", "3s", DATABASE_URL=queue.url)
    task = queue.enqueue("tidy")
    eventually((tmp_path / "tidy.runs").exists, within=20, why="it runs")
    frozen = [worker.pid, *worker.descendants()]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + FROZEN_SECONDS + 1
    eventually(lambda: time.monotonic() > until, within=20)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    assert queue.wait_status(task, "completed", "dead_letter")["result"] == "tidied up"
