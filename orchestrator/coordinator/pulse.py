"""The pulse thread: heartbeat, lease and LISTEN on a connection of their own, and nothing else.

So no slow maintenance makes a healthy worker look dead or delays a wake-up. It starts the database side (schema, guard,
registration), then beats for ever; an outage only makes it try again. It ends when it is told to leave. Nothing it
meets may end it otherwise, or hold it longer than a call's deadline.
"""

import math
import time
from collections.abc import Callable

from orchestrator.config import Settings, without_password
from orchestrator.coordinator.backoff import Backoff
from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.departure import Departure
from orchestrator.coordinator.election import Election
from orchestrator.coordinator.leadership import Leadership
from orchestrator.coordinator.membership import Membership
from orchestrator.coordinator.session import CONNECT_SECONDS, Session
from orchestrator.coordinator.standing import Standing
from orchestrator.coordinator.starting import Starting
from orchestrator.coordinator.waiting import Bell, wait_until
from orchestrator.errors import DatabaseUnavailable, InstanceRunningError, SchemaError, StoreError
from orchestrator.exit_codes import ExitCode
from orchestrator.mailbox import (
    DeclaredDead,
    LeaseLost,
    Mailbox,
    Registered,
    Report,
    Sleeper,
    StartFailed,
    WorkIsDue,
)
from orchestrator.store import server
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

THREAD = "pulse"

LISTEN_SECONDS = 5.0
WAKES_APART_SECONDS = 0.005
"""Notifications may come by the thousand; the supervisor's loop is told at most this often."""

SHORTEST_OPEN_SECONDS = 0.5


class Pulse:
    """`run` is the thread's whole life. `leave` may be called from any thread; the rest is the thread's own."""

    def __init__(
        self,
        settings: Settings,
        *,
        session: Session,
        standing: Standing,
        leadership: Leadership,
        election: Election,
        membership: Membership,
        starting: Starting,
        departure: Departure,
        reports: Mailbox[Report],
        sleeper: Sleeper,
        counting: Counting,
        abort: Bell,
        wake_coordinator: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._session = session
        self._standing = standing
        self._leadership = leadership
        self._election = election
        self._membership = membership
        self._starting = starting
        self._departure = departure
        self._worker_id = membership.worker_id
        self._reports = reports
        self._sleeper = sleeper
        self._counting = counting
        self._abort = abort
        self._wake_coordinator = wake_coordinator
        self._bell = Bell()
        self._backoff = Backoff()
        self._leave_by: float | None = None
        self._is_started = False
        self._has_failed = False
        self._is_displaced = False
        self._give_up_at = 0.0
        self._trouble: tuple[ExitCode, Exception] | None = None
        self._listening: Connection | None = None
        self._wake_at = math.inf
        self._woke_at = 0.0
        self._log = logs.get("coordinator")

    def leave(self, *, by: float) -> None:
        """Asks the thread to say goodbye to the database and end, before `by` (CLOCK_MONOTONIC seconds)."""
        self._leave_by = by
        self._bell.ring()

    @property
    def is_connected(self) -> bool:
        """Whether it has a connection at this moment; for any thread."""
        return self._session.connection is not None

    def run(self) -> None:
        self._give_up_at = time.monotonic() + self._settings.database_wait
        while self._leave_by is None:
            self._standing.moves(THREAD)
            try:
                self._turn()
            except SchemaError as error:
                self._fail(ExitCode.SCHEMA, str(error))
            except InstanceRunningError as error:
                self._fail(ExitCode.OTHER_INSTANCE, str(error))
            except StoreError as error:
                self._session.failed(error)
                self._trouble = (ExitCode.DATABASE, error)
            except Exception as error:  # noqa: BLE001 - the thread goes on
                self._log.exception("pulse_failed")
                self._counting.database_failed(StoreError(str(error)))
                self._wait(time.monotonic() + self._backoff.fail())
                self._trouble = (ExitCode.BUG, error)
        self._say_goodbye(self._leave_by)
        self._standing.waits(THREAD)

    def _turn(self) -> None:
        now, is_starting = time.monotonic(), not self._is_started
        if self._has_failed:
            self._wait(math.inf)
        elif is_starting and self._trouble is not None and now >= self._give_up_at:
            self._give_up(*self._trouble)
        elif now < self._session.retry_at:
            self._wait(min(self._session.retry_at, self._give_up_at if is_starting else math.inf))
        else:
            connection = self._session.connection or self._session.open(within=self._open_within())
            if self._leave_by is not None:
                return  # nobody would wait for the end of what would begin now
            if is_starting:
                self._start(connection)
            else:
                self._live(connection)

    def _live(self, connection: Connection) -> None:
        """Whatever is due, then a wait for what comes next."""
        if self._listening is not connection:
            self._listen(connection)
        try:
            due_at = self._hold_lease(connection)
        except DatabaseUnavailable:
            raise
        except Exception:
            self._beat(connection)  # whatever is wrong with the lease, this worker lives
            raise
        due_at = min(due_at, self._beat(connection))
        self._session.answered()
        self._backoff.succeed()
        if connection.has_notifications:
            self._hear(connection)
        else:
            self._wait(min(due_at, self._wake_at), connection)

    # start

    def _start(self, connection: Connection) -> None:
        again_seconds = self._starting.step(connection)
        self._session.answered()
        self._trouble = None
        self._give_up_at = time.monotonic() + self._settings.database_wait
        if again_seconds is not None:
            self._wait(time.monotonic() + again_seconds, connection)
        else:
            self._announce(connection)

    def _announce(self, connection: Connection) -> None:
        wanted_id, worker_id = self._worker_id, self._membership.worker_id
        self._is_started = True
        self._standing.registered(worker_id)
        self._reports.post(Registered(worker_id, server.version_text(connection)))
        if worker_id != wanted_id:
            self._reports.post(DeclaredDead(worker_id))
        self._wake_coordinator()

    def _open_within(self) -> float:
        if self._is_started:
            return CONNECT_SECONDS
        left = self._give_up_at - time.monotonic()
        return min(CONNECT_SECONDS, max(left, SHORTEST_OPEN_SECONDS))

    def _give_up(self, exit_code: ExitCode, error: Exception) -> None:
        address = without_password(self._settings.database_url)
        waited = f"{self._settings.database_wait:g} s (DATABASE_WAIT)"
        self._fail(exit_code, f"the database {address} could not be used within {waited}: {error}")

    def _fail(self, exit_code: ExitCode, message: str) -> None:
        self._has_failed = True
        self._session.close()
        self._reports.post(StartFailed(int(exit_code), message))

    # the rest of its life

    def _hold_lease(self, connection: Connection) -> float:
        had_lead = self._standing.lead is not None
        due_at = self._election.tick(connection, self._membership.worker_id)
        if not had_lead and self._standing.lead is not None:
            self._wake_coordinator()  # there are duties that only a leader has
        return due_at

    def _beat(self, connection: Connection) -> float:
        if self._election.displaced_by is not None:
            if not self._is_displaced:
                self._is_displaced = True
                self._reports.post(LeaseLost(self._election.displaced_by))
            return math.inf  # it has declared us dead, and we are about to end
        due_at = self._membership.beat(connection)
        if due_at is not None:
            return due_at
        worker_id = self._membership.enter_anew(connection)
        self._standing.registered(worker_id)
        self._reports.post(DeclaredDead(worker_id))
        self._wake_coordinator()
        return time.monotonic()  # the lease wants the new name

    def _listen(self, connection: Connection) -> None:
        """Also tells the loop to look: what was notified while nobody listened is lost."""
        server.listen(connection, within=LISTEN_SECONDS)
        self._listening = connection
        self._wake()

    def _hear(self, connection: Connection) -> None:
        """What was notified: the first that is done with whatever has come, for a task waits."""
        messages = connection.notifications()
        is_lease_free = server.LEASE_IS_FREE in messages
        if is_lease_free:
            self._election.hasten()
        if len(messages) > is_lease_free and self._standing.activity.has_sleepers:
            self._wake_at = min(self._wake_at, self._woke_at + WAKES_APART_SECONDS)
        if time.monotonic() >= self._wake_at:
            self._wake()

    def _wake(self) -> None:
        self._wake_at = math.inf
        self._woke_at = time.monotonic()
        self._standing.stirred()
        self._reports.post(WorkIsDue(has_woken=self._sleeper.wake()))

    def _wait(self, until: float, connection: Connection | None = None) -> None:
        """Until a moment, a notification or a lost connection, or a call to leave."""
        sources = (self._bell, self._abort) if connection is None else (self._bell, self._abort, connection)
        self._standing.waits(THREAD)
        wait_until(until, *sources)
        if connection is not None:
            connection.wait(0.0)
            self._hear(connection)
        self._standing.moves(THREAD)
        self._bell.clear()

    # the end

    def _say_goodbye(self, by: float) -> None:
        try:
            if self._is_started or self._leadership.is_held:
                left = by - time.monotonic()
                connection = self._session.connection or self._session.open(within=left)
                self._departure.take(connection, by=by)
        except StoreError as error:
            self._log.warning("goodbye_failed", error=str(error))
        except Exception:  # noqa: BLE001 - the process is about to end
            self._log.exception("goodbye_failed")
        finally:
            self._session.close()
