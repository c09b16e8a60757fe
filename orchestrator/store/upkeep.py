"""What the coordinator's duties write: recovery of dead workers' tasks, promotion of what has become due.

A leader's statement names its term and locks the lease row FOR SHARE in a CTE that the write reads from (PostgreSQL
runs no CTE that is not read): no other leader can start its term before the write has committed. It skips locked rows,
and the server ends it after `within`, and after a shorter wait for any lock: held up while it holds the lease row, it
would keep the renewal out. So choose `within` well below a third of LEADER_TERM. All may be repeated.
"""

from typing import NamedTuple

from orchestrator.model import Recovered, TaskStatus
from orchestrator.store.arrays import words
from orchestrator.store.connection import Connection
from orchestrator.store.planning import BY_INDEX
from orchestrator.store.prepared import execute_prepared, prepared


class Due(NamedTuple):
    """`promoted` tasks became claimable; `is_ready`: something is claimable; seconds until the next one that waits."""

    promoted: int
    is_ready: bool
    next_due_in: float | None


def declare_others_dead(connection: Connection, *, term: int, holder: str, within: float) -> int:
    """Single-instance mode: whoever is registered beside the holder is a remnant. How many were declared dead.

    A row that is locked at this moment is left for the next time.
    """
    rows = connection.execute(
        """
        WITH lease AS MATERIALIZED (
            SELECT FROM leadership
            WHERE id = 1 AND term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp() FOR SHARE
        ), others AS MATERIALIZED (
            SELECT w.id FROM lease, workers AS w
            WHERE w.id <> %(holder)s AND w.declared_dead_at IS NULL
            FOR UPDATE OF w SKIP LOCKED
        ), declared AS (
            UPDATE workers AS w SET declared_dead_at = clock_timestamp(), is_leader = false, leader_until = NULL
            FROM others WHERE w.id = others.id
            RETURNING 1
        )
        SELECT count(*) FROM declared
        """,
        {"term": term, "holder": holder},
        within=within,
        lock_within=within / 2,
    )
    return int(rows[0][0])


# Judged by the leader's own row too: as long as its beats are missing it judges nobody, and what happened before they
# came back (`resumed_at`, written by the beat itself) or before its term or the server began is held against nobody: it
# may have hit everybody. A time of more than a gap ahead is from before the server's clock was set back, by hours
# perhaps, and tells nothing; the leader has beaten since then, and noted when. FOR UPDATE asks again about a row that
# has just beaten.
_DECLARE_SILENT_DEAD = """
WITH lease AS MATERIALIZED (
    SELECT acquired_at FROM leadership
    WHERE id = 1 AND term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp() FOR SHARE
), judge AS MATERIALIZED (
    SELECT max(began.at) AS since
    FROM lease, workers AS me,
        LATERAL (VALUES (lease.acquired_at), (me.resumed_at), (pg_postmaster_start_time())) AS began (at)
    WHERE me.id = %(holder)s AND me.declared_dead_at IS NULL
      AND me.last_heartbeat > clock_timestamp() - %(gap_seconds)s * interval '1 second'
      AND me.last_heartbeat <= clock_timestamp()
      AND began.at <= clock_timestamp() + %(gap_seconds)s * interval '1 second'
    HAVING count(*) > 0
), silent AS MATERIALIZED (
    SELECT w.id FROM judge, workers AS w
    WHERE w.id <> %(holder)s AND w.declared_dead_at IS NULL
      AND greatest(
          CASE WHEN w.last_heartbeat <= clock_timestamp() + %(gap_seconds)s * interval '1 second'
              THEN w.last_heartbeat END,
          judge.since) < clock_timestamp() - %(timeout_seconds)s * interval '1 second'
    FOR UPDATE OF w SKIP LOCKED
)
UPDATE workers AS w SET declared_dead_at = clock_timestamp(), is_leader = false, leader_until = NULL
FROM silent WHERE w.id = silent.id
RETURNING w.id
"""


def declare_silent_dead(
    connection: Connection, *, term: int, holder: str, timeout_seconds: float, gap_seconds: float, within: float
) -> list[str]:
    """Declares workers dead that have not beaten for `timeout_seconds`; their ids.

    Nobody is, while the leader's own last beat is older than `gap_seconds`. A row that is locked at this moment is left
    for the next time.
    """
    rows = connection.execute(
        _DECLARE_SILENT_DEAD,
        {"term": term, "holder": holder, "timeout_seconds": timeout_seconds, "gap_seconds": gap_seconds},
        within=within,
        lock_within=within / 2,
    )
    return [worker_id for (worker_id,) in rows]


# Which rows are to be recovered is looked for without the lease, in time of its own: as long as somebody holds an old
# snapshot the index has an entry of each claim that was made since, and none can be passed over unread. SKIP LOCKED:
# what is locked must not be in the way of the others.
_FIND_ORPHANS = """
SELECT t.id::text FROM tasks AS t
WHERE t.status IN ('claimed', 'running')
  AND (NOT EXISTS (SELECT FROM workers AS w WHERE w.id = t.worker_id AND w.declared_dead_at IS NULL)
       OR t.claim_token IS NULL OR t.slot IS NULL)
LIMIT %(limit)s
FOR UPDATE OF t SKIP LOCKED
"""

# `lost` is computed once, and `orphans` compares with that list: when a row changed hands meanwhile, PostgreSQL checks
# its new version against the WHERE clause again, but a NOT EXISTS in there would then find no worker at all and pass.
# Worker ids are never used twice, so a worker that is lost stays lost. All that `fates` judges by comes from `orphans`,
# whose rows are as they were when they were locked; a join with `tasks` would see them as the statement began. A row
# that somebody has written by hand, without a whole claim, is nobody's: its worker may live, but no child can end it.
_RECOVER = """
WITH lease AS MATERIALIZED (
    SELECT FROM leadership
    WHERE id = 1 AND term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp() FOR SHARE
), lost AS MATERIALIZED (
    SELECT DISTINCT t.worker_id FROM tasks AS t
    WHERE t.id = ANY (%(ids)s::uuid[])
      AND NOT EXISTS (SELECT FROM workers AS w WHERE w.id = t.worker_id AND w.declared_dead_at IS NULL)
), orphans AS MATERIALIZED (
    SELECT t.id, t.type, t.worker_id, t.attempts, t.max_retries, t.status = 'running' AS was_running,
        t.worker_id IS NULL OR t.claim_token IS NULL OR t.slot IS NULL AS is_nobodys
    FROM lease, tasks AS t
    WHERE t.id = ANY (%(ids)s::uuid[]) AND t.status BETWEEN 'claimed' AND 'running'
      AND (t.worker_id = ANY (ARRAY(SELECT worker_id FROM lost))
           OR t.worker_id IS NULL OR t.claim_token IS NULL OR t.slot IS NULL)
    FOR UPDATE OF t SKIP LOCKED
), fates AS (
    SELECT o.id, o.worker_id, o.was_running, o.is_nobodys, y.retry_base_seconds, y.retry_cap_seconds,
        o.was_running AND o.attempts > coalesce(o.max_retries, y.max_retries, 3) AS is_dead_letter
    FROM orphans AS o LEFT JOIN task_types AS y ON y.type = o.type
)
UPDATE tasks AS t
SET status = CASE WHEN f.is_dead_letter THEN 'dead_letter'::task_status ELSE 'pending' END,
    recoveries = least(t.recoveries + (NOT f.was_running)::integer, 1073741823),
    next_retry_at = CASE WHEN f.was_running AND NOT f.is_dead_letter THEN now() + interval '1 second'
        * retry_delay(t.attempts, coalesce(f.retry_base_seconds, 1), coalesce(f.retry_cap_seconds, 3600)) END,
    last_error = CASE
        WHEN f.is_nobodys THEN 'this task was ' || t.status || ', but no child can have claimed it: it had no '
            || CASE WHEN t.worker_id IS NULL THEN 'worker' WHEN t.slot IS NULL THEN 'slot' ELSE 'claim token' END
        ELSE 'worker ' || f.worker_id || ' died while it '
            || CASE WHEN f.was_running THEN 'ran this task, attempt ' || t.attempts
               ELSE 'had claimed this task; not seen running, so no attempt is charged' END END,
    worker_id = CASE WHEN f.is_dead_letter THEN t.worker_id END,
    slot = CASE WHEN f.is_dead_letter THEN t.slot END,
    claim_token = CASE WHEN f.is_dead_letter THEN t.claim_token END,
    claimed_at = CASE WHEN f.is_dead_letter THEN t.claimed_at END,
    started_at = CASE WHEN f.is_dead_letter THEN t.started_at END,
    completed_at = CASE WHEN f.is_dead_letter THEN now() END,
    updated_at = now()
FROM fates AS f
WHERE t.id = ANY (ARRAY[f.id])
RETURNING t.id::text, t.type, t.status::text, t.attempts, f.was_running,
    CASE WHEN f.is_nobodys THEN '' ELSE f.worker_id END
"""


def recover(
    connection: Connection, *, term: int, holder: str, limit: int, within: float, look_within: float | None = None
) -> list[Recovered]:
    """Takes up to `limit` tasks back from workers that are declared dead or have no row, and those that are claimed or
    running without a whole claim. Nothing: all are back. `look_within`: for finding them; None: `within`.

    A task that was running pays an attempt: it waits its backoff, or is a dead letter if that was its last. One that
    was only claimed pays nothing, is due now, and will be claimed alone.
    """
    found = connection.execute(
        BY_INDEX + _FIND_ORPHANS, {"limit": limit}, within=look_within or within, lock_within=within / 2
    )
    if not found:
        return []
    rows = connection.execute(
        BY_INDEX + _RECOVER,
        {"term": term, "holder": holder, "ids": words(task_id for (task_id,) in found)},
        within=within,
        lock_within=within / 2,
    )
    return [
        Recovered(task_id, type_name, TaskStatus(status), attempt, was_running, worker_id)
        for task_id, type_name, status, attempt, was_running, worker_id in rows
    ]


def forget_dead_workers(connection: Connection, *, term: int, holder: str, within: float) -> int:
    """Deletes the rows of dead workers that own nothing any more; returns how many."""
    rows = connection.execute(
        """
        WITH lease AS MATERIALIZED (
            SELECT FROM leadership
            WHERE id = 1 AND term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp() FOR SHARE
        ), dead AS MATERIALIZED (
            SELECT w.id FROM lease, workers AS w
            WHERE w.declared_dead_at IS NOT NULL
              AND NOT EXISTS (
                  SELECT FROM tasks AS t WHERE t.worker_id = w.id AND t.status IN ('claimed', 'running'))
            FOR UPDATE OF w SKIP LOCKED
        ), forgotten AS (
            DELETE FROM workers AS w USING dead WHERE w.id = dead.id RETURNING w.id
        ), awake AS (
            DELETE FROM sleepers AS s USING lease
            WHERE NOT EXISTS (SELECT FROM workers AS w WHERE w.id = s.worker_id AND w.declared_dead_at IS NULL)
        )
        SELECT count(*) FROM forgotten
        """,
        {"term": term, "holder": holder},
        within=within,
        lock_within=within / 2,
    )
    return int(rows[0][0])


# Kept and planned from index scans alone, like the claim: idx_tasks_claimable begins with whether a task is due, and
# for which share of the pending ones that holds the planner only guesses, so it would rather read the table.
_PROMOTE_DUE = prepared(
    "orchestrator_promote",
    """
WITH due AS MATERIALIZED (
    SELECT id FROM tasks
    WHERE status = 'pending' AND next_retry_at <= now()
    ORDER BY next_retry_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), promoted AS (
    UPDATE tasks AS t SET next_retry_at = NULL, updated_at = now()
    FROM due WHERE t.id = ANY (ARRAY[due.id])
    RETURNING 1
)
SELECT (SELECT count(*) FROM promoted),
    %(looks)s AND EXISTS (SELECT FROM tasks WHERE status = 'pending' AND next_retry_at IS NULL),
    (SELECT date_part('epoch', next_retry_at - now()) FROM tasks
     WHERE status = 'pending' AND next_retry_at > now() AND next_retry_at < 'infinity'
     ORDER BY next_retry_at LIMIT 1)
""",
    {"limit": "bigint", "looks": "boolean"},
)


def promote_due(connection: Connection, *, limit: int, within: float, looks: bool = True) -> Due:
    """Makes up to `limit` waiting tasks whose time has come claimable. Any worker may, a leader is not needed for it.

    They take the place among the claimable that their priority and age give them. Not `looks`: of what is claimable
    only these are told. To find out that there is nothing takes long where much of what was claimed still lies dead.
    """
    params = {"limit": limit, "looks": looks}
    rows = execute_prepared(connection, _PROMOTE_DUE, params, within=within, lock_within=within / 2)
    promoted, is_ready, next_due_in = rows[0]
    return Due(promoted, is_ready or promoted > 0, 0.0 if promoted == limit else next_due_in)
