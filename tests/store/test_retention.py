"""Which tasks retention deletes, and which it leaves for good."""

from orchestrator.store import retention
from orchestrator.store.connection import Connection
from orchestrator.store.retention import START, Pruned

DAY = 86400.0


def add(connection: Connection, type_name: str, status: str, *, enqueued: float, ended: float | None = None) -> None:
    """A task of an id made so many days ago, that ended so many days ago."""
    connection.execute(
        """
        INSERT INTO tasks (id, type, status, created_at, completed_at)
        VALUES ((SELECT overlay(orchestrator_id_at(now() - %(enqueued)s * interval '1 day')::text
                                PLACING right(gen_random_uuid()::text, 12) FROM 25)::uuid),
                %(type)s, %(status)s, now() - %(enqueued)s * interval '1 day', now() - %(ended)s * interval '1 day')
        """,
        {"type": type_name, "status": status, "enqueued": enqueued, "ended": ended},
        within=5.0,
    )


def prune(
    connection: Connection,
    term: int,
    *,
    days: float = 7.0,
    after: str = START,
    limit: int = 1000,
    is_foreign: bool = False,
) -> Pruned:
    return retention.prune(
        connection,
        term=term,
        holder="leader",
        keep_seconds=days * DAY,
        after=after,
        limit=limit,
        within=5.0,
        is_foreign=is_foreign,
    )


def left(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT type FROM tasks ORDER BY id", within=5.0)]


def test_only_completed_tasks_that_ended_long_enough_ago_go(connection: Connection, term: int) -> None:
    add(connection, "old", "completed", enqueued=9, ended=8)
    add(connection, "slow", "completed", enqueued=9, ended=6)
    add(connection, "dead", "dead_letter", enqueued=9, ended=8)
    add(connection, "failed", "failed", enqueued=9, ended=8)
    add(connection, "waiting", "pending", enqueued=9)
    add(connection, "retried", "running", enqueued=9)
    add(connection, "young", "completed", enqueued=6, ended=6)

    assert prune(connection, term) == Pruned(1, None)
    assert sorted(left(connection)) == ["dead", "failed", "retried", "slow", "waiting", "young"]
    assert prune(connection, term, days=5) == Pruned(2, None)


def test_a_walk_goes_on_behind_what_stays_and_ends_at_what_is_too_young(connection: Connection, term: int) -> None:
    for number in range(10):
        kind = "dead_letter" if number < 5 else "completed"
        add(connection, kind, kind, enqueued=30 - number, ended=20)
    add(connection, "young", "completed", enqueued=1, ended=1)

    first = prune(connection, term, limit=4)
    assert first.deleted == 0 and first.position is not None
    second = prune(connection, term, after=first.position, limit=4)
    assert second.deleted == 3 and second.position is not None
    assert prune(connection, term, after=second.position, limit=4) == Pruned(2, None)
    assert left(connection) == ["dead_letter"] * 5 + ["young"]


def test_tasks_of_random_ids_go_in_a_walk_of_their_own(connection: Connection, term: int) -> None:
    add(connection, "young", "completed", enqueued=1, ended=1)
    connection.execute(
        """
        INSERT INTO tasks (id, type, status, completed_at)
        SELECT overlay(gen_random_uuid()::text PLACING to_hex(n + 8) FROM 1 FOR 1)::uuid, kind, kind::task_status,
            CASE WHEN kind = 'completed' THEN now() - interval '8 days' END
        FROM generate_series(0, 7) AS n, unnest(ARRAY['completed', 'pending']) AS kind
        """,
        within=5.0,
    )
    assert prune(connection, term) == Pruned(0, None)
    first = prune(connection, term, limit=10, is_foreign=True)
    assert first.deleted == 5 and first.position is not None
    assert prune(connection, term, limit=10, is_foreign=True, after=first.position) == Pruned(3, None)
    assert left(connection) == ["young"] + ["pending"] * 8


def test_what_somebody_marked_completed_by_hand_goes_too(connection: Connection, term: int) -> None:
    add(connection, "old", "pending", enqueued=9)
    connection.execute("UPDATE tasks SET status = 'completed', updated_at = created_at", within=5.0)
    assert prune(connection, term).deleted == 1


def test_what_has_not_been_counted_yet_stays(connection: Connection, term: int) -> None:
    add(connection, "old", "completed", enqueued=9, ended=8)
    connection.execute("UPDATE leadership SET counted_to = orchestrator_id_at(now() - interval '10 days')", within=5.0)
    assert prune(connection, term).deleted == 0
    connection.execute("UPDATE leadership SET counted_to = orchestrator_id_at(now())", within=5.0)
    assert prune(connection, term).deleted == 1


def test_nothing_goes_under_a_term_that_is_over_and_nothing_that_is_locked(
    connection: Connection, other: Connection, term: int
) -> None:
    add(connection, "old", "completed", enqueued=9, ended=8)
    assert prune(connection, term + 1).deleted == 0
    other.execute("BEGIN; SELECT FROM tasks FOR UPDATE", within=5.0)
    assert prune(connection, term).deleted == 0
    other.execute("COMMIT", within=5.0)
    assert prune(connection, term).deleted == 1
