"""The rows of `task_types`: what the apps of the workers serve, and the limits of their handlers."""

from collections.abc import Sequence
from datetime import datetime

from orchestrator.model import TaskType
from orchestrator.store.connection import Connection


def register(connection: Connection, types: Sequence[TaskType], *, within: float, only_missing: bool = False) -> None:
    """Records these types; the newest start wins, unless `only_missing`: then what is there stays.

    In the order of their names, so that two starts never deadlock.
    """
    connection.execute(
        """
        INSERT INTO task_types (type, max_retries, timeout_seconds, retry_base_seconds, retry_cap_seconds, last_seen)
        SELECT type, max_retries, nullif(timeout_seconds, 0), retry_base_seconds, retry_cap_seconds, now()
        FROM unnest(%(types)s::text[], %(max_retries)s::integer[], %(timeouts)s::double precision[],
                    %(bases)s::double precision[], %(caps)s::double precision[])
            AS t (type, max_retries, timeout_seconds, retry_base_seconds, retry_cap_seconds)
        ORDER BY type
        ON CONFLICT (type) DO UPDATE SET max_retries = excluded.max_retries,
            timeout_seconds = excluded.timeout_seconds, retry_base_seconds = excluded.retry_base_seconds,
            retry_cap_seconds = excluded.retry_cap_seconds, last_seen = excluded.last_seen
        WHERE NOT %(only_missing)s
        """,
        {
            "only_missing": only_missing,
            "types": [t.name for t in types],
            "max_retries": [t.max_retries for t in types],
            "timeouts": [t.timeout_seconds or 0.0 for t in types],  # arrays.py says why no NULL
            "bases": [t.retry_base_seconds for t in types],
            "caps": [t.retry_cap_seconds for t in types],
        },
        within=within,
        lock_within=within,
    )


def list_all(connection: Connection, *, within: float) -> list[tuple[TaskType, datetime]]:
    """Every type that any worker has registered, with when one did so last."""
    rows = connection.execute(
        """
        SELECT type, max_retries, timeout_seconds, retry_base_seconds, retry_cap_seconds, last_seen
        FROM task_types ORDER BY type
        """,
        within=within,
        lock_within=within,
    )
    return [(TaskType(*row[:5]), row[5]) for row in rows]


def unserved(connection: Connection, *, within: float) -> list[tuple[str, int]]:
    """Types of pending tasks that no worker has ever registered, with how many tasks wait for one."""
    rows = connection.execute(
        """
        SELECT type, count(*) FROM tasks AS t
        WHERE status = 'pending' AND NOT EXISTS (SELECT FROM task_types AS y WHERE y.type = t.type)
        GROUP BY type ORDER BY type
        """,
        within=within,
        lock_within=within,
    )
    return [(type_name, count) for type_name, count in rows]
