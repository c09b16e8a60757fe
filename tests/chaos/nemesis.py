"""Does harm, as its seed says, and undoes what it can undo. Each deed is noted with its time."""

import contextlib
import heapq
import os
import random
import signal
import time
from collections.abc import Callable

import psycopg2

from orchestrator.child.database import STATEMENT_SECONDS
from tests.chaos.cluster import TIMEOUT, Cluster, Node
from tests.chaos.history import Deed
from tests.fixtures.daemon import Queue

PROFILES = {
    "mixed": {
        "kill child": 8, "kill supervisor": 3, "kill forkserver": 2, "pause child": 3, "pause supervisor": 3,
        "pause forkserver": 1, "crash database": 1, "cut": 3, "silence": 2, "lose replies": 2, "slow": 2, "drain": 2,
        "reload": 2, "lock rows": 3, "lock table": 1, "cancel statements": 2, "halve replies": 2, "stop claiming": 2,
        "grow": 1, "shrink": 1,
    },
    "zombies": {"pause supervisor": 6, "silence": 3, "pause all": 3, "kill child": 2, "kill supervisor": 1},
    "replies": {"lose replies": 8, "cut": 4, "kill child": 2, "crash database": 1},
    "single": {
        "kill child": 8, "kill supervisor": 4, "kill forkserver": 2, "pause child": 2, "crash database": 1, "cut": 3,
        "lose replies": 2, "drain": 2, "reload": 2, "lock rows": 3, "cancel statements": 2, "halve replies": 2,
    },
}  # fmt: skip
"""Deeds and how often, by profile: what a mixed one seldom hits needs one of its own."""

LONGEST_AWAY = 4.0
LONGER_THAN_A_STATEMENT = (STATEMENT_SECONDS, 1.3 * STATEMENT_SECONDS)
JUST_OVER = (TIMEOUT * 1.02, TIMEOUT * 2.5)


class Nemesis:
    """Call `strike` again and again, then `relent`."""

    def __init__(self, cluster: Cluster, profile: str, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._weights = PROFILES[profile]
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._is_database_down = False
        self._down_since: dict[str, float] = {}
        self.deeds: list[Deed] = []

    def strike(self) -> float:
        """One deed. Returns the seconds until the next should be done."""
        self.proceed()
        self._keep()
        (what,) = self._random.choices(list(self._weights), list(self._weights.values()))
        node = self._random.choice(self._cluster.nodes)
        getattr(self, "_" + what.replace(" ", "_"))(node)
        return self._random.uniform(0.1, 0.7)

    def _keep(self) -> None:
        """What systemd does: a worker that has ended by itself is started again.

        A SIGHUP in the first milliseconds of its life, before anything of ours runs, ends any process.
        """
        now = time.monotonic()
        for node in self._cluster.nodes:
            if node.is_up:
                self._down_since.pop(node.role, None)
            elif now - self._down_since.setdefault(node.role, now) > LONGEST_AWAY:
                self._restart(node)

    def proceed(self, *, at_once: bool = False) -> None:
        """Undo what has lasted long enough."""
        while self._later and (at_once or self._later[0][0] <= time.monotonic()):
            heapq.heappop(self._later)[2]()

    def relent(self) -> None:
        """All is undone, every node runs, the network is whole."""
        self.proceed(at_once=True)
        for node in self._cluster.nodes:
            node.proxy.heal()
            self._restart(node)

    def _after(self, seconds: tuple[float, float], undo: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._later, (time.monotonic() + self._random.uniform(*seconds), self._count, undo))

    def _note(self, what: str, target: str) -> None:
        self.deeds.append(Deed(time.monotonic(), what, target))

    def _signal(self, pid: int | None, number: signal.Signals, target: str) -> bool:
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            self._note(number.name, f"{target} {pid}")
            return True
        return False

    def _pause(self, pid: int | None, seconds: tuple[float, float], target: str) -> None:
        if self._signal(pid, signal.SIGSTOP, target):
            self._after(seconds, lambda: self._signal(pid, signal.SIGCONT, target) and None)

    def _child(self, node: Node) -> int | None:
        children = list(node.worker.children().values()) if node.worker and node.is_up else []
        return self._random.choice(children) if children else None

    def _forkserver(self, node: Node) -> int | None:
        if node.worker is None or not node.is_up:
            return None
        titles = node.worker.descendants().items()
        return next((pid for pid, title in titles if title == "orchestratord: forkserver"), None)

    def _supervisor(self, node: Node) -> int | None:
        return node.worker.pid if node.worker and node.is_up else None

    def _restart(self, node: Node) -> None:
        if not node.is_up:
            node.start()
            self._note("start", node.role)

    # the deeds

    def _kill_child(self, node: Node) -> None:
        self._signal(self._child(node), signal.SIGKILL, f"{node.role} child")

    def _kill_forkserver(self, node: Node) -> None:
        self._signal(self._forkserver(node), signal.SIGKILL, f"{node.role} forkserver")

    def _kill_supervisor(self, node: Node) -> None:
        if node.worker and node.is_up:
            self._note("SIGKILL", f"{node.role} supervisor {node.worker.pid}")
            node.worker.kill()
            self._after((0.0, 2.5), lambda: self._restart(node))

    def _pause_child(self, node: Node) -> None:
        self._pause(self._child(node), (0.2, 2.5), f"{node.role} child")

    def _pause_forkserver(self, node: Node) -> None:
        self._pause(self._forkserver(node), (0.2, 2.5), f"{node.role} forkserver")

    def _pause_supervisor(self, node: Node) -> None:
        self._pause(self._supervisor(node), self._random.choice([(0.2, 1.0), JUST_OVER]), f"{node.role} supervisor")

    def _pause_all(self, node: Node) -> None:
        """As a virtual machine is paused: the supervisor and its children."""
        pids = [*(node.worker.children().values() if node.worker and node.is_up else ()), self._supervisor(node)]
        for pid in pids:
            self._pause(pid, JUST_OVER, f"{node.role} all")

    def _crash_database(self, node: Node) -> None:
        if not self._is_database_down:
            self._is_database_down = True
            self._note("crash", "database")
            self._cluster.server.crash()
            self._note("is down", "database")
            self._after((0.2, 1.5), self._start_database)

    def _start_database(self) -> None:
        self._cluster.server.start()
        self._is_database_down = False
        self._note("start", "database")

    def _cut(self, node: Node) -> None:
        self._note("cut", node.role)
        node.proxy.cut(self._random.choice(["", "child", "pulse", "coordinator"]))

    def _silence(self, node: Node) -> None:
        self._note("silence", node.role)
        node.proxy.silence(self._random.choice(["", "", "child", "pulse"]))
        self._after(self._random.choice([(0.2, 1.0), JUST_OVER]), lambda: self._heal(node))

    def _lose_replies(self, node: Node) -> None:
        self._note("lose replies", node.role)
        node.proxy.lose_replies(self._random.choice(["", "child", "coordinator"]))
        self._after((0.05, 0.6), lambda: self._heal(node))

    def _halve_replies(self, node: Node) -> None:
        self._note("halve replies", node.role)
        node.proxy.halve_replies(self._random.choice(["", "child", "coordinator"]))
        self._after((0.05, 0.6), lambda: self._heal(node))

    def _slow(self, node: Node) -> None:
        self._note("slow", node.role)
        node.proxy.slow(self._random.uniform(0.01, 0.2))
        self._after((0.2, 2.0), lambda: self._heal(node))

    def _lock_rows(self, node: Node) -> None:
        """As an operator does who looks at them with FOR UPDATE and forgets his transaction."""
        count = self._random.randrange(1, 30)
        rows = f"SELECT 1 FROM tasks WHERE status = 'running' LIMIT {count} FOR UPDATE SKIP LOCKED"
        self._hold("lock rows", rows, self._random.choice([(0.1, 1.5), LONGER_THAN_A_STATEMENT]))

    def _lock_table(self, node: Node) -> None:
        table = self._random.choice(["tasks", "workers", "leadership", "sleepers"])
        self._hold("lock table", f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE", (0.1, 1.5))

    def _hold(self, what: str, sql: str, seconds: tuple[float, float]) -> None:
        """A transaction of somebody else's, for a while."""
        with contextlib.suppress(psycopg2.Error):
            queue = Queue(self._cluster.server.url())
            queue.connection.autocommit = False
            self._after(seconds, queue.connection.close)
            queue.rows("SET LOCAL lock_timeout = '200ms'")
            queue.rows(sql)
            self._note(what, "database")

    def _cancel_statements(self, node: Node) -> None:
        with contextlib.suppress(psycopg2.Error):
            queue = Queue(self._cluster.server.url())
            queue.rows("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = %s", node.role)
            queue.connection.close()
            self._note("cancel statements", node.role)

    def _heal(self, node: Node) -> None:
        self._note("heal", node.role)
        node.proxy.heal()

    def _drain(self, node: Node) -> None:
        if node.worker and node.is_up:
            self._signal(node.worker.pid, signal.SIGTERM, f"{node.role} supervisor")
            self._after((0.2, 2.5), lambda: self._restart_drained(node))

    def _restart_drained(self, node: Node) -> None:
        """It may be paused or cut off: then it is as good as hung, and killed."""
        if node.worker is not None and node.is_up:
            with contextlib.suppress(Exception):
                node.worker.wait_exit(within=3)
            if node.is_up:
                self._note("SIGKILL", f"{node.role} supervisor {node.worker.pid}")
                node.worker.kill()
        self._restart(node)

    def _reload(self, node: Node) -> None:
        self._signal(self._supervisor(node), signal.SIGHUP, f"{node.role} supervisor")

    def _stop_claiming(self, node: Node) -> None:
        pid = self._settled(node)
        if self._signal(pid, signal.SIGUSR2, f"{node.role} supervisor"):
            self._after((0.1, 1.5), lambda: self._signal(pid, signal.SIGUSR2, f"{node.role} supervisor") and None)

    def _grow(self, node: Node) -> None:
        self._signal(self._settled(node), signal.SIGTTIN, f"{node.role} supervisor")

    def _shrink(self, node: Node) -> None:
        self._signal(self._settled(node), signal.SIGTTOU, f"{node.role} supervisor")

    def _settled(self, node: Node) -> int | None:
        """Its supervisor, unless these signals would still stop it as they do any process."""
        return self._supervisor(node) if node.worker is not None and "starting" in node.worker.log() else None
