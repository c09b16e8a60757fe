"""What the owner of a claim does: take tasks, finish them, hand them back. Children and the supervisor use it.

Every write here is fenced: it names the claim token and expects status claimed or running. A row that it doesn't find
is no longer the caller's, which is an answer and no error. All of these may be repeated after a lost reply. The server
ends a statement that its client has given up: a claim that commits later would belong to somebody who doesn't know.
StatementRefused (55P03), and nothing is changed, if a row has been locked by somebody for `lock_within` seconds.
"""

import time
from collections.abc import Callable, Sequence
from math import inf
from operator import itemgetter
from typing import Any, NamedTuple

from orchestrator.model import MAX_PAYLOAD_BYTES, Claim, ClaimRef, Outcome, Start, TaskStatus
from orchestrator.store import prepared
from orchestrator.store.arrays import jsons, texts, words
from orchestrator.store.claim_sql import (
    CLAIM,
    CLAIM_ONWARDS,
    FINISH,
    FINISH_AND_CLAIM,
    FINISH_AND_CLAIM_ONWARDS,
    FINISH_FOR_CHILDREN,
)
from orchestrator.store.connection import Connection
from orchestrator.store.literals import long_text
from orchestrator.store.planning import BY_INDEX
from orchestrator.store.prepared import execute_prepared, send_prepared
from orchestrator.store.tokens import WAITS_FOR_DISK, Tokens

_MAX_BATCH_BYTES = 8 << 20
"""Payloads of one claim together, as they are stored (perhaps compressed); the first is taken whatever its size."""


class Place(NamedTuple):
    """A place in the queue: of a task that was claimed. `created_at` is PostgreSQL's text of it, to the microsecond."""

    priority: int
    created_at: str


_token = itemgetter(2)


class Batch(NamedTuple):
    """The answer of `finish_and_claim`.

    `accepted` outcomes ended their executions; the `unaccepted` did not (`verdicts` tells why). `claims` are in the
    order in which they are to run. `is_registered` false: the worker's row is missing or declared dead, so nothing was
    claimed. `last`: the place of the last claim, if none before it was left out; if one was, `left_out`: it is not for
    the same batch, and waits for the next claim. `was_outrun`: there was something, but others changed it at that very
    moment; look again.
    """

    accepted: int
    unaccepted: tuple[Outcome, ...]
    claims: tuple[Claim, ...]
    is_registered: bool
    last: Place | None = None
    left_out: bool = False
    was_outrun: bool = False


def finish_and_claim(
    connection: Connection,
    outcomes: Sequence[Outcome],
    *,
    worker_id: str,
    slot: int,
    limit: int,
    within: float,
    lock_within: float = inf,
    tokens: Tokens | None = None,
    start: Place | None = None,
    is_durable: bool = True,
) -> Batch:
    """Writes these outcomes and claims up to `limit` due tasks for this worker's slot, in one commit.

    `limit` 0 only finishes; no `outcomes` only claims. Order: priority, then age, among what is due and not locked by
    another claim. When the reply is lost, outcomes may be sent again, and `owned` tells what was claimed.

    `tokens` are the claimer's; None: new ones, which costs a statement. `start`: what stands before this place with the
    same priority is left for another time; the place is the `last` of an earlier batch, so there is little but what is
    taken, which costs time to pass. `is_durable` false: the commit does not wait for the disk. Should the server crash
    soon, outcomes are unwritten and claims forgotten. What was claimed may run (another claim of it has another token),
    but for claims with `is_running`: their attempt must be on the disk before.
    """
    params: dict[str, object] = {}
    if outcomes or not limit:
        params |= _columns(outcomes)
    if limit:
        params |= {
            "worker_id": worker_id,
            "slot": slot,
            "limit": limit,
            "first_token": (tokens or Tokens()).take(connection, limit, within=within),
            "max_payload": MAX_PAYLOAD_BYTES,
            "max_batch": _MAX_BATCH_BYTES,
        }
    if limit and start is not None:
        params |= {"from_priority": start.priority, "from_created_at": start.created_at}
        statement = FINISH_AND_CLAIM_ONWARDS if outcomes else CLAIM_ONWARDS
    else:
        statement = FINISH if not limit else FINISH_AND_CLAIM if outcomes else CLAIM
    rows = execute_prepared(
        connection, statement, params, within=within, lock_within=lock_within, is_durable=is_durable
    )
    return _batch(rows, outcomes)


def send_outcomes(
    connection: Connection, outcomes: Sequence[Outcome], *, within: float, lock_within: float = inf
) -> Callable[[float], Batch]:
    """Sends these outcomes and waits for no answer. What it returns gets that, within so many seconds; until then
    nothing else may be sent. Both raise as `finish_and_claim` does."""
    receive = send_prepared(connection, FINISH, _columns(outcomes), within=within, lock_within=lock_within)
    return lambda within: _batch(receive(within), outcomes)


def finish_for_children(
    connection: Connection, outcomes: Sequence[Outcome], *, within: float, lock_within: float = inf
) -> Batch:
    """Writes the outcomes of children as their supervisor, and leaves a mark in the rows that it was not they."""
    rows = execute_prepared(connection, FINISH_FOR_CHILDREN, _columns(outcomes), within=within, lock_within=lock_within)
    return _batch(rows, outcomes)


def plan_ahead(connection: Connection, *, within: float) -> None:
    """Has the server plan all that `finish_and_claim` and `send_outcomes` may call, unless it has."""
    deadline = time.monotonic() + within
    for statement in (CLAIM, CLAIM_ONWARDS, FINISH, FINISH_AND_CLAIM, FINISH_AND_CLAIM_ONWARDS):
        if statement.name not in connection.prepared:
            left = max(0.1, deadline - time.monotonic())
            prepared.plan_ahead(connection, statement, within=left, lock_within=left)


def plan_ahead_for_children(connection: Connection, *, within: float, lock_within: float) -> None:
    """The same of `finish_for_children`."""
    if FINISH_FOR_CHILDREN.name not in connection.prepared:
        prepared.plan_ahead(connection, FINISH_FOR_CHILDREN, within=within, lock_within=lock_within)


def _batch(rows: list[tuple[Any, ...]], outcomes: Sequence[Outcome]) -> Batch:
    rows.sort(key=_token)
    (created_at, _, _, accepted_tokens, ready, priority, accepted, is_registered), *claimed = rows
    return Batch(
        int(accepted),
        _unaccepted(outcomes, int(accepted), accepted_tokens),
        tuple([tuple.__new__(Claim, row) for row in claimed]),  # as Claim(…), in a third of the time
        is_registered,
        Place(priority, created_at) if claimed and len(claimed) == ready else None,
        left_out=0 < len(claimed) < ready,
        was_outrun=ready > 0 and not claimed,
    )


def _columns(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """The statement's arrays; an empty one: what the statement takes for granted holds for all."""
    columns = tuple(zip(*outcomes, strict=True)) or ((),) * len(Outcome._fields)
    ids, tokens, _, statuses, attempts, starts, ends, errors, results, delays = columns
    count, now = len(outcomes), time.monotonic()
    is_plain = statuses.count(TaskStatus.COMPLETED) == errors.count(None) == count
    return {
        "ids": words(ids),
        "tokens": words(map(str, tokens)),
        "statuses": words(() if is_plain else statuses),
        "attempts": words(() if attempts.count(1) == count else map(str, attempts)),
        "started_ago": words([str(int((now - start) * 1e6)) for start in starts]),
        "ended_ago": words([str(int((now - end) * 1e6)) for end in ends]),
        "delays": words(() if is_plain else map(str, delays)),
        "errors": texts(() if is_plain else errors),
        "results": long_text(jsons(results)),
        "count": count,
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
    connection.execute(WAITS_FOR_DISK + "SELECT pg_logical_emit_message(true, 'orchestrator', '')", within=within)


def mark_running(connection: Connection, starts: Sequence[Start], *, within: float, lock_within: float = inf) -> int:
    """Marks these executions running, with their attempt and start; returns how many still were claimed. All that was
    committed before is on the server's disk then."""
    now = time.monotonic()
    rows = connection.execute(
        BY_INDEX  # noqa: S608 a constant
        + WAITS_FOR_DISK
        + """
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
        lock_within=lock_within,
    )
    return int(rows[0][0])


def release(connection: Connection, claims: Sequence[ClaimRef], *, within: float, lock_within: float = inf) -> int:
    """Makes these claims' tasks pending and due again, without using an attempt; returns how many still were theirs."""
    rows = connection.execute(
        BY_INDEX  # noqa: S608 a constant
        + """
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
        lock_within=lock_within,
    )
    return int(rows[0][0])
