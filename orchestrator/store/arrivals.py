"""Counting what anybody enqueues, without a trigger on the insert: the coordinator reads ranges of new ids.

Ids are ordered by the time at which the database made them. A range may be counted once no transaction that could still
add to it is open; how far the counting has got stands in the lease row and moves under its term.
"""

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.store.connection import Connection
from orchestrator.store.planning import ALONG_THE_IDS

_MARGIN_SECONDS = 1.0


class Sample(NamedTuple):
    """A look at the database's `clock` (seconds since 1970) and its transactions at that moment.

    Transactions with ids below `xmin` have ended; those from `xmax` on got their ids after `clock`.
    """

    clock: float
    xmin: int
    xmax: int


class EnqueuedCount(NamedTuple):
    """How many tasks of each type were enqueued up to the position `counted_to`; hand that to the next call.

    `is_complete` false: there is more up to where it was to count; call again. `is_provisional`: the position is not
    stored, since one that is lies ahead of the server's clock; hand that to the next call too.
    """

    counted_to: str
    by_type: tuple[tuple[str, int], ...]
    is_complete: bool
    is_provisional: bool = False


def sample(connection: Connection, *, within: float) -> Sample:
    """Takes a sample; needs no rights. The clock is read first.

    `xmax` is this transaction's own id. A snapshot's xmax would not do: it is one more than the last id that has
    *ended*, and transactions with higher ones may be open.
    """
    rows = connection.execute(
        """
        SELECT date_part('epoch', statement_timestamp()), pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
            pg_current_xact_id()::text::bigint
        """,
        within=within,
    )
    return Sample(*rows[0])


def horizon(samples: Sequence[Sample], latest: Sample) -> float | None:
    """Up to which moment (the database's clock) all that was enqueued is committed or gone. None: not known yet.

    Every transaction that had an id at the clock of an earlier sample has ended if `latest.xmin` is not below that
    sample's xmax. The margin is for an insert that has made its row's id but has no transaction id yet. Transactions
    that only read have none, so dumps and reports hold nothing back.
    """
    settled = [earlier.clock for earlier in samples if earlier.xmax <= latest.xmin]
    return max(settled) - _MARGIN_SECONDS if settled else None


# `span`: without `after` nothing is counted, the caller only learns the position of its predecessor. A position beyond
# `after` can only be this leader's own doing (only it counts in its term): the reply was lost, so exactly that range is
# counted again for the answer and nothing moves. `by_type` stops at the limit, so that a long absence is caught up in
# pieces; there is no max() of uuids before PostgreSQL 18, but of arrays. The position never moves back, whatever an
# abandoned call still does.
# A position ahead of the clock is from before that was set back: it stays, and what comes until the clock is there
# again is counted from a position that the caller alone keeps, and forgets then.
_COUNT = """
WITH lease AS MATERIALIZED (
    SELECT counted_to, orchestrator_id_at(now() + interval '1 minute') AS ahead,
        orchestrator_id_at(to_timestamp(%(up_to)s)) AS settled
    FROM leadership
    WHERE id = 1 AND term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp() FOR UPDATE
), asked AS MATERIALIZED (
    SELECT counted_to, ahead, settled, counted_to > ahead AS is_provisional,
        CASE WHEN NOT %(is_provisional)s OR counted_to > ahead THEN %(after)s::uuid END AS after
    FROM lease
), span AS MATERIALIZED (
    SELECT is_provisional, coalesce(after, counted_to) AS low, after < counted_to AND NOT is_provisional AS is_repeat,
        CASE WHEN after IS NULL THEN counted_to
             WHEN is_provisional THEN greatest(CASE WHEN after <= ahead THEN after END, settled)
             WHEN after < counted_to THEN counted_to
             ELSE greatest(counted_to, settled) END AS high
    FROM asked
), by_type AS MATERIALIZED (
    SELECT type, count(*), max(ARRAY[id]) AS last
    FROM (
        SELECT id, type FROM tasks
        WHERE id > (SELECT low FROM span) AND id <= (SELECT high FROM span)
        ORDER BY id
        LIMIT %(limit)s
    ) AS found
    GROUP BY type
), reach AS MATERIALIZED (
    SELECT CASE WHEN coalesce((SELECT sum(count) FROM by_type), 0) < %(limit)s OR is_repeat THEN high
        ELSE (SELECT (max(last))[1] FROM by_type) END AS counted_to, high
    FROM span
), moved AS (
    UPDATE leadership AS l SET counted_to = reach.counted_to
    FROM reach, span
    WHERE l.id = 1 AND l.term = %(term)s AND l.holder = %(holder)s AND l.counted_to < reach.counted_to
      AND NOT span.is_provisional
)
SELECT reach.counted_to::text, reach.counted_to = reach.high AND NOT coalesce(span.is_repeat, false),
    span.is_provisional, by_type.type, by_type.count
FROM span, reach LEFT JOIN by_type ON true
"""


def count_enqueued(
    connection: Connection,
    *,
    term: int,
    holder: str,
    after: str | None,
    up_to: float,
    within: float,
    is_provisional: bool = False,
    limit: int = 20_000,
) -> EnqueuedCount | None:
    """Counts what was enqueued after the position `after` and up to the moment `up_to` (a `horizon`), and moves on.

    A leader's first call in a term has `after` None: it counts nothing and returns the position to start from. Each
    later call has the `counted_to` of the last reply that arrived, so a lost reply loses and doubles nothing. None: the
    term is over.
    """
    rows = connection.execute(
        ALONG_THE_IDS + _COUNT,
        {
            "term": term,
            "holder": holder,
            "after": after,
            "is_provisional": is_provisional,
            "up_to": up_to,
            "limit": limit,
        },
        within=within,
        lock_within=within / 2,
    )
    if not rows:
        return None
    counted_to, is_complete, is_now_provisional = rows[0][:3]
    by_type = tuple((type_name, count) for *_, type_name, count in rows if type_name is not None)
    return EnqueuedCount(counted_to, by_type, is_complete, is_now_provisional)
