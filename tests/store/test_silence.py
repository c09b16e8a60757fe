"""Who is declared dead for not having beaten: by the leader, under its term, and by the server's clock."""

from datetime import timedelta

import pytest

from orchestrator.store import upkeep, workers
from orchestrator.store.connection import Connection
from tests.store.rows import add_worker


@pytest.fixture
def old_term(connection: Connection, term: int) -> int:
    """As `term`, but the server and the term began long ago: beats count as they stand."""
    connection.execute(
        """
        UPDATE leadership SET acquired_at = '2020-01-01';
        CREATE FUNCTION pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql
        AS $$ SELECT timestamptz '2020-01-01' $$;
        """,
        within=5.0,
    )
    own = connection.execute("SELECT current_schema()", within=5.0)[0][0]
    connection.execute(f"SET search_path = {own}, pg_catalog", within=5.0)
    return term


def declare(connection: Connection, term: int, *, timeout: float = 10.0) -> list[str]:
    return upkeep.declare_silent_dead(
        connection, term=term, holder="leader", timeout_seconds=timeout, gap_seconds=5.0, within=5.0
    )


def beat(connection: Connection, worker_id: str) -> bool:
    return workers.beat(connection, worker_id, gap_seconds=5.0, within=5.0)


def age(connection: Connection, worker_id: str, seconds: float) -> None:
    """This worker's last beat was so long ago."""
    connection.execute(
        "UPDATE workers SET last_heartbeat = clock_timestamp() - %(s)s * interval '1 second' WHERE id = %(id)s",
        {"id": worker_id, "s": seconds},
        within=5.0,
    )


def test_who_has_not_beaten_for_the_timeout_is_declared_dead_and_nobody_else(
    connection: Connection, old_term: int
) -> None:
    for worker_id, seconds in (("silent", 11.0), ("late", 6.0), ("well", 0.0)):
        add_worker(connection, worker_id)
        age(connection, worker_id, seconds)

    assert declare(connection, old_term) == ["silent"]
    assert declare(connection, old_term) == [], "once"
    assert not beat(connection, "silent"), "it stays dead"
    assert beat(connection, "late")


def test_silence_from_before_the_term_or_the_start_of_the_server_is_held_against_nobody(
    connection: Connection, term: int
) -> None:
    add_worker(connection)
    age(connection, "w", 3600.0)
    assert declare(connection, term) == []
    assert declare(connection, term, timeout=0.0) == ["w"], "but silence since then is"


def test_a_leader_whose_own_beats_were_missing_judges_by_what_came_after(connection: Connection, old_term: int) -> None:
    add_worker(connection)
    for worker_id in ("w", "leader"):
        age(connection, worker_id, 3600.0)
    assert declare(connection, old_term) == [], "it has not beaten itself"

    assert beat(connection, "leader")
    assert declare(connection, old_term) == [], "what kept it from beating kept the other too"
    assert declare(connection, old_term, timeout=0.0) == ["w"]


def test_the_leaders_beats_in_time_are_no_gap(connection: Connection, old_term: int) -> None:
    add_worker(connection)
    age(connection, "w", 3600.0)
    age(connection, "leader", 2.0)
    assert beat(connection, "leader")
    assert declare(connection, old_term) == ["w"]


def set_back(connection: Connection, hours: int = 3) -> None:
    """As if the server's clock was: all that has been written lies ahead by so much."""
    connection.execute(
        """
        UPDATE workers SET last_heartbeat = last_heartbeat + %(ahead)s, resumed_at = resumed_at + %(ahead)s;
        UPDATE leadership SET acquired_at = acquired_at + %(ahead)s;
        """,
        {"ahead": timedelta(hours=hours)},
        within=5.0,
    )


def test_a_worker_that_died_before_the_servers_clock_was_set_back_is_declared_dead_all_the_same(
    connection: Connection, term: int
) -> None:
    add_worker(connection)
    set_back(connection)
    assert declare(connection, term, timeout=0.0) == [], "the leader has not beaten since"

    assert beat(connection, "leader")
    assert declare(connection, term) == [], "nor had the other any time to"
    assert declare(connection, term, timeout=0.0) == ["w"]


def test_the_times_of_a_term_and_a_server_from_before_its_clock_was_set_back_protect_nobody(
    connection: Connection, old_term: int
) -> None:
    add_worker(connection, "silent")
    add_worker(connection, "well")
    connection.execute(
        """
        CREATE OR REPLACE FUNCTION pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql
        AS $$ SELECT clock_timestamp() + interval '2 hours' $$;
        """,
        within=5.0,
    )
    set_back(connection)
    assert beat(connection, "leader")
    connection.execute("UPDATE workers SET resumed_at = resumed_at - interval '1 hour' WHERE id = 'leader'", within=5.0)
    assert beat(connection, "well")
    assert declare(connection, old_term) == ["silent"]


def test_a_leader_never_declares_itself_dead(connection: Connection, old_term: int) -> None:
    age(connection, "leader", 4.0)
    assert declare(connection, old_term, timeout=1.0) == []


def test_a_beat_that_is_under_way_saves_its_worker(connection: Connection, other: Connection, old_term: int) -> None:
    add_worker(connection)
    age(connection, "w", 3600.0)
    other.execute("BEGIN; UPDATE workers SET last_heartbeat = clock_timestamp() WHERE id = 'w'", within=5.0)
    assert declare(connection, old_term) == [], "its row is locked: not now"
    other.execute("COMMIT", within=5.0)
    assert declare(connection, old_term) == []


def test_nobody_is_declared_dead_under_a_term_that_is_over(connection: Connection, old_term: int) -> None:
    add_worker(connection)
    age(connection, "w", 3600.0)
    connection.execute("UPDATE leadership SET term = term + 1", within=5.0)
    assert declare(connection, old_term) == []
    connection.execute("UPDATE leadership SET term = term - 1, expires_at = clock_timestamp()", within=5.0)
    assert declare(connection, old_term) == []
