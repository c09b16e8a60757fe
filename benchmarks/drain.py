"""A queue that is emptied: ours beside PostgreSQL alone, that is pgbench with the same work on the same table."""

from collections.abc import Callable, Iterator

from benchmarks import pgbench
from benchmarks.figures import Line, Spread, paired, take_turns
from benchmarks.queue import CHILDREN, TINY, drain, drained, fill, paused_worker, rate
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


def _pgbench(
    server: Server, batch: int, tasks: int, *, payload: str = TINY, result: str = "NULL"
) -> Callable[[], float]:
    def run() -> float:
        server.empty()
        fill(server, tasks, payload=payload)
        return rate(server, pgbench.drain(server, batch, tasks, result=result))

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
    """1 KB in and out, beside the tiny ones; and the same of PostgreSQL alone, which more can hardly be asked of."""
    payloads = {"1 KB": '{"text": "' + "x7Q-" * 250 + '"}', "8 bytes": TINY}

    def ours(payload: str) -> Callable[[], float]:
        return lambda: drained(server, tasks, "echo", payload)

    runs = {name: ours(payload) for name, payload in payloads.items()}
    if server.pgbench is not None:
        runs |= {
            f"pgbench {name}": _pgbench(server, 100, tasks, payload=payload, result="payload")
            for name, payload in payloads.items()
        }
    found = take_turns(rounds, runs)
    name, beside = f"{tasks:,} payloads and results of 1 KB", "the same with 8 bytes"
    yield paired(name, "tasks/s", list(zip(found["1 KB"], found["8 bytes"], strict=True)), beside=beside, bar=0.7)
    if server.pgbench is not None:
        pairs = list(zip(found["pgbench 1 KB"], found["pgbench 8 bytes"], strict=True))
        yield paired(f"{name}: pgbench, batches of 100", "tasks/s", pairs, beside=beside)
