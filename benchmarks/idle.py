"""A pool with nothing to do: what it takes from the machine and from the database."""

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cpu import exact_cpu_seconds, proportional_kilobytes
from benchmarks.figures import Line, Spread
from benchmarks.server import Server
from benchmarks.worker import EXAMPLES, Worker, worker

CHILDREN = 20
SETTLE_SHARE = 0.3


def measure(server: Server, seconds: float) -> Iterator[Line]:
    """With the examples app, as it is without `--app`."""
    server.empty()
    with server.counting(), worker(server, CHILDREN, app=EXAMPLES) as daemon:
        time.sleep(seconds * SETTLE_SHARE)  # what follows a start is over
        before, cpu_before, start = server.counts(), exact_cpu_seconds(daemon.pid), time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - start
        cpu = (exact_cpu_seconds(daemon.pid) - cpu_before) / passed * 100
        counted = server.counts() - before
        megabytes = [proportional_kilobytes(pid) / 1024 for pid in _children(daemon)]
    # where only transactions are counted, one of them is our own question
    statements = counted.statements - (0 if server.counts_statements else 1)
    what = "statements" if server.counts_statements else "transactions"
    note = f"and {counted.settings / passed:.1f} SET LOCAL/s in the same messages" if counted.settings else ""
    name = f"{CHILDREN} idle children and their supervisor"
    yield Line(f"{name}: CPU", "% of a core", Spread.of([cpu]), bar=0.5, is_upper_bar=True)
    yield Line(f"{name}: {what}", "/s", Spread.of([statements / passed]), bar=2.0, is_upper_bar=True, note=note)
    yield Line(
        f"memory of each of {CHILDREN} idle children (PSS)", "MB", Spread.of(megabytes), bar=12.0, is_upper_bar=True
    )


def _children(daemon: Worker) -> list[int]:
    """Those whose title says child."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                title = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == daemon.pid and title.startswith(b"orchestratord: child"):
                found.append(int(entry.name))
    assert len(found) == CHILDREN
    return found
