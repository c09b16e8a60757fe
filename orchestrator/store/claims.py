"""What the owner of a claim does: take tasks, finish them, hand them back. Children and the supervisor use it.

Every write here is fenced: it names the claim token and expects status claimed or running. A row that it doesn't find
is no longer the caller's, which is an answer and no error. All of these may be repeated after a lost reply. The server
ends a statement that its client has given up: a claim that commits later would belong to somebody who doesn't know.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.model import MAX_PAYLOAD_BYTES, Claim, ClaimRef, Outcome, OwnedClaim, Start, Verdict
from orchestrator.store.connection import Connection
from orchestrator.store.prepared import execute_prepared, prepared

CLAIM_STATEMENT = "orchestrator_claim"
"""How the claim's statement is named, in pg_stat_activity too."""

_MAX_BATCH_BYTES = 8 << 20
"""Payloads of one claim together, as they are stored (perhaps compressed); the first is taken whatever its size."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The answer of `finish_and_claim`.

    `accepted` outcomes ended their executions; the `unaccepted` did not (`verdicts` tells why). `claims` are in the
    order in which they are to run. `is_registered` false: the worker's row is missing or declared dead, so nothing was
    claimed.
    """

    accepted: int
    unaccepted: tuple[Outcome, ...]
    claims: tuple[Claim, ...]
    is_registered: bool


# One statement, so that finishing a batch and claiming the next cost one round trip and one commit. The session keeps
# its plan, and `id = ANY (ARRAY[...])` is there for that (prepared.py).
#
# `finished`: the arrays are joined to the rows by primary key, then fenced. unnest() fills the shorter of its arrays
# with NULL, so `errors` and `results` stay empty when there are none. BETWEEN (in the enum's order) says the same as
# IN ('claimed', 'running') without offering idx_tasks_owned: told by statistics of a quiet hour that hardly any task is
# claimed, the planner would read all of that index instead (IS NOT DISTINCT FROM in mark_running is for the same).
# now(), not clock_timestamp(): nearest to the moment when the ages were taken. A retry leaves the row wholly pending
# but for `ended_token`.
# `ready`: idx_tasks_claimable in its order. The uncorrelated EXISTS is asked once, before any row is locked.
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
        started_at = CASE WHEN o.status <> 'pending' THEN now() - o.started_ago * interval '1 second' END,
        completed_at = CASE WHEN o.status <> 'pending' THEN now() - o.ended_ago * interval '1 second' END,
        next_retry_at = CASE WHEN o.status = 'pending' AND o.delay > 0 THEN now() + o.delay * interval '1 second' END,
        last_error = coalesce(o.error, t.last_error),
        result = o.result::jsonb,
        updated_at = now()
    FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[], %(statuses)s::task_status[], %(attempts)s::integer[],
                %(started_ago)s::double precision[], %(ended_ago)s::double precision[],
                %(delays)s::double precision[], %(errors)s::text[], %(results)s::text[])
        AS o (id, token, status, attempt, started_ago, ended_ago, delay, error, result)
    WHERE t.id = ANY (ARRAY[o.id]) AND t.claim_token = o.token AND t.status BETWEEN 'claimed' AND 'running'
    RETURNING o.token
), me AS MATERIALIZED (
    SELECT FROM workers WHERE id = %(worker_id)s AND declared_dead_at IS NULL
), ready AS MATERIALIZED (
    SELECT id, recoveries > 0 AS is_alone, pg_column_size(payload) AS payload_size
    FROM tasks
    WHERE status = 'pending' AND next_retry_at IS NULL AND EXISTS (SELECT FROM me)
    ORDER BY priority DESC, created_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), batch AS (
    SELECT id, is_alone, row_number() OVER w AS position, first_value(is_alone) OVER w AS first_is_alone,
        sum(payload_size) OVER w AS size
    FROM ready WINDOW w AS (ROWS UNBOUNDED PRECEDING)
), claimed AS (
    UPDATE tasks AS t
    SET status = CASE WHEN b.is_alone THEN 'running'::task_status ELSE 'claimed' END,
        attempts = t.attempts + b.is_alone::integer,
        claim_token = nextval('claim_tokens'),
        worker_id = %(worker_id)s,
        slot = %(slot)s,
        claimed_at = now(),
        started_at = CASE WHEN b.is_alone THEN now() END,
        updated_at = now()
    FROM batch AS b
    WHERE t.id = ANY (ARRAY[b.id])
      AND (b.position = 1 OR NOT (b.is_alone OR b.first_is_alone) AND b.size <= %(max_batch)s)
    RETURNING b.position, t.id::text, t.type, t.claim_token, t.payload::text AS payload,
        t.attempts + 1 - b.is_alone::integer AS attempt, t.max_retries, t.timeout_seconds, b.is_alone
)
SELECT 0, NULL, NULL, count(*), CASE WHEN count(*) < %(count)s THEN string_agg(token::text, ',') END, NULL, NULL,
    NULL, EXISTS (SELECT FROM me)
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
        "started_ago": "double precision[]",
        "ended_ago": "double precision[]",
        "delays": "double precision[]",
        "errors": "text[]",
        "results": "text[]",
        "count": "bigint",
        "worker_id": "text",
        "slot": "integer",
        "limit": "bigint",
        "max_payload": "integer",
        "max_batch": "bigint",
    },
)


def finish_and_claim(
    connection: Connection, outcomes: Sequence[Outcome], *, worker_id: str, slot: int, limit: int, within: float
) -> Batch:
    """Writes these outcomes and claims up to `limit` due tasks for this worker's slot, in one commit.

    `limit` 0 only finishes; no `outcomes` only claims. Order: priority, then age, among what is due and not locked by
    another claim. When the reply is lost, outcomes may be sent again, and `owned` tells what was claimed.
    """
    now = time.monotonic()
    rows = execute_prepared(
        connection,
        _FINISH_AND_CLAIM,
        {
            "ids": _array(o.task_id for o in outcomes),
            "tokens": _array(str(o.token) for o in outcomes),
            "statuses": _array(o.status for o in outcomes),
            "attempts": _array(str(o.attempt) for o in outcomes),
            "started_ago": _array(str(now - o.started_monotonic) for o in outcomes),
            "ended_ago": _array(str(now - o.ended_monotonic) for o in outcomes),
            "delays": _array(str(o.delay_seconds) for o in outcomes),
            "errors": [o.error for o in outcomes] if any(o.error is not None for o in outcomes) else [],
            "results": [o.result for o in outcomes] if any(o.result is not None for o in outcomes) else [],
            "count": len(outcomes),
            "worker_id": worker_id,
            "slot": slot,
            "limit": limit,
            "max_payload": MAX_PAYLOAD_BYTES,
            "max_batch": _MAX_BATCH_BYTES,
        },
        within=within,
        lock_within=within,
    )
    accepted = rows[0][3]
    unaccepted: tuple[Outcome, ...] = ()
    if accepted < len(outcomes):
        tokens = {int(token) for token in (rows[0][4] or "").split(",") if token}
        unaccepted = tuple(o for o in outcomes if o.token not in tokens)
    return Batch(accepted, unaccepted, tuple(Claim(*row[1:]) for row in rows[1:]), rows[0][8])


def verdicts(connection: Connection, outcomes: Sequence[Outcome], *, within: float) -> dict[int, Verdict]:
    """For outcomes that were not accepted, by token: REPEATED (the claim had ended with an outcome before) or STALE.

    A task that was claimed again and ended once more since then no longer knows the earlier claim: that is STALE too.
    """
    rows = connection.execute(
        """
        SELECT o.token FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[]) AS o (id, token)
        JOIN tasks AS t ON t.id = o.id AND t.ended_token = o.token
        """,
        {"ids": _array(o.task_id for o in outcomes), "tokens": _array(str(o.token) for o in outcomes)},
        within=within,
    )
    ended = {token for (token,) in rows}
    return {o.token: Verdict.REPEATED if o.token in ended else Verdict.STALE for o in outcomes}


def present_claims(connection: Connection, stale: Sequence[Outcome], *, within: float) -> dict[str, dict[str, object]]:
    """For the log: what has become of these outcomes' tasks, by task id; a task that was deleted is missing."""
    rows = connection.execute(
        """
        SELECT id::text, status::text, claim_token, worker_id, slot, attempts FROM tasks
        WHERE id = ANY (%(ids)s::uuid[])
        """,
        {"ids": _array(o.task_id for o in stale)},
        within=within,
    )
    names = ("status_now", "token_now", "worker_now", "slot_now", "attempts_now")
    return {task_id: dict(zip(names, values, strict=True)) for task_id, *values in rows}


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
            "ids": _array(s.task_id for s in starts),
            "tokens": _array(str(s.token) for s in starts),
            "attempts": _array(str(s.attempt) for s in starts),
            "started_ago": _array(str(now - s.started_monotonic) for s in starts),
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
        {"ids": _array(c.task_id for c in claims), "tokens": _array(str(c.token) for c in claims)},
        within=within,
        lock_within=within,
    )
    return int(rows[0][0])


def owned(connection: Connection, worker_id: str, slot: int | None, *, within: float) -> list[OwnedClaim]:
    """What this worker has claimed or running by the database's account, in one slot or (None) in all.

    After a connection error it finds the claims whose reply was lost.
    """
    rows = connection.execute(
        """
        SELECT id::text, claim_token, slot FROM tasks
        WHERE worker_id = %(worker_id)s AND status IN ('claimed', 'running') AND claim_token IS NOT NULL
          AND slot = coalesce(%(slot)s, slot)
        """,
        {"worker_id": worker_id, "slot": slot},
        within=within,
        lock_within=within / 5,
    )
    return [OwnedClaim(*row) for row in rows]


def under_way(connection: Connection, *, within: float) -> frozenset[tuple[int, str]]:
    """The claims that this role's sessions are making at this moment, of any worker: backend pid and start.

    A claim that begins after a worker's row was taken out finds no row and takes nothing: its snapshot is younger. One
    that began before may commit later, so who wants the last word waits until it is no longer among these. A server
    with track_activities off shows none.
    """
    rows = connection.execute(
        """
        SELECT pid, query_start::text FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
          AND state = 'active' AND query LIKE %(pattern)s
        """,
        {"pattern": f"%{CLAIM_STATEMENT}\\_%"},
        within=within,
    )
    return frozenset((pid, start) for pid, start in rows)


def _array(items: Iterable[Any]) -> str:
    """A PostgreSQL array literal of words that need no quoting: a tenth of the cost of psycopg2's adaptation."""
    return "{" + ",".join(items) + "}"
