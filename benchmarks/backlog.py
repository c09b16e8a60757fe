"""Queues that are long, or have much beside what is due: each beside a queue of only what is drained."""

from collections.abc import Iterator
from contextlib import closing

from benchmarks.figures import Line, Spread, interleave, paired
from benchmarks.queue import drain, drained, fill, paused_worker, rate, rates_of_parts
from benchmarks.server import Server


def measure(server: Server, backlog: int, first: int, rounds: int) -> Iterator[Line]:
    """A long queue: its first part, and all of it."""
    parts: list[list[float]] = []

    def whole() -> float:
        figure = drained(server, backlog)
        parts.append(rates_of_parts(server, backlog // first))
        return figure

    pairs = interleave(rounds, whole, lambda: drained(server, first))
    beside = f"{first:,} pending"
    firsts = [(each[0], short) for each, (_, short) in zip(parts, pairs, strict=True)]
    yield paired(f"the first {first:,} of {backlog:,}", "tasks/s", firsts, beside=beside, bar=0.9)
    # each part, and how many were pending at its beginning
    sizes = [(backlog - index * first, Spread.of(rates).median) for index, rates in enumerate(zip(*parts, strict=True))]
    yield paired(f"all of {backlog:,}", "tasks/s", pairs, beside=beside, bar=0.6, sizes=sizes)


def measure_scheduled(server: Server, tasks: int, rounds: int, scheduled: int) -> Iterator[Line]:
    """While so many of higher priority are scheduled for the future."""

    def with_scheduled() -> float:
        with paused_worker(server) as daemon:
            server.rows(
                "INSERT INTO tasks (type, priority, next_retry_at)"
                " SELECT 'noop', 9, now() + interval '1 day' FROM generate_series(1, %s)",
                scheduled,
            )
            fill(server, tasks)
            drain(server, daemon, tasks)
        return rate(server, tasks)

    pairs = interleave(rounds, with_scheduled, lambda: drained(server, tasks))
    name = f"{tasks:,} no-ops, {scheduled:,} scheduled"
    yield paired(name, "tasks/s", pairs, beside="the same with none scheduled", bar=0.9)


def measure_snapshot(server: Server, finished: int, tasks: int, rounds: int) -> Iterator[Line]:
    """While another session holds a snapshot open that began before all of them, so that no dead row or index entry
    can go: how fast they are once so many have been finished, and whether it gets worse."""
    wholes: list[float] = []
    thirds: list[tuple[float, float]] = []

    def with_snapshot() -> float:
        with paused_worker(server) as daemon, closing(server.connect()) as holder:
            holder.cursor().execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM tasks LIMIT 1")
            fill(server, finished + tasks)
            drain(server, daemon, finished + tasks)
        wholes.append(rate(server, finished + tasks))
        _, middle, last = rates_of_parts(server, 3)
        thirds.append((last, middle))
        return rates_of_parts(server, (finished + tasks) // tasks)[-1]

    pairs = interleave(rounds, with_snapshot, lambda: drained(server, tasks))
    name = f"a snapshot is held and {finished:,} have been finished"
    yield paired(f"{name}: the next {tasks:,}", "tasks/s", pairs, beside="the same with none held", bar=0.5)
    whole = [(figure, short) for figure, (_, short) in zip(wholes, pairs, strict=True)]
    yield paired(f"{name}: all of these", "tasks/s", whole, beside="the same with none held", bar=0.5)
    # a tenth is what two thirds of one drain differ by without any snapshot
    yield paired(f"{name}: the last third", "tasks/s", thirds, beside="the middle third", bar=0.9)
