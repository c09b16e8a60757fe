"""Adding tasks, on any DB-API cursor with `%(name)s` parameters (psycopg2, psycopg 3), in the caller's transaction.

Nothing here commits or rolls back. The driver's own errors pass through (with a note if the tables are missing): the
transaction is the caller's, and so is what it does about them. The tasks are checked already (client.py); ids are the
database's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.errors import EnqueueError
from orchestrator.model import NewTask
from orchestrator.store.arrays import texts, values
from orchestrator.store.connection import Connection
from orchestrator.store.failures import add_cure
from orchestrator.store.prepared import execute_prepared, prepared

BATCH = 2000
"""Tasks per statement. Of an ordinary size they fit the socket's buffer, so that who sends them can go on meanwhile."""

_ROUNDS = 20


class Cursor(Protocol):
    """What we use of a DB-API cursor."""

    def execute(self, query: Any, params: Any = ..., /) -> Any: ...

    def fetchall(self) -> Any: ...


Run = Callable[[str, Mapping[str, Any]], Sequence[Any]]
"""Runs one statement and returns its rows."""


def enqueue(cursor: Cursor, task: NewTask) -> str:
    """Adds one task and returns its id; with an idempotency key that is there already, the id that is there."""
    return enqueue_with(on_cursor(cursor), task)


def enqueue_many(cursor: Cursor, tasks: Sequence[NewTask]) -> list[str]:
    """Adds tasks, thousands per statement, and returns their ids in the same order.

    A task whose (type, idempotency key) is there already, or stands earlier among `tasks`, gets that one's id and
    changes nothing.
    """
    run = on_cursor(cursor)
    return [
        task_id for start in range(0, len(tasks), BATCH) for task_id in enqueue_batch(run, tasks[start : start + BATCH])
    ]


def on_cursor(cursor: Cursor) -> Run:
    """Statements run on this cursor, whatever kind of rows it makes."""

    def run(sql: str, params: Mapping[str, Any]) -> Sequence[Any]:
        try:
            cursor.execute(sql, params)
        except Exception as error:
            add_cure(error)
            raise
        return [_id(row) for row in cursor.fetchall()]

    return run


def enqueue_with(run: Run, task: NewTask) -> str:
    """`enqueue`, by whatever runs statements. `run` returns ids."""
    ids = run(
        """
        SELECT enqueue_task(%(type)s::text, %(payload)s::jsonb, %(priority)s::integer,
            %(delay)s::double precision * interval '1 second', %(run_at)s::timestamptz, %(key)s::text,
            %(max_retries)s::integer, %(timeout)s::double precision * interval '1 second')::text AS id
        """,
        {**_parameters(task), "key": task.idempotency_key},
    )
    return str(ids[0])


def _parameters(task: NewTask) -> dict[str, Any]:
    return {
        "type": task.type,
        "payload": task.payload,
        "priority": task.priority,
        "delay": task.delay_seconds,
        "run_at": task.run_at,
        "max_retries": task.max_retries,
        "timeout": task.timeout_seconds,
    }


# What enqueue_task() does for a task without a key, less what was checked already: half of its time in the server.
_INSERT_ONE = prepared(
    "orchestrator_enqueue",
    """
INSERT INTO tasks (type, payload, priority, next_retry_at, max_retries, timeout_seconds)
VALUES (%(type)s, %(payload)s, %(priority)s,
    CASE WHEN %(delay)s > 0 THEN clock_timestamp() + %(delay)s * interval '1 second'
         WHEN %(run_at)s > clock_timestamp() THEN %(run_at)s END,
    %(max_retries)s, %(timeout)s)
RETURNING id::text AS id
""",
    {
        "type": "text",
        "payload": "jsonb",
        "priority": "integer",
        "delay": "double precision",
        "run_at": "timestamptz",
        "max_retries": "integer",
        "timeout": "double precision",
    },
)

# Most tasks have none of these options, and five parameters less are a tenth of what a call costs the client.
_INSERT_BARE = prepared(
    "orchestrator_enqueue_bare",
    "INSERT INTO tasks (type, payload) VALUES (%(type)s, %(payload)s) RETURNING id::text AS id",
    {"type": "text", "payload": "jsonb"},
)
_NO_OPTIONS = NewTask("", "")[2:]


def enqueue_on(connection: Connection, task: NewTask, *, within: float) -> str:
    """`enqueue` on a connection of our own, in a transaction of its own."""
    if task.idempotency_key is not None:

        def run(sql: str, params: Mapping[str, Any]) -> list[Any]:
            return [row[0] for row in connection.execute(sql, params, within=within, lock_within=within)]

        return enqueue_with(run, task)
    if task[2:] == _NO_OPTIONS:
        statement, parameters = _INSERT_BARE, {"type": task.type, "payload": task.payload}
    else:
        statement, parameters = _INSERT_ONE, _parameters(task)
    rows = execute_prepared(connection, statement, parameters, within=within, lock_within=within, has_choice=False)
    return str(rows[0][0])


def enqueue_batch(run: Run, batch: Sequence[NewTask], columns: Mapping[str, str] | None = None) -> Sequence[str]:
    """Adds some of `enqueue_many`'s, by whatever runs statements. `run` returns ids, None where there is none yet.

    `columns`: what `columns_of` has made of it, if there was time for that before.
    """
    if any(task.idempotency_key is not None for task in batch):
        return _enqueue_keyed(run, batch)
    ids: Sequence[str] = run(_INSERT_PLAIN, columns_of(batch) if columns is None else columns)
    return ids


def _enqueue_keyed(run: Run, batch: Sequence[NewTask]) -> list[str]:
    """A key that another transaction committed while our statement ran is seen by the next statement only."""
    found: list[str | None] = [None] * len(batch)
    for _ in range(_ROUNDS):
        missing = [index for index, task_id in enumerate(found) if task_id is None]
        if not missing:
            break
        for index, task_id in zip(missing, run(_INSERT_KEYED, columns_of([batch[i] for i in missing])), strict=True):
            found[index] = task_id
    ids = [task_id for task_id in found if task_id is not None]
    if len(ids) < len(batch):
        raise EnqueueError("tasks with these idempotency keys were added and deleted again and again meanwhile")
    return ids


# Nothing in this plan could change the order (no sort, no join; an INSERT is never parallel), and the defaults (ids and
# ages) are computed row by row on top of it: so the tasks are returned, and will be claimed, in the order in which they
# were given. unnest() in a SELECT list hands its rows on one by one, where one in FROM stores all of them first, and a
# text[] with a cast for each payload is read faster than a jsonb[]: together a fifth of the time that the server takes.
_INSERT_PLAIN = """
INSERT INTO tasks (type, payload, priority, next_retry_at, max_retries, timeout_seconds)
SELECT type, payload::jsonb, coalesce(priority, 0),
    CASE WHEN delay > 0 THEN clock_timestamp() + delay * interval '1 second'
         WHEN run_at > clock_timestamp() THEN run_at END,
    nullif(max_retries, -1), nullif(timeout_seconds, 0)
FROM (
    SELECT unnest(%(types)s::text[]) AS type, unnest(%(payloads)s::text[]) AS payload,
        unnest(%(priorities)s::integer[]) AS priority, unnest(%(delays)s::double precision[]) AS delay,
        unnest(%(run_ats)s::timestamptz[]) AS run_at, unnest(%(max_retries)s::integer[]) AS max_retries,
        unnest(%(timeouts)s::double precision[]) AS timeout_seconds
) AS new
RETURNING id::text AS id
"""

# Ids and ages are made first, in the order of the tasks. A key that is there is looked up one by one (a join might read
# the whole table). NULL: committed by somebody else since this statement's snapshot.
_INSERT_KEYED = """
WITH new AS MATERIALIZED (
    SELECT orchestrator_new_id() AS id, clock_timestamp() AS created_at, nullif(given_key, '') AS key, n.*
    FROM unnest(%(types)s::text[], %(payloads)s::text[], %(priorities)s::integer[], %(delays)s::double precision[],
                %(run_ats)s::timestamptz[], %(keys)s::text[], %(max_retries)s::integer[],
                %(timeouts)s::double precision[])
        WITH ORDINALITY AS n (type, payload, priority, delay, run_at, given_key, max_retries, timeout_seconds, position)
), inserted AS (
    INSERT INTO tasks (id, created_at, type, payload, priority, next_retry_at, idempotency_key, max_retries,
        timeout_seconds)
    SELECT id, created_at, type, payload::jsonb, coalesce(priority, 0),
        CASE WHEN delay > 0 THEN clock_timestamp() + delay * interval '1 second'
             WHEN run_at > clock_timestamp() THEN run_at END,
        key, nullif(max_retries, -1), nullif(timeout_seconds, 0)
    FROM new ORDER BY type, key, position
    ON CONFLICT (type, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id, type, idempotency_key
)
SELECT CASE WHEN new.key IS NULL THEN new.id
            ELSE coalesce(i.id, (SELECT t.id FROM tasks AS t
                                 WHERE t.type = new.type AND t.idempotency_key = new.key)) END::text AS id
FROM new LEFT JOIN inserted AS i ON i.type = new.type AND i.idempotency_key = new.key
ORDER BY new.position
"""


def columns_of(batch: Sequence[NewTask]) -> dict[str, str]:
    """One array per column; a column that nobody uses is empty, which unnest() fills with NULLs.

    Where one task has no value and others have: what none can have, which the statements know (arrays.py).
    """
    return {
        "types": texts([task.type for task in batch]),
        "payloads": texts([task.payload for task in batch]),
        "priorities": _used([task.priority for task in batch], 0),
        "delays": _used([task.delay_seconds for task in batch], 0),
        "run_ats": _used([task.run_at for task in batch], "-infinity"),
        "keys": texts([task.idempotency_key for task in batch]),
        "max_retries": _used([task.max_retries for task in batch], -1),
        "timeouts": _used([task.timeout_seconds for task in batch], 0),
    }


def _used(column: list[Any], nothing: object) -> str:
    """`nothing` says the same as None."""
    if column.count(None) + column.count(nothing) == len(column):
        return "{}"
    return values([nothing if each is None else each for each in column])


def _id(row: Any) -> Any:
    """The one column `id` of a row, be it a tuple, a dict, a bare value or an object (the caller's row factory)."""
    if row is None or isinstance(row, str):
        return row
    if isinstance(row, Mapping):
        return row["id"]
    if isinstance(row, Sequence):
        return row[0]
    return row.id
