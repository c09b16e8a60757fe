"""Tasks going in: one by one beside a bare INSERT, in bulk beside COPY."""

import io
import time
from collections.abc import Iterator

from benchmarks import pgbench
from benchmarks.figures import Line, Spread, interleave, paired
from benchmarks.server import Server
from orchestrator import Client


def measure(server: Server, singles: int, bulk: int, rounds: int) -> Iterator[Line]:
    client = Client(server.url)
    client.enqueue("noop", {"n": 1})

    def one_by_one() -> float:
        server.empty()
        start = time.monotonic()
        for _ in range(singles):
            client.enqueue("noop", {"n": 1})
        return singles / (time.monotonic() - start)

    def insert() -> float:
        server.empty()
        return pgbench.inserts_per_second(server, singles)

    def in_bulk() -> float:
        server.empty()
        tasks = [("noop", {"n": 1})] * bulk
        start = time.monotonic()
        client.enqueue_many(tasks)
        return bulk / (time.monotonic() - start)

    def copy() -> float:
        server.empty()
        text = io.StringIO('noop\t{"n": 1}\n' * bulk)
        connection = server.connect()
        start = time.monotonic()
        with connection.cursor() as cursor:
            cursor.copy_expert("COPY tasks (type, payload) FROM STDIN", text)
        seconds = time.monotonic() - start
        connection.close()
        return bulk / seconds

    if server.pgbench is None:
        yield Line("enqueue one by one", "tasks/s", Spread.of([one_by_one() for _ in range(rounds)]))
    else:
        pairs = interleave(rounds, one_by_one, insert)
        yield paired("enqueue one by one", "tasks/s", pairs, beside="pgbench, a bare INSERT", bar=0.8)
    pairs = interleave(rounds, in_bulk, copy)
    yield paired(f"enqueue {bulk:,} in bulk", "tasks/s", pairs, beside="COPY", bar=0.5)
