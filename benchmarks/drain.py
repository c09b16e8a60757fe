"""A queue that is emptied: ours beside pgbench, which does the same to the same table in batches of 100."""

import time
from collections.abc import Iterator

from benchmarks import pgbench
from benchmarks.figures import Line, Spread, interleave, paired
from benchmarks.server import Server
from benchmarks.worker import worker

CHILDREN = 10
LONGEST_SECONDS = 600.0


def fill(server: Server, count: int, type_name: str = "noop", payload: str = '{"n": 1}') -> None:
    server.rows(
        "INSERT INTO tasks (type, payload) SELECT %s, %s::jsonb FROM generate_series(1, %s)", type_name, payload, count
    )
    server.rows("CHECKPOINT")


def wait_empty(server: Server) -> None:
    """Until no task is left; asks rarely, since the answer costs the server something too."""
    connection = server.connect()
    deadline = time.monotonic() + LONGEST_SECONDS
    try:
        with connection.cursor() as cursor:
            while time.monotonic() < deadline:
                cursor.execute("SELECT FROM tasks WHERE status IN ('pending', 'claimed', 'running') LIMIT 1")
                if cursor.rowcount == 0:
                    return
                time.sleep(0.2)
    finally:
        connection.close()
    raise SystemExit("the queue did not get empty")


def rate(server: Server, count: int) -> float:
    """Tasks a second, by the table: from the first claim to the commit of the last end."""
    ((seconds, ended),) = server.rows(
        "SELECT extract(epoch FROM max(updated_at) - min(claimed_at))::float8, count(*) FROM tasks"
        " WHERE status = 'completed'"
    )
    if ended != count:
        raise SystemExit(f"{ended} of {count} tasks were completed")
    return count / float(seconds)


def measure(server: Server, tasks: int, rounds: int) -> Iterator[Line]:
    python_costs: list[float] = []
    server_costs: list[float] = []

    def ours() -> float:
        server.empty()
        with worker(server, CHILDREN) as daemon:
            daemon.toggle_pause()
            fill(server, tasks)
            python_before, server_before = daemon.cpu_seconds(), server.cpu_seconds()
            daemon.toggle_pause()
            wait_empty(server)
            python_costs.append((daemon.cpu_seconds() - python_before) / tasks * 1e6)
            after = server.cpu_seconds()
            if server_before is not None and after is not None:
                server_costs.append((after - server_before) / tasks * 1e6)
        return rate(server, tasks)

    def theirs() -> float:
        server.empty()
        fill(server, tasks)
        return rate(server, pgbench.drain(server, 100, tasks))

    name = f"drain {tasks:,} no-ops, pool of {CHILDREN}"
    if server.pgbench is None:
        yield Line(name, "tasks/s", Spread.of([ours() for _ in range(rounds)]))
    else:
        pairs = interleave(rounds, ours, theirs)
        yield paired(name, "tasks/s", pairs, beside="pgbench, batches of 100", bar=0.5)
        yield Line(f"{name}: the bar in tasks/s", "tasks/s", Spread.of([each for each, _ in pairs]), bar=40_000)
    yield Line("Python's CPU for a no-op", "us/task", Spread.of(python_costs))
    if server_costs:
        both = [python + postgres for python, postgres in zip(python_costs, server_costs, strict=True)]
        yield Line("PostgreSQL's CPU for a no-op", "us/task", Spread.of(server_costs))
        yield Line("CPU for a no-op, together", "us/task", Spread.of(both), bar=50, is_upper_bar=True)


def measure_payloads(server: Server, tasks: int, rounds: int) -> Iterator[Line]:
    """1 KB in and out, beside the tiny ones."""

    def drained(payload: str) -> float:
        server.empty()
        with worker(server, CHILDREN) as daemon:
            daemon.toggle_pause()
            fill(server, tasks, "echo", payload)
            daemon.toggle_pause()
            wait_empty(server)
        return rate(server, tasks)

    large = '{"text": "' + "x7Q-" * 250 + '"}'
    pairs = interleave(rounds, lambda: drained(large), lambda: drained('{"n": 1}'))
    yield paired(f"{tasks:,} payloads and results of 1 KB", "tasks/s", pairs, beside="the same with 8 bytes", bar=0.7)


def measure_scheduled(server: Server, tasks: int, rounds: int, scheduled: int) -> Iterator[Line]:
    """The same while so many of higher priority are scheduled for the future."""

    def drained(waiting: int) -> float:
        server.empty()
        server.rows(
            "INSERT INTO tasks (type, priority, next_retry_at)"
            " SELECT 'noop', 9, now() + interval '1 day' FROM generate_series(1, %s)",
            waiting,
        )
        with worker(server, CHILDREN) as daemon:
            daemon.toggle_pause()
            fill(server, tasks)
            daemon.toggle_pause()
            _wait_completed(server, tasks)
        return rate(server, tasks)

    pairs = interleave(rounds, lambda: drained(scheduled), lambda: drained(0))
    yield paired(
        f"{tasks:,} no-ops, {scheduled:,} scheduled", "tasks/s", pairs, beside="the same with none scheduled", bar=0.9
    )


def measure_backlog(server: Server, backlog: int, first: int, rounds: int) -> Iterator[Line]:
    """A long queue: its first part, and all of it, beside a queue of only the first part."""
    firsts: list[tuple[float, float]] = []
    wholes: list[tuple[float, float]] = []

    def drained(count: int) -> None:
        server.empty()
        with worker(server, CHILDREN) as daemon:
            daemon.toggle_pause()
            fill(server, count)
            daemon.toggle_pause()
            wait_empty(server)

    for _ in range(rounds):
        drained(first)
        short = rate(server, first)
        drained(backlog)
        ((seconds,),) = server.rows(
            "SELECT extract(epoch FROM max(updated_at) - min(claimed_at))::float8 FROM"
            " (SELECT updated_at, claimed_at FROM tasks ORDER BY updated_at LIMIT %s) AS t",
            first,
        )
        firsts.append((first / seconds, short))
        wholes.append((rate(server, backlog), short))
    beside = f"{first:,} pending"
    yield paired(f"the first {first:,} of {backlog:,}", "tasks/s", firsts, beside=beside, bar=0.9)
    yield paired(f"all of {backlog:,}", "tasks/s", wholes, beside=beside, bar=0.6)


def _wait_completed(server: Server, count: int) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while server.rows("SELECT count(*) FROM tasks WHERE status = 'completed'")[0][0] < count:
        if time.monotonic() > deadline:
            raise SystemExit("the queue did not get empty")
        time.sleep(0.5)
