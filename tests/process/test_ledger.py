"""A child's exchange with the database: small batches in one statement, large ones claimed first and then finished."""

import time
from contextlib import closing
from math import inf

import pytest

from orchestrator.board.layout import Word
from orchestrator.board.supervisor_half import SupervisorBoard
from orchestrator.child.ledger import COMPANY, SLOW_SECONDS, SPARE_SECONDS
from orchestrator.child.offer import COLLECTED_SECONDS, LEAST_TASK_SECONDS, LONGEST_TASK_SECONDS, SEND_SECONDS
from orchestrator.child.statements import BUSY_AFTER
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.errors import DatabaseUnavailable
from orchestrator.model import Claim, Outcome, TaskStatus, Verdict
from orchestrator.store.claims import finish_for_children
from orchestrator.store.connection import Connection
from orchestrator.store.holdings import verdicts
from orchestrator.store.schema import migrate
from tests.fixtures.desk import COUNT, Desk, statuses
from tests.store.rows import add_tasks, add_worker, wait_until
from tests.store.wire import Wire


def is_flushed(connection: Connection, before: str) -> bool:
    ahead = "SELECT pg_current_wal_flush_lsn() > %(before)s::pg_lsn"
    return bool(connection.execute(ahead, {"before": before}, within=5.0)[0][0])


def written_to(connection: Connection) -> str:
    return str(connection.execute("SELECT pg_current_wal_insert_lsn()::text", within=5.0)[0][0])


def test_a_batch_is_finished_for_good_and_the_next_is_claimed(desk: Desk, connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 2 * COUNT)
    desk.run(desk.claim())
    before = written_to(connection)
    assert len(desk.claim()) == COUNT
    assert statuses(connection) == {"completed": COUNT, "claimed": COUNT}
    assert is_flushed(connection, before)
    assert desk.counted("tasks_completed_total", status="success") == COUNT


def test_while_there_is_more_and_more_the_next_batch_is_claimed_before_it_is_known_what_became_of_the_last(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    desk.get_busy()
    done = (BUSY_AFTER - 1) * COUNT
    claims = desk.claim()
    assert (len(claims), len(desk.unwritten), desk.board.word(Word.COUNT)) == (COUNT, COUNT, 2 * COUNT)
    assert desk.counted("tasks_completed_total", status="success") == done
    desk.run(claims[:5])
    wait_until(lambda: statuses(connection)["completed"] == done + COUNT)
    wait_until(lambda: desk.ledger.has_answer)

    desk.ledger.hear()

    assert not desk.ledger.has_answer
    assert desk.counted("tasks_completed_total", status="success") == done + COUNT
    assert (len(desk.unwritten), desk.board.word(Word.WRITTEN), desk.board.word(Word.ENDED)) == (5, COUNT, COUNT + 5)
    desk.ledger.exchange(0)
    assert desk.counted("tasks_completed_total", status="success") == done + COUNT + 5
    assert desk.board.word(Word.WRITTEN) == COUNT + 5


def test_while_there_is_more_and_more_few_outcomes_wait_for_those_of_the_next_batch(
    desk: Desk, connection: Connection
) -> None:
    few = COMPANY // 4 + 1
    later = time.monotonic() + 60.0  # however slow this machine is, none of them has waited for long
    add_worker(connection)
    add_tasks(connection, 5 * few)
    for _ in range(BUSY_AFTER):
        desk.run(desk.claim(few), ended_monotonic=later)
    oldest = desk.unwritten.oldest_end
    desk.run(desk.claim(few), ended_monotonic=later)
    assert statuses(connection)["completed"] == (BUSY_AFTER - 1) * few
    assert (len(desk.unwritten), desk.unwritten.oldest_end) == (2 * few, oldest), "what waits tells since when"
    assert desk.board.word(Word.WRITTEN) == 0
    desk.run(desk.claim(few), ended_monotonic=later)
    desk.claim(few)

    assert desk.unwritten.oldest_end == inf, "three batches and a fourth are too many: they were sent"
    wait_until(lambda: statuses(connection)["completed"] == (BUSY_AFTER + 2) * few)
    desk.ledger.hear()
    assert (len(desk.unwritten), desk.board.word(Word.WRITTEN)) == (0, 3 * few)
    assert desk.counted("tasks_completed_total", status="success") == (BUSY_AFTER + 2) * few


MILLISECONDS = 0.005


def test_while_there_is_plenty_of_tasks_of_milliseconds_the_supervisor_may_write_what_the_child_has_not_sent(
    desk: Desk, connection: Connection
) -> None:
    def is_offered(task_seconds: float) -> bool:
        desk.ledger.begin_batch(task_seconds)
        return bool(desk.board.word(Word.OFFERED))

    add_worker(connection)
    add_tasks(connection, (BUSY_AFTER + 3) * COUNT + 1)
    desk.run(desk.claim())
    assert not is_offered(MILLISECONDS), "there may be little"
    for _ in range(BUSY_AFTER - 1):
        desk.run(desk.claim())
    lengths = (LEAST_TASK_SECONDS / 2, MILLISECONDS, SLOW_SECONDS, 2 * LONGEST_TASK_SECONDS)
    assert [is_offered(seconds) for seconds in lengths] == [False, True, True, False]
    claims = desk.claim()
    assert not is_offered(MILLISECONDS), "it has sent some"
    desk.ledger.hear()
    assert desk.board.word(Word.OFFERED)
    desk.run(claims)
    desk.ledger.send()
    assert not desk.board.word(Word.OFFERED)
    with closing(SupervisorBoard(desk.descriptor)) as board:
        view = board.read()
    assert view is not None and view.sent == {claim.token for claim in claims}
    desk.ledger.hear()
    assert desk.board.word(Word.OFFERED)
    desk.run(desk.claim(1))
    desk.ledger.exchange(0)
    assert desk.board.word(Word.OFFERED), "there was no room, or a large result; and now the batch goes on"
    desk.ledger.withdraw_offer()
    desk.run(desk.claim())
    desk.ledger.exchange(0)
    assert not desk.board.word(Word.OFFERED), "until the next batch"


def test_who_finds_the_database_away_offers_nothing_as_long_as_it_is(desk: Desk, connection: Connection) -> None:
    """Else the supervisor would come for it again and again."""
    add_worker(connection)
    add_tasks(connection, (BUSY_AFTER + 1) * COUNT)
    for _ in range(BUSY_AFTER):
        desk.run(desk.claim())
    desk.ledger.begin_batch(MILLISECONDS)
    assert desk.board.word(Word.OFFERED)
    others = "FROM pg_stat_activity WHERE application_name = 'test' AND pid <> pg_backend_pid()"
    connection.execute(f"SELECT pg_terminate_backend(pid) {others}", within=5.0)
    with pytest.raises(DatabaseUnavailable):
        desk.claim()
    assert not desk.board.word(Word.OFFERED)


FEW = 5


def begin_to_offer(desk: Desk, connection: Connection) -> tuple[Claim, ...]:
    """The last few claims, whose outcomes will be offered; those before are written."""
    add_worker(connection)
    add_tasks(connection, (BUSY_AFTER + 1) * FEW)
    for _ in range(BUSY_AFTER):
        desk.run(desk.claim(FEW))
    claims = desk.claim(FEW)
    desk.ledger.exchange(0)
    desk.ledger.begin_batch(MILLISECONDS)
    return claims


@pytest.mark.parametrize(("seconds", "is_late"), [(SEND_SECONDS, False), (SEND_SECONDS + 2 * SPARE_SECONDS, True)])
def test_an_outcome_is_sent_before_a_task_that_would_make_it_wait_too_long(
    desk: Desk, connection: Connection, seconds: float, is_late: bool
) -> None:
    """The next is expected to take as long as the last."""
    add_worker(connection)
    add_tasks(connection, 1)
    (claim,) = desk.claim()
    assert not desk.ledger.is_late, "there is nothing to send"
    began = desk.board.start(0) / 1e9
    outcome = Outcome(claim.task_id, claim.token, claim.type, TaskStatus.COMPLETED, 1, began, began + seconds)
    desk.board.end(outcome)
    desk.ledger.ended(0, outcome, seconds)
    assert desk.ledger.is_late is is_late


def test_what_the_supervisor_collects_and_writes_the_child_neither_sends_nor_counts(
    desk: Desk, connection: Connection
) -> None:
    claims = begin_to_offer(desk, connection)
    desk.run(claims[:3])
    ended = time.monotonic()
    with closing(SupervisorBoard(desk.descriptor)) as board:
        collected = board.collect()
        assert [each.token for each in collected] == [each.token for each in claims[:3]]
        later = ended + 2 * COLLECTED_SECONDS
        assert not desk.ledger.must_send(ended + 2 * SEND_SECONDS, later), "it is on its way"
        assert desk.ledger.must_send(later, later), "but not for ever"
        desk.run(claims[3:])
        assert finish_for_children(connection, collected, within=5.0).accepted == 3
        board.mark_written(frozenset(each.token for each in collected))
    assert desk.ledger.must_send(ended, time.monotonic() + 2 * SEND_SECONDS), "the others"
    assert (len(desk.unwritten), desk.board.word(Word.WRITTEN)) == (2, desk.board.word(Word.ENDED) - 2)
    desk.ledger.exchange(0)
    assert statuses(connection) == {"completed": (BUSY_AFTER + 1) * FEW}
    assert desk.counted("tasks_completed_total", status="success") == BUSY_AFTER * FEW + 2


def test_what_both_write_counts_once(desk: Desk, connection: Connection) -> None:
    """The child has waited long enough for the supervisor, which writes it after all."""
    claims = begin_to_offer(desk, connection)
    desk.run(claims)
    with closing(SupervisorBoard(desk.descriptor)) as board:
        collected = board.collect()
    desk.ledger.send()
    wait_until(lambda: desk.ledger.has_answer)
    batch = finish_for_children(connection, collected, within=5.0)
    assert (batch.accepted, len(batch.unaccepted)) == (0, FEW)
    assert set(verdicts(connection, collected, within=5.0).values()) == {Verdict.BY_CHILD}
    desk.ledger.hear()
    assert desk.counted("tasks_completed_total", status="success") == (BUSY_AFTER + 1) * FEW


def test_outcomes_that_a_slow_claim_has_kept_waiting_wait_for_no_company(desk: Desk, connection: Connection) -> None:
    few = COMPANY // 4
    add_worker(connection)
    add_tasks(connection, (BUSY_AFTER + 1) * few)
    for _ in range(BUSY_AFTER - 1):
        desk.run(desk.claim(few))
    desk.run(desk.claim(few), ended_monotonic=time.monotonic() - SEND_SECONDS)
    desk.claim(few)
    assert desk.unwritten.oldest_end == inf, "they were sent before the next batch begins"


def test_after_a_slow_task_it_is_known_what_became_of_it_before_the_next_begins(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 4 * COUNT)
    desk.get_busy()
    desk.run(desk.claim(1), started_monotonic=time.monotonic() - 2 * SLOW_SECONDS)
    assert len(desk.claim(1)) == 1
    assert len(desk.unwritten) == 0
    assert desk.counted("tasks_completed_total", status="success") == BUSY_AFTER * COUNT + 1


def test_while_the_supervisor_comes_for_what_ends_nothing_waits_for_the_disk_after_a_slow_task(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, BUSY_AFTER + 4)
    for _ in range(BUSY_AFTER):
        desk.run(desk.claim(1))
    with closing(SupervisorBoard(desk.descriptor)) as board:
        for is_collecting, unwritten in ((True, 1), (False, 0)):
            board.tell_collecting(is_collecting)
            claims = desk.claim(1)
            desk.ledger.exchange(0)
            desk.ledger.begin_batch(2 * SLOW_SECONDS)
            desk.run(claims, started_monotonic=time.monotonic() - 2 * SLOW_SECONDS)
            desk.run(desk.claim(1))
            assert len(desk.unwritten) == unwritten + 1


def test_a_batch_that_has_no_place_behind_the_last_waits_until_that_is_written(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 9 * COUNT)
    desk.get_busy()
    seen = set()
    for _ in range(6):
        claims = desk.claim()
        assert len(claims) == COUNT
        seen.add(desk.board.word(Word.COUNT))
        desk.run(claims)
    assert seen == {COUNT, 2 * COUNT, 3 * COUNT, 4 * COUNT}
    desk.ledger.exchange(0)
    assert statuses(connection) == {"completed": 8 * COUNT, "pending": COUNT}
    assert desk.counted("tasks_completed_total", status="success") == 8 * COUNT


def test_a_task_that_was_recovered_runs_only_once_its_attempt_is_on_the_disk(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 1)
    connection.execute("UPDATE tasks SET recoveries = 1", within=5.0)
    before = written_to(connection)
    (claim,) = desk.claim()
    assert claim.is_running
    assert is_flushed(connection, before)


@pytest.mark.parametrize("has_told", [False, True])
def test_a_stale_outcome_is_counted_unless_the_supervisor_did_while_the_child_was_busy(
    desk: Desk, connection: Connection, has_told: bool
) -> None:
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    desk.get_busy()
    take_away = """
        UPDATE tasks AS t SET status = 'pending' FROM (SELECT * FROM tasks WHERE status = 'claimed' LIMIT 1) AS one
        WHERE t.id = one.id RETURNING one.claim_token
    """
    ((token,),) = connection.execute(take_away, within=5.0)
    desk.claim()  # sends the outcomes
    wait_until(lambda: desk.ledger.has_answer)
    if has_told:
        with closing(SupervisorBoard(desk.descriptor)) as board:
            assert board.mark_written(frozenset({token})) == [token]
    desk.ledger.hear()
    assert desk.counted("tasks_stale_completions_total") == (None if has_told else 1)


def test_a_claim_that_brings_little_tells_whether_it_left_something_out(desk: Desk, connection: Connection) -> None:
    """Tasks that were recovered come one by one; for the second another child is to be woken."""
    add_worker(connection)
    add_tasks(connection, 2)
    connection.execute("UPDATE tasks SET recoveries = 1", within=5.0)
    desk.run(desk.claim(5))
    assert desk.ledger.is_more_due
    assert len(desk.claim(5)) == 1
    assert not desk.ledger.is_more_due


def test_of_a_connection_that_was_given_up_nothing_is_read_any_more(desk: Desk, connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    desk.get_busy()
    desk.claim()
    old = desk.database.connection
    desk.database.abandon()  # its descriptor may be a file of the user's by now
    assert desk.database.try_to_connect()
    wait_until(lambda: statuses(connection)["completed"] == BUSY_AFTER * COUNT)
    assert len(desk.unwritten) == COUNT
    desk.ledger.exchange(0)
    assert desk.counted("tasks_completed_total", status="success") == BUSY_AFTER * COUNT, "each once"
    assert len(desk.unwritten) == 0
    assert old is not None
    old.close()


def test_outcomes_whose_reply_was_lost_are_kept_and_the_batch_behind_them_can_run(
    private_postgres_tcp: PrivatePostgres,
) -> None:
    url = private_postgres_tcp.url()
    connection = Connection.open(url, within=10.0, application_name="test")
    migrate(connection, within=20.0)
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    wire = Wire("127.0.0.1", private_postgres_tcp.port)
    desk = Desk(url.replace(f":{private_postgres_tcp.port}", f":{wire.port}") + "?sslmode=disable")
    desk.get_busy()
    first = desk.board.word(Word.COUNT)
    ended = connection.execute("SELECT id::text FROM tasks WHERE status = 'claimed' LIMIT 1", within=5.0)
    wire.loses_reply_to = ended[0][0].encode()  # stands in the statement that finishes, not in the claim
    claims = desk.claim()
    assert len(claims) == COUNT
    wait_until(lambda: statuses(connection).get("completed") == BUSY_AFTER * COUNT)
    wire.cut()
    assert desk.board.word(Word.SENT)
    with pytest.raises(DatabaseUnavailable):
        desk.ledger.hear()
    assert not desk.board.word(Word.SENT), "so the supervisor need not wait for us"
    assert len(desk.unwritten) == COUNT
    assert desk.counted("tasks_completed_total", status="success") == (BUSY_AFTER - 1) * COUNT
    assert desk.board.word(Word.COUNT) == first + COUNT and desk.board.word(Word.STARTED) == first
    desk.run(claims)
    desk.database._url = url  # past the wire
    wait_until(desk.database.try_to_connect)
    assert desk.ledger.exchange(0).claims == ()
    assert desk.counted("tasks_completed_total", status="success") == (BUSY_AFTER + 1) * COUNT, "each once"
    desk.close()
    wire.close()
    connection.close()


def test_a_retry_that_is_due_at_once_is_written_before_anything_else_runs(desk: Desk, connection: Connection) -> None:
    add_worker(connection)
    add_tasks(connection, 6 * COUNT)
    desk.get_busy()
    claims = desk.claim()
    assert len(desk.unwritten) == COUNT, "sent, and not heard of"
    desk.run(claims, status=TaskStatus.PENDING, error="again")
    desk.claim()
    assert len(desk.unwritten) == 0
    assert desk.counted("task_retries_total", attempt="1") == 1


def test_all_that_may_be_called_is_planned_ahead_once_and_nothing_is_claimed(
    desk: Desk, connection: Connection
) -> None:
    add_worker(connection)
    add_tasks(connection, 3 * COUNT)
    session = desk.database.connection
    assert session is not None

    def calls() -> int:
        rows = session.execute("SELECT sum(generic_plans)::integer FROM pg_prepared_statements", within=5.0)
        return int(rows[0][0])

    desk.ledger.plan_ahead()
    planned = set(session.prepared)
    desk.ledger.plan_ahead()
    assert (calls(), len(planned)) == (5, 5)
    assert statuses(connection) == {"pending": 3 * COUNT}
    desk.get_busy()
    desk.run(desk.claim())
    desk.ledger.exchange(0)
    assert session.prepared == planned
    assert calls() > 5


def test_a_connection_that_is_lost_while_it_plans_ahead_is_dropped(desk: Desk, connection: Connection) -> None:
    others = "FROM pg_stat_activity WHERE application_name = 'test' AND pid <> pg_backend_pid()"
    connection.execute(f"SELECT pg_terminate_backend(pid) {others}", within=5.0)
    wait_until(lambda: connection.execute(f"SELECT {others}", within=5.0) == [])
    with pytest.raises(DatabaseUnavailable):
        desk.ledger.plan_ahead()
    assert desk.database.connection is None
    assert desk.registry.get_sample_value("database_errors_total", {"kind": "unavailable"}) == 1
    desk.ledger.plan_ahead()  # and there is nothing to do without one
