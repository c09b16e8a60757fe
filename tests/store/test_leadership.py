"""The lease: one holder at a time, terms that only grow, times by the database's clock."""

import itertools
import time
from collections.abc import Callable

import pytest

from orchestrator.errors import StatementRefused
from orchestrator.store import leadership, upkeep, workers
from orchestrator.store.connection import Connection
from tests.store.rows import (
    PROCESS,
    add_worker,
    at_once,
    declare_dead,
    in_background,
    is_waiting_for_a_lock,
    pid_of,
    wait_until,
)

Connect = Callable[[], Connection]


def acquire(connection: Connection, holder: str, lease_seconds: float = 60.0) -> int | None:
    return leadership.acquire(connection, holder=holder, process=PROCESS, lease_seconds=lease_seconds, within=5.0)


def renew(connection: Connection, holder: str, term: int, lease_seconds: float = 60.0) -> bool:
    return leadership.renew(connection, holder=holder, term=term, lease_seconds=lease_seconds, within=5.0)


def expire(connection: Connection) -> None:
    connection.execute(
        "UPDATE leadership SET renewed_at = renewed_at - interval '1 day', expires_at = expires_at - interval '1 day'",
        within=5.0,
    )


def leaders(connection: Connection) -> set[str]:
    return {worker.id for worker in workers.list_all(connection, within=5.0) if worker.is_leader}


def test_a_new_database_has_no_leader(connection: Connection) -> None:
    found = leadership.read(connection, within=5.0)
    assert (found.holder, found.term, found.process) == (None, 0, None)
    assert found.remaining_seconds < 0


def test_the_first_to_ask_leads_and_is_shown_with_its_process(connection: Connection) -> None:
    add_worker(connection, "a")
    add_worker(connection, "b")
    assert acquire(connection, "a") == 1
    assert acquire(connection, "b") is None
    found = leadership.read(connection, within=5.0)
    assert (found.holder, found.term, found.process) == ("a", 1, PROCESS)
    assert found.remaining_seconds == pytest.approx(60, abs=5)
    assert leaders(connection) == {"a"}


@pytest.mark.parametrize(
    ("told", "is_understood"),
    [("holder_process || '{\"colour\": 1}'", True), ("'{\"pid\": 1}'", False), ("'[1]'", False), ("'null'", False)],
)
def test_a_holder_of_a_later_version_may_tell_of_its_process_what_we_do_not_know(
    connection: Connection, told: str, is_understood: bool
) -> None:
    acquire(connection, "a")
    connection.execute(f"UPDATE leadership SET holder_process = {told}", within=5.0)
    found = leadership.read(connection, within=5.0)
    assert found is not None
    assert (found.holder, found.process) == ("a", PROCESS if is_understood else None)


def test_a_lease_whose_row_was_deleted_is_made_anew_and_goes_on_in_a_higher_term(connection: Connection) -> None:
    for term in range(1, 4):
        assert acquire(connection, "a") == term
    connection.execute("TRUNCATE leadership", within=5.0)
    assert leadership.read(connection, within=5.0) is None
    assert acquire(connection, "b") is None
    leadership.restore(connection, within=5.0)
    assert not renew(connection, "a", 3)
    term_after = acquire(connection, "b")
    assert term_after is not None
    assert term_after > 3
    leadership.restore(connection, within=5.0)  # it is there: nothing changes
    assert renew(connection, "b", term_after)


def test_an_expired_lease_passes_on_in_a_higher_term(connection: Connection) -> None:
    add_worker(connection, "a")
    add_worker(connection, "b")
    assert acquire(connection, "a") == 1
    expire(connection)
    assert acquire(connection, "b") == 2
    assert leaders(connection) == {"b"}
    assert not renew(connection, "a", 1)


def test_a_lost_reply_does_not_keep_the_winner_out(connection: Connection) -> None:
    assert acquire(connection, "a") == 1
    assert acquire(connection, "a") == 2


def test_renewing_prolongs_the_lease_in_the_same_term(connection: Connection) -> None:
    add_worker(connection, "a")
    acquire(connection, "a", 10.0)
    assert renew(connection, "a", 1, 90.0)
    found = leadership.read(connection, within=5.0)
    assert found.term == 1
    assert found.remaining_seconds == pytest.approx(90, abs=5)
    (worker,) = workers.list_all(connection, within=5.0)
    assert worker.leader_until is not None
    assert (worker.leader_until - worker.last_heartbeat).total_seconds() == pytest.approx(90, abs=5)


def test_an_expired_lease_is_not_renewed_even_if_nobody_took_it(connection: Connection) -> None:
    acquire(connection, "a")
    expire(connection)
    assert not renew(connection, "a", 1)
    assert acquire(connection, "a") == 2


def test_neither_another_holder_nor_another_term_renews(connection: Connection) -> None:
    acquire(connection, "a")
    assert not renew(connection, "b", 1)
    assert not renew(connection, "a", 2)


def test_resigning_frees_the_lease_at_once(connection: Connection) -> None:
    add_worker(connection, "a")
    acquire(connection, "a")
    leadership.resign(connection, holder="a", term=1, within=5.0)
    leadership.resign(connection, holder="a", term=1, within=5.0)
    assert leaders(connection) == set()
    assert leadership.read(connection, within=5.0).remaining_seconds <= 0
    assert acquire(connection, "b") == 2


def test_resigning_from_an_earlier_term_does_not_hurt_the_next(connection: Connection) -> None:
    acquire(connection, "a")
    expire(connection)
    acquire(connection, "b")
    leadership.resign(connection, holder="a", term=1, within=5.0)
    assert renew(connection, "b", 2)


def take_over(connection: Connection, holder: str, previous_holder: str, previous_term: int) -> int | None:
    return leadership.take_over(
        connection,
        holder=holder,
        process=PROCESS._replace(pid=200),
        previous_holder=previous_holder,
        previous_term=previous_term,
        lease_seconds=60.0,
        within=5.0,
    )


def test_a_successor_takes_over_from_a_holder_that_is_gone(connection: Connection) -> None:
    add_worker(connection, "a")
    add_worker(connection, "b")
    acquire(connection, "a")
    assert take_over(connection, "b", "a", 1) == 2
    found = leadership.read(connection, within=5.0)
    assert found.process is not None
    assert (found.holder, found.process.pid) == ("b", 200)
    assert leaders(connection) == {"b"}


def test_of_two_successors_one_takes_over(connect: Connect, connection: Connection) -> None:
    acquire(connection, "a")
    first, second = connect(), connect()
    terms = at_once(lambda: take_over(first, "b", "a", 1), lambda: take_over(second, "c", "a", 1))
    assert sorted(terms, key=str) == [2, None]


def test_take_over_after_a_lost_reply_succeeds_and_an_outdated_one_does_not(connection: Connection) -> None:
    acquire(connection, "a")
    assert take_over(connection, "b", "a", 1) == 2
    assert take_over(connection, "b", "a", 1) == 3
    assert take_over(connection, "b", "a", 1) is None
    assert take_over(connection, "c", "a", 1) is None


def test_many_contenders_win_distinct_terms_and_never_two_at_once(connect: Connect, connection: Connection) -> None:
    connections = [connect() for _ in range(6)]

    def contend(own: Connection, holder: str) -> list[tuple[int, float, float]]:
        """Terms won, each with the local times between which it was surely held."""
        won = []
        for _ in range(15):
            term = acquire(own, holder, 5.0)
            if term is not None:
                since = time.monotonic()
                assert renew(own, holder, term, 5.0)
                won.append((term, since, time.monotonic()))
                leadership.resign(own, holder=holder, term=term, within=5.0)
        return won

    found = at_once(*(lambda own=own, n=n: contend(own, f"h{n}") for n, own in enumerate(connections)))
    terms = sorted(one for won in found for one in won)
    assert len({term for term, _, _ in terms}) == len(terms) > 0
    for (_, _, until), (_, since, _) in itertools.pairwise(terms):
        assert until <= since


def test_a_clock_that_was_set_back_does_not_keep_the_lease_for_hours(connection: Connection) -> None:
    acquire(connection, "a", 30.0)
    connection.execute(
        "UPDATE leadership SET renewed_at = renewed_at + interval '1 h', expires_at = expires_at + interval '1 h'",
        within=5.0,
    )
    assert acquire(connection, "b", 30.0) == 2


def test_a_contender_does_not_lock_a_lease_that_it_cannot_have(connection: Connection, other: Connection) -> None:
    acquire(connection, "a")
    other.execute("BEGIN; SELECT FROM leadership FOR UPDATE", within=5.0)
    assert acquire(connection, "b") is None


def test_an_operators_lock_on_a_worker_stops_neither_election_nor_renewal(
    connection: Connection, other: Connection
) -> None:
    add_worker(connection, "a")
    other.execute("BEGIN; SELECT FROM workers FOR UPDATE", within=5.0)
    assert acquire(connection, "a") == 1
    assert renew(connection, "a", 1)


@pytest.mark.usefixtures("hears_refusals")
def test_a_renewal_that_cannot_get_the_row_ends_in_time(connection: Connection, other: Connection) -> None:
    acquire(connection, "a")
    other.execute("BEGIN; SELECT FROM leadership FOR UPDATE", within=5.0)
    began = time.monotonic()
    with pytest.raises(StatementRefused) as refusal:
        leadership.renew(connection, holder="a", term=1, lease_seconds=60.0, within=3.0)
    assert refusal.value.sqlstate in {"55P03", "57014"}
    assert time.monotonic() - began < 3.0


def test_a_takeover_waits_for_a_leaders_write_and_the_leader_never_writes_after_it(
    connect: Connect, connection: Connection
) -> None:
    add_worker(connection, "a")
    add_worker(connection, "victim")
    acquire(connection, "a")
    leader, successor = connect(), connect()
    pid = pid_of(successor)
    leader.execute("BEGIN", within=5.0)
    assert upkeep.declare_others_dead(leader, term=1, holder="a", within=5.0) == 1
    result = in_background(lambda: take_over(successor, "b", "a", 1))
    wait_until(lambda: is_waiting_for_a_lock(connection, pid))
    leader.execute("COMMIT", within=5.0)
    assert result() == 2
    add_worker(connection, "another")
    assert upkeep.declare_others_dead(leader, term=1, holder="a", within=5.0) == 0


def test_a_lease_that_expires_while_a_renewal_waits_is_not_renewed_under_a_successor(
    connect: Connect, connection: Connection
) -> None:
    acquire(connection, "a")
    blocker, slow = connect(), connect()
    pid = pid_of(slow)
    blocker.execute("BEGIN; SELECT FROM leadership FOR UPDATE", within=5.0)
    renewal = in_background(lambda: renew(slow, "a", 1))
    wait_until(lambda: is_waiting_for_a_lock(connection, pid))
    blocker.execute(
        "UPDATE leadership SET term = 2, holder = 'b', expires_at = clock_timestamp() + interval '1 min'; COMMIT",
        within=5.0,
    )
    assert renewal() is False
    assert leadership.read(connection, within=5.0).holder == "b"


def test_a_dead_workers_leadership_is_not_shown(connection: Connection) -> None:
    add_worker(connection, "a")
    acquire(connection, "a")
    expire(connection)
    add_worker(connection, "b")
    acquire(connection, "b")
    declare_dead(connection, "a")
    assert leaders(connection) == {"b"}
