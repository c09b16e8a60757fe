"""A pool with nothing to do: what it takes from the machine and from the database."""

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cpu import cpu_seconds, proportional_kilobytes
from benchmarks.figures import Line, Spread
from benchmarks.server import Server
from benchmarks.worker import worker

CHILDREN = 20
COUNT = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"


def measure(server: Server, seconds: float) -> Iterator[Line]:
    server.empty()
    with worker(server, CHILDREN) as daemon:
        time.sleep(3)  # what follows a start is over
        cpu_before = daemon.cpu_seconds()
        (statements_before,), start = server.rows(COUNT)[0], time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - start
        cpu = (daemon.cpu_seconds() - cpu_before) / passed * 100
        (statements,) = server.rows(COUNT)[0]
        child_kilobytes = [proportional_kilobytes(pid) for pid in _children(daemon.pid)]
    # two are our own questions
    per_second = (statements - statements_before - 2) / passed
    yield Line(f"{CHILDREN} idle children, CPU", "% of a core", Spread.of([cpu]), bar=0.5, is_upper_bar=True)
    yield Line(f"{CHILDREN} idle children, transactions", "/s", Spread.of([per_second]), bar=2.0, is_upper_bar=True)
    megabytes = [each / 1024 for each in child_kilobytes]
    yield Line("memory of a child (PSS)", "MB", Spread.of(megabytes), bar=12.0, is_upper_bar=True)


def _children(supervisor: int) -> list[int]:
    """Those whose title says child."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                title = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == supervisor and title.startswith(b"orchestratord: child"):
                found.append(int(entry.name))
    assert len(found) == CHILDREN and cpu_seconds(supervisor) > 0
    return found
