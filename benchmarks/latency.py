"""From enqueue to the first line of the handler, in an idle pool; beside two commits and one wake-up alone."""

import select
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Line, Spread, paired, percentile
from benchmarks.progress import tell
from benchmarks.queue import CHILDREN
from benchmarks.server import Server
from benchmarks.worker import worker
from orchestrator import Client

A_SECOND = 25
SHARE = 1.3
PERCENTS = (10, 25, 50, 75, 90, 95, 99)


def measure(server: Server, tasks: int, rounds: int) -> Iterator[Line]:
    ours: list[list[float]] = []
    floor: list[list[float]] = []
    for index in range(rounds):
        for times, run in ((ours, _ours), (floor, _floor)):
            times.append(run(server, tasks))
            tell(f"round {index + 1} of {rounds}, {run.__name__[1:]}: p50 {percentile(times[-1], 50):.2f} ms")
    for percent, milliseconds in ((50, 2.0), (99, 5.0)):
        least = [percentile(each, percent) for each in floor]
        allowed = [max(milliseconds, SHARE * each) for each in least]
        yield paired(
            f"enqueue to handler at {A_SECOND}/s, p{percent}",
            "ms",
            list(zip([percentile(each, percent) for each in ours], allowed, strict=True)),
            beside=f"{milliseconds:g} ms, or {SHARE:g} x two commits and a wake-up",
            bar=1.0,
            is_upper_bar=True,
            note=f"two commits and a wake-up: {Spread.of(least)} ms",
            percentiles={str(each): [_of_all(ours, each), _of_all(floor, each)] for each in PERCENTS},
        )


def _of_all(rounds: list[list[float]], percent: float) -> float:
    return percentile([each for times in rounds for each in times], percent)


def _ours(server: Server, tasks: int) -> list[float]:
    """Milliseconds of each."""
    server.empty()
    with TemporaryDirectory(prefix="orchestrator-bench-") as folder:
        stamps = Path(folder) / "stamps"
        client = Client(server.url)
        with worker(server, CHILDREN, BENCH_STAMPS=str(stamps)):
            next_at = time.monotonic()
            for _ in range(tasks):
                next_at += 1 / A_SECOND
                time.sleep(max(0.0, next_at - time.monotonic()))
                client.enqueue("stamp", {"sent_ns": time.monotonic_ns()})
            _wait_lines(stamps, tasks)
        lines = [line.split() for line in stamps.read_text().splitlines()]
    return [(int(arrived) - int(sent)) / 1e6 for sent, arrived in lines]


def _floor(server: Server, tasks: int) -> list[float]:
    """An INSERT that notifies, the wake-up of who listens, and its UPDATE, with nothing in between."""
    server.empty()
    server.rows("INSERT INTO tasks (type) VALUES ('noop')")
    sender, listener, claimer = server.connect(), server.connect(), server.connect()
    times = []
    with sender.cursor() as send, listener.cursor() as listen, claimer.cursor() as claim:
        listen.execute("LISTEN bench")
        for _ in range(tasks):
            time.sleep(1 / A_SECOND)
            start = time.monotonic()
            send.execute("WITH new AS (INSERT INTO tasks (type) VALUES ('noop')) SELECT pg_notify('bench', '')")
            while not listener.notifies:
                select.select([listener], [], [], 1)
                listener.poll()
            listener.notifies.clear()
            claim.execute("UPDATE tasks SET updated_at = now() WHERE id = (SELECT id FROM tasks LIMIT 1)")
            times.append((time.monotonic() - start) * 1000)
    for connection in (sender, listener, claimer):
        connection.close()
    return times


def _wait_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or path.read_text().count("\n") < count:
        if time.monotonic() > deadline:
            raise SystemExit("not every task was run")
        time.sleep(0.1)
