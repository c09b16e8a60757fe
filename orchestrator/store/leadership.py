"""The lease: one row that says who leads, in which term, until when. The supervisor's pulse thread uses it.

The term grows with every acquisition and never shrinks; it fences all that a leader writes (upkeep.py). Every
comparison is by the database's clock, and by the bare clock_timestamp(): now() may be older than a wait for the row's
lock. The row of `workers` is brought along for people to see, without ever waiting for it. Each function may be
repeated after a lost reply. A caller reckons its lease from before it called.
"""

import json

from orchestrator.model import LeaseHolder, Process
from orchestrator.store.connection import Connection
from orchestrator.store.server import LEASE_IS_FREE


def read(connection: Connection, *, within: float) -> LeaseHolder | None:
    """Who holds the lease or held it last; `remaining_seconds` is below 0 once it has expired. None: there is no row.

    Somebody has deleted it, by a TRUNCATE of all tables for instance: `restore` makes it anew.
    """
    rows = connection.execute(
        """
        SELECT holder, term, renewed_at, date_part('epoch', expires_at - clock_timestamp()), holder_process::text
        FROM leadership
        """,
        within=within,
        lock_within=within,
    )
    if not rows:
        return None
    holder, term, renewed_at, remaining, process = rows[0]
    return LeaseHolder(holder, term, renewed_at, remaining, _process(process))


def _process(text: str | None) -> Process | None:
    """Who holds the lease may be a later version, which tells more of its process, or nothing that we understand."""
    told = json.loads(text or "null")
    try:
        return Process(**{name: told[name] for name in Process._fields})
    except (KeyError, TypeError):
        return None


def restore(connection: Connection, *, within: float) -> None:
    """Makes the row anew if it is missing; the lease is free then.

    Terms must go on growing, and nobody knows the last one: a count of seconds is beyond any that was reached by ones.
    """
    connection.execute(
        """
        INSERT INTO leadership (term) VALUES (date_part('epoch', clock_timestamp())::bigint) ON CONFLICT DO NOTHING
        """,
        within=within,
        lock_within=within,
    )


# Expired, or ours already (the reply was lost), or renewed so far in the future that the clock was set back since: its
# holder, if it lives, renews by the new clock within a third of a lease.
# The first CTE locks the row only if it can be had; the UPDATE asks again under the lock. `id = 1` is the primary key:
# without it the planner expected thousands of rows, and compiled the statement first (20 ms and more).
_ACQUIRE = """
WITH free AS MATERIALIZED (
    SELECT FROM leadership
    WHERE id = 1 AND (expires_at <= clock_timestamp() OR holder = %(holder)s
        OR renewed_at - (expires_at - renewed_at) > clock_timestamp())
    FOR UPDATE
), won AS (
    UPDATE leadership AS l
    SET term = l.term + 1, holder = %(holder)s, holder_process = %(process)s::jsonb,
        acquired_at = clock_timestamp(), renewed_at = clock_timestamp(),
        expires_at = clock_timestamp() + %(lease_seconds)s * interval '1 second'
    FROM free
    WHERE l.id = 1 AND (l.expires_at <= clock_timestamp() OR l.holder = %(holder)s
        OR l.renewed_at - (l.expires_at - l.renewed_at) > clock_timestamp())
    RETURNING l.term, l.expires_at
), shown AS (
    UPDATE workers AS w
    SET is_leader = w.id = %(holder)s, leader_until = CASE WHEN w.id = %(holder)s THEN won.expires_at END
    FROM won
    WHERE w.id IN (SELECT id FROM workers WHERE is_leader OR id = %(holder)s FOR UPDATE SKIP LOCKED)
)
SELECT term FROM won
"""


def acquire(
    connection: Connection, *, holder: str, process: Process, lease_seconds: float, within: float
) -> int | None:
    """Takes a lease that has expired, or is this holder's already: the new term. None: somebody else holds it."""
    rows = connection.execute(
        _ACQUIRE,
        {"holder": holder, "process": json.dumps(process._asdict()), "lease_seconds": lease_seconds},
        within=within,
        lock_within=within,
    )
    return int(rows[0][0]) if rows else None


def take_over(
    connection: Connection,
    *,
    holder: str,
    process: Process,
    previous_holder: str,
    previous_term: int,
    lease_seconds: float,
    within: float,
) -> int | None:
    """Takes a lease that has not expired from a holder known to be gone: the new term. None: the lease has moved on.

    Only for a caller that has seen that the holder's process does not exist any more.
    """
    rows = connection.execute(
        """
        WITH won AS (
            UPDATE leadership
            SET term = term + 1, holder = %(holder)s, holder_process = %(process)s::jsonb,
                acquired_at = clock_timestamp(), renewed_at = clock_timestamp(),
                expires_at = clock_timestamp() + %(lease_seconds)s * interval '1 second'
            WHERE id = 1 AND ((holder = %(previous_holder)s AND term = %(previous_term)s)
                OR (holder = %(holder)s AND term = %(previous_term)s + 1))
            RETURNING term, expires_at
        ), shown AS (
            UPDATE workers AS w
            SET is_leader = w.id = %(holder)s, leader_until = CASE WHEN w.id = %(holder)s THEN won.expires_at END
            FROM won
            WHERE w.id IN (SELECT id FROM workers WHERE is_leader OR id = %(holder)s FOR UPDATE SKIP LOCKED)
        )
        SELECT term FROM won
        """,
        {
            "holder": holder,
            "process": json.dumps(process._asdict()),
            "previous_holder": previous_holder,
            "previous_term": previous_term,
            "lease_seconds": lease_seconds,
        },
        within=within,
        lock_within=within,
    )
    return int(rows[0][0]) if rows else None


def renew(connection: Connection, *, holder: str, term: int, lease_seconds: float, within: float) -> bool:
    """Prolongs the lease from now. False: it has expired or moved on, and this holder leads no more."""
    rows = connection.execute(
        """
        WITH held AS MATERIALIZED (
            SELECT expires_at FROM leadership WHERE id = 1 AND term = %(term)s AND holder = %(holder)s FOR UPDATE
        ), renewed AS (
            UPDATE leadership AS l
            SET renewed_at = clock_timestamp(),
                expires_at = clock_timestamp() + %(lease_seconds)s * interval '1 second'
            FROM held
            WHERE l.id = 1 AND l.term = %(term)s AND l.holder = %(holder)s AND held.expires_at > clock_timestamp()
            RETURNING l.expires_at
        ), shown AS (
            UPDATE workers AS w SET is_leader = true, leader_until = renewed.expires_at
            FROM renewed
            WHERE w.id IN (SELECT id FROM workers WHERE id = %(holder)s FOR UPDATE SKIP LOCKED)
        )
        SELECT 1 FROM renewed
        """,
        {"holder": holder, "term": term, "lease_seconds": lease_seconds},
        within=within,
        lock_within=within,
    )
    return bool(rows)


def resign(connection: Connection, *, holder: str, term: int, within: float) -> None:
    """Ends the lease now, if it still is this holder's in this term, and tells all who listen."""
    connection.execute(
        """
        WITH ended AS (
            UPDATE leadership SET expires_at = clock_timestamp()
            WHERE id = 1 AND term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp()
            RETURNING 1
        ), shown AS (
            UPDATE workers AS w SET is_leader = false, leader_until = NULL
            FROM ended
            WHERE w.id IN (SELECT id FROM workers WHERE id = %(holder)s FOR UPDATE SKIP LOCKED)
        )
        SELECT pg_notify('orchestrator_tasks', %(message)s) FROM ended
        """,
        {"holder": holder, "term": term, "message": LEASE_IS_FREE},
        within=within,
        lock_within=within,
    )
