"""How many tasks there are, by type and status. The coordinator (gauges) and the command line use it."""

from orchestrator.model import TaskStatus
from orchestrator.store.connection import Connection


def counts(connection: Connection, *, within: float) -> list[tuple[str, TaskStatus, int]]:
    """Pending (due and waiting alike) and running tasks by type; types without any are left out.

    Each branch reads one partial index, so finished tasks cost nothing. The cost grows with what is pending: the longer
    it takes, the less often it should be asked.
    """
    rows = connection.execute(
        """
        SELECT type, status::text, sum(count)::bigint FROM (
            SELECT type, status, count(*) FROM tasks
            WHERE status = 'pending' AND next_retry_at IS NULL GROUP BY type, status
            UNION ALL
            SELECT type, status, count(*) FROM tasks
            WHERE status = 'pending' AND next_retry_at IS NOT NULL GROUP BY type, status
            UNION ALL
            SELECT type, status, count(*) FROM tasks
            WHERE status IN ('claimed', 'running') AND status = 'running' GROUP BY type, status
        ) AS parts
        GROUP BY type, status
        """,
        within=within,
        lock_within=within,
    )
    return [(type_name, TaskStatus(status), count) for type_name, status, count in rows]


def totals(connection: Connection, *, within: float) -> list[tuple[str, TaskStatus, int]]:
    """Every task by type and status, in that order; reads the whole table."""
    rows = connection.execute(
        "SELECT type, status::text, count(*) FROM tasks GROUP BY type, tasks.status ORDER BY type, tasks.status",
        within=within,
        lock_within=within,
    )
    return [(type_name, TaskStatus(status), count) for type_name, status, count in rows]
