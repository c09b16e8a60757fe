"""One PostgreSQL, and workers on it, each by way of a proxy and under a database role of its own."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.proxy import Proxy

HEARTBEAT, TIMEOUT, TERM = 0.3, 1.5, 1.5

SETTINGS = {
    "HEARTBEAT_INTERVAL": f"{HEARTBEAT * 1000:.0f}ms",
    "WORKER_TIMEOUT": f"{TIMEOUT * 1000:.0f}ms",
    "LEADER_TERM": f"{TERM * 1000:.0f}ms",
    "CLAIM_INTERVAL": "200ms",
    "CLEANUP_INTERVAL": "1s",
    "SHUTDOWN_TIMEOUT": "1s",
    "TASK_KILL_GRACE": "200ms",
    "DATABASE_WAIT": "1m",
    "RETENTION": "none",
}
POOL_SIZE = 5
"""Enough for the outcomes of many children to be collected (supervisor/collector.py)."""


class Node:
    """A place for a worker: it is started, killed, and started again under the same role."""

    def __init__(self, role: str, proxy: Proxy, url: str, start: Start, variables: Mapping[str, str]) -> None:
        self.role = role
        self.proxy = proxy
        self._url = url
        self._start = start
        self._variables = variables
        self.worker: Daemon | None = None
        self.pids: list[int] = []

    def start(self) -> None:
        """A new worker, not awaited; the one before has ended."""
        self.worker = self._start(
            None, "--app", "chaos_app:app", "--pool-size", str(POOL_SIZE), is_awaited=False,
            DATABASE_URL=self._url, **SETTINGS, **self._variables,
        )  # fmt: skip
        self.pids.append(self.worker.pid)

    @property
    def is_up(self) -> bool:
        return self.worker is not None and self.worker.process.poll() is None


class Cluster:
    """`count` nodes: one in single-instance mode, several in distributed mode."""

    def __init__(
        self,
        server: PrivatePostgres,
        start: Start,
        folder: Path,
        count: int,
        variables: Mapping[int, Mapping[str, str]],
    ) -> None:
        self.server = server
        self.queue = Queue(server.url())
        (folder / "chaos_app.py").write_text(Path(__file__).with_name("app.py").read_text())
        self.nodes: list[Node] = []
        for number in range(count):
            self.nodes.append(self._node(number, count > 1, start, variables.get(number, {})))

    def _node(self, number: int, is_distributed: bool, start: Start, more: Mapping[str, str]) -> Node:
        role, password = f"node{number}", secrets.token_hex(8)
        self.queue.rows(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{password}'")
        address = urlsplit(self.server.url())
        proxy = Proxy(f"postgresql://{role}:{password}@{address.hostname}:{address.port}/postgres")
        variables = {"DISTRIBUTED_MODE": str(is_distributed).lower(), **more}
        return Node(role, proxy, proxy.url, start, variables)

    def reconnect(self) -> None:
        """The test's own connection, after the server was crashed."""
        self.queue.connection.close()
        self.queue = Queue(self.server.url())

    def close(self) -> None:
        self.queue.connection.close()
        for node in self.nodes:
            node.proxy.close()
            for pid in node.pids:  # libfaketime's, which a process that is killed leaves behind
                for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
                    Path("/dev/shm", name).unlink(missing_ok=True)
