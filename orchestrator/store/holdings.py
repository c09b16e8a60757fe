"""What has become of claims, and who holds which, by the database's account. For children and the supervisor."""

from collections.abc import Sequence

from orchestrator.model import Outcome, OwnedClaim, Stale, Verdict
from orchestrator.store.arrays import words
from orchestrator.store.claim_sql import CLAIM_STATEMENT
from orchestrator.store.connection import Connection


def verdicts(connection: Connection, outcomes: Sequence[Outcome], *, within: float) -> dict[int, Verdict]:
    """For outcomes that were not accepted, by token: who had written them before (BY_CHILD, BY_SUPERVISOR), or STALE.

    A task that was claimed again and ended once more since then no longer knows the earlier claim: that is STALE too.
    """
    rows = connection.execute(
        """
        SELECT o.token, t.ended_token < 0 FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[]) AS o (id, token)
        JOIN tasks AS t ON t.id = o.id AND t.ended_token IN (o.token, -o.token)
        """,
        {"ids": words(o.task_id for o in outcomes), "tokens": words(str(o.token) for o in outcomes)},
        within=within,
        lock_within=within,
    )
    written = {token: Verdict.BY_SUPERVISOR if is_negative else Verdict.BY_CHILD for token, is_negative in rows}
    return {o.token: written.get(o.token, Verdict.STALE) for o in outcomes}


def stale(connection: Connection, refused: Sequence[Outcome], *, within: float) -> tuple[Stale, ...]:
    """These outcomes, which `verdicts` called STALE, each with what has become of its task."""
    if not refused:
        return ()
    rows = connection.execute(
        """
        SELECT id::text, status::text, claim_token, worker_id, slot, attempts FROM tasks
        WHERE id = ANY (%(ids)s::uuid[])
        """,
        {"ids": words(o.task_id for o in refused)},
        within=within,
        lock_within=within,
    )
    names = ("status_now", "token_now", "worker_now", "slot_now", "attempts_now")
    now = {task_id: dict(zip(names, values, strict=True)) for task_id, *values in rows}
    return tuple(Stale(outcome, now.get(outcome.task_id, {})) for outcome in refused)


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


def locked(connection: Connection, task_ids: Sequence[str], *, within: float) -> frozenset[str]:
    """Those of these tasks whose rows somebody has locked at this moment, by an open transaction perhaps."""
    rows = connection.execute(
        """
        WITH free AS MATERIALIZED (
            SELECT id FROM tasks WHERE id = ANY (%(ids)s::uuid[]) FOR UPDATE SKIP LOCKED
        )
        SELECT id::text FROM tasks WHERE id = ANY (%(ids)s::uuid[]) AND id NOT IN (SELECT id FROM free)
        """,
        {"ids": words(task_ids)},
        within=within,
        lock_within=within / 5,
    )
    return frozenset(task_id for (task_id,) in rows)


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
