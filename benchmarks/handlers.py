"""Handlers that do something: beside what the cores, or the pool, could do at most."""

import os
import time
from collections.abc import Callable, Iterator

from benchmarks.app import compute
from benchmarks.figures import Line, Spread, interleave, paired
from benchmarks.processes import in_processes
from benchmarks.queue import drained
from benchmarks.server import Server

BURN_SECONDS = 0.005
NAPS = ((0.005, 20, 0.9), (0.05, 60, None))
"""Seconds of a sleep, how many children do that, and what share of what they could do they must reach."""


def measure(server: Server, seconds: float, rounds: int) -> Iterator[Line]:
    cores = os.cpu_count() or 1
    burns = int(seconds * cores / BURN_SECONDS)
    length = _rounds_of(BURN_SECONDS)
    pairs = interleave(
        rounds,
        lambda: drained(server, burns, "burn", f'{{"rounds": {length}}}', children=cores),
        lambda: _bare(cores, burns, lambda: compute(length)),
    )
    yield paired("5 ms of computing", "tasks/s", pairs, beside=f"{cores} bare processes", bar=0.95)

    for nap, children, bar in NAPS:
        yield from _sleep(server, seconds, rounds, nap, children, bar)


def _sleep(server: Server, seconds: float, rounds: int, nap: float, children: int, bar: float | None) -> Iterator[Line]:
    most = children / nap
    naps = max(children, int(seconds * most))
    pairs = interleave(
        rounds,
        lambda: drained(server, naps, "nap", f'{{"seconds": {nap}}}', children=children),
        lambda: _bare(children, naps, lambda: time.sleep(nap)),
    )
    name = f"{nap * 1000:g} ms of sleep, {children} children"
    yield Line(name, f"of {most:,.0f}/s", Spread.of([ours / most for ours, _ in pairs]), bar=bar)
    yield paired(name, "tasks/s", pairs, beside=f"{children} bare processes")


def _bare(processes: int, count: int, work: Callable[[], object]) -> float:
    """How often in a second so many processes do it that have nothing else to do."""
    each = count // processes
    start = time.monotonic()
    in_processes(processes, lambda: _repeat(each, work))
    return each * processes / (time.monotonic() - start)


def _repeat(count: int, work: Callable[[], object]) -> None:
    for _ in range(count):
        work()


def _rounds_of(seconds: float) -> int:
    """How many rounds take about so long here: of several tries the quickest, which nobody disturbed."""
    sample = 20_000
    best = min(_timed(sample) for _ in range(20))
    return int(sample * seconds / best)


def _timed(rounds: int) -> float:
    start = time.perf_counter()
    compute(rounds)
    return time.perf_counter() - start
