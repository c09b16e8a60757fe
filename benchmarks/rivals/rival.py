"""A rival: what it is, at which setting it is measured, and how it empties a queue."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.rivals import redis
from benchmarks.rivals.stamps import FOLDER, Stamps, read
from benchmarks.server import Server
from benchmarks.worker import ROOT

LONGEST_SECONDS = 300.0


@dataclass(frozen=True)
class Rival:
    """`share` of the tasks that ours gets: the slow ones get fewer. `processes` are what its own supervisor, or ours,
    starts; `threads` are in each."""

    name: str
    setting: str
    share: float
    processes: int
    threads: int = 1
    needs_redis: bool = False

    @property
    def program(self) -> str:
        return f"benchmarks.rivals.on_{self.name}"

    @property
    def title(self) -> str:
        return f"{self.name} {importlib.metadata.version(self.name)}: {self.setting}"

    def missing(self, server: Server) -> str | None:
        """Why it cannot be measured here; None: it can."""
        if importlib.util.find_spec(self.name) is None:
            return f"{self.name} is not installed: pip install 'task-orchestrator[rivals]'"
        if self.needs_redis and redis.find() is None:
            return "redis-server is not installed: as root, --install-redis does it"
        if not self.needs_redis and not server.may_create_databases():
            return "the role may not create a database for it"
        return None

    def drain(self, server: Server, tasks: int) -> float:
        """Tasks a second: so many no-ops, from the first handler to the last."""
        with TemporaryDirectory(prefix="orchestrator-bench-") as folder:
            stamps = Path(folder)
            ran = self._drained_redis(stamps, tasks) if self.needs_redis else self._drained(server, stamps, tasks)
        if ran.count < tasks:
            raise SystemExit(f"{self.name} ran {ran.count} of {tasks} tasks")
        return tasks / (ran.last - ran.first)

    def _drained(self, server: Server, stamps: Path, tasks: int) -> Stamps:
        with server.database(f"bench_{self.name}") as url:
            self._run([self.program, "fill", url, str(tasks)])
            server.rows("VACUUM ANALYZE", url=url)
            server.rows("CHECKPOINT")
            workers = [self._start([self.program, "work", url], stamps) for _ in range(self.processes)]
            with _ended(workers):
                for process in workers:
                    process.wait(LONGEST_SECONDS)
        return read(stamps)

    def _drained_redis(self, stamps: Path, tasks: int) -> Stamps:
        with redis.redis() as url:
            self._run([self.program, "fill", url, str(tasks)])
            command = ["dramatiq", self.program, "--processes", str(self.processes), "--threads", str(self.threads)]
            with _ended([self._start(command, stamps, BENCH_REDIS_URL=url, dramatiq_queue_prefetch="200")]):
                deadline = time.monotonic() + LONGEST_SECONDS
                while read(stamps).count < tasks and time.monotonic() < deadline:
                    time.sleep(0.1)
        return read(stamps)

    def _run(self, module: Sequence[str]) -> None:
        self._check(self._start(module, Path(os.devnull)))

    def _start(self, module: Sequence[str], stamps: Path, **variables: str) -> subprocess.Popen[str]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), FOLDER: str(stamps), **variables}
        return subprocess.Popen(
            [sys.executable, "-m", *module], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def _check(self, process: subprocess.Popen[str]) -> None:
        _, error = process.communicate(timeout=LONGEST_SECONDS)
        if process.returncode != 0:
            raise SystemExit(f"{self.name} failed: {error.strip()}")


@contextmanager
def _ended(processes: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """At the end they are gone."""
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.communicate()


RIVALS = (
    Rival("pgqueuer", "2 processes, batches of 100", 0.5, processes=2),
    Rival("procrastinate", "4 processes, concurrency 20", 0.02, processes=4),
    # it fetches two messages a thread by default, which halves what it does with no-ops
    Rival("dramatiq", "Redis, 2 processes of 8 threads, prefetch 200", 0.16, processes=2, threads=8, needs_redis=True),
)
