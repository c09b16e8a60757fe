"""Deletes completed tasks that are old enough, a stretch of ids at a time. The leader's retention duty uses it.

No index serves it, since each costs every completion. Ids are ordered by time, and a task completes after its id was
made: so those of old enough tasks are all at the front of the primary key, among the few that stay. Who inserts rows by
himself may give them ids of another kind, random ones say: nearly all of these lie behind every id that the database
makes, and are a walk of their own.
"""

from typing import NamedTuple

from orchestrator.store.connection import Connection
from orchestrator.store.planning import ALONG_THE_IDS


class Pruned(NamedTuple):
    """`deleted` of the tasks up to the id `position` went; `position` None: nothing old enough is left behind it."""

    deleted: int
    position: str | None


# The write reads from `lease`, see upkeep.py; InitPlans, so that `stretch` is a plain walk along the primary key.
# Up to `counted_to`, lest a task goes before tasks_enqueued_total has counted it; foreign ids it never counts. A row
# that somebody has marked completed by hand may lack `completed_at`.
_PRUNE = """
WITH lease AS MATERIALIZED (
    SELECT counted_to FROM leadership
    WHERE id = 1 AND term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp() FOR SHARE
), stretch AS MATERIALIZED (
    SELECT id FROM tasks
    WHERE id > (SELECT greatest(%(after)s::uuid,
                                CASE WHEN %(is_foreign)s THEN orchestrator_id_at(now() + interval '1 day') END))
      AND id < (SELECT CASE WHEN %(is_foreign)s THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff'
                       ELSE least(counted_to, orchestrator_id_at(now() - %(keep_seconds)s * interval '1 second')) END
                FROM lease)
    ORDER BY id
    LIMIT %(limit)s
), old AS MATERIALIZED (
    SELECT t.id FROM tasks AS t
    WHERE t.id = ANY (ARRAY(SELECT id FROM stretch)) AND t.status = 'completed'
      AND coalesce(t.completed_at, t.updated_at) < now() - %(keep_seconds)s * interval '1 second'
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM tasks AS t USING old WHERE t.id = ANY (ARRAY[old.id]) RETURNING 1
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM stretch),
    (SELECT id::text FROM stretch ORDER BY id DESC LIMIT 1)
"""

START = "00000000-0000-0000-0000-000000000000"


def prune(
    connection: Connection,
    *,
    term: int,
    holder: str,
    keep_seconds: float,
    after: str,
    limit: int,
    within: float,
    is_foreign: bool = False,
) -> Pruned:
    """Looks at the next `limit` tasks behind the id `after` (first START) and deletes those completed so long ago.

    `is_foreign`: only those whose ids the database cannot have made. Tasks that failed or are dead letters stay. One
    statement under the leader's term; what is locked is left.
    """
    rows = connection.execute(
        ALONG_THE_IDS + _PRUNE,
        {
            "term": term,
            "holder": holder,
            "keep_seconds": keep_seconds,
            "after": after,
            "limit": limit,
            "is_foreign": is_foreign,
        },
        within=within,
        lock_within=within / 2,
    )
    deleted, seen, last = rows[0]
    return Pruned(deleted, last if seen == limit else None)
