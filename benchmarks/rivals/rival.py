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
            run = _Run(self, Path(folder))
            drained = run.drain_redis(tasks) if self.needs_redis else run.drain_database(server, tasks)
            if drained.count < tasks:
                raise SystemExit(f"{self.name} ran {drained.count} of {tasks} tasks:\n{run.log.read_text()[-2000:]}")
        return tasks / (drained.last - drained.first)


class _Run:
    """One, in a folder of its own, which has the stamps and what the programs say."""

    def __init__(self, rival: Rival, folder: Path) -> None:
        self._rival = rival
        self._stamps = folder / "stamps"
        self._stamps.mkdir()
        self.log = folder / "log"

    def drain_database(self, server: Server, tasks: int) -> Stamps:
        rival = self._rival
        with server.database() as url:
            self._fill(url, tasks)
            server.rows("VACUUM ANALYZE", url=url)
            server.rows("CHECKPOINT")
            workers = [self._start([rival.program, "work", url]) for _ in range(rival.processes)]
            with _ended(workers):
                for process in workers:
                    process.wait(LONGEST_SECONDS)
        return read(self._stamps)

    def drain_redis(self, tasks: int) -> Stamps:
        rival = self._rival
        command = ["dramatiq", rival.program, "--processes", str(rival.processes), "--threads", str(rival.threads)]
        with redis.redis() as url:
            self._fill(url, tasks)
            with _ended([self._start(command, BENCH_REDIS_URL=url, dramatiq_queue_prefetch=str(PREFETCH))]) as (
                worker,
            ):
                deadline = time.monotonic() + LONGEST_SECONDS
                while read(self._stamps).count < tasks and worker.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.1)
        return read(self._stamps)

    def _fill(self, url: str, tasks: int) -> None:
        if self._start([self._rival.program, "fill", url, str(tasks)]).wait(LONGEST_SECONDS) != 0:
            raise SystemExit(f"{self._rival.name} cannot be given tasks:\n{self.log.read_text()[-2000:]}")

    def _start(self, module: Sequence[str], **variables: str) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), FOLDER: str(self._stamps), **variables}
        with self.log.open("a") as log:
            return subprocess.Popen([sys.executable, "-m", *module], env=environ, stdout=log, stderr=log)


@contextmanager
def _ended(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[Sequence[subprocess.Popen[bytes]]]:
    """At the end they are gone."""
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


PREFETCH = 200
"""Messages that a process of dramatiq fetches at once; two a thread, its default, halve what it does with no-ops."""

RIVALS = (
    Rival("pgqueuer", "2 processes, batches of 100", 0.5, processes=2),
    Rival("procrastinate", "4 processes, concurrency 20", 0.02, processes=4),
    Rival(
        "dramatiq",
        f"Redis, 2 processes of 8 threads, prefetch {PREFETCH}",
        0.16,
        processes=2,
        threads=8,
        needs_redis=True,
    ),
)
