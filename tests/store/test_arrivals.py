"""Counting what anybody enqueues: each task once, however transactions overlap, replies are lost and leaders change."""

import random
import threading
from collections import Counter
from collections.abc import Callable

import psycopg
import pytest

from orchestrator.store import arrivals, leadership
from orchestrator.store.arrivals import EnqueuedCount, Sample
from orchestrator.store.connection import Connection
from tests.store.rows import PROCESS, add_task, add_tasks

Connect = Callable[[], Connection]


@pytest.fixture
def term(connection: Connection) -> int:
    term = leadership.acquire(connection, holder="leader", process=PROCESS, lease_seconds=600.0, within=5.0)
    assert term is not None
    return term


def count(connection: Connection, term: int, after: str | None, up_to: float, **more: int) -> EnqueuedCount | None:
    return arrivals.count_enqueued(
        connection, term=term, holder="leader", after=after, up_to=up_to, within=10.0, **more
    )


def start(connection: Connection, term: int) -> str:
    found = count(connection, term, None, 0.0)
    assert found is not None
    assert found.by_type == ()
    return found.counted_to


def now(connection: Connection) -> float:
    return arrivals.sample(connection, within=5.0).clock


def test_each_type_is_counted_up_to_the_given_moment(connection: Connection, term: int) -> None:
    position = start(connection, term)
    add_tasks(connection, 3)
    add_task(connection, type="u")
    moment = now(connection)
    add_tasks(connection, 5)
    found = count(connection, term, position, moment)
    assert found is not None
    assert sorted(found.by_type) == [("t", 3), ("u", 1)]
    assert found.is_complete
    rest = count(connection, term, found.counted_to, now(connection))
    assert rest is not None
    assert rest.by_type == (("t", 5),)
    nothing = count(connection, term, rest.counted_to, now(connection))
    assert nothing is not None
    assert nothing.by_type == ()


def test_what_ended_and_what_waits_was_enqueued_too(connection: Connection, term: int) -> None:
    position = start(connection, term)
    add_task(connection, status="completed")
    add_task(connection, next_retry_at="2999-01-01 00:00+00")
    found = count(connection, term, position, now(connection))
    assert found is not None
    assert found.by_type == (("t", 2),)


def test_a_first_call_only_tells_where_the_predecessor_has_got(connection: Connection, term: int) -> None:
    add_tasks(connection, 3)
    position = start(connection, term)
    assert start(connection, term) == position
    found = count(connection, term, position, now(connection))
    assert found is not None
    assert found.by_type == (("t", 3),)


def test_a_lost_reply_is_counted_again_and_nothing_is_doubled(connection: Connection, term: int) -> None:
    position = start(connection, term)
    add_tasks(connection, 3)
    moment = now(connection)
    lost = count(connection, term, position, moment)
    add_tasks(connection, 4)
    repeated = count(connection, term, position, now(connection))
    assert lost is not None
    assert repeated is not None
    assert (repeated.counted_to, repeated.by_type) == (lost.counted_to, lost.by_type)
    assert not repeated.is_complete
    rest = count(connection, term, repeated.counted_to, now(connection))
    assert rest is not None
    assert rest.by_type == (("t", 4),)


def test_a_long_absence_is_caught_up_in_pieces(connection: Connection, term: int) -> None:
    position = start(connection, term)
    add_tasks(connection, 25)
    moment = now(connection)
    pieces = []
    for _ in range(3):
        found = count(connection, term, position, moment, limit=10)
        assert found is not None
        pieces.append((found.by_type, found.is_complete))
        position = found.counted_to
    assert pieces == [((("t", 10),), False), ((("t", 10),), False), ((("t", 5),), True)]


def test_a_former_leader_neither_counts_nor_moves_the_position(connection: Connection, term: int) -> None:
    position = start(connection, term)
    add_tasks(connection, 3)
    connection.execute("UPDATE leadership SET term = term + 1", within=5.0)
    assert count(connection, term, position, now(connection)) is None
    connection.execute("UPDATE leadership SET expires_at = clock_timestamp()", within=5.0)
    assert count(connection, term + 1, position, now(connection)) is None


def test_a_new_leader_goes_on_where_its_predecessor_stopped(connection: Connection, term: int) -> None:
    position = start(connection, term)
    add_tasks(connection, 3)
    assert count(connection, term, position, now(connection)) is not None
    connection.execute("UPDATE leadership SET term = term + 1", within=5.0)
    add_tasks(connection, 2)
    position = start(connection, term + 1)
    found = count(connection, term + 1, position, now(connection))
    assert found is not None
    assert found.by_type == (("t", 2),)


def test_an_earlier_moment_never_moves_the_position_back(connection: Connection, term: int) -> None:
    position = start(connection, term)
    add_tasks(connection, 3)
    found = count(connection, term, position, now(connection))
    assert found is not None
    back = count(connection, term, found.counted_to, now(connection) - 3600)
    assert back == EnqueuedCount(found.counted_to, (), True)


def test_an_open_transaction_holds_the_horizon_back_and_a_reader_does_not(
    connection: Connection, other: Connection
) -> None:
    other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tasks", within=5.0)
    first = arrivals.sample(connection, within=5.0)
    assert arrivals.horizon([first], arrivals.sample(connection, within=5.0)) == first.clock - 1.0
    other.execute("COMMIT; BEGIN; INSERT INTO tasks (type) VALUES ('t')", within=5.0)
    second = arrivals.sample(connection, within=5.0)
    assert arrivals.horizon([first, second], arrivals.sample(connection, within=5.0)) == first.clock - 1.0
    other.execute("COMMIT", within=5.0)
    assert arrivals.horizon([first, second], arrivals.sample(connection, within=5.0)) == second.clock - 1.0


def test_several_open_transactions_of_which_the_youngest_ends_first_hold_the_horizon_back(
    connect: Connect, connection: Connection
) -> None:
    writers = [connect() for _ in range(3)]
    for writer in writers:
        writer.execute("BEGIN; INSERT INTO tasks (type) VALUES ('t')", within=5.0)
    first = arrivals.sample(connection, within=5.0)
    for writer in reversed(writers):
        assert arrivals.horizon([first], arrivals.sample(connection, within=5.0)) is None
        writer.execute("COMMIT", within=5.0)
    assert arrivals.horizon([first], arrivals.sample(connection, within=5.0)) == first.clock - 1.0


def test_without_a_settled_sample_there_is_no_horizon() -> None:
    assert arrivals.horizon([], Sample(5.0, 10, 10)) is None
    assert arrivals.horizon([Sample(1.0, 8, 12)], Sample(5.0, 10, 14)) is None
    assert arrivals.horizon([Sample(1.0, 8, 12), Sample(2.0, 9, 10)], Sample(5.0, 10, 14)) == 1.0


def test_sampling_needs_no_rights(connection: Connection, database_url: str) -> None:
    role = f"nobody_{random.getrandbits(40)}"
    connection.execute(f"CREATE ROLE {role}", within=5.0)
    connection.execute(f"SET ROLE {role}", within=5.0)
    assert arrivals.sample(connection, within=5.0).clock > 0
    connection.execute(f"RESET ROLE; DROP ROLE {role}", within=5.0)


def test_every_insert_is_counted_once_while_transactions_commit_out_of_order(
    database_url: str, connection: Connection, term: int
) -> None:
    """Writers hold their transactions open for random times; a third of them roll back."""
    position = start(connection, term)
    committed: Counter[str] = Counter()
    guard = threading.Lock()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with psycopg.connect(database_url) as session:
            for _ in range(25):
                name = chance.choice("abc")
                session.execute("INSERT INTO tasks (type) VALUES (%s)", (name,))
                session.execute("SELECT pg_sleep(%s)", (chance.random() * 0.03,))
                if chance.random() < 0.3:
                    session.rollback()
                    continue
                session.execute("INSERT INTO tasks (type) VALUES (%s)", (name,))
                session.commit()
                with guard:
                    committed[name] += 2

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for writer in writers:
        writer.start()
    counted: Counter[str] = Counter()
    samples: list[Sample] = []
    while any(writer.is_alive() for writer in writers):
        samples.append(arrivals.sample(connection, within=5.0))
        moment = arrivals.horizon(samples, samples[-1])
        if moment is not None:
            # without the margin, which no row of this test needs: it would outlast the test
            found = count(connection, term, position, moment + 0.99)
            assert found is not None
            counted.update(dict(found.by_type))
            position = found.counted_to
    final = count(connection, term, position, now(connection))
    assert final is not None
    counted.update(dict(final.by_type))
    assert counted == committed
