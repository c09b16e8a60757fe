"""A queue that is filled and emptied, and how fast it was, by the tasks' own times in the table."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.server import Server
from benchmarks.worker import Worker, worker

CHILDREN = 10
LONGEST_SECONDS = 600.0
TINY = '{"n": 1}'


def fill(server: Server, count: int, type_name: str = "noop", payload: str = TINY) -> None:
    server.rows(
        "INSERT INTO tasks (type, payload) SELECT %s, %s::jsonb FROM generate_series(1, %s)", type_name, payload, count
    )
    server.rows("CHECKPOINT")


@contextmanager
def paused_worker(server: Server, children: int = CHILDREN) -> Iterator[Worker]:
    """A pool that claims nothing until `drain` tells it to; the tables are empty."""
    server.empty()
    with worker(server, children) as daemon:
        daemon.toggle_pause()
        yield daemon


def drain(server: Server, daemon: Worker, count: int) -> None:
    """Lets the pool go until so many tasks are completed; asks for one row by its key, since the answer costs the
    server something too."""
    ((last,),) = server.rows(
        "SELECT id::text FROM tasks WHERE status = 'pending' AND next_retry_at IS NULL ORDER BY id DESC LIMIT 1"
    )
    connection = server.connect()
    daemon.toggle_pause()
    deadline = time.monotonic() + LONGEST_SECONDS
    with connection.cursor() as cursor:
        for query in (
            "SELECT FROM tasks WHERE id = %(last)s AND status = 'completed'",
            "SELECT FROM tasks WHERE status = 'completed' HAVING count(*) >= %(count)s",
        ):
            while True:
                cursor.execute(query, {"last": last, "count": count})
                if cursor.rowcount:
                    break
                if time.monotonic() > deadline:
                    raise SystemExit("the queue did not get empty")
                time.sleep(0.1)
    connection.close()


def drained(
    server: Server, count: int, type_name: str = "noop", payload: str = TINY, *, children: int = CHILDREN
) -> float:
    """Tasks a second of a pool that finds so many."""
    with paused_worker(server, children) as daemon:
        fill(server, count, type_name, payload)
        drain(server, daemon, count)
    return rate(server, count)


def rate(server: Server, count: int) -> float:
    """Tasks a second: from the first claim to the last end."""
    ((seconds, ended),) = server.rows(
        "SELECT extract(epoch FROM max(updated_at) - min(claimed_at))::float8, count(*) FROM tasks"
        " WHERE status = 'completed'"
    )
    if ended != count:
        raise SystemExit(f"{ended} of {count} tasks were completed")
    return count / float(seconds)


def rates_of_parts(server: Server, parts: int) -> list[float]:
    """Tasks a second of each of so many equal parts of what was completed, in the order in which it ended."""
    rows = server.rows(
        "WITH part AS (SELECT updated_at, claimed_at, ntile(%s) OVER (ORDER BY updated_at) AS number FROM tasks"
        " WHERE status = 'completed')"
        " SELECT count(*), extract(epoch FROM min(claimed_at))::float8, extract(epoch FROM max(updated_at))::float8"
        " FROM part GROUP BY number ORDER BY number",
        parts,
    )
    begins = [rows[0][1], *(end for _, _, end in rows)]
    return [count / (end - begin) for (count, _, end), begin in zip(rows, begins, strict=False)]
