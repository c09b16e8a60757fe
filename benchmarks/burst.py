"""Tasks of 50 ms that come right after no-ops, of which each child has learnt to claim many: do all share them?"""

import time
from collections.abc import Iterator

from benchmarks.figures import Line, paired
from benchmarks.server import Server
from benchmarks.worker import worker

CHILDREN = 20
NOOPS = 20_000
TASKS, NAP_SECONDS = 100, 0.05
LONGEST_SECONDS = 60.0


def measure(server: Server, size: float, rounds: int) -> Iterator[Line]:
    """From the first claim of one of them to the end of the last; beside as long as they take if no child waits."""
    server.empty()
    pairs = []
    with worker(server, CHILDREN):
        for _ in range(rounds):
            _complete(server, "noop", int(NOOPS * size), "{}")
            _complete(server, "nap", TASKS, f'{{"seconds": {NAP_SECONDS}}}')
            ((seconds,),) = server.rows(
                "SELECT extract(epoch FROM max(updated_at) - min(claimed_at))::float8 FROM tasks WHERE type = 'nap'"
            )
            server.rows("DELETE FROM tasks")
            pairs.append((float(seconds), TASKS * NAP_SECONDS / CHILDREN))
    yield paired(
        f"{TASKS} tasks of {NAP_SECONDS * 1000:g} ms right after no-ops, {CHILDREN} children",
        "s",
        pairs,
        beside="if no child waits",
        bar=2.0,
        is_upper_bar=True,
    )


def _complete(server: Server, type_name: str, count: int, payload: str) -> None:
    server.rows(
        "INSERT INTO tasks (type, payload) SELECT %s, %s::jsonb FROM generate_series(1, %s)", type_name, payload, count
    )
    deadline = time.monotonic() + LONGEST_SECONDS
    while server.rows("SELECT count(*) FROM tasks WHERE status <> 'completed'") != [(0,)]:
        if time.monotonic() > deadline:
            raise SystemExit("the queue did not get empty")
        time.sleep(0.02)
