"""Tasks as people handle them: list, show, retry, cancel. The command line uses it."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from orchestrator.model import Task, TaskStatus
from orchestrator.store.connection import Connection
from orchestrator.store.planning import ALONG_THE_IDS

BEGINNING = 100
"""Characters of an error, for a line."""

_INDEXED = (TaskStatus.CLAIMED, TaskStatus.RUNNING, TaskStatus.DEAD_LETTER)


def list_tasks(
    connection: Connection,
    *,
    status: TaskStatus | None,
    type: str | None,
    limit: int,
    within: float,
    are_whole: bool = True,
) -> list[Task]:
    """The newest tasks with this status and type (None: any), up to `limit`.

    Unless `are_whole` they have no payload and no result, of which each may be a megabyte, and their error's beginning.
    """
    # A bare `id` would be the text in the answer, which no index has in order: all tasks would be sorted. That text is
    # right for the few that have an index of their own, which the planner would seek among all. And `status = status`
    # it takes for true of one row in two hundred.
    rows = connection.execute(
        """
        SELECT id::text, type, status::text, CASE WHEN %(are_whole)s THEN payload::text END, priority, idempotency_key,
            attempts, max_retries, timeout_seconds, recoveries, worker_id, slot, created_at, claimed_at, started_at,
            completed_at, updated_at, next_retry_at,
            CASE WHEN %(are_whole)s THEN last_error ELSE left(last_error, %(beginning)s) END,
            CASE WHEN %(are_whole)s THEN result::text END
        FROM tasks
        WHERE (%(status)s::task_status IS NULL OR status = %(status)s) AND (%(type)s::text IS NULL OR type = %(type)s)
        ORDER BY CASE WHEN %(are_few)s THEN tasks.id::text END DESC, tasks.id DESC
        LIMIT %(limit)s
        """,
        {
            "status": status,
            "type": type,
            "limit": limit,
            "are_few": status in _INDEXED,
            "are_whole": are_whole,
            "beginning": BEGINNING,
        },
        within=within,
        lock_within=within,
    )
    return [_task(row) for row in rows]


def show(connection: Connection, task_id: str, *, within: float) -> Task | None:
    """The whole row. None: there is no such task (or that is no uuid)."""
    rows = connection.execute(
        """
        SELECT id::text, type, status::text, payload::text, priority, idempotency_key, attempts, max_retries,
            timeout_seconds, recoveries, worker_id, slot, created_at, claimed_at, started_at, completed_at, updated_at,
            next_retry_at, last_error, result::text
        FROM tasks WHERE id = ANY (%(ids)s::uuid[])
        """,
        {"ids": _uuids([task_id])},
        within=within,
        lock_within=within,
    )
    return _task(rows[0]) if rows else None


def retry(connection: Connection, task_ids: Sequence[str], *, within: float) -> list[str]:
    """Makes those of these tasks that have ended pending and due, with all their attempts before them; their ids."""
    rows = connection.execute(
        """
        UPDATE tasks SET status = 'pending', attempts = 0, recoveries = 0, next_retry_at = NULL
        WHERE id = ANY (%(ids)s::uuid[]) AND status IN ('completed', 'failed', 'dead_letter')
        RETURNING id::text
        """,
        {"ids": _uuids(task_ids)},
        within=within,
        lock_within=within,
    )
    return [row[0] for row in rows]


def count_dead_letters(connection: Connection, *, type: str | None, within: float) -> int:
    """How many tasks of this type (None: any) are dead letters. They are counted in an index of their own."""
    rows = connection.execute(
        "SELECT count(*) FROM tasks WHERE status = 'dead_letter' AND type = coalesce(%(type)s::text, type)",
        {"type": type},
        within=within,
        lock_within=within,
    )
    return int(rows[0][0])


_RETRIED = """
retried AS (
    UPDATE tasks AS t SET status = 'pending', attempts = 0, recoveries = 0, next_retry_at = NULL
    FROM ended WHERE t.id = ANY (ARRAY[ended.id])
    RETURNING 1
)
"""


def retry_dead_letters(connection: Connection, *, type: str | None, limit: int, within: float) -> int:
    """As `retry`, for up to `limit` dead letters of this type (None: any); fewer: that were all."""
    rows = connection.execute(
        f"""
        WITH ended AS MATERIALIZED (
            SELECT id FROM tasks WHERE status = 'dead_letter' AND type = coalesce(%(type)s::text, type)
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED
        ), {_RETRIED}
        SELECT count(*) FROM retried
        """,  # noqa: S608 a constant
        {"type": type, "limit": limit},
        within=within,
        lock_within=within,
    )
    return int(rows[0][0])


_RETRY_STRETCH = f"""
WITH stretch AS MATERIALIZED (
    SELECT id, status, type FROM tasks WHERE id > %(after)s::uuid ORDER BY id LIMIT %(size)s
), found AS MATERIALIZED (
    SELECT id FROM stretch
    WHERE status = %(status)s::task_status AND status IN ('completed', 'failed', 'dead_letter')
      AND type = coalesce(%(type)s::text, type)
    ORDER BY id
    LIMIT %(limit)s
), ended AS MATERIALIZED (
    SELECT id FROM tasks
    WHERE id = ANY (ARRAY(SELECT id FROM found)) AND status = %(status)s::task_status
    FOR UPDATE SKIP LOCKED
), {_RETRIED}
SELECT (SELECT count(*) FROM retried),
    CASE WHEN (SELECT count(*) FROM found) = %(limit)s THEN (SELECT id FROM found ORDER BY id DESC LIMIT 1)
         WHEN (SELECT count(*) FROM stretch) = %(size)s THEN (SELECT id FROM stretch ORDER BY id DESC LIMIT 1)
    END::text
"""  # noqa: S608 a constant


def retry_stretch(
    connection: Connection, *, status: TaskStatus, type: str | None, after: str, size: int, limit: int, within: float
) -> tuple[int, str | None]:
    """As `retry`, for up to `limit` tasks of this type (None: any) that ended in `status`, of the next `size` tasks
    behind the id `after` (first retention.START). How many, and behind which id to go on; None: these were all.

    No index leads to them, since each costs every completion.
    """
    rows = connection.execute(
        ALONG_THE_IDS + _RETRY_STRETCH,
        {"status": status, "type": type, "after": after, "size": size, "limit": limit},
        within=within,
        lock_within=within,
    )
    return rows[0][0], rows[0][1]


def cancel(connection: Connection, task_ids: Sequence[str], *, within: float) -> list[str]:
    """Ends those of these tasks that are pending as failed; their ids."""
    rows = connection.execute(
        """
        UPDATE tasks SET status = 'failed', last_error = 'cancelled', completed_at = now(), next_retry_at = NULL,
            updated_at = now()
        WHERE id = ANY (%(ids)s::uuid[]) AND status = 'pending'
        RETURNING id::text
        """,
        {"ids": _uuids(task_ids)},
        within=within,
        lock_within=within,
    )
    return [row[0] for row in rows]


def statuses(connection: Connection, task_ids: Sequence[str], *, within: float) -> dict[str, TaskStatus]:
    """Of those that there are, by id."""
    rows = connection.execute(
        "SELECT id::text, status::text FROM tasks WHERE id = ANY (%(ids)s::uuid[])",
        {"ids": _uuids(task_ids)},
        within=within,
        lock_within=within,
    )
    return {task_id: TaskStatus(status) for task_id, status in rows}


def plain_id(text: str) -> str | None:
    """An id, however it is written (capitals, braces), as the database writes it. None: that is none."""
    try:
        return str(UUID(text))
    except ValueError:
        return None


def _task(row: Sequence[Any]) -> Task:
    return Task(row[0], row[1], TaskStatus(row[2]), *row[3:])


def _uuids(texts: Iterable[str]) -> list[str]:
    """Those that are uuids: any other text names no task."""
    return [task_id for task_id in map(plain_id, texts) if task_id is not None]
