"""Ours and each rival that can be had here, in turns: all empty a queue of no-ops."""

from collections.abc import Callable, Iterator

from benchmarks.figures import Line, paired, take_turns
from benchmarks.queue import CHILDREN, drained
from benchmarks.rivals.rival import RIVALS, Rival
from benchmarks.server import Server

BARS = {"pgqueuer": 1.8}
"""At least so many times what it does: it is the fastest of them."""
FEWEST = 100


def measure_rivals(server: Server, tasks: int, rounds: int) -> Iterator[Line]:
    missing = {rival.name: rival.missing(server) for rival in RIVALS}
    present = [rival for rival in RIVALS if missing[rival.name] is None]
    runs: dict[str, Callable[[], float]] = {"ours": lambda: drained(server, tasks)} if present else {}
    runs |= {rival.name: _drain(server, rival, tasks) for rival in present}
    found = take_turns(rounds, runs)
    name = f"drain {tasks:,} no-ops, pool of {CHILDREN}"
    for rival in RIVALS:
        bar = BARS.get(rival.name)
        if rival.name in found:
            pairs = list(zip(found["ours"], found[rival.name], strict=True))
            yield paired(name, "tasks/s", pairs, beside=rival.title, bar=bar)
        else:
            yield Line(name, "tasks/s", None, beside=rival.name, bar=bar, note=missing[rival.name] or "")


def _drain(server: Server, rival: Rival, tasks: int) -> Callable[[], float]:
    """The slow ones get fewer."""
    return lambda: rival.drain(server, max(FEWEST, int(tasks * rival.share)))
