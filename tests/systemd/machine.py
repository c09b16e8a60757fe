"""A machine on which systemd runs and `make install` was run, as far as the tests need one: with-systemd's namespaces.

What is seen and done there goes through nsenter and /proc/PID/root. Needs root, and a Debian or alike; else the tests
are skipped, and say why.
"""

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.daemon import Queue
from tests.fixtures.database import private_server
from tests.fixtures.gates import APP, Gates
from tests.fixtures.proc import children
from tests.fixtures.waiting import eventually

TOP = Path(__file__).parents[2]
WITH_SYSTEMD = Path(__file__).with_name("with-systemd")
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", ".orchestrator", "build", "dist", "*.egg-info", "__pycache__", ".*_cache"
)
VARIABLES = {
    "HOME": "/run/systemd/home",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "XDG_RUNTIME_DIR": "/run/systemd/here",
    "SYSTEMD_UNIT_PATH": "/etc/systemd/system:/usr/local/lib/systemd/system:/usr/lib/systemd/user:",
}
STATE = "/run/systemd/home/.config/orchestratord"
"""/var/lib/orchestratord, as a user's service manager has it."""

LOG = "/var/lib/orchestratord.log"
IN_STATE = "import os\nos.chdir(os.environ['STATE_DIRECTORY'])\n"
ABOUT = "import ensurepip, os, sys, venv; print(os.path.realpath(sys._base_executable), sys.version_info >= (3, 11))"
MORE = """

@app.task("work", max_retries=0)
def work():
    time.sleep(0.5)


@app.task("fat", max_retries=0)
def fat():
    hoard = []
    while True:
        hoard.append(b"x" * (8 << 20))
"""


class Machine:
    """`service` is the unit under test; between tests `reset` makes it as good as new."""

    def __init__(self) -> None:
        self._with_systemd = subprocess.Popen(
            [WITH_SYSTEMD, "sh", "-c", "echo is up; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._root = Path("/")
        self._pid = 0

    def boot(self) -> None:
        assert self._with_systemd.stdout is not None
        assert self._with_systemd.stdout.readline() == b"is up\n"
        (unshare,) = children(self._with_systemd.pid)
        (self._pid,) = children(unshare)
        self._root = Path(f"/proc/{self._pid}/root")

    def shut_down(self) -> None:
        assert self._with_systemd.stdin is not None and self._with_systemd.stdout is not None
        self._with_systemd.stdin.close()
        assert self._with_systemd.wait(30) == 0
        self._with_systemd.stdout.close()

    # what is there

    def path(self, path: str) -> Path:
        """Where a path of the machine is for the tests."""
        return self._root / path.removeprefix("/")

    def write(self, path: str, text: str) -> None:
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)

    def log(self) -> str:
        path = self.path(LOG)
        return path.read_text(errors="replace") if path.exists() else ""

    # what is done

    def run(
        self, *command: str | Path, is_checked: bool = True, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        into = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--cgroup"]
        done = subprocess.run(
            [*into, *map(str, command)], env={**VARIABLES, **variables}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0 or not is_checked, done.stdout + done.stderr
        return done

    def systemctl(self, *arguments: str, is_checked: bool = True) -> str:
        return self.run("systemctl", *arguments, is_checked=is_checked).stdout.strip()

    def fails(self, *arguments: str) -> bool:
        return self.run("systemctl", *arguments, is_checked=False).returncode != 0

    def show(self, name: str, unit: str = "orchestratord") -> str:
        """A property of the unit."""
        return self.systemctl("show", "--value", "--property", name, unit)

    def signal(self, name: str, unit: str = "orchestratord") -> None:
        """To the supervisor."""
        self.systemctl("kill", "--kill-whom=main", f"--signal={name}", unit)

    def install(self) -> None:
        """`make install`, from a copy of the source."""
        shutil.copytree(TOP, self.path("/usr/local/src/orchestratord"), ignore=NOT_SOURCE, symlinks=True)
        self.make("install")

    def make(self, target: str, is_checked: bool = True, **variables: str) -> "subprocess.CompletedProcess[str]":
        found = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
        found.setdefault("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
        return self.run(
            "make", "-C", "/usr/local/src/orchestratord", target, f"PYTHON={python()}",
            is_checked=is_checked, **found, **variables,
        )  # fmt: skip


class Service:
    """One test's service: the shipped unit, a database of its own, an app whose tasks wait for the test."""

    def __init__(self, machine: Machine, queue: Queue) -> None:
        self.machine = machine
        self.queue = queue
        self.gates = Gates(machine.path(STATE))
        self.settings = {
            "DATABASE_URL": queue.url, "ORCHESTRATOR_APP": "app:app", "WORKER_POOL_SIZE": "2", "METRICS_PORT": "0",
            "CLAIM_INTERVAL": "100ms",
        }  # fmt: skip

    def set_up(self, *lines: str, app: str = APP, unit: str = "orchestratord", **settings: str) -> None:
        """Settings, app, and where the log goes; `lines` are added to the unit, as `systemctl edit` would."""
        machine = self.machine
        text = "".join(f"{name}={value}\n" for name, value in {**self.settings, **settings}.items())
        machine.write("/etc/orchestratord/orchestratord.env", text)
        self.deploy(app)
        where = f"StandardOutput=append:{LOG}\nStandardError=append:{LOG}\n"
        machine.write(f"/etc/systemd/system/{unit}.service.d/test.conf", "\n".join(["[Service]", where, *lines, ""]))
        machine.systemctl("daemon-reload")

    def deploy(self, app: str) -> None:
        self.machine.write("/opt/orchestratord/app/app.py", IN_STATE + app + MORE)

    def start(self) -> None:
        self.machine.systemctl("start", "orchestratord")

    def state(self, unit: str = "orchestratord") -> str:
        return self.machine.show("ActiveState", unit)

    def wait_state(self, state: str, *, within: float = 20.0) -> None:
        eventually(lambda: self.state() == state, within=within, why=state)

    def wait_status(self, text: str, *, within: float = 20.0) -> str:
        """The STATUS line, once `text` is in it."""
        shown = eventually(
            lambda: text in (shown := self.machine.show("StatusText")) and shown, within=within, why=text
        )
        assert isinstance(shown, str)
        return shown

    def restarts(self) -> int:
        return int(self.machine.show("NRestarts"))

    def pids(self) -> dict[int, str]:
        """All processes of the service, with their titles; pids as they are on the machine."""
        found = {}
        for line in self.machine.run("ps", "-eo", "pid=,args=", "-u", "orchestratord").stdout.splitlines():
            pid, _, title = line.strip().partition(" ")
            if title.startswith("orchestratord: "):
                found[int(pid)] = title
        return found

    def reset(self) -> None:
        """Nothing of it runs any more, and nothing of the next test's is there."""
        machine = self.machine
        if self.state() not in ("inactive", "failed"):
            machine.signal("QUIT")
        machine.systemctl("stop", "orchestratord.service", "orchestratord@*.service", is_checked=False)
        machine.systemctl("reset-failed", is_checked=False)
        for path in (
            "/etc/systemd/system/orchestratord.service.d",
            "/etc/systemd/system/orchestratord@.service.d",
            STATE,
        ):
            shutil.rmtree(machine.path(path), ignore_errors=True)
        machine.path(LOG).unlink(missing_ok=True)


def python() -> str:
    """An interpreter that a service can run: not below /home or /root, which the unit hides."""
    for found in ("/usr/bin/python3", sys._base_executable):  # type: ignore[attr-defined]
        tried = subprocess.run([found, "-c", ABOUT], capture_output=True, text=True)
        if re.fullmatch(r"(?!/home/|/root/)\S+ True\n", tried.stdout):
            return found
    pytest.skip("no Python 3.11 with venv that a service can see: apt-get install python3-venv")


def _need_systemd() -> None:
    if os.geteuid() != 0:
        pytest.skip("a private systemd needs root")
    if not Path("/lib/systemd/systemd").exists() or shutil.which("systemctl") is None:
        pytest.skip("there is no systemd: apt-get install systemd")
    version = re.search(
        r"systemd (\d+)", subprocess.run(["systemctl", "--version"], capture_output=True, text=True).stdout
    )
    if version is None or int(version[1]) < 250:
        pytest.skip("systemd 250 or newer is needed")
    can = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "--mount", "--cgroup", "true"], capture_output=True
    )
    if can.returncode != 0:
        pytest.skip(f"namespaces cannot be made here: {can.stderr.decode(errors='replace').strip()}")
    if not any(os.access(root, os.W_OK) for root in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cgroup.procs")):
        pytest.skip("cgroups cannot be made here: /sys/fs/cgroup is not writable")


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """A machine on which systemd runs, with the service installed."""
    _need_systemd()
    machine = Machine()
    try:
        machine.boot()
        machine.install()
        yield machine
    finally:
        machine.shut_down()


@pytest.fixture(scope="session")
def tcp_server() -> Iterator[PrivatePostgres]:
    """A server that a service with a /tmp of its own can reach."""
    with private_server(listens_tcp=True) as server:
        yield server


@pytest.fixture
def service(request: pytest.FixtureRequest, machine: Machine, tcp_server: PrivatePostgres) -> Iterator[Service]:
    """The service, not started yet; `queue` is its database's, which is empty: the service makes the schema."""
    name = f"t{secrets.token_hex(4)}"
    tcp_server.create_database(name)
    queue = Queue(tcp_server.url(name))
    service = Service(machine, queue)
    try:
        yield service
    finally:
        outcome = getattr(request.node, "outcome_of_call", None)
        if outcome is None or outcome.failed:
            sys.stderr.write(
                machine.systemctl("status", "--lines=0", "orchestratord", is_checked=False) + machine.log()
            )
        service.reset()
        queue.connection.close()
        with contextlib.closing(psycopg.connect(tcp_server.url(), autocommit=True)) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
