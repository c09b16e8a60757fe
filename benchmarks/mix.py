"""Slow tasks among no-ops: beside what children could do that each take one task after the other, and never wait."""

import heapq
from collections.abc import Iterator

from benchmarks.figures import Line, Spread, interleave, paired
from benchmarks.queue import CHILDREN, drain, drained, paused_worker
from benchmarks.server import Server

ONE_IN = 100
NAP_SECONDS = 1.0


def measure(server: Server, tasks: int, rounds: int) -> Iterator[Line]:
    """The no-ops' rate until the last of them has ended; what naps then still go on is left out.

    A child that naps is not free. So the no-ops can at most do what a pool does whose every child takes the next task
    in order, at the rate of no-ops alone that was measured in the same round.
    """
    waits: list[float] = []

    def mixed() -> float:
        with paused_worker(server) as daemon:
            _fill(server, tasks)
            drain(server, daemon, tasks)
        ((noops, seconds, longest),) = server.rows(
            "SELECT count(*), extract(epoch FROM max(updated_at) - (SELECT min(claimed_at) FROM tasks))::float8,"
            " extract(epoch FROM max(started_at - claimed_at))::float8 FROM tasks WHERE type = 'noop'"
        )
        waits.append(longest)
        return float(noops / seconds)

    def free_children() -> float:
        return best_rate(tasks, CHILDREN, drained(server, tasks))

    pairs = interleave(rounds, mixed, free_children)
    yield paired(
        f"no-ops, 1 in {ONE_IN} tasks sleeps {NAP_SECONDS:g} s",
        "tasks/s",
        pairs,
        beside="what free children can do",
        bar=0.8,
    )
    name = "longest that a no-op, once claimed, waited behind a slow one"
    yield Line(name, "s", Spread.of(waits), bar=1.0, is_upper_bar=True)


def naps(index: int) -> bool:
    """Whether the task at this place of the queue, counted from 0, is a slow one."""
    return index % ONE_IN == ONE_IN // 2


def best_rate(tasks: int, children: int, noops_per_second: float) -> float:
    """No-ops a second until the last of them has ended, if each child takes the next task as soon as it is free."""
    noop_seconds = children / noops_per_second
    free_at = [0.0] * children
    last = 0.0
    for index in range(tasks):
        begin = heapq.heappop(free_at)
        if naps(index):
            heapq.heappush(free_at, begin + NAP_SECONDS)
        else:
            heapq.heappush(free_at, begin + noop_seconds)
            last = max(last, begin + noop_seconds)
    return sum(not naps(index) for index in range(tasks)) / last


def _fill(server: Server, tasks: int) -> None:
    slow = [index + 1 for index in range(tasks) if naps(index)]
    server.rows(
        "INSERT INTO tasks (type, payload) SELECT CASE WHEN number = ANY (%s) THEN 'nap' ELSE 'noop' END,"
        " CASE WHEN number = ANY (%s) THEN jsonb_build_object('seconds', %s) ELSE '{}' END"
        " FROM generate_series(1, %s) AS number",
        slow, slow, NAP_SECONDS, tasks,
    )  # fmt: skip
    server.rows("CHECKPOINT")
