"""The rows of `workers`: a worker registers, beats, leaves. The supervisor's pulse thread uses it.

A worker that was declared dead stays dead: nothing here brings a row back to life.
"""

from orchestrator.model import Worker
from orchestrator.store.connection import Connection


def register(
    connection: Connection, *, worker_id: str, hostname: str, pool_size: int, version: str, within: float
) -> bool:
    """Adds the worker's row; may be repeated after a lost reply. False: this id was declared dead; take another."""
    rows = connection.execute(
        """
        INSERT INTO workers AS w (id, hostname, pool_size, version)
        VALUES (%(worker_id)s, %(hostname)s, %(pool_size)s, %(version)s)
        ON CONFLICT (id) DO UPDATE SET last_heartbeat = clock_timestamp() WHERE w.declared_dead_at IS NULL
        RETURNING 1
        """,
        {"worker_id": worker_id, "hostname": hostname, "pool_size": pool_size, "version": version},
        within=within,
        lock_within=within,
    )
    return bool(rows)


def beat(connection: Connection, worker_id: str, *, gap_seconds: float, within: float) -> bool:
    """Renews the heartbeat. False: the row is gone or declared dead, so what this worker runs may run elsewhere.

    One that comes more than `gap_seconds` after the last, or before it because the server's clock was set back, is
    noted: a leader judges nobody by what was before it.
    """
    rows = connection.execute(
        """
        UPDATE workers SET last_heartbeat = clock_timestamp(),
            resumed_at = CASE
                WHEN clock_timestamp() - last_heartbeat > %(gap_seconds)s * interval '1 second'
                    OR last_heartbeat > clock_timestamp() THEN clock_timestamp()
                ELSE resumed_at END
        WHERE id = %(worker_id)s AND declared_dead_at IS NULL
        RETURNING 1
        """,
        {"worker_id": worker_id, "gap_seconds": gap_seconds},
        within=within,
        lock_within=within,
    )
    return bool(rows)


def leave(connection: Connection, worker_id: str, *, within: float) -> None:
    """Removes the worker's row. What it should still own is recovered by the leader like that of any missing worker."""
    connection.execute(
        """
        WITH awake AS (DELETE FROM sleepers WHERE worker_id = %(worker_id)s)
        DELETE FROM workers WHERE id = %(worker_id)s
        """,
        {"worker_id": worker_id},
        within=within,
        lock_within=within,
    )


def list_all(connection: Connection, *, within: float) -> list[Worker]:
    """All rows, the longest running first; the dead ones too, until what they owned is recovered."""
    rows = connection.execute(
        """
        SELECT id, hostname, started_at, last_heartbeat, date_part('epoch', clock_timestamp() - last_heartbeat),
            pool_size, version, is_leader AND leader_until > clock_timestamp(), leader_until,
            declared_dead_at IS NOT NULL,
            (SELECT l.term FROM leadership AS l WHERE l.holder = w.id AND l.expires_at > clock_timestamp()),
            owned.claimed, owned.running
        FROM workers AS w, LATERAL (
            SELECT count(*) FILTER (WHERE t.status = 'claimed') AS claimed,
                count(*) FILTER (WHERE t.status = 'running') AS running
            FROM tasks AS t WHERE t.worker_id = w.id AND t.status IN ('claimed', 'running')
        ) AS owned
        ORDER BY started_at, id
        """,
        within=within,
        lock_within=within,
    )
    return [Worker(*row) for row in rows]


def count_living(connection: Connection, *, within: float) -> int:
    """How many are registered and not declared dead."""
    rows = connection.execute(
        "SELECT count(*) FROM workers WHERE declared_dead_at IS NULL", within=within, lock_within=within
    )
    return int(rows[0][0])


def set_sleeping(connection: Connection, worker_id: str, is_sleeping: bool, *, within: float) -> None:
    """Says whether inserts should notify for this worker. No more than a hint: polling finds the tasks in any case."""
    connection.execute(
        """
        INSERT INTO sleepers AS s (worker_id, is_sleeping)
        SELECT id, %(is_sleeping)s FROM workers WHERE id = %(worker_id)s
        ON CONFLICT (worker_id) DO UPDATE SET is_sleeping = excluded.is_sleeping
        WHERE s.is_sleeping <> excluded.is_sleeping
        """,
        {"worker_id": worker_id, "is_sleeping": is_sleeping},
        within=within,
        lock_within=within,
    )
