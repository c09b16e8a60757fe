"""The rows of `periodic_tasks`: what apps want done at regular times, and how far that is enqueued."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from orchestrator.model import PeriodicTask
from orchestrator.store.connection import Connection


class Registered(NamedTuple):
    """A periodic task, the app that registered it, and the moment up to which everything is enqueued."""

    task: PeriodicTask
    app: str
    last_due_at: datetime


def register(
    connection: Connection, app: str, tasks: Sequence[PeriodicTask], *, within: float, only_missing: bool = False
) -> None:
    """Makes these the periodic tasks of the app: the newest start wins, and what it has no more goes.

    What is new, or is due at other times than before, is due from now on only. `only_missing`: what is there stays.
    """
    connection.execute(
        """
        WITH gone AS (
            DELETE FROM periodic_tasks
            WHERE app = %(app)s AND name <> ALL (%(names)s::text[]) AND NOT %(only_missing)s
        )
        INSERT INTO periodic_tasks AS present
            (name, app, type, cron, timezone, payload, priority, max_retries, timeout_seconds, due_as, last_due_at)
        SELECT name, %(app)s, type, cron, timezone, payload::jsonb, priority, nullif(max_retries, -1),
            nullif(timeout_seconds, 0), nullif(due_as, ''), clock_timestamp()
        FROM unnest(%(names)s::text[], %(types)s::text[], %(crons)s::text[], %(timezones)s::text[],
                    %(payloads)s::text[], %(priorities)s::integer[], %(max_retries)s::integer[],
                    %(timeouts)s::double precision[], %(due_as)s::text[])
            AS t (name, type, cron, timezone, payload, priority, max_retries, timeout_seconds, due_as)
        ORDER BY name
        ON CONFLICT (name) DO UPDATE SET app = excluded.app, type = excluded.type, cron = excluded.cron,
            timezone = excluded.timezone, payload = excluded.payload, priority = excluded.priority,
            max_retries = excluded.max_retries, timeout_seconds = excluded.timeout_seconds, due_as = excluded.due_as,
            last_due_at = CASE WHEN (present.cron, present.timezone) = (excluded.cron, excluded.timezone)
                               THEN present.last_due_at ELSE excluded.last_due_at END
        WHERE NOT %(only_missing)s
        """,
        {
            "app": app,
            "only_missing": only_missing,
            "names": [each.name for each in tasks],
            "types": [each.type for each in tasks],
            "crons": [each.cron for each in tasks],
            "timezones": [each.timezone for each in tasks],
            "payloads": [each.payload for each in tasks],
            "priorities": [each.priority for each in tasks],
            "max_retries": [-1 if each.max_retries is None else each.max_retries for each in tasks],
            "timeouts": [each.timeout_seconds or 0.0 for each in tasks],  # arrays.py says why no NULL
            "due_as": [each.due_as or "" for each in tasks],
        },
        within=within,
        lock_within=within,
    )


def list_all(connection: Connection, *, within: float) -> tuple[datetime, list[Registered]]:
    """The database's time, and all periodic tasks by name."""
    rows = connection.execute(
        """
        SELECT clock_timestamp(), name, type, cron, timezone, payload::text, priority, max_retries, timeout_seconds,
            due_as, app, last_due_at
        FROM (SELECT) AS always LEFT JOIN periodic_tasks ON true ORDER BY name
        """,
        within=within,
        lock_within=within,
    )
    found = [Registered(PeriodicTask(*row[1:10]), row[10], row[11]) for row in rows if row[1] is not None]
    return rows[0][0], found


def enqueue_due(
    connection: Connection,
    registered: Registered,
    due_at: datetime,
    *,
    shown: str,
    term: int,
    holder: str,
    within: float,
) -> str | None:
    """Adds the task that was due at that moment, which is `shown` under its key `due_as`; its id.

    None: not now, for the term is over, or somebody has done it or changed the periodic task since it was read. One
    statement under the leader's term, so that it is added and noted or neither. The key names the moment too: should
    the server's clock be set back, it is not added twice.
    """
    rows = connection.execute(
        """
        WITH lease AS MATERIALIZED (
            SELECT FROM leadership
            WHERE id = 1 AND term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp() FOR SHARE
        ), noted AS (
            UPDATE periodic_tasks AS p SET last_due_at = %(due_at)s
            FROM lease
            WHERE p.name = %(name)s AND p.cron = %(cron)s AND p.timezone = %(timezone)s
              AND p.last_due_at = %(last_due_at)s
            RETURNING p.*
        )
        INSERT INTO tasks (type, payload, priority, idempotency_key, max_retries, timeout_seconds)
        SELECT type,
            payload || CASE WHEN due_as IS NULL THEN '{}' ELSE jsonb_build_object(due_as, %(shown)s::text) END,
            priority, %(key)s, max_retries, timeout_seconds
        FROM noted
        ON CONFLICT (type, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
        RETURNING id::text
        """,
        {
            "term": term,
            "holder": holder,
            "name": registered.task.name,
            "cron": registered.task.cron,
            "timezone": registered.task.timezone,
            "last_due_at": registered.last_due_at,
            "due_at": due_at,
            "shown": shown,
            "key": f"{registered.task.name}@{due_at:%Y-%m-%dT%H:%M:%SZ}",
        },
        within=within,
        lock_within=within / 2,
    )
    return str(rows[0][0]) if rows else None


def set_back(connection: Connection, *, term: int, holder: str, within: float) -> None:
    """Where the server's clock was ahead, what comes from now on is due: not only once it is as late as it was then.

    A row that somebody holds must not keep the others from their time.
    """
    connection.execute(
        """
        WITH lease AS MATERIALIZED (
            SELECT FROM leadership
            WHERE id = 1 AND term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp() FOR SHARE
        )
        UPDATE periodic_tasks SET last_due_at = clock_timestamp() FROM lease WHERE name IN (
            SELECT name FROM periodic_tasks WHERE last_due_at > clock_timestamp() FOR UPDATE SKIP LOCKED)
        """,
        {"term": term, "holder": holder},
        within=within,
        lock_within=within / 2,
    )


def remove(connection: Connection, name: str, *, within: float) -> bool:
    """Whether there was such a periodic task; it is no more. An app that has it registers it when it starts."""
    rows = connection.execute(
        "DELETE FROM periodic_tasks WHERE name = %(name)s RETURNING 1",
        {"name": name},
        within=within,
        lock_within=within,
    )
    return bool(rows)
