"""A queue that is emptied: ours, and the least that does the same work on the same table, in Python and in pgbench."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks import bare, pgbench
from benchmarks.figures import Line, Spread, paired, take_turns
from benchmarks.queue import CHILDREN, TINY, drain, drained, fill, paused_worker, rate
from benchmarks.server import Server

BATCHES = {100: 1.0, 20: 0.5, 1: 0.2}
"""Of pgbench, and the share of the tasks that each is given: one at a time it takes long enough with fewer."""

# Where the bars of 40,000 tasks/s and 50 us come from, the bare loop did 62,000 on two cores: 32 us each.
BARE_RATE, BARE_CPU = 40_000 / 62_000, 50 / (2e6 / 62_000)


@dataclass
class _Costs:
    """Microseconds of CPU a task, round by round. `postgres`: none where the server is elsewhere."""

    python: list[float] = field(default_factory=list)
    postgres: list[float] = field(default_factory=list)

    def add_postgres(self, before: float | None, after: float | None, tasks: int) -> None:
        if before is not None and after is not None:
            self.postgres.append((after - before) / tasks * 1e6)

    def together(self) -> list[float]:
        return [python + postgres for python, postgres in zip(self.python, self.postgres, strict=True)]


def measure(server: Server, tasks: int, rounds: int) -> Iterator[Line]:
    """In turns: ours, a bare loop, and pgbench in batches of 100, 20 and 1."""
    costs, bare_costs = _Costs(), _Costs()

    def ours() -> float:
        with paused_worker(server) as daemon:
            fill(server, tasks)
            python_before, before = daemon.cpu_seconds(), server.cpu_seconds()
            drain(server, daemon, tasks)
            costs.python.append((daemon.cpu_seconds() - python_before) / tasks * 1e6)
            costs.add_postgres(before, server.cpu_seconds(), tasks)
        return rate(server, tasks)

    def bare_loop() -> float:
        _fill_and_analyse(server, tasks)
        before = server.cpu_seconds()
        bare_costs.python.append(bare.drain(server, CHILDREN) / tasks * 1e6)
        bare_costs.add_postgres(before, server.cpu_seconds(), tasks)
        return rate(server, tasks)

    runs: dict[str, Callable[[], float]] = {"ours": ours, "bare loop": bare_loop}
    if server.pgbench is not None:
        runs |= {f"pgbench {batch}": _pgbench(server, batch, int(tasks * share)) for batch, share in BATCHES.items()}
    found = take_turns(rounds, runs)

    name = f"drain {tasks:,} no-ops, pool of {CHILDREN}"
    yield Line(name, "tasks/s", Spread.of(found["ours"]), bar=40_000)
    pairs = list(zip(found["ours"], found["bare loop"], strict=True))
    beside, note = f"a bare loop in Python, batches of {bare.BATCH}", "40,000 where that does 62,000"
    yield paired(name, "tasks/s", pairs, beside=beside, bar=round(BARE_RATE, 3), note=note)
    yield from _beside_pgbench(name, found)
    yield from _cpu(costs, bare_costs)


def _fill_and_analyse(server: Server, tasks: int, payload: str = TINY) -> None:
    """Their statements are planned by what is known of the table, ours are the same whatever is known."""
    server.empty()
    fill(server, tasks, payload=payload)
    server.rows("ANALYZE tasks")


def _pgbench(
    server: Server, batch: int, tasks: int, *, payload: str = TINY, result: str = "NULL"
) -> Callable[[], float]:
    def run() -> float:
        _fill_and_analyse(server, tasks, payload)
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


def _cpu(costs: _Costs, bare_costs: _Costs) -> Iterator[Line]:
    yield Line("CPU for a no-op: Python", "us/task", Spread.of(costs.python))
    name = "CPU for a no-op, together"
    if not costs.postgres:
        yield Line(name, "us/task", None, bar=50, is_upper_bar=True, note="PostgreSQL is elsewhere")
        return
    yield Line("CPU for a no-op: PostgreSQL", "us/task", Spread.of(costs.postgres))
    yield Line(name, "us/task", Spread.of(costs.together()), bar=50, is_upper_bar=True)
    pairs = list(zip(costs.together(), bare_costs.together(), strict=True))
    note = "50 us where that takes 32"
    yield paired(name, "us/task", pairs, beside="the bare loop", bar=round(BARE_CPU, 2), is_upper_bar=True, note=note)


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
