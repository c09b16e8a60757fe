"""The supervisor's view of its database threads: start them, order, look, stop. Nothing here touches the database."""

import threading
import time
from collections.abc import Mapping

from orchestrator.board.kernel import start_thread
from orchestrator.config import Settings
from orchestrator.coordinator.beginning import BeginServing
from orchestrator.coordinator.carrier import Carrier
from orchestrator.coordinator.coordinator import THREAD as COORDINATOR
from orchestrator.coordinator.coordinator import Coordinator
from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.departure import Departure
from orchestrator.coordinator.duties.audit import Audit
from orchestrator.coordinator.duties.census import Census
from orchestrator.coordinator.duties.enqueued import Enqueued
from orchestrator.coordinator.duties.examples import Examples
from orchestrator.coordinator.duties.known_types import KnownTypes
from orchestrator.coordinator.duties.periodic import Periodic
from orchestrator.coordinator.duties.promotion import Promotion
from orchestrator.coordinator.duties.recovery import Recovery, Silence
from orchestrator.coordinator.duties.retention import Retention
from orchestrator.coordinator.duties.roll_call import RollCall
from orchestrator.coordinator.election import Election
from orchestrator.coordinator.errands import (
    AuditClaims,
    HandBackClaims,
    MarkStarted,
    RegisterTypes,
    TellActivity,
)
from orchestrator.coordinator.guard import Guard
from orchestrator.coordinator.leadership import Leadership
from orchestrator.coordinator.membership import Membership, longest_gap
from orchestrator.coordinator.order_book import OrderBook
from orchestrator.coordinator.outcomes import OUTCOMES_AT_ONCE, PlanAhead, WriteOutcomes
from orchestrator.coordinator.process import this_process
from orchestrator.coordinator.pulse import THREAD as PULSE
from orchestrator.coordinator.pulse import Pulse
from orchestrator.coordinator.schedule import Schedule
from orchestrator.coordinator.session import Session, longest_pause
from orchestrator.coordinator.shelf import Shelf
from orchestrator.coordinator.standing import CoordinationStatus, Standing
from orchestrator.coordinator.starting import Starting
from orchestrator.coordinator.waiting import Bell
from orchestrator.mailbox import Activity, Mailbox, Order, Report, Sleeper
from orchestrator.model import NewTask, Process

GOODBYE_SHARE, LONGEST_GOODBYE_SECONDS = 0.3, 2.0
"""Of the time to stop: so much is kept for the worker's row and the lease, after the orders."""

JOIN_SECONDS = 0.05

AUDIT_SECONDS = 5.0
CENSUS_SECONDS, ENQUEUED_SECONDS = 8.0, 6.5
"""Rare enough that a worker with nothing to do sends two statements a second in all; counts are to be 10 s old at most,
what was enqueued is to be counted within 15 s, which takes two looks."""


class Coordination:
    """Both threads. `reports` is read by the caller; `counting` is called from both threads.

    All methods may be called from the supervisor's main thread at any time and return at once, but for `stop`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        version: str,
        reports: Mailbox[Report],
        on_count: Counting,
        sleeper: Sleeper | None = None,
        process: Process | None = None,
        worker_id: str | None = None,
        examples: tuple[NewTask, ...] = (),
    ) -> None:
        """`sleeper` is whom notifications wake, by default nobody; `process` is whom the lease names, by default this
        process; `worker_id` is to be registered, by default one made of `process`; `examples` are enqueued once after
        the start.
        """
        process = process if process is not None else this_process()
        membership = Membership(settings, process=process, worker_id=worker_id, version=version)
        self._standing = Standing()
        self._book = OrderBook()
        self._aborts = {PULSE: Bell(), COORDINATOR: Bell()}
        self._coordinator = _make_coordinator(
            settings, self._standing, self._book, reports, on_count, self._aborts[COORDINATOR], examples
        )
        self._pulse = _make_pulse(
            settings,
            self._standing,
            self._book,
            reports,
            sleeper or Sleeper(),
            on_count,
            self._aborts[PULSE],
            process,
            membership,
        )
        self._threads = {
            PULSE: threading.Thread(target=self._pulse.run, name=PULSE, daemon=True),
            COORDINATOR: threading.Thread(target=self._coordinator.run, name=COORDINATOR, daemon=True),
        }
        self._is_started = False

    def start(self) -> None:
        """Starts both threads: `Registered`, or `StartFailed`, will be reported. NoRoomError: not even they may run."""
        for name in (COORDINATOR, PULSE):  # without the other this one does nothing
            start_thread(self._threads[name])
        self._is_started = True

    def post(self, order: Order) -> None:
        """Gives an order, which is carried out once, whatever becomes of the database meanwhile."""
        if isinstance(order, Activity):
            self._standing.active(order)
        self._standing.stirred()
        self._book.post(order)

    def app_loaded(self) -> None:
        """The app could be imported. Until then an older version's schema is not upgraded."""
        self._standing.app_loaded()

    @property
    def outstanding(self) -> int:
        """How many single orders (an outcome, a claim, a start …) the database has not taken yet."""
        return self._book.outstanding

    @property
    def has_time(self) -> bool:
        """Whether outcomes would be written at once, or after those that are being written."""
        return self._coordinator.takes_orders and self._book.outstanding < OUTCOMES_AT_ONCE

    @property
    def overdue_seconds(self) -> Mapping[str, float]:
        """By thread, if it does not get on: for how long it should have come back. For the watchdog."""
        return self._standing.overdue_seconds()

    def status(self) -> CoordinationStatus:
        """What is known at this moment; for any thread."""
        return self._standing.snapshot()

    def stop(self, *, within: float) -> None:
        """Ends both threads politely: ends of claims are written, the worker's row and the lease given up.

        Never takes longer than `within` seconds: what is not done by then is left to whoever recovers it. A thread in
        a system call that cannot be interrupted (a name look-up) is left behind; it is a daemon thread.
        """
        if not self._is_started:
            return
        deadline = time.monotonic() + max(0.0, within - 2 * JOIN_SECONDS)
        orders_by = deadline - min(within * GOODBYE_SHARE, LONGEST_GOODBYE_SECONDS)
        if not self._pulse.is_connected and (self._standing.worker_id is None or self._book.outstanding == 0):
            self._pulse.leave(by=deadline)  # should it connect at this very moment, it begins nothing any more
            if not self._pulse.is_connected:
                deadline = orders_by = time.monotonic()  # there is nobody to say goodbye to
        self._coordinator.leave(by=orders_by)
        self._end(COORDINATOR, orders_by)
        self._pulse.leave(by=deadline)
        self._end(PULSE, deadline)

    def _end(self, name: str, by: float) -> None:
        """Waits for a thread, then cuts short whatever it waits for."""
        thread = self._threads[name]
        thread.join(max(0.0, by - time.monotonic()))
        if thread.is_alive():
            self._aborts[name].ring()
            thread.join(JOIN_SECONDS)


def _make_pulse(
    settings: Settings,
    standing: Standing,
    book: OrderBook,
    reports: Mailbox[Report],
    sleeper: Sleeper,
    counting: Counting,
    abort: Bell,
    process: Process,
    membership: Membership,
) -> Pulse:
    leadership = Leadership(process=process, lease_seconds=settings.leader_term, standing=standing)
    election = Election(leadership, is_distributed=settings.distributed, tick_seconds=settings.heartbeat_interval)
    guard = None if settings.distributed else Guard(leadership, standing)
    starting = Starting(
        settings, standing=standing, leadership=leadership, election=election, membership=membership, guard=guard
    )
    return Pulse(
        settings,
        session=_session(settings, PULSE, standing, counting, abort),
        standing=standing,
        leadership=leadership,
        election=election,
        membership=membership,
        starting=starting,
        departure=Departure(leadership=leadership, membership=membership, book=book, counting=counting),
        reports=reports,
        sleeper=sleeper,
        counting=counting,
        abort=abort,
        wake_coordinator=book.ring,
    )


def _make_coordinator(
    settings: Settings,
    standing: Standing,
    book: OrderBook,
    reports: Mailbox[Report],
    counting: Counting,
    abort: Bell,
    examples: tuple[NewTask, ...],
) -> Coordinator:
    if not settings.distributed:
        standing.workers_counted(1)
    recovery, example_duty, schedule = _make_duties(settings, standing, reports, counting, examples)
    activity = TellActivity(book, standing, lambda: schedule.hasten(Promotion.name))
    beginning = BeginServing(
        book,
        standing,
        reports,
        recovery=recovery,
        examples=example_duty,
        is_distributed=settings.distributed,
    )
    shelf = Shelf(book)
    errands = (
        shelf,
        WriteOutcomes(book, shelf, reports, counting),
        HandBackClaims(book, shelf, reports, counting),
        activity,
        MarkStarted(book, shelf),
        RegisterTypes(book, lambda: schedule.hasten(Periodic.name)),
        beginning,
        AuditClaims(book, standing, reports),
        PlanAhead(),
    )
    return Coordinator(
        session=_session(settings, COORDINATOR, standing, counting, abort),
        standing=standing,
        book=book,
        carrier=Carrier(errands, counting),
        schedule=schedule,
        activity=activity,
        shelf=shelf,
        counting=counting,
        abort=abort,
    )


def _session(settings: Settings, thread: str, standing: Standing, counting: Counting, abort: Bell) -> Session:
    return Session(
        settings.database_url,
        thread=thread,
        standing=standing,
        counting=counting,
        abort=abort,
        longest_pause=longest_pause(settings.worker_timeout),
    )


def _make_duties(
    settings: Settings,
    standing: Standing,
    reports: Mailbox[Report],
    counting: Counting,
    examples: tuple[NewTask, ...],
) -> tuple[Recovery, Examples, Schedule]:
    tick, lease = settings.heartbeat_interval, settings.leader_term
    silence = Silence(settings.worker_timeout, longest_gap(tick)) if settings.distributed else None
    recovery = Recovery(
        standing,
        counting,
        lease_seconds=lease,
        every_seconds=min(tick, settings.cleanup_interval),
        silence=silence,
    )
    example_duty = Examples(standing, examples, patience_seconds=lease + 2 * tick)
    schedule = Schedule(
        (
            Promotion(standing, reports, claim_interval=settings.claim_interval),
            recovery,
            Audit(standing, reports, every_seconds=min(AUDIT_SECONDS, tick)),
            Census(standing, has_begun=lambda: recovery.has_begun, every_seconds=min(CENSUS_SECONDS, tick)),
            Enqueued(standing, counting, lease_seconds=lease, every_seconds=min(ENQUEUED_SECONDS, tick)),
            Retention(
                standing,
                counting,
                keep_seconds=settings.retention,
                lease_seconds=lease,
                every_seconds=settings.cleanup_interval,
            ),
            Periodic(standing, has_begun=lambda: recovery.has_begun, lease_seconds=lease),
            KnownTypes(standing, counting, is_distributed=settings.distributed, every_seconds=tick),
            RollCall(standing, is_distributed=settings.distributed, every_seconds=tick),
            example_duty,
        ),
        counting,
    )
    return recovery, example_duty, schedule
