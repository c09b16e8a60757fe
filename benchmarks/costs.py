"""What a no-op costs the server in statements, buffers and WAL: counts, which hardly differ from run to run."""

from collections.abc import Iterator

from benchmarks.figures import Line, Spread
from benchmarks.queue import drain, fill, paused_worker
from benchmarks.server import Server


def measure(server: Server, tasks: int) -> Iterator[Line]:
    """Of one drain, with all that the worker does beside it: heartbeats, polls, counts."""
    with server.counting(), paused_worker(server) as daemon:
        fill(server, tasks)
        before = server.counts()
        drain(server, daemon, tasks)
        spent = server.counts() - before
    for name, unit, count in (
        ("statements" if server.counts_statements else "transactions", "/task", spent.statements),
        ("settings in the same messages", "/task", spent.settings),
        ("buffers", "/task", spent.buffers),
        ("WAL", "bytes/task", spent.wal_bytes),
    ):
        if count:
            yield Line(f"a no-op's share: {name}", unit, Spread.of([count / tasks]))
