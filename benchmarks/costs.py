"""What a no-op costs the server in statements, buffers and WAL: counts, which hardly differ from run to run."""

from collections.abc import Iterator

from benchmarks.figures import Line, Spread
from benchmarks.queue import drain, fill, paused_worker
from benchmarks.server import Counts, Server


def measure(server: Server, tasks: int) -> Iterator[Line]:
    """Of one drain, with all that the worker does beside it: heartbeats, polls, counts."""
    with server.counting(), paused_worker(server) as daemon:
        fill(server, tasks)
        before = server.counts()
        drain(server, daemon, tasks)
        spent = server.counts() - before
    yield from _lines(spent, tasks, "statements" if server.counts_statements else "transactions")


def _lines(spent: Counts, tasks: int, of_what: str) -> Iterator[Line]:
    yield Line(f"{of_what} for a no-op", "/task", Spread.of([spent.statements / tasks]))
    yield Line("buffers for a no-op", "/task", Spread.of([spent.buffers / tasks]))
    if spent.wal_bytes:
        yield Line("WAL for a no-op", "bytes/task", Spread.of([spent.wal_bytes / tasks]))
