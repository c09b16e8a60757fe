"""The coordinator thread: carries out the supervisor's orders and runs the duties, on one connection.

Orders go first, and none is lost: what the database could not take stays in the book. Nothing it meets may end the
thread, or hold it longer than a call's deadline.
"""

import math
import time

from orchestrator.coordinator.backoff import Backoff
from orchestrator.coordinator.carrier import Carrier
from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.errands import TellActivity
from orchestrator.coordinator.order_book import OrderBook
from orchestrator.coordinator.schedule import Schedule
from orchestrator.coordinator.session import Session
from orchestrator.coordinator.shelf import Shelf
from orchestrator.coordinator.standing import Standing
from orchestrator.coordinator.waiting import Bell, wait_until
from orchestrator.errors import StoreError
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

THREAD = "coordinator"

PATIENT_SECONDS = 0.1
"""A duty that is due waits so long for the orders to come to an end: it may take longer than they can wait."""


class Coordinator:
    """`run` is the thread's whole life. `leave` may be called from any thread; the rest is the thread's own."""

    def __init__(
        self,
        *,
        session: Session,
        standing: Standing,
        book: OrderBook,
        carrier: Carrier,
        schedule: Schedule,
        activity: TellActivity,
        shelf: Shelf,
        counting: Counting,
        abort: Bell,
    ) -> None:
        self._session = session
        self._standing = standing
        self._book = book
        self._carrier = carrier
        self._schedule = schedule
        self._activity = activity
        self._shelf = shelf
        self._counting = counting
        self._abort = abort
        self._backoff = Backoff()
        self._known_as: tuple[Connection, str] | None = None
        self._leave_by: float | None = None
        self._is_hurried = False
        self._is_at_hand = False  # connected, and runs no duty, which may take long
        self._log = logs.get("coordinator")

    def leave(self, *, by: float) -> None:
        """Asks the thread to carry out the orders that are left, no duties, and end before `by` (CLOCK_MONOTONIC)."""
        self._leave_by = by
        self._book.ring()

    @property
    def takes_orders(self) -> bool:
        """Whether it would carry out an order now, or after others. Any thread may ask."""
        return self._is_at_hand and self._carrier.retry_at == math.inf

    def run(self) -> None:
        while not self._is_done():
            self._standing.moves(THREAD)
            self._book.hear()
            try:
                self._turn()
            except StoreError as error:
                self._session.failed(error)
            except Exception as error:  # noqa: BLE001 - the thread goes on
                self._log.exception("coordinator_failed")
                self._counting.database_failed(StoreError(str(error)))
                self._wait(time.monotonic() + self._backoff.fail())
        self._session.close()
        self._standing.waits(THREAD)

    def _is_done(self) -> bool:
        if self._leave_by is None:
            return False
        if not self._is_hurried:
            self._is_hurried = self._activity.is_hurried = True
            self._session.hurry()
            self._book.keep_ends_only()
        if self._book.outstanding == 0 or self._standing.worker_id is None:
            return True
        return time.monotonic() >= self._leave_by

    def _turn(self) -> None:
        worker_id = self._standing.worker_id
        self._is_at_hand = False
        if worker_id is None:
            self._wait(math.inf)  # the pulse rings once we are registered
        elif time.monotonic() < self._session.retry_at:
            self._wait(self._session.retry_at)
        else:
            self._work(worker_id)

    def _work(self, worker_id: str) -> None:
        """One batch of each kind of order, one duty; with nothing to do, a wait for what comes next."""
        connection = self._session.connection or self._session.open()
        if self._known_as != (connection, worker_id):
            self._activity.forget()
            self._known_as = (connection, worker_id)
        self._is_at_hand = True
        has_done = self._carrier.carry(connection)
        if self._leave_by is None and connection.is_open and time.monotonic() >= self._duty_due_at():
            self._is_at_hand = False
            has_done = self._schedule.run_one(connection) or has_done
            self._is_at_hand = True
        if connection.is_open:
            self._backoff.succeed()
            if has_done:
                self._session.answered()
            else:
                due_at = min(self._duty_due_at(), self._carrier.retry_at, self._activity.due_at, self._shelf.due_at)
                self._wait(due_at, connection)

    def _duty_due_at(self) -> float:
        """When the next duty is to be run: while there are orders a little later, lest they wait for its end."""
        return self._schedule.due_at + (PATIENT_SECONDS if self._book.outstanding else 0.0)

    def _wait(self, until: float, connection: Connection | None = None) -> None:
        """Until a moment, an order, a lost connection or a call to leave."""
        if self._leave_by is not None:
            until = min(until, self._leave_by)
        sources = (self._book, self._abort) if connection is None else (self._book, self._abort, connection)
        self._standing.waits(THREAD)
        wait_until(until, *sources)
        self._standing.moves(THREAD)
        if connection is not None:
            connection.wait(0.0)
