"""Handlers that do something: beside what the cores, or the pool, could do at most."""

import multiprocessing
import os
import time
from collections.abc import Iterator

from benchmarks.app import compute
from benchmarks.figures import Line, Spread, interleave, paired
from benchmarks.progress import tell
from benchmarks.queue import drained
from benchmarks.server import Server

BURN_SECONDS = 0.005
NAP_SECONDS, NAPPERS = 0.005, 20


def measure(server: Server, seconds: float, rounds: int) -> Iterator[Line]:
    cores = os.cpu_count() or 1
    burns = int(seconds * cores / BURN_SECONDS)
    length = _rounds_of(BURN_SECONDS)

    def burnt() -> float:
        return drained(server, burns, "burn", f'{{"rounds": {length}}}', children=cores)

    def bare() -> float:
        start = time.monotonic()
        processes = [
            multiprocessing.get_context("fork").Process(target=_burn, args=(burns // cores, length))
            for _ in range(cores)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return burns // cores * cores / (time.monotonic() - start)

    pairs = interleave(rounds, burnt, bare)
    yield paired("5 ms of computing", "tasks/s", pairs, beside=f"{cores} bare processes", bar=0.95)

    naps = int(seconds * NAPPERS / NAP_SECONDS)
    most = NAPPERS / NAP_SECONDS
    rates = []
    for index in range(rounds):
        rates.append(drained(server, naps, "nap", f'{{"seconds": {NAP_SECONDS}}}', children=NAPPERS))
        tell(f"round {index + 1} of {rounds}, asleep: {rates[-1]:,.0f} of {most:,.0f}")
    yield Line(
        f"5 ms of sleep, {NAPPERS} children",
        f"of {most:,.0f}/s",
        Spread.of([each / most for each in rates]),
        bar=0.9,
    )


def _burn(count: int, length: int) -> None:
    for _ in range(count):
        compute(length)


def _rounds_of(seconds: float) -> int:
    """How many rounds take about so long here: of several tries the quickest, which nobody disturbed."""
    sample = 20_000
    best = min(_timed(sample) for _ in range(20))
    return int(sample * seconds / best)


def _timed(rounds: int) -> float:
    start = time.perf_counter()
    compute(rounds)
    return time.perf_counter() - start
