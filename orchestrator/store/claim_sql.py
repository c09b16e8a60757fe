"""The statements of `claims.finish_and_claim`: finish a batch, claim the next, or both at once. SQL only.

The session keeps their plans, and `id = ANY (ARRAY[...])` is there for that (prepared.py). Finishing and claiming exist
alone as well: the server takes a fifth longer for a hundred tasks if it has to set out on both.
"""

from orchestrator.store.prepared import prepared

CLAIM_STATEMENT = "orchestrator_claim"
"""How the statements that claim are named, in pg_stat_activity too."""

# The arrays are joined to the rows by primary key, then fenced. What is the same for all is not sent: the shorter of
# arrays that are unnested together are filled with NULL. (In a SELECT list they hand on row by row what they would
# store first in FROM.) Ages are in microseconds. Results are one JSON array in which null is none: as a text[] their
# quotes had to be escaped, and each was read three times. BETWEEN (in the enum's
# order) says the same as IN ('claimed', 'running') without offering idx_tasks_owned: told by statistics of a quiet hour
# that hardly any task is claimed, the planner would read all of that index instead. now(), not clock_timestamp():
# nearest to the moment when the ages were taken. A retry leaves the row wholly pending but for `ended_token`: it tells
# whose write was accepted, should its reply be lost (holdings.verdicts): a child's, or (negative) its supervisor's.
_FINISHED = """
finished AS (
    UPDATE tasks AS t
    SET status = o.status,
        attempts = o.attempt,
        ended_token = <sign>o.token,
        claim_token = CASE WHEN o.status <> 'pending' THEN o.token END,
        worker_id = CASE WHEN o.status <> 'pending' THEN t.worker_id END,
        slot = CASE WHEN o.status <> 'pending' THEN t.slot END,
        claimed_at = CASE WHEN o.status <> 'pending' THEN t.claimed_at END,
        started_at = CASE WHEN o.status <> 'pending' THEN now() - o.started_ago * interval '1 us' END,
        completed_at = CASE WHEN o.status <> 'pending' THEN now() - o.ended_ago * interval '1 us' END,
        next_retry_at = CASE WHEN o.status = 'pending' AND o.delay > 0 THEN now() + o.delay * interval '1 second' END,
        last_error = coalesce(nullif(o.error, ''), t.last_error),
        result = nullif(o.result, 'null'),
        updated_at = now()
    FROM (
        SELECT id, token, coalesce(status, 'completed') AS status, coalesce(attempt, 1) AS attempt, started_ago,
            ended_ago, delay, error, result
        FROM (
            SELECT unnest(%(ids)s::uuid[]) AS id, unnest(%(tokens)s::bigint[]) AS token,
                unnest(%(statuses)s::task_status[]) AS status, unnest(%(attempts)s::integer[]) AS attempt,
                unnest(%(started_ago)s::bigint[]) AS started_ago, unnest(%(ended_ago)s::bigint[]) AS ended_ago,
                unnest(%(delays)s::double precision[]) AS delay, unnest(%(errors)s::text[]) AS error,
                jsonb_array_elements(%(results)s) AS result
        ) AS sent
    ) AS o
    WHERE t.id = ANY (ARRAY[o.id]) AND t.claim_token = o.token AND t.status BETWEEN 'claimed' AND 'running'
    RETURNING o.token
)
"""
_FINISHED_BY_CHILD = _FINISHED.replace("<sign>", "")
_FINISHED_BY_SUPERVISOR = _FINISHED.replace("<sign>", "-")
_FINISHED_TYPES = {
    "ids": "uuid[]",
    "tokens": "bigint[]",
    "statuses": "task_status[]",
    "attempts": "integer[]",
    "started_ago": "bigint[]",
    "ended_ago": "bigint[]",
    "delays": "double precision[]",
    "errors": "text[]",
    "results": "jsonb",
    "count": "bigint",
}

# `ready`: idx_tasks_claimable in its order. Onwards: in three parts before, from and below the place where the last
# claim of this session ended: PostgreSQL reads and locks the second only when the first had too few, and so on. (From
# the front one part does: a claim of one task takes a sixth less.) The uncorrelated EXISTS is asked once, before any
# row is locked. The rows are locked, so `claimed` finds them by where they lie: by table and ctid, since partitions
# that somebody has made, and tables that inherit from this one, have rows at the same places.
# `batch`: a task that was recovered from a dead worker (recoveries > 0) is taken alone or not at all, so that one that
# kills its host doesn't take neighbours with it, and its attempt is on record before its handler starts. And a batch of
# large payloads ends early: the child has to hold it.
_PART = """
    SELECT * FROM (
        SELECT tableoid AS home, ctid AS place, priority, created_at, recoveries > 0 AS is_alone,
            pg_column_size(payload) AS payload_size
        FROM tasks
        WHERE status = 'pending' AND next_retry_at IS NULL AND EXISTS (SELECT FROM me)
          AND <place>
        ORDER BY priority DESC, created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) AS part
"""
_PLACES = (
    "priority > %(from_priority)s",
    "priority = %(from_priority)s AND created_at >= %(from_created_at)s",
    "priority < %(from_priority)s",
)
_CLAIM = """
me AS MATERIALIZED (
    SELECT FROM workers WHERE id = %(worker_id)s AND declared_dead_at IS NULL
), ready AS MATERIALIZED (
    <parts>
    LIMIT %(limit)s
), batch AS (
    SELECT home, place, priority, created_at, is_alone, row_number() OVER w AS position,
        sum(payload_size) OVER w AS size
    FROM ready WINDOW w AS (ROWS UNBOUNDED PRECEDING)
), claimed AS (
    UPDATE tasks AS t
    SET status = CASE WHEN b.is_alone THEN 'running'::task_status ELSE 'claimed' END,
        attempts = least(t.attempts + b.is_alone::integer, 1073741823),
        claim_token = %(first_token)s + b.position - 1,
        worker_id = %(worker_id)s,
        slot = %(slot)s,
        claimed_at = now(),
        started_at = CASE WHEN b.is_alone THEN now() END,
        updated_at = now()
    FROM batch AS b
    WHERE t.ctid = b.place AND t.tableoid = b.home
      AND (b.position = 1
           OR NOT (b.is_alone OR (SELECT is_alone FROM ready LIMIT 1)) AND b.size <= %(max_batch)s)
    RETURNING t.id::text, t.type, t.claim_token, t.payload::text AS payload,
        least(t.attempts + 1 - b.is_alone::integer, 1073741823) AS attempt, t.max_retries, t.timeout_seconds, b.is_alone
)
"""
_CLAIMED = _CLAIM.replace("<parts>", _PART.replace("<place>", "true"))
_CLAIMED_ONWARDS = _CLAIM.replace("<parts>", "UNION ALL".join(_PART.replace("<place>", place) for place in _PLACES))
_CLAIMED_TYPES = {
    "worker_id": "text",
    "slot": "integer",
    "limit": "bigint",
    "first_token": "bigint",
    "max_payload": "integer",
    "max_batch": "bigint",
}
_PLACE_TYPES = {"from_priority": "integer", "from_created_at": "timestamptz"}

# The answer's columns are a Claim's, and tokens grow in the order of the queue. The row with the token 0 tells of the
# outcomes, and of the last row that `ready` found. Naming what was accepted is only worth it if something was not.
_TOLD = """
told AS (
    SELECT count(*) AS accepted, CASE WHEN count(*) < %(count)s THEN string_agg(token::text, ',') END AS tokens
    FROM finished
)
"""
_NOTHING_TOLD = "told AS (SELECT 0::bigint AS accepted, NULL::text AS tokens)"
_ANSWER = """
SELECT created_at::text AS id, NULL AS type, 0::bigint AS token, tokens AS payload, coalesce(position, 0)::integer,
    priority, accepted::double precision, EXISTS (SELECT FROM me)
FROM told LEFT JOIN (SELECT * FROM batch ORDER BY position DESC LIMIT 1) AS last ON true
UNION ALL
SELECT id, type, claim_token, CASE WHEN octet_length(payload) <= %(max_payload)s THEN payload END, attempt, max_retries,
    timeout_seconds, is_alone
FROM claimed
"""
_ANSWER_WITHOUT_CLAIMS = "SELECT NULL, NULL, 0, tokens, 0, NULL, accepted, true FROM told"


def _with(*parts: str, answer: str) -> str:
    return f"WITH {', '.join(each.strip() for each in parts)} {answer}"


FINISH = prepared(
    "orchestrator_finish",
    _with(_FINISHED_BY_CHILD, _TOLD, answer=_ANSWER_WITHOUT_CLAIMS),
    _FINISHED_TYPES,
)
FINISH_FOR_CHILDREN = prepared(
    "orchestrator_finish_for_children",
    _with(_FINISHED_BY_SUPERVISOR, _TOLD, answer=_ANSWER_WITHOUT_CLAIMS),
    _FINISHED_TYPES,
)
CLAIM = prepared(
    CLAIM_STATEMENT,
    _with(_CLAIMED, _NOTHING_TOLD, answer=_ANSWER),
    _CLAIMED_TYPES,
)
CLAIM_ONWARDS = prepared(
    CLAIM_STATEMENT,
    _with(_CLAIMED_ONWARDS, _NOTHING_TOLD, answer=_ANSWER),
    _CLAIMED_TYPES | _PLACE_TYPES,
)
FINISH_AND_CLAIM = prepared(
    CLAIM_STATEMENT,
    _with(_FINISHED_BY_CHILD, _CLAIMED, _TOLD, answer=_ANSWER),
    _FINISHED_TYPES | _CLAIMED_TYPES,
)
FINISH_AND_CLAIM_ONWARDS = prepared(
    CLAIM_STATEMENT,
    _with(_FINISHED_BY_CHILD, _CLAIMED_ONWARDS, _TOLD, answer=_ANSWER),
    _FINISHED_TYPES | _CLAIMED_TYPES | _PLACE_TYPES,
)
