"""The README's table of signals, by what each does to the real daemon in each of its states."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from tests.fixtures.command import ENTRY, clean_environment
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.proc import children, is_alive, state
from tests.fixtures.waiting import eventually

TERM, INT, QUIT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP
TTIN, TTOU, USR1, USR2 = signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2

GATED_IMPORT = (
    """
import os, time
with open("imports", "a") as imports:
    imports.write("one\\n")
while not os.path.exists("import.open"):
    time.sleep(0.01)
"""
    + APP
)
"""Its import waits for the test, each time; how often it began stands in `imports`."""


def imports(folder: Path) -> int:
    path = folder / "imports"
    return len(path.read_text().splitlines()) if path.exists() else 0


class Stage:
    """Brings a daemon into a state, by name."""

    def __init__(self, daemon: Start, queue: Queue, gates: Gates, folder: Path) -> None:
        self.queue, self.gates, self.folder = queue, gates, folder
        self._daemon = daemon

    def starting(self) -> Daemon:
        worker = self._start(is_awaited=False)
        eventually(lambda: imports(self.folder) == 1, within=60, why="the import has begun")
        return worker

    def running(self) -> Daemon:
        self.gates.open("import")
        return self._start(is_awaited=True)

    def reloading(self) -> Daemon:
        worker = self.running()
        (self.folder / "import.open").unlink()
        worker.signal(HUP)
        eventually(lambda: imports(self.folder) == 2, within=60, why="the second import has begun")
        return worker

    def paused(self) -> Daemon:
        worker = self.running()
        worker.signal(USR2)
        worker.wait_log("claiming_paused")
        return worker

    def draining(self) -> Daemon:
        worker = self.running()
        self.queue.enqueue("hold")
        self.gates.wait_running("hold")
        worker.signal(TERM)
        worker.wait_log("drain_started")
        return worker

    def _start(self, *, is_awaited: bool) -> Daemon:
        return self._daemon(GATED_IMPORT, "--pool-size", "2", is_awaited=is_awaited, DATABASE_URL=self.queue.url)


STATES = ("starting", "running", "reloading", "paused", "draining")


@pytest.fixture
def stage(daemon: Start, queue: Queue, gates: Gates, tmp_path: Path) -> Stage:
    return Stage(daemon, queue, gates, tmp_path)


def tell(worker: Daemon, *numbers: signal.Signals) -> None:
    """Send them one by one, each when the last was heard: the kernel makes one of two that wait."""
    for number in numbers:
        word = f"signal_received signal={number.name} "
        heard = worker.log().count(word)
        worker.signal(number)
        eventually(lambda word=word, heard=heard: worker.log().count(word) > heard, within=15)  # type: ignore[misc]


def capacity(worker: Daemon) -> float | None:
    return worker.metric("worker_pool_capacity")


QUICK_ONES = {*((name, TERM) for name in STATES), ("running", INT), ("reloading", QUIT), ("draining", QUIT)}
"""In the other states QUIT and INT do what the table says, of which each entry has a unit test."""


@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param(
            name,
            number,
            marks=() if (name, number) in QUICK_ONES else pytest.mark.slow,
            id=f"{name}-{number.name.removeprefix('SIG')}",
        )
        for name in STATES
        for number in (TERM, INT, QUIT)
    ],
)
def test_term_int_and_quit_end_it_from_every_state_and_leave_nothing_claimed(
    stage: Stage, queue: Queue, name: str, number: signal.Signals
) -> None:
    worker: Daemon = getattr(stage, name)()
    worker.signal(number)

    assert worker.wait_exit(within=10) == (1 if name == "draining" else 0)
    assert queue.one("SELECT count(*) FROM tasks WHERE status <> 'pending' OR attempts <> 0") == 0
    assert queue.one("SELECT count(*) FROM workers") == 0
    assert "Traceback" not in worker.log()


def test_while_starting_hup_ttin_ttou_and_usr2_are_remembered_and_usr1_answers(stage: Stage, queue: Queue) -> None:
    worker = stage.starting()
    tell(worker, HUP, HUP, TTIN, TTIN, TTOU, USR2, USR1)
    worker.wait_log("slot_state slot=0 phase=vacant")
    assert imports(stage.folder) == 1
    stage.gates.open("import")
    worker.wait_ready()

    worker.wait_log("app_reloaded")
    assert imports(stage.folder) == 2, "two reloads that were asked for meanwhile are one"
    assert capacity(worker) == 3
    assert worker.metric("worker_paused") == 1
    task_id = queue.enqueue("quick")
    worker.signal(USR2)
    queue.wait_status(task_id, "completed")


def test_while_running_ttin_and_ttou_change_the_pool_by_one_and_a_busy_child_leaves_when_it_is_done(
    stage: Stage, queue: Queue, gates: Gates
) -> None:
    worker = stage.running()
    worker.signal(TTIN)
    eventually(lambda: sorted(worker.children()) == [0, 1, 2], within=15)
    eventually(lambda: capacity(worker) == 3, within=15)
    for name in "abc":
        queue.enqueue("hold", {"name": name})
    pids = {gates.wait_running(name): name for name in "abc"}
    leaving = worker.children()[2]

    tell(worker, TTOU, TTOU)
    eventually(lambda: capacity(worker) == 1, within=15)
    assert sorted(worker.children()) == [0, 1, 2], "they finish what they run"
    gates.open(pids[leaving])
    eventually(lambda: sorted(worker.children()) == [0, 1], within=20)
    for name in "abc":
        gates.open(name)
    queue.wait_empty()
    eventually(lambda: sorted(worker.children()) == [0], within=20)
    tell(worker, TTOU)
    assert queue.wait_status(queue.enqueue("quick"), "completed")["attempts"] == 1
    assert capacity(worker) == 1, "the last child stays"
    assert queue.one("SELECT sum(attempts) FROM tasks") == 4


def test_usr1_logs_every_slots_state_and_stack_even_of_a_child_that_is_hung_in_c(
    stage: Stage, queue: Queue, gates: Gates
) -> None:
    worker = stage.running()
    hung, held = queue.enqueue("hang"), queue.enqueue("hold")
    pids = {"hang": gates.wait_running("hang"), "hold": gates.wait_running("hold")}
    worker.signal(USR1)

    for name, task_id in (("hang", hung), ("hold", held)):
        line = worker.wait_log(f"slot_state .*task_id={task_id}")
        for told in (f"pid={pids[name]}", "phase=live", "state=busy", f"type={name}", "running_seconds="):
            assert told in line
    assert "in hold" in worker.log(), "the stack of Python code"
    assert re.search(r"in hang|did not answer", worker.wait_log(f"task_id={hung}.*stack")), worker.log()
    assert worker.health()[0] == 200
    gates.open("hold")
    queue.wait_status(held, "completed")


def test_while_paused_nothing_is_claimed_what_runs_goes_on_and_usr2_resumes(
    stage: Stage, queue: Queue, gates: Gates
) -> None:
    worker = stage.running()
    held = queue.enqueue("hold")
    gates.wait_running("hold")
    worker.signal(USR2)
    worker.wait_log("WARNING claiming_paused")
    waiting = queue.enqueue("quick")
    gates.open("hold")
    queue.wait_status(held, "completed")

    code, health = eventually(lambda: found if "state" in (found := worker.health())[1] else None, within=15)
    assert (code, health["status"], health["state"]) == (200, "healthy", "paused")
    code, ready = worker.get("/readyz")
    assert code == 503
    assert "claiming is paused: SIGUSR2 resumes it" in ready
    assert worker.metric("worker_paused") == 1
    assert worker.metric("worker_state", state="paused") == 1
    tell(worker, TTIN, USR1)
    eventually(lambda: sorted(worker.children()) == [0, 1, 2], within=15, why="the pool grows in a pause too")
    worker.wait_log("slot_state")
    assert queue.task(waiting)["status"] == "pending"

    worker.signal(USR2)
    assert queue.wait_status(waiting, "completed")["attempts"] == 1
    eventually(lambda: worker.metric("worker_paused") == 0, within=15)
    assert worker.get("/readyz")[0] == 200


def test_while_reloading_hup_is_remembered_once_and_the_old_children_work_grow_and_pause(
    stage: Stage, queue: Queue, tmp_path: Path
) -> None:
    worker = stage.reloading()
    tell(worker, HUP, HUP, TTIN, USR1)
    worker.wait_log("slot_state slot=0")
    eventually(lambda: sorted(worker.children()) == [0, 1, 2], within=15)
    assert worker.metric("worker_state", state="reloading") == 1
    assert worker.health()[0] == 200
    queue.wait_status(queue.enqueue("quick"), "completed")
    worker.signal(USR2)
    worker.wait_log("claiming_paused")
    stage.gates.open("import")

    eventually(lambda: worker.metric("app_reloads_total", result="success") == 2, within=20)
    assert imports(tmp_path) == 3
    assert worker.metric("worker_paused") == 1
    worker.signal(USR2)
    queue.wait_status(queue.enqueue("quick"), "completed")


def test_while_draining_only_usr1_and_what_ends_it_have_an_effect(stage: Stage, queue: Queue, gates: Gates) -> None:
    worker = stage.draining()
    for number in (HUP, TTIN, TTOU, USR2, USR1):
        worker.signal(number)
    worker.wait_log("slot_state .*type=hold")
    eventually(lambda: len(worker.children()) == 1, within=15, why="the idle one has left")
    assert capacity(worker) == 2
    assert worker.metric("worker_paused") == 0
    assert imports(stage.folder) == 1
    code, health = worker.health()
    assert code == 503
    assert health["reason"] == "draining: 1 tasks still run"
    gates.open("hold")

    assert worker.wait_exit(within=10) == 0
    assert queue.rows("SELECT status::text, attempts FROM tasks") == [("completed", 1)]


def test_what_reaches_its_children_and_its_whole_group_harms_no_task(stage: Stage, queue: Queue, gates: Gates) -> None:
    worker = stage.running()
    held = queue.enqueue("hold")
    child = gates.wait_running("hold")
    idle = next(pid for pid in worker.children().values() if pid != child)
    before = {*worker.children().values(), worker.forkserver()}
    for pid in before:
        assert os.getsid(pid) == os.getpgid(pid) == pid, "each leads a session of its own"
        for number in (TERM, INT, QUIT, HUP, TTIN, TTOU, USR1, USR2):
            os.kill(pid, number)
    assert queue.wait_status(queue.enqueue("quick"), "completed")["result"] == idle
    assert {*worker.children().values(), worker.forkserver()} == before

    for pid in (*before, worker.pid):  # as a terminal or a service manager does
        os.kill(pid, INT)
    worker.wait_log("drain_started")
    assert is_alive(child)
    gates.open("hold")
    assert worker.wait_exit(within=10) == 0
    assert queue.task(held)["result"]["pid"] == child


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
def test_it_works_as_pid_1_and_reaps_what_its_tasks_leave(queue: Queue, gates: Gates, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(dedent(APP + DOUBLE_FORK))
    with (tmp_path / "log").open("w") as log:
        unshare = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *ENTRY, "start", "--app", "app:app",
             "--pool-size", "2"],
            env=clean_environment(DATABASE_URL=queue.url, METRICS_PORT="0", METRICS_HOST="127.0.0.1"),
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _works_as_pid_1(unshare, queue, gates, (tmp_path / "log").read_text)
    finally:
        unshare.kill()
        unshare.wait()
        sys.stderr.write((tmp_path / "log").read_text())


DOUBLE_FORK = '''

@app.task("orphan")
def orphan():
    """Leaves a process that ends after its parent: nobody but the supervisor can reap it."""
    subprocess.run(["sh", "-c", "sleep 0.05 & exit 0"])
'''


def _works_as_pid_1(unshare: "subprocess.Popen[bytes]", queue: Queue, gates: Gates, log: Callable[[], str]) -> None:
    def is_ready() -> bool:
        if unshare.poll() is not None:
            pytest.skip(f"no pid namespace here: {log()}")
        return "ready in" in log()

    eventually(is_ready, within=60)
    assert "pid=1 " in log()
    (worker,) = children(unshare.pid)
    for _ in range(5):
        queue.enqueue("orphan")
    queue.wait_empty()
    eventually(lambda: not [pid for pid in children(worker) if state(pid) == "Z"], within=15, why="no zombie stays")
    task_id = queue.enqueue("hold")
    gates.wait_running("hold")
    os.kill(worker, TERM)
    eventually(lambda: "drain_started" in log(), within=15)
    gates.open("hold")
    assert unshare.wait(10) == 0
    assert queue.task(task_id)["status"] == "completed"
    assert not is_alive(worker)
