"""The private PostgreSQL of `orchestratord dev` and the tests: real servers, killed in every way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestrator.dev import leftovers
from orchestrator.dev.account import can_reach, default_data_folder, make_folder, server_account
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.errors import PrivatePostgresError
from tests.fixtures.database import copy_made_cluster
from tests.fixtures.memory import make_data_folder
from tests.fixtures.waiting import eventually

OWNER = """
import signal, sys
from pathlib import Path
from orchestrator.dev.postgres import PrivatePostgres
server = PrivatePostgres(Path(sys.argv[1]), is_fast=True)
server.start()
print(server.url(), flush=True)
signal.pause()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a space in its name that the server's account can reach."""
    path = make_data_folder("orchestrator test-")
    yield path
    eventually(lambda: processes_in(path) == [], within=15, why="the servers end")
    shutil.rmtree(path)


@pytest.fixture
def has_data(folder: Path) -> None:
    """`folder`/data is there already, for a test that is not about its making: that takes longer than all else."""
    copy_made_cluster(folder / "data")


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., PrivatePostgres]]:
    """Starts a server on `folder`/data; all are stopped afterwards."""
    servers = []

    def start(name: str = "data", **options: Any) -> PrivatePostgres:
        server = PrivatePostgres(folder / name, is_fast=True, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def start_owner(folder: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Starts another process that owns the server on `folder`/data."""
    owners = []

    def start_owner() -> "subprocess.Popen[str]":
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(folder / "data")],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        owners.append(owner)
        assert owner.stdout is not None
        assert owner.stdout.readline().startswith("postgresql://")
        return owner

    yield start_owner
    for owner in owners:
        owner.kill()
        owner.communicate()


def processes_in(folder: Path) -> list[str]:
    """The command lines of all servers and guards on data folders in `folder`."""
    listing = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listing if str(folder) in line and ("postgres -D" in line or "guard.py" in line)]


def answer(url: str, statement: str = "SELECT 1") -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return None if row is None else row[0]


def test_it_starts_answers_and_leaves_nothing_behind(start: Callable[..., PrivatePostgres], folder: Path) -> None:
    server = start()
    assert server.is_running
    assert answer(server.url()) == 1
    server.stop()
    assert not server.is_running
    assert processes_in(folder) == []
    assert sorted(path.name for path in (folder / "data").iterdir()) == ["cluster", "lock", "password", "postgres.log"]
    server.stop()  # once more is fine


@pytest.mark.usefixtures("has_data")
def test_a_restart_keeps_the_data_and_is_quick(start: Callable[..., PrivatePostgres]) -> None:
    server = start()
    assert server.create_database("my data")
    assert not server.create_database("my data")
    server.stop()
    began = time.monotonic()
    server.start()
    assert time.monotonic() - began < 10.0  # a quarter of a second, were the machine this test's own
    assert answer(server.url("my data"), "SELECT current_database()") == "my data"


@pytest.mark.usefixtures("has_data")
def test_what_was_committed_survives_a_crash_of_the_fast_settings(start: Callable[..., PrivatePostgres]) -> None:
    server = start()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
    server.crash()
    assert not server.is_running
    server.start()
    assert answer(server.url(), "SELECT value FROM kept") == 42


@pytest.mark.usefixtures("has_data")
def test_over_tcp_it_wants_its_password_and_keeps_its_port(start: Callable[..., PrivatePostgres]) -> None:
    server = start(listens_tcp=True)
    url = server.url()
    assert answer(url) == 1
    with pytest.raises(psycopg.OperationalError):
        answer(url.replace(str(server.password), "wrong"))
    server.stop()
    server.start()
    assert answer(url) == 1


@pytest.mark.parametrize("name", ["x" * 120, "sales, 2026"])
def test_a_path_that_cannot_be_a_sockets_gets_one_elsewhere_that_is_removed(
    start: Callable[..., PrivatePostgres], folder: Path, name: str
) -> None:
    copy_made_cluster(folder / name)
    server = start(name)
    sockets = Path(server.host)
    assert not sockets.is_relative_to(folder)
    assert answer(server.url()) == 1
    server.stop()
    assert not sockets.exists()


def test_a_link_to_a_path_that_cannot_be_a_sockets_is_seen_through(
    start: Callable[..., PrivatePostgres], folder: Path
) -> None:
    (folder / "link").symlink_to(folder / ("x" * 120))
    (folder / ("x" * 120)).mkdir(mode=0o711)
    copy_made_cluster(folder / "link" / "data")
    assert answer(start("link/data").url()) == 1


def test_nobody_else_can_enter_what_it_keeps(start: Callable[..., PrivatePostgres], folder: Path) -> None:
    server = start()
    for private in (Path(server.host), folder / "data" / "cluster"):
        assert private.stat().st_mode & 0o077 == 0
    for private in (folder / "data" / "password", folder / "data" / "postgres.log"):
        assert private.stat().st_mode & 0o177 == 0


@pytest.mark.usefixtures("has_data")
def test_a_second_owner_is_refused_and_told_who_the_first_is(
    start: Callable[..., PrivatePostgres], start_owner: Callable[[], "subprocess.Popen[str]"]
) -> None:
    owner = start_owner()
    with pytest.raises(PrivatePostgresError, match=f"process {owner.pid} uses the data folder"):
        start()


@pytest.mark.usefixtures("has_data")
def test_a_killed_owner_takes_its_server_along(
    start_owner: Callable[[], "subprocess.Popen[str]"], folder: Path
) -> None:
    owner = start_owner()
    assert processes_in(folder) != []
    owner.kill()
    eventually(lambda: processes_in(folder) == [], within=15, why="the server ends")
    assert not (folder / "data" / "socket").exists()


@pytest.mark.usefixtures("has_data")
def test_a_killed_guard_takes_the_server_along_and_the_next_start_works(
    start: Callable[..., PrivatePostgres], folder: Path
) -> None:
    first = start()
    guard = first._guard
    assert guard is not None
    guard.kill()
    guard.wait()
    first.stop()
    assert processes_in(folder) == []
    assert answer(start().url()) == 1


@pytest.mark.usefixtures("has_data")
def test_a_server_whose_owner_and_guard_were_killed_is_stopped_by_the_next_start(
    start: Callable[..., PrivatePostgres], start_owner: Callable[[], "subprocess.Popen[str]"], folder: Path
) -> None:
    owner = start_owner()
    listing = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True, check=True).stdout
    guard = next(line for line in listing.splitlines() if str(folder) in line and "guard.py" in line)
    with psycopg.connect(PrivatePostgres(folder / "data").url()):  # a session does not delay a fast shutdown
        os.kill(int(guard.split()[0]), signal.SIGKILL)
        owner.kill()
        owner.wait()
        assert answer(start().url()) == 1


@pytest.mark.usefixtures("has_data")
def test_a_stale_pid_file_whose_number_is_somebody_elses_does_no_harm(
    start: Callable[..., PrivatePostgres], folder: Path
) -> None:
    server = start()
    pid_file = folder / "data" / "cluster" / "postmaster.pid"
    stale = pid_file.read_text()
    server.stop()
    pid_file.write_text(stale.replace(stale.split("\n")[0], str(os.getpid()), 1))
    server.start()
    assert answer(server.url()) == 1


@pytest.mark.usefixtures("has_data")
def test_data_of_another_major_version_is_refused(start: Callable[..., PrivatePostgres], folder: Path) -> None:
    server = start()
    server.stop()
    (folder / "data" / "cluster" / "PG_VERSION").write_text("12\n")
    with pytest.raises(PrivatePostgresError, match="has data of PostgreSQL 12"):
        server.start()


@pytest.mark.usefixtures("has_data")
def test_a_server_that_cannot_start_says_why(start: Callable[..., PrivatePostgres]) -> None:
    with pytest.raises(PrivatePostgresError, match="no_such_setting"):
        start(settings={"no_such_setting": "1"})


def test_half_a_cluster_of_a_killed_run_is_removed(start: Callable[..., PrivatePostgres], folder: Path) -> None:
    unfinished = folder / "data" / "cluster.new-killed"
    make_folder(unfinished / "data", 0o711)
    assert answer(start().url()) == 1
    assert not unfinished.exists()


def test_a_folder_that_others_may_write_to_is_refused(start: Callable[..., PrivatePostgres], folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data").chmod(0o777)
    with pytest.raises(PrivatePostgresError, match="others may write"):
        start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server under another account")
def test_for_root_nothing_is_loosened_and_an_unreachable_folder_is_refused(
    start: Callable[..., PrivatePostgres], folder: Path
) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PrivatePostgresError, match="no other account can reach"):
        start("closed/data")
    assert closed.stat().st_mode & 0o777 == 0o700
    account = server_account()
    assert account is not None
    assert not can_reach(account, closed)
    server = start()
    assert answer(server.url(), "SHOW data_directory") == str(folder / "data" / "cluster")
    assert (folder / "data" / "cluster").stat().st_uid == account.uid


@pytest.mark.usefixtures("has_data")
def test_the_processes_of_another_server_are_left_alone(start: Callable[..., PrivatePostgres], folder: Path) -> None:
    copy_made_cluster(folder / "second")
    first, second = start("data"), start("second")
    leftovers.kill_servers(first._name)
    assert answer(second.url()) == 1


def test_a_strict_umask_keeps_nothing_from_the_servers_account(
    start: Callable[..., PrivatePostgres], request: pytest.FixtureRequest
) -> None:
    umask = os.umask(0o077)
    request.addfinalizer(lambda: os.umask(umask))
    assert answer(start("one/two/data").url()) == 1


def test_a_working_directory_that_was_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(PrivatePostgresError, match="working directory is gone"):
        default_data_folder("postgres")
