"""`orchestratord dev`, which is `make run`: a worker with a database of its own, and nothing left of either."""

import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.command import ENTRY, clean_environment
from tests.fixtures.database import copy_made_cluster
from tests.fixtures.memory import make_data_folder
from tests.fixtures.waiting import eventually

QUIET = "--no-enqueue-examples"


class Dev:
    """A running `orchestratord dev`, perhaps in a terminal of its own."""

    def __init__(self, folder: Path, *arguments: str, in_terminal: bool = False, **variables: str) -> None:
        self.mark = f"TEST_MARK={uuid.uuid4()}"
        self.folder = folder
        self.out, self.err = folder / "out", folder / "err"
        self.terminal: int | None = None
        command = [*ENTRY, "dev", "--data-dir", str(folder / "data"), "--metrics-port", "0", *arguments]
        stdin: int = subprocess.DEVNULL
        if in_terminal:
            self.terminal, stdin = os.openpty()
            command = ["setsid", "--ctty", *command]
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                command,
                env=clean_environment(**variables, **dict([self.mark.split("=")])),
                cwd=folder,
                stdin=stdin,
                stdout=out,
                stderr=err,
            )
        if in_terminal:
            os.close(stdin)

    def until_ready(self) -> "Dev":
        eventually(lambda: "ready in" in self.err.read_text(), within=30, why="the pool is ready")
        return self

    @property
    def url(self) -> str:
        found = re.search(r'DATABASE_URL="(.*)"', self.out.read_text())
        assert found is not None
        return found[1]

    def sql(self, statement: str) -> Any:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else None

    def ends_with(self, code: int, within: float = 20) -> None:
        """It ends so, and then nothing of it is left: no worker, no database, no socket."""
        assert self.process.wait(within) == code, self.err.read_text()
        assert self.left() == []
        assert not (self.folder / "data" / "socket").exists()

    def left(self) -> list[bytes]:
        """The command lines of all processes that it or its children started."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes()
                is_ours = str(self.folder).encode() in line or self.mark.encode() in (entry / "environ").read_bytes()
            except OSError:
                continue
            if is_ours and line:
                found.append(line)
        return found

    def close(self) -> None:
        if self.terminal is not None:
            os.close(self.terminal)
        self.process.kill()
        self.process.wait()
        eventually(lambda: self.left() == [], within=40, why="everything of it ends")


Start = Callable[..., Dev]


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a space in its name, and reached by the server's account."""
    path = make_data_folder("orchestrator dev-")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def has_data(folder: Path) -> None:
    """The data folder is there already, for a test that is not about its making: that takes longer than all else."""
    copy_made_cluster(folder / "data")


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts `orchestratord dev` on one folder; afterwards nothing is left. A failed test shows the log."""
    started: list[Dev] = []

    def start(*arguments: str, **options: Any) -> Dev:
        started.append(Dev(folder, *arguments, **options))
        return started[-1]

    yield start
    for dev in started:
        dev.close()
    print((folder / "err").read_text())  # noqa: T201 pytest shows it if the test failed


def test_it_runs_the_examples_and_a_ctrl_c_in_the_terminal_drains_and_leaves_nothing(start: Start) -> None:
    dev = start("--pool-size", "3", in_terminal=True).until_ready()
    assert f"its data are in {dev.folder}/data" in dev.out.read_text()
    done = "SELECT count(*) FROM tasks WHERE status = 'completed' AND type IN ('example:task', 'example:flaky')"
    eventually(lambda: dev.sql(done)[0][0] >= 3, within=20, why="the examples run")
    assert dev.terminal is not None
    os.write(dev.terminal, b"\x03")
    dev.ends_with(0)


@pytest.mark.slow
@pytest.mark.usefixtures("has_data")
def test_data_stay_between_runs_and_examples_can_be_left_out(start: Start) -> None:
    first = start("--pool-size", "1", QUIET).until_ready()
    assert first.sql("SELECT count(*) FROM tasks") == [(0,)]
    first.sql("SELECT enqueue_task('example:task', '{}', delay => interval '1 hour')")
    first.process.terminate()
    first.ends_with(0)
    second = start("--pool-size", "1", ENQUEUE_EXAMPLES="false").until_ready()
    assert second.sql("SELECT type FROM tasks") == [("example:task",)]
    second.process.terminate()
    second.ends_with(0)


@pytest.mark.slow
@pytest.mark.usefixtures("has_data")
def test_a_second_ctrl_c_does_not_wait_for_the_task_that_runs(start: Start) -> None:
    dev = start("--pool-size", "1", QUIET).until_ready()
    dev.sql("""SELECT enqueue_task('example:slow', '{"seconds": 300}')""")
    running = "SELECT status::text FROM tasks"
    eventually(lambda: dev.sql(running) == [("running",)], within=20, why="the task runs")
    dev.process.send_signal(signal.SIGINT)
    eventually(lambda: "drain" in dev.err.read_text(), within=20, why="it drains")
    dev.process.send_signal(signal.SIGINT)
    dev.ends_with(1, within=10)


@pytest.mark.usefixtures("has_data")
def test_killed_with_9_it_takes_the_pool_and_postgresql_along(start: Start) -> None:
    dev = start("--pool-size", "2", QUIET).until_ready()
    dev.process.kill()
    dev.process.wait()
    eventually(lambda: dev.left() == [], within=20, why="everything of it ends")
    again = start("--pool-size", "2", QUIET).until_ready()
    again.process.terminate()
    again.ends_with(0)


@pytest.mark.slow
@pytest.mark.usefixtures("has_data")
def test_a_terminal_that_is_closed_ends_it(start: Start) -> None:
    dev = start("--pool-size", "1", QUIET, in_terminal=True).until_ready()
    assert dev.terminal is not None
    os.close(dev.terminal)
    dev.terminal = None
    dev.ends_with(0)


@pytest.mark.slow
@pytest.mark.usefixtures("has_data")
def test_a_hangup_without_a_terminal_reloads_the_app(start: Start) -> None:
    dev = start("--pool-size", "1", QUIET).until_ready()
    dev.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reload" in dev.err.read_text(), within=20, why="it reloads")
    assert dev.process.poll() is None
    dev.process.terminate()
    dev.ends_with(0)


@pytest.mark.usefixtures("has_data")
def test_a_postgresql_that_dies_is_started_again_and_the_pool_goes_on(start: Start) -> None:
    dev = start("--pool-size", "1", QUIET).until_ready()
    pid = int((dev.folder / "data" / "cluster" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: "it is started again" in dev.err.read_text(), within=20, why="the death is noticed")

    def is_done() -> bool:
        try:
            return bool(dev.sql("SELECT status::text FROM tasks") == [("completed",)])
        except psycopg.OperationalError:
            return False

    def enqueue() -> bool:
        try:
            dev.sql("SELECT enqueue_task('example:task', '{}')")
        except psycopg.OperationalError:
            return False
        return True

    eventually(enqueue, within=20, why="the database is back")
    eventually(is_done, within=20, why="the pool works")
    dev.process.terminate()
    dev.ends_with(0)


def test_wrong_settings_are_told_before_anything_is_started(start: Start) -> None:
    dev = start("--pool-size", "0", LOG_FORMAT="xml")
    dev.ends_with(2)
    assert "2 settings cannot be used" in dev.err.read_text()
    assert not (dev.folder / "data").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("has_data")
def test_a_folder_in_use_is_refused_and_its_user_named(start: Start) -> None:
    first = start("--pool-size", "1", QUIET).until_ready()
    refused = subprocess.run(
        [*ENTRY, "dev", "--data-dir", str(first.folder / "data"), "--metrics-port", "0"],
        env=clean_environment(),
        cwd=first.folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert refused.returncode == 2
    assert (
        refused.stderr
        == f"orchestratord: process {first.process.pid} uses the data folder {first.folder}/data already\n"
    )
    assert first.sql("SELECT 1") == [(1,)]
    first.process.terminate()
    first.ends_with(0)
