"""A private PostgreSQL: one server on one data folder, that only its owner can reach and that ends with its owner.

The data folder holds

    cluster/        PostgreSQL's own files, of the account that runs the server
    socket          the folder of its unix socket, or a link to one in a temporary folder where the path is too long
    lock            held while a server or its owner lives
    password        of the user postgres over TCP, which listens only if asked
    postgres.log    of the last run
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode

from orchestrator.dev import guard, leftovers
from orchestrator.dev.account import (
    can_reach,
    make_folder,
    make_temporary_folder,
    refuse_unless_ours,
    server_account,
)
from orchestrator.dev.binaries import Binaries, find_binaries
from orchestrator.dev.cluster import ENVIRONMENT, SUPERUSER, make_cluster, open_private
from orchestrator.dev.lock import take_lock
from orchestrator.errors import PrivatePostgresError

UNIX_PORT = 5432
_PORTS = range(15000, 32000)
"""Below those that clients get: the server's must be free after a restart too."""
_START_SECONDS = 30.0
_STOP_SECONDS = 35.0  # more than the guard takes for all of its steps
_LONGEST_SOCKET = 107  # bytes of sockaddr_un.sun_path, less the final NUL

_SETTINGS = {
    "max_connections": "200",
    # in the data folder: nothing stays in /dev/shm after a crash, and a container's small /dev/shm is no limit
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "%m [%p] %d ",
}
_FAST = {"fsync": "off", "full_page_writes": "off"}
"""Safe against a crash of PostgreSQL, not of the machine. synchronous_commit stays on: without it a crash of PostgreSQL
alone would lose commits."""


class PrivatePostgres:
    """One private server. Not thread-safe, but it may be started and stopped from any thread.

    `is_fast` gives durability up for speed; `listens_tcp` adds 127.0.0.1 with a password (the same port and password
    after each restart of this object); `settings` go to the server as they are. `binaries` are other programs than the
    wheel's, where any account can reach them.
    """

    def __init__(
        self,
        data_folder: Path,
        *,
        is_fast: bool = False,
        listens_tcp: bool = False,
        settings: Mapping[str, str] | None = None,
        binaries: Binaries | None = None,
    ) -> None:
        self._binaries = binaries
        self.data_folder = data_folder.absolute()
        self._settings = {**_SETTINGS, **(_FAST if is_fast else {}), **(settings or {})}
        self._cluster = self.data_folder / "cluster"
        self._account = server_account()
        self._port = free_port(_PORTS) if listens_tcp else None
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    def start(self) -> None:
        """Return when it accepts connections; does nothing if it runs. Makes the cluster if there is none.

        Raises PrivatePostgresError: another process uses the folder, it cannot be written or reached, or the server
        would not start (with the end of its log).
        """
        if self.is_running:
            return
        self._release()
        self._make_data_folder()
        self._lock = take_lock(self.data_folder / "lock")
        try:
            binaries = self._find_binaries()
            leftovers.stop_servers(self._name)
            # of a server that was killed: it would look ready, and its pid may be somebody else's by now
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            make_cluster(self.data_folder, binaries)
            self._launch(binaries, self._make_socket_folder())
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, data is safe. Afterwards nothing of it runs. May be called twice."""
        if self._guard is not None:
            self._guard.terminate()
            try:
                self._guard.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
            leftovers.stop_servers(self._name)
        self._release()

    def crash(self) -> None:
        """Kill the server with SIGKILL, as an OOM killer would; returns when all of its processes are gone."""
        leftovers.kill_servers(self._name)
        if self._guard is not None:
            self._guard.wait(_STOP_SECONDS)
        self._release()

    @property
    def is_running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    @property
    def host(self) -> str:
        """What libpq calls host: the folder of the unix socket, or 127.0.0.1."""
        return "127.0.0.1" if self._port is not None else os.path.realpath(self.data_folder / "socket")

    @property
    def port(self) -> int:
        return UNIX_PORT if self._port is None else self._port

    @property
    def password(self) -> str | None:
        """None: over the unix socket none is needed, since nobody else reaches it."""
        return None if self._port is None else (self.data_folder / "password").read_text().strip()

    def url(self, database: str = "postgres") -> str:
        """A DATABASE_URL for libpq, psycopg2, psycopg and psql. Known once it has been started."""
        if self._port is not None:
            return f"postgresql://{SUPERUSER}:{self.password}@{self.host}:{self.port}/{quote(database, safe='')}"
        query = urlencode({"host": self.host, "port": self.port}, quote_via=quote)
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?{query}"

    def create_database(self, name: str) -> bool:
        """Make a database of that name; False if it is there already."""
        result = self._run_createdb(name)
        if result.returncode != 0 and f'"{name}" already exists' not in result.stderr:
            raise PrivatePostgresError(result.stderr.strip())
        return result.returncode == 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _name(self) -> str:
        """The server's cluster_name: by it its processes are found again, whoever runs them."""
        return "orchestrator-" + hashlib.sha256(bytes(self._cluster)).hexdigest()[:12]

    def _find_binaries(self) -> Binaries:
        return self._binaries or find_binaries()

    def _make_data_folder(self) -> None:
        folder = self.data_folder
        try:
            make_folder(folder, 0o711 if self._account else 0o700)
        except OSError as error:
            raise PrivatePostgresError(
                f"cannot make the data folder {folder}: {error.strerror}; name another folder"
            ) from error
        refuse_unless_ours(folder)
        if not can_reach(self._account, folder):
            raise PrivatePostgresError(
                f"PostgreSQL does not run as root, and no other account can reach {folder}. "
                "Name a folder outside of root's home, or run this as an ordinary user"
            )

    def _make_socket_folder(self) -> Path:
        """A folder that only the server's account (and root) may enter, with a path that libpq takes for a socket's:
        short enough, and without a comma, at which it would see several hosts."""
        name = self.data_folder / "socket"
        _remove_socket_folder(name)
        path = os.path.realpath(name)
        if len(os.fsencode(path)) + len(f"/.s.PGSQL.{UNIX_PORT}") <= _LONGEST_SOCKET and "," not in path:
            name.mkdir(mode=0o700)
            folder = name
        else:
            folder = make_temporary_folder("orchestrator-socket-")
            folder.chmod(0o700)
            name.symlink_to(folder)
        if self._account is not None:
            os.chown(folder, self._account.uid, self._account.gid)
        return folder

    def _launch(self, binaries: Binaries, sockets: Path) -> None:
        settings = {
            **self._settings,
            "cluster_name": self._name,
            "unix_socket_directories": '"' + str(sockets).replace('"', '""') + '"',
            "listen_addresses": "" if self._port is None else "127.0.0.1",
            "port": str(self.port),
        }
        argv = [binaries.program("postgres"), "-D", str(self._cluster)]
        for key, value in settings.items():
            argv += ["-c", f"{key}={value}"]
        order = {
            "owner": os.getpid(),
            "argv": argv,
            "uid": self._account.uid if self._account else None,
            "gid": self._account.gid if self._account else None,
            "lock": self._lock,
            "sockets": str(sockets),
        }
        assert self._lock is not None
        with open(self.data_folder / "postgres.log", "wb", opener=open_private) as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=ENVIRONMENT,
                pass_fds=(self._lock,),
                start_new_session=True,  # a terminal's Ctrl-C is for us, not for the database
            )

    def _wait_until_ready(self) -> None:
        """The eighth line of postmaster.pid says when: pg_ctl reads it too."""
        assert self._guard is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            lines = _lines(self._cluster / "postmaster.pid")
            if len(lines) > 7 and lines[7].strip() == "ready":
                return
            try:
                self._guard.wait(0.005)
            except subprocess.TimeoutExpired:
                continue
            break
        end_of_log = "\n".join(_lines(self.data_folder / "postgres.log")[-8:])
        raise PrivatePostgresError(f"PostgreSQL did not start in {self.data_folder}:\n{end_of_log}")

    def _release(self) -> None:
        """Forget a server that has ended: its lock, and its socket's folder if the guard could not remove that."""
        self._guard = None
        if self._lock is not None:
            _remove_socket_folder(self.data_folder / "socket")
            os.close(self._lock)
            self._lock = None

    def _run_createdb(self, name: str) -> subprocess.CompletedProcess[str]:
        environment = {**ENVIRONMENT, "PGHOST": self.host, "PGPORT": str(self.port), "PGUSER": SUPERUSER}
        if self.password is not None:
            environment["PGPASSWORD"] = self.password
        createdb = self._find_binaries().program("createdb")
        return subprocess.run([createdb, "--", name], env=environment, capture_output=True, text=True)


def _remove_socket_folder(name: Path) -> None:
    """Also the temporary folder that `name` is a link to. What is gone already is fine."""
    for folder in {Path(os.path.realpath(name)), name}:
        with contextlib.suppress(FileNotFoundError):
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def free_port(ports: range, host: str = "127.0.0.1") -> int:
    """One of these that is free now."""
    while True:
        port = random.choice(ports)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
