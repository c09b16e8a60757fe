"""The parts of the coordinator that need no database: identity, backoff, the order book, the schedule, the waits."""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.coordinator.backoff import Backoff
from orchestrator.coordinator.duties.census import Census
from orchestrator.coordinator.order_book import OrderBook
from orchestrator.coordinator.process import is_gone, new_worker_id, this_process
from orchestrator.coordinator.schedule import Schedule
from orchestrator.coordinator.session import Session, longest_pause
from orchestrator.coordinator.shelf import Shelf
from orchestrator.coordinator.standing import PATIENCE_SECONDS, Lead, Standing
from orchestrator.coordinator.waiting import Bell, wait_until
from orchestrator.errors import StatementRefused
from orchestrator.mailbox import Activity, Audit, Begin, Finish, MarkRunning, Order, Release, Types
from orchestrator.model import ClaimRef, Outcome, Start, TaskStatus, TaskType, Term
from orchestrator.store import holdings
from orchestrator.store.connection import Connection
from orchestrator.telemetry.metrics import TaskMetrics
from tests.fixtures.coordination import eventually

NO_CONNECTION = cast(Connection, None)


def outcome(token: int) -> Outcome:
    return Outcome(f"task {token}", token, "t", TaskStatus.COMPLETED, 1, 1.0, 2.0)


def tokens(book: OrderBook) -> tuple[list[int], list[int], list[int]]:
    return (
        [each.token for each in book.outcomes(9)],
        [each.claim.token for each in book.hand_backs(9)],
        [each.token for each in book.starts(9)],
    )


def test_this_process_lives_and_its_pid_with_another_start_does_not() -> None:
    process = this_process()
    assert process.pid == os.getpid()
    assert is_gone(process) is False
    assert is_gone(process._replace(start_ticks=process.start_ticks - 1)) is True


def test_nothing_can_be_told_of_a_process_elsewhere() -> None:
    process = this_process()
    assert is_gone(process._replace(boot_id="other")) is None
    assert is_gone(process._replace(pid_namespace="other")) is None
    assert is_gone(process._replace(hostname="other")) is None


def test_a_killed_process_is_gone_before_and_after_it_is_reaped() -> None:
    code = (
        "from orchestrator.coordinator.process import this_process\n"
        "import sys, time; print(this_process().start_ticks, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        process = this_process()._replace(pid=child.pid, start_ticks=int(child.stdout.readline()))
        assert is_gone(process) is False
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(process) is True
    assert is_gone(process) is True


def test_worker_ids_name_host_and_process_and_never_repeat() -> None:
    process = this_process()
    ids = {new_worker_id(process) for _ in range(100)}
    assert len(ids) == 100
    assert all(each.startswith(f"{process.hostname}-{process.pid}-") for each in ids)


def test_the_first_retry_is_quick_and_later_ones_grow_to_the_cap() -> None:
    backoff = Backoff(base=0.5, cap=30.0)
    waits = [backoff.fail() for _ in range(200)]
    assert waits[0] <= 0.1
    assert all(wait <= 0.5 * 2**number for number, wait in enumerate(waits[1:10]))
    assert 20.0 < max(waits[10:]) <= 30.0
    backoff.succeed()
    assert backoff.fail() <= 0.1


@pytest.mark.parametrize(("worker_timeout", "most"), [(30.0, 5.0), (3.0, 0.75), (0.2, 0.5)])
def test_after_a_long_outage_a_worker_is_back_before_it_could_be_taken_for_dead(
    worker_timeout: float, most: float
) -> None:
    assert longest_pause(worker_timeout) == most
    counting, abort = TaskMetrics(CollectorRegistry()), Bell()
    session = Session(
        "",
        thread="pulse",
        standing=Standing(),
        counting=counting,
        abort=abort,
        longest_pause=longest_pause(worker_timeout),
    )
    session.answered()  # before that it is the start's wait, which has bounds of its own
    waits = []
    for _ in range(100):
        session.failed(StatementRefused("a lock", sqlstate="55P03"))
        waits.append(session.retry_at - time.monotonic())
    assert most / 2 < max(waits) <= most


class Refused:
    """A duty that the database has refused for long."""

    name = "refused"
    every_seconds = 1.0

    def is_wanted(self) -> bool:
        return True

    def run_once(self, connection: Connection) -> float | None:
        raise StatementRefused("a lock", sqlstate="55P03")


def test_a_duty_that_was_refused_for_long_is_done_soon_after_the_end_of_that_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    schedule = Schedule((Refused(),), TaskMetrics(CollectorRegistry()))
    waits = []
    for _ in range(100):
        schedule.hasten(Refused.name)
        assert schedule.run_one(NO_CONNECTION)
        waits.append(schedule.due_at - time.monotonic())
    assert 3.0 < max(waits) <= 5.0
    assert min(waits) > 0.9, "and no sooner than it would have been"
    assert [record.getMessage() for record in caplog.records].count("duty_refused") == 1


class Slow(Refused):
    """Takes three seconds of the schedule's clock."""

    now = 100.0

    def run_once(self, connection: Connection) -> float | None:
        self.now += 3.0
        return None

    def monotonic(self) -> float:
        return self.now


def test_a_duty_that_takes_long_is_done_for_a_fifth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr("orchestrator.coordinator.schedule.time", slow)
    schedule = Schedule((slow,), TaskMetrics(CollectorRegistry()))
    assert schedule.run_one(NO_CONNECTION)
    assert schedule.due_at - slow.now == pytest.approx(12.0)


def test_of_locked_rows_is_told_only_what_is_not_free_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, though it stays locked. A child that is just writing has locked its rows too."""
    book, locked = OrderBook(), {"a", "b"}
    shelf = Shelf(book)
    told: list[object] = []
    monkeypatch.setattr(shelf._log, "warning", lambda event, orders, **_: told.append((event, orders)))
    monkeypatch.setattr(holdings, "locked", lambda *_, **__: frozenset(locked))
    monkeypatch.setattr("orchestrator.coordinator.shelf.LOOK_SECONDS", 0.0)
    orders = [ClaimRef("a", 3), ClaimRef("b", 4)]
    book.post(Release(tuple(orders), "drain"))
    assert shelf.set_aside(NO_CONNECTION, orders)
    assert not told
    locked.remove("b")
    shelf.run(NO_CONNECTION)
    shelf.run(NO_CONNECTION)
    assert told == [("rows_are_locked", 1)]


def test_orders_are_outstanding_until_they_are_settled() -> None:
    book = OrderBook()
    audit, activity, begin, types = Audit(3), Activity(True, True), Begin((), "app"), Types((), "app")
    book.post(Finish((outcome(1), outcome(2))))
    book.post(Release((ClaimRef("a", 3),), "drain"))
    book.post(MarkRunning((Start("b", 4, 1, 1.0),)))
    singles: list[Order] = [audit, activity, begin, types]
    for order in singles:
        book.post(order)
    assert book.outstanding == 8
    book.settle_outcomes([1, 2])
    book.settle_hand_backs([3])
    book.settle_starts(book.starts(9))
    book.settle_audit(audit)
    book.settle_activity(activity)
    book.settle_begin(begin)
    book.settle_types(types)
    assert book.outstanding == 0


def test_types_that_may_have_been_lost_do_not_take_the_place_of_new_ones() -> None:
    book = OrderBook()
    new, lost = Types((TaskType("new"),), "app"), Types((TaskType("lost"),), "app", only_missing=True)
    book.post(lost)
    book.post(new)
    book.post(lost)
    assert book.types() is new


def test_what_was_posted_while_its_predecessor_was_carried_out_stays() -> None:
    book = OrderBook()
    first, second = Audit(3), Audit(3)
    told, news = Activity(True, True), Activity(False, True)
    for order in (first, second, told, news):
        book.post(order)
    book.settle_audit(first)
    book.settle_activity(told)
    assert book.audit() is second
    assert book.activity() is news


def test_the_later_of_two_ends_of_a_claim_waits_for_the_earlier() -> None:
    book = OrderBook()
    book.post(Release((ClaimRef("a", 1),), "drain"))
    book.post(Finish((outcome(1), outcome(2))))
    book.post(Release((ClaimRef("b", 2),), "drain"))
    assert tokens(book) == ([2], [1], [])
    assert book.outstanding == 4
    book.settle_outcomes([2])
    assert tokens(book) == ([], [1, 2], [])
    book.settle_hand_backs([1, 2])
    assert tokens(book) == ([1], [], [])
    book.settle_outcomes([1])
    assert book.outstanding == 0


def test_an_execution_that_ended_needs_no_mark_of_its_start() -> None:
    book = OrderBook()
    start = Start("a", 1, 1, 1.0)
    book.post(MarkRunning((start,)))
    book.post(Finish((outcome(1),)))
    book.post(MarkRunning((start,)))
    assert tokens(book) == ([1], [], [])


def test_what_is_held_is_outstanding_and_not_shown_until_it_is_let_go() -> None:
    book = OrderBook()
    book.post(Finish((outcome(1), outcome(2))))
    book.post(Release((ClaimRef("task 3", 3),), "drain"))
    book.post(MarkRunning((Start("task 4", 4, 1, 1.0),)))
    book.hold({1: "task 1", 3: "task 3", 4: "task 4", 5: "task 5"})
    assert tokens(book) == ([2], [], [])
    assert book.outstanding == 4
    assert book.held() == {1: "task 1", 3: "task 3", 4: "task 4"}, "of the others nothing is ordered"
    book.keep_ends_only()
    book.let_go([3])
    assert tokens(book) == ([2], [3], [])
    assert book.held() == {1: "task 1"}


def test_at_the_end_only_ends_of_claims_are_left() -> None:
    book = OrderBook()
    for order in (Audit(), Activity(True, True), Begin((), ""), MarkRunning((Start("a", 1, 1, 1.0),)), Types((), "")):
        book.post(order)
    book.post(Finish((outcome(2),)))
    book.keep_ends_only()
    assert book.outstanding == 1


def test_an_outcome_is_replaced_only_while_it_stands_there() -> None:
    book = OrderBook()
    book.post(Finish((outcome(1), outcome(2))))
    book.replace(outcome(1))
    assert tokens(book)[0] == [2, 1]
    book.settle_outcomes([1, 2])
    book.replace(outcome(1))
    assert book.outstanding == 0


def test_an_order_posted_by_another_thread_ends_the_wait() -> None:
    book = OrderBook()
    poster = threading.Timer(0.05, lambda: book.post(Audit()))
    poster.start()
    began = time.monotonic()
    wait_until(began + 10.0, book)
    assert time.monotonic() - began < 5.0
    book.hear()
    began = time.monotonic()
    wait_until(began + 0.05, book)
    assert 0.04 < time.monotonic() - began < 5.0
    poster.join()


def test_a_bell_stays_rung_until_it_is_cleared() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    began = time.monotonic()
    wait_until(began + 30.0, bell)
    wait_until(began + 30.0, bell)
    bell.clear()
    bell.clear()
    assert time.monotonic() - began < 15.0


def test_a_lead_that_is_not_renewed_ends_by_itself() -> None:
    standing = Standing()
    standing.leads(Lead("me", Term(7, time.monotonic() + 60.0)))
    assert standing.snapshot().is_leader
    assert standing.snapshot().term == 7
    standing.leads(Lead("me", Term(7, time.monotonic() + 0.1)))
    eventually(lambda: standing.lead is None)
    assert not standing.snapshot().is_leader
    assert standing.snapshot().term is None


def test_the_database_is_reachable_once_both_threads_say_so() -> None:
    standing = Standing()
    standing.missed("pulse")
    standing.missed("coordinator")
    assert standing.reached("pulse") >= 0.0
    assert not standing.snapshot().is_database_reachable
    standing.reached("coordinator")
    assert standing.snapshot().is_database_reachable
    assert standing.snapshot().down_seconds == 0.0


def test_a_thread_is_overdue_past_the_end_of_its_own_call_and_patience_and_never_while_it_waits() -> None:
    standing = Standing()
    now = time.monotonic()
    assert standing.overdue_seconds() == {}
    standing.moves("pulse")
    standing.calls("coordinator", now - PATIENCE_SECONDS + 60.0)
    assert standing.overdue_seconds() == {}
    standing.calls("coordinator", now - PATIENCE_SECONDS - 5.0)
    assert standing.overdue_seconds() == {"coordinator": pytest.approx(5.0, abs=1.0)}
    standing.waits("coordinator")
    assert standing.overdue_seconds() == {}
    standing.calls("coordinator", now - PATIENCE_SECONDS - 5.0)
    standing.moves("coordinator")
    assert standing.overdue_seconds() == {}


def test_the_first_census_waits_until_the_start_is_over() -> None:
    """Of five million tasks on a busy server it takes twenty seconds, and the start waits for what comes after it."""
    standing = Standing()
    standing.leads(Lead("me", Term(7, time.monotonic() + 60.0)))
    begun = [False, True]
    census = Census(standing, has_begun=begun.pop, every_seconds=8.0)
    assert [census.is_wanted(), census.is_wanted()] == [True, False]
