"""How many tasks there are, by type and status. The coordinator (gauges) and the command line use it."""

from orchestrator.model import TaskStatus
from orchestrator.store.connection import Connection
from orchestrator.store.planning import COUNTING

_COUNTS = """
SELECT type, 'pending', count(*), coalesce(greatest(0, date_part('epoch',
    clock_timestamp() - min(updated_at) FILTER (WHERE next_retry_at IS NULL))), 0)
FROM (SELECT type, updated_at, next_retry_at FROM tasks WHERE status = 'pending' LIMIT %(most)s) AS pending
GROUP BY type
UNION ALL
SELECT type, 'running', count(*), 0
FROM tasks WHERE status IN ('claimed', 'running') AND status = 'running' GROUP BY type
"""


def counts(
    connection: Connection, *, within: float, most: int | None = None
) -> list[tuple[str, TaskStatus, int, float]] | None:
    """Pending (due and waiting alike) and running tasks by type; types without any are left out.

    None: `most` or more are pending, and no further than that was counted.

    The last column: for how many seconds the one that is due for longest has been, 0 where none is due. A change of the
    row meanwhile, by an operator say, begins that anew.

    Each branch reads one partial index (or the table, where most of it is pending), so finished tasks cost nothing. The
    cost grows with what is pending: the longer it takes, the less often it should be asked. It is all the caller's own
    connection's: no parallel worker helps.
    """
    rows = connection.execute(COUNTING + _COUNTS, {"most": most}, within=within, lock_within=within)
    found = [(type_name, TaskStatus(status), count, due_seconds) for type_name, status, count, due_seconds in rows]
    pending = sum(count for _, status, count, _ in found if status == TaskStatus.PENDING)
    return None if most is not None and pending >= most else found


def totals(connection: Connection, *, within: float) -> list[tuple[str, TaskStatus, int]]:
    """Every task by type and status, in that order; reads the whole table."""
    rows = connection.execute(
        "SELECT type, status::text, count(*) FROM tasks GROUP BY type, tasks.status ORDER BY type, tasks.status",
        within=within,
        lock_within=within,
    )
    return [(type_name, TaskStatus(status), count) for type_name, status, count in rows]
