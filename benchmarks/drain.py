"""A queue that is emptied: ours beside PostgreSQL alone, that is pgbench with the same work on the same table."""

from collections.abc import Callable, Iterator

from benchmarks import pgbench
from benchmarks.figures import Line, Spread, interleave, paired, take_turns
from benchmarks.queue import CHILDREN, drain, drained, fill, paused_worker, rate
from benchmarks.server import Server

BATCHES = {100: 1.0, 20: 0.5, 1: 0.2}
"""Of pgbench, and the share of the tasks that each is given: one at a time it takes long enough with fewer."""


def measure(server: Server, tasks: int, rounds: int) -> Iterator[Line]:
    """In turns: ours, and pgbench in batches of 100, 20 and 1."""
    python_costs: list[float] = []
    server_costs: list[float] = []

    def ours() -> float:
        with paused_worker(server) as daemon:
            fill(server, tasks)
            python_before, server_before = daemon.cpu_seconds(), server.cpu_seconds()
            drain(server, daemon, tasks)
            python_costs.append((daemon.cpu_seconds() - python_before) / tasks * 1e6)
            after = server.cpu_seconds()
        if server_before is not None and after is not None:
            server_costs.append((after - server_before) / tasks * 1e6)
        return rate(server, tasks)

    runs: dict[str, Callable[[], float]] = {"ours": ours}
    if server.pgbench is not None:
        runs |= {f"pgbench {batch}": _pgbench(server, batch, int(tasks * share)) for batch, share in BATCHES.items()}
    found = take_turns(rounds, runs)

    name = f"drain {tasks:,} no-ops, pool of {CHILDREN}"
    yield Line(name, "tasks/s", Spread.of(found["ours"]), bar=40_000)
    yield from _beside_pgbench(name, found)
    yield from _cpu(python_costs, server_costs)


def _pgbench(server: Server, batch: int, tasks: int) -> Callable[[], float]:
    def run() -> float:
        server.empty()
        fill(server, tasks)
        return rate(server, pgbench.drain(server, batch, tasks))

    return run


def _beside_pgbench(name: str, found: dict[str, list[float]]) -> Iterator[Line]:
    for batch in BATCHES:
        beside = "pgbench, one at a time" if batch == 1 else f"pgbench, batches of {batch}"
        bar, note = (0.5, "the goal beyond the bar: 0.75") if batch == 100 else (None, "")
        if f"pgbench {batch}" in found:
            pairs = list(zip(found["ours"], found[f"pgbench {batch}"], strict=True))
            yield paired(name, "tasks/s", pairs, beside=beside, bar=bar, note=note)
        else:
            yield Line(name, "tasks/s", None, beside=beside, bar=bar, note="there is no pgbench here")


def _cpu(python_costs: list[float], server_costs: list[float]) -> Iterator[Line]:
    yield Line("CPU for a no-op: Python", "us/task", Spread.of(python_costs))
    if not server_costs:
        yield Line(
            "CPU for a no-op, together", "us/task", None, bar=50, is_upper_bar=True, note="PostgreSQL is elsewhere"
        )
        return
    both = [python + postgres for python, postgres in zip(python_costs, server_costs, strict=True)]
    yield Line("CPU for a no-op: PostgreSQL", "us/task", Spread.of(server_costs))
    yield Line("CPU for a no-op, together", "us/task", Spread.of(both), bar=50, is_upper_bar=True)


def measure_payloads(server: Server, tasks: int, rounds: int) -> Iterator[Line]:
    """1 KB in and out, beside the tiny ones."""
    large = '{"text": "' + "x7Q-" * 250 + '"}'
    pairs = interleave(rounds, lambda: drained(server, tasks, "echo", large), lambda: drained(server, tasks, "echo"))
    yield paired(f"{tasks:,} payloads and results of 1 KB", "tasks/s", pairs, beside="the same with 8 bytes", bar=0.7)
