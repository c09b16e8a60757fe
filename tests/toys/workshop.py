"""A folder with a toy app, and a supervisor at work in it: what the tests see and do from outside."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fixtures.proc import children, is_alive, pids, state, title
from tests.fixtures.waiting import eventually
from tests.toys.store import ToyStore

PROJECT = Path(__file__).resolve().parents[2]
TOY_APP = Path(__file__).with_name("app.py")
DEFAULTS: Mapping[str, Any] = {
    "app": "toyapp:app",
    "may_have_threads": False,
    "pool_size": 2,
    "claim_limit": 8,
    "shutdown_timeout": 20.0,
    "task_kill_grace": 0.1,
    "task_memory_limit": 0,
    "boot_seconds": 20.0,
    "serves": True,
}


class Workshop:
    """One supervisor with its toys. Call `start` once; everything else is a look or a nudge from outside."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.folder = folder
        self.options = {**DEFAULTS, "metrics_path": str(folder / "metrics"), **options}
        (folder / "metrics").mkdir()
        shutil.copy(TOY_APP, folder / "toyapp.py")
        self.store = ToyStore.create(folder / "store")
        self.log_path = folder / "log"
        self._answers = b""
        self._written: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None

    # The supervisor

    def start(self, *, environment: Mapping[str, str] | None = None) -> "Workshop":
        """Start the supervisor; it may be started again once it has ended."""
        more = {"PYTHONPATH": str(PROJECT), "TOY_STORE": str(self.folder / "store")}
        if self._process is not None:
            self._close_pipes()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.toys.supervisor", json.dumps(self.options)],
                cwd=self.folder,
                env={**os.environ, **more, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        return self

    def ready(self, *, within: float = 60.0) -> "Workshop":
        """Wait until every child is there, as the loop sees it in a round that began after this call."""
        since = time.monotonic()

        def is_ready() -> bool:
            status = self.status()
            if status["turned_at"] <= since:
                self.signal(signal.SIGCHLD)  # as when a child has ended: whether one has is looked at in a round
            return bool(status["turned_at"] > since and status["ready"] == status["capacity"])

        self.wait_for(is_ready, within=within)
        return self

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, fact: Callable[[], Any], *, within: float = 60.0) -> Any:
        """As eventually(), but a supervisor that has ended is said at once."""
        return eventually(lambda: self._is_running() and fact(), within=within)

    def _is_running(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the supervisor has ended with {self.process.returncode}")
        return True

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def exit_code(self, *, within: float = 10.0) -> int:
        return self.process.wait(within)

    def ask(self, do: str, **facts: Any) -> Any:
        """A request to the supervisor's other threads, and the answer; it does not wait for the loop.

        None: it has ended, as a report may tell it to, faster than it could answer.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **facts}).encode() + b"\n")
        self.process.stdin.flush()
        output = self.process.stdout.fileno()
        while b"\n" not in self._answers:
            assert select.select([output], [], [], 10.0)[0], "the supervisor does not answer"
            chunk = os.read(output, 65536)
            if not chunk:
                return None
            self._answers += chunk
        line, _, self._answers = self._answers.partition(b"\n")
        return json.loads(line)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] | None = self.ask("status")
        assert found is not None, "the supervisor has ended"
        return found

    def report(self, kind: str, **facts: Any) -> None:
        self.ask("report", kind=kind, **facts)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """What was logged under that name, by any process."""
        found = []
        for line in self.log().splitlines():
            if line.startswith('{"time"'):
                event = json.loads(line)
                if event["event"] == name:
                    found.append(event)
        return found

    # Tasks

    def add(self, type: str, *, max_retries: int | None = None, timeout: float | None = None, **payload: Any) -> int:
        """Enqueue a task, and have a child woken."""
        number = self.store.add(type, max_retries=max_retries, timeout=timeout, payload=payload)
        self.report("WorkIsDue")
        return number

    def add_batch(self, *tasks: tuple[str, Mapping[str, Any]]) -> list[int]:
        """Enqueue tasks (type, payload) in one commit: whichever child claims one of them claims all."""
        with self.store.transaction():
            numbers = [self.store.add(type, max_retries=None, timeout=None, payload=dict(more)) for type, more in tasks]
        self.report("WorkIsDue")
        return numbers

    def begin(self, file: str = "go-on") -> int:
        """Enqueue a task that runs until `let_go(file)`, wait until it does, and return its child's pid."""
        self.add("until", file=file)
        pid: int = self.wait_for(lambda: dict(self.store.notes("started")).get(file))
        return pid

    def let_go(self, file: str = "go-on") -> None:
        self.write(file, "")

    def started(self, name: str) -> int:
        """The child that runs the task that noted this name."""
        pid: int = self.wait_for(lambda: dict(self.store.notes("started")).get(name))
        return pid

    def task(self, number: int) -> dict[str, Any]:
        names = ("status", "attempts", "error", "result", "writer", "slot")
        return dict(
            zip(
                names, self.store.rows(f"SELECT {', '.join(names)} FROM tasks WHERE number = ?", number)[0], strict=True
            )
        )

    def ended(self, number: int, status: str, *, within: float = 10.0) -> dict[str, Any]:
        """The task, once it has this status."""
        self.wait_for(lambda: self.store.status(number) == status, within=within)
        return self.task(number)

    def orders(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(facts) for (facts,) in self.store.rows("SELECT facts FROM orders WHERE kind = ?", kind)]

    # Processes

    def children(self) -> dict[int, int]:
        """Slot → pid of the children that live."""
        rows = self.store.rows("SELECT slot, pid FROM births ORDER BY at")
        return {slot: pid for slot, pid in rows if is_alive(pid)}

    def births(self, slot: int | None = None) -> list[dict[str, Any]]:
        names = ("slot", "incarnation", "pid", "parent", "at", "code")
        rows = self.store.rows(
            f"SELECT {', '.join(names)} FROM births WHERE slot = coalesce(?, slot) ORDER BY at", slot
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def forkservers(self) -> list[int]:
        """Pids of the forkservers that live, once they have said who they are."""
        return [pid for pid in self.offspring() if title(pid) == "orchestratord: forkserver"]

    def offspring(self) -> list[int]:
        """Living processes whose parent is the supervisor."""
        return [pid for pid in children(self.pid) if is_alive(pid)]

    def zombies(self) -> list[int]:
        return [pid for pid in children(self.pid) if state(pid) == "Z"]

    def processes(self) -> list[int]:
        """All that live in this folder: supervisor, forkservers, children and what their tasks started."""
        return [pid for pid in pids() if _is_in(pid, self.folder) and is_alive(pid)]

    def write(self, name: str, text: str) -> None:
        """A file in the working directory of all the processes; whole at once."""
        temporary = self.folder / f".{name}.new"
        temporary.write_text(text)
        temporary.rename(self.folder / name)
        self._written.add(name)

    def rewrite_app(self, old: str, new: str) -> None:
        source = (self.folder / "toyapp.py").read_text()
        assert old in source
        self.write("toyapp.py", source.replace(old, new))

    def use_app(self, source: str) -> None:
        self.write("toyapp.py", source)

    # The end

    def is_as_new(self) -> bool:
        """Whether nothing of what a test did can be seen any more, once `forget` was called."""
        if self.process.poll() is not None:
            return False
        status = self.status()
        is_whole = status["capacity"] == status["ready"] == len(self.children()) == self.options["pool_size"]
        lasting = ("app_reloaded", "app_reload_failed", "app_not_loaded", "forkserver_died", "declared_dead")
        return (
            is_whole
            and status["state"] == "running"
            and len(self.processes()) == 2 + self.options["pool_size"]
            and {event["reason"] for event in self.events("restarted")} <= {"crash", "timeout"}
            and not any(self.events(name) for name in lasting)
            and set(self.store.statuses()) <= {"completed", "failed", "dead_letter"}
        )

    def forget(self) -> None:
        """Tasks, orders, notes, events and files of a test that is over."""
        living = set(self.children().values())
        for table in ("tasks", "orders", "notes"):
            self.store.rows(f"DELETE FROM {table}")
        for birth in self.births():
            if birth["pid"] not in living:
                self.store.rows("DELETE FROM births WHERE pid = ?", birth["pid"])
        os.truncate(self.log_path, 0)
        for path in self.folder.iterdir():
            if path.name in self._written:
                path.unlink()
        self._written.clear()

    def close(self) -> list[int]:
        """End everything. Returns the processes that had outlived a supervisor which ended or was told to."""
        left: list[int] = []
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(30.0)
            except subprocess.TimeoutExpired:
                left.append(self.pid)
            left += self._gone_or_left()
            for pid in left:
                _kill(pid)
            self._process.wait(5.0)
            self._close_pipes()
        self.store.close()
        return left

    def _gone_or_left(self) -> list[int]:
        """What is left some seconds later: children of a killed supervisor have two, on a machine that is not busy."""
        try:
            eventually(lambda: not self.processes(), within=15.0)
        except AssertionError:
            return self.processes()
        return []

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self._answers = b""


def _is_in(pid: int, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)
    except OSError:
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@contextmanager
def opened(**options: Any) -> Iterator[Workshop]:
    """A workshop whose supervisor is not started yet. Afterwards nothing of it may be left; its log is printed."""
    folder = Path(tempfile.mkdtemp(prefix="toys-")).resolve()
    workshop = Workshop(folder, options)
    left: list[int] = []
    try:
        yield workshop
    finally:
        left = workshop.close()
        sys.stdout.write(workshop.log())
        shutil.rmtree(folder)
    assert not left, f"processes were left behind: {left}"
