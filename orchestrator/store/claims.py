"""What the owner of a claim does: take tasks, finish them, hand them back. Children and the supervisor use it.

Every write here is fenced: it names the claim token and expects status claimed or running. A row that it doesn't find
is no longer the caller's, which is an answer and no error. All of these may be repeated after a lost reply. The server
ends a statement that its client has given up: a claim that commits later would belong to somebody who doesn't know.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.model import MAX_PAYLOAD_BYTES, Claim, ClaimRef, Outcome, Start
from orchestrator.store.arrays import jsons, texts, words
from orchestrator.store.connection import Connection
from orchestrator.store.prepared import execute_prepared, prepared

CLAIM_STATEMENT = "orchestrator_claim"
"""How the claim's statement is named, in pg_stat_activity too."""

_MAX_BATCH_BYTES = 8 << 20
"""Payloads of one claim together, as they are stored (perhaps compressed); the first is taken whatever its size."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the queue: of a task that was claimed. `created_at` is PostgreSQL's text of it, to the microsecond."""

    priority: int
    created_at: str


_FRONT = Place(2**31 - 1, "-infinity")


@dataclass(frozen=True, slots=True)
class Batch:
    """The answer of `finish_and_claim`.

    `accepted` outcomes ended their executions; the `unaccepted` did not (`verdicts` tells why). `claims` are in the
    order in which they are to run. `is_registered` false: the worker's row is missing or declared dead, so nothing was
    claimed. `last`: the place of the last claim, if none before it was left out. `was_outrun`: there was something, but
    others changed it at that very moment; look again.
    """

    accepted: int
    unaccepted: tuple[Outcome, ...]
    claims: tuple[Claim, ...]
    is_registered: bool
    last: Place | None = None
    was_outrun: bool = False


# One statement, so that finishing a batch and claiming the next cost one round trip and one commit. The session keeps
# its plan, and `id = ANY (ARRAY[...])` is there for that (prepared.py).
#
# `finished`: the arrays are joined to the rows by primary key, then fenced. The shorter ones are filled with NULLs, so
# `delays`, `errors` and `results` stay empty when there are none; ages are in microseconds. Results are one JSON array
# in which null is none: as a text[] their quotes had to be escaped, and each was read three times. BETWEEN (in the
# enum's order) says the same as IN ('claimed', 'running') without offering idx_tasks_owned: told by statistics of a
# quiet hour that hardly any task is claimed, the planner would read all of that index instead (IS NOT DISTINCT FROM in
# mark_running is for the same). now(), not clock_timestamp(): nearest to the moment when the ages were taken. A retry
# leaves the row wholly pending but for `ended_token`.
# `ready`: idx_tasks_claimable in its order, in three parts around the place where this session's last claim ended:
# PostgreSQL reads and locks the second only when the first had too few, and so on. The uncorrelated EXISTS is asked
# once, before any row is locked. The rows are locked, so `claimed` finds them by where they lie (ctid).
# `batch`: a task that was recovered from a dead worker (recoveries > 0) is taken alone or not at all, so that one that
# kills its host doesn't take neighbours with it, and its attempt is on record before its handler starts. And a batch of
# large payloads ends early: the child has to hold it.
# The first row of the answer (position 0) tells of the outcomes; naming the accepted is only worth it if some are not.
_FINISH_AND_CLAIM = prepared(
    CLAIM_STATEMENT,
    """
WITH finished AS (
    UPDATE tasks AS t
    SET status = o.status,
        attempts = o.attempt,
        ended_token = o.token,
        claim_token = CASE WHEN o.status <> 'pending' THEN o.token END,
        worker_id = CASE WHEN o.status <> 'pending' THEN t.worker_id END,
        slot = CASE WHEN o.status <> 'pending' THEN t.slot END,
        claimed_at = CASE WHEN o.status <> 'pending' THEN t.claimed_at END,
        started_at = CASE WHEN o.status <> 'pending' THEN now() - o.started_ago * interval '1 us' END,
        completed_at = CASE WHEN o.status <> 'pending' THEN now() - o.ended_ago * interval '1 us' END,
        next_retry_at = CASE WHEN o.status = 'pending' AND o.delay > 0 THEN now() + o.delay * interval '1 second' END,
        last_error = coalesce(o.error, t.last_error),
        result = nullif(o.result, 'null'),
        updated_at = now()
    FROM ROWS FROM (
        unnest(%(ids)s::uuid[], %(tokens)s::bigint[], %(statuses)s::task_status[], %(attempts)s::integer[],
               %(started_ago)s::bigint[], %(ended_ago)s::bigint[], %(delays)s::double precision[], %(errors)s::text[]),
        jsonb_array_elements(%(results)s)
    ) AS o (id, token, status, attempt, started_ago, ended_ago, delay, error, result)
    WHERE t.id = ANY (ARRAY[o.id]) AND t.claim_token = o.token AND t.status BETWEEN 'claimed' AND 'running'
    RETURNING o.token
), me AS MATERIALIZED (
    SELECT FROM workers WHERE id = %(worker_id)s AND declared_dead_at IS NULL
), ready AS MATERIALIZED (
    SELECT * FROM (
        SELECT ctid AS place, priority, created_at, recoveries > 0 AS is_alone, pg_column_size(payload) AS payload_size
        FROM tasks
        WHERE status = 'pending' AND next_retry_at IS NULL AND EXISTS (SELECT FROM me)
          AND priority > %(from_priority)s
        ORDER BY priority DESC, created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) AS before_it
    UNION ALL
    SELECT * FROM (
        SELECT ctid, priority, created_at, recoveries > 0, pg_column_size(payload)
        FROM tasks
        WHERE status = 'pending' AND next_retry_at IS NULL AND EXISTS (SELECT FROM me)
          AND priority = %(from_priority)s AND created_at >= %(from_created_at)s
        ORDER BY priority DESC, created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) AS from_it_on
    UNION ALL
    SELECT * FROM (
        SELECT ctid, priority, created_at, recoveries > 0, pg_column_size(payload)
        FROM tasks
        WHERE status = 'pending' AND next_retry_at IS NULL AND EXISTS (SELECT FROM me)
          AND priority < %(from_priority)s
        ORDER BY priority DESC, created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) AS below_it
    LIMIT %(limit)s
), batch AS (
    SELECT place, priority, created_at, is_alone, row_number() OVER w AS position,
        first_value(is_alone) OVER w AS first_is_alone, sum(payload_size) OVER w AS size
    FROM ready WINDOW w AS (ROWS UNBOUNDED PRECEDING)
), claimed AS (
    UPDATE tasks AS t
    SET status = CASE WHEN b.is_alone THEN 'running'::task_status ELSE 'claimed' END,
        attempts = least(t.attempts + b.is_alone::integer, 1073741823),
        claim_token = nextval('claim_tokens'),
        worker_id = %(worker_id)s,
        slot = %(slot)s,
        claimed_at = now(),
        started_at = CASE WHEN b.is_alone THEN now() END,
        updated_at = now()
    FROM batch AS b
    WHERE t.ctid = b.place
      AND (b.position = 1 OR NOT (b.is_alone OR b.first_is_alone) AND b.size <= %(max_batch)s)
    RETURNING b.position, t.id::text, t.type, t.claim_token, t.payload::text AS payload,
        least(t.attempts + 1 - b.is_alone::integer, 1073741823) AS attempt, t.max_retries, t.timeout_seconds, b.is_alone
)
SELECT 0, (SELECT created_at::text FROM batch ORDER BY position DESC LIMIT 1), NULL, count(*),
    CASE WHEN count(*) < %(count)s THEN string_agg(token::text, ',') END, (SELECT count(*)::integer FROM batch),
    (SELECT priority FROM batch ORDER BY position DESC LIMIT 1), NULL, EXISTS (SELECT FROM me)
FROM finished
UNION ALL
SELECT position, id, type, claim_token, CASE WHEN octet_length(payload) <= %(max_payload)s THEN payload END, attempt,
    max_retries, timeout_seconds, is_alone
FROM claimed
ORDER BY 1
""",
    {
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
        "worker_id": "text",
        "slot": "integer",
        "limit": "bigint",
        "from_priority": "integer",
        "from_created_at": "timestamptz",
        "max_payload": "integer",
        "max_batch": "bigint",
    },
)


def finish_and_claim(
    connection: Connection,
    outcomes: Sequence[Outcome],
    *,
    worker_id: str,
    slot: int,
    limit: int,
    within: float,
    start: Place | None = None,
    is_durable: bool = True,
) -> Batch:
    """Writes these outcomes and claims up to `limit` due tasks for this worker's slot, in one commit.

    `limit` 0 only finishes; no `outcomes` only claims. Order: priority, then age, among what is due and not locked by
    another claim. When the reply is lost, outcomes may be sent again, and `owned` tells what was claimed.

    `start`: what stands before this place with the same priority is left for another time; the place is the `last` of
    an earlier batch, so there is little but what is taken, which costs time to pass. `is_durable` false: the commit
    does not wait for the disk. Nothing may be done about it before a later, durable one of this session has returned.
    """
    place = start or _FRONT
    rows = execute_prepared(
        connection,
        _FINISH_AND_CLAIM,
        {
            **_columns(outcomes),
            "count": len(outcomes),
            "worker_id": worker_id,
            "slot": slot,
            "limit": limit,
            "from_priority": place.priority,
            "from_created_at": place.created_at,
            "max_payload": MAX_PAYLOAD_BYTES,
            "max_batch": _MAX_BATCH_BYTES,
        },
        within=within,
        lock_within=within,
        is_durable=is_durable,
    )
    (_, created_at, _, accepted, tokens, ready, priority, _, is_registered), *claimed = rows
    return Batch(
        accepted,
        _unaccepted(outcomes, accepted, tokens),
        tuple([Claim._make(row[1:]) for row in claimed]),
        is_registered,
        Place(priority, created_at) if claimed and len(claimed) == ready else None,
        was_outrun=ready > 0 and not claimed,
    )


def _columns(outcomes: Sequence[Outcome]) -> dict[str, str]:
    now = time.monotonic()
    return {
        "ids": words([o.task_id for o in outcomes]),
        "tokens": words([str(o.token) for o in outcomes]),
        "statuses": words([o.status for o in outcomes]),
        "attempts": words([str(o.attempt) for o in outcomes]),
        "started_ago": words([str(int((now - o.started_monotonic) * 1e6)) for o in outcomes]),
        "ended_ago": words([str(int((now - o.ended_monotonic) * 1e6)) for o in outcomes]),
        "delays": words([str(o.delay_seconds) for o in outcomes] if any(o.delay_seconds for o in outcomes) else ()),
        "errors": texts([o.error for o in outcomes]),
        "results": jsons([o.result for o in outcomes]),
    }


def _unaccepted(outcomes: Sequence[Outcome], accepted: int, tokens: str | None) -> tuple[Outcome, ...]:
    if accepted == len(outcomes):
        return ()
    known = {int(token) for token in (tokens or "").split(",") if token}
    return tuple(o for o in outcomes if o.token not in known)


def wait_for_disk(connection: Connection, *, within: float) -> None:
    """Returns once all that this session has committed is on the server's disk.

    A commit waits for the disk only if its transaction has written something: this one writes a message to nobody.
    """
    connection.execute("SELECT pg_logical_emit_message(true, 'orchestrator', '')", within=within)


def mark_running(connection: Connection, starts: Sequence[Start], *, within: float) -> int:
    """Marks these executions running, with their attempt and start; returns how many still were claimed."""
    now = time.monotonic()
    rows = connection.execute(
        """
        WITH marked AS (
            UPDATE tasks AS t
            SET status = 'running', attempts = s.attempt, started_at = now() - s.started_ago * interval '1 second',
                updated_at = now()
            FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[], %(attempts)s::integer[],
                        %(started_ago)s::double precision[]) AS s (id, token, attempt, started_ago)
            WHERE t.id = s.id AND t.claim_token = s.token AND t.status IS NOT DISTINCT FROM 'claimed'
            RETURNING 1
        )
        SELECT count(*) FROM marked
        """,
        {
            "ids": words(s.task_id for s in starts),
            "tokens": words(str(s.token) for s in starts),
            "attempts": words(str(s.attempt) for s in starts),
            "started_ago": words(str(now - s.started_monotonic) for s in starts),
        },
        within=within,
        lock_within=within,
    )
    return int(rows[0][0])


def release(connection: Connection, claims: Sequence[ClaimRef], *, within: float) -> int:
    """Makes these claims' tasks pending and due again, without using an attempt; returns how many still were theirs."""
    rows = connection.execute(
        """
        WITH released AS (
            UPDATE tasks AS t
            SET status = 'pending', attempts = greatest(0, t.attempts - (t.status = 'running')::integer),
                claim_token = NULL, worker_id = NULL, slot = NULL, claimed_at = NULL, started_at = NULL,
                next_retry_at = NULL, updated_at = now()
            FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[]) AS c (id, token)
            WHERE t.id = c.id AND t.claim_token = c.token AND t.status BETWEEN 'claimed' AND 'running'
            RETURNING 1
        )
        SELECT count(*) FROM released
        """,
        {"ids": words(c.task_id for c in claims), "tokens": words(str(c.token) for c in claims)},
        within=within,
        lock_within=within,
    )
    return int(rows[0][0])
