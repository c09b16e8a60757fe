"""What the service manager (systemd) is told, and when: that the pool is up, how it is, that it lives, that it ends.

Runs in the supervisor's loop, and says of it what only the loop can know: that it turns. Must never wait.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Protocol

from orchestrator.supervisor.notify_socket import NotifySocket
from orchestrator.supervisor.states import LEAVING, State
from orchestrator.supervisor.surroundings import PoolStatus
from orchestrator.telemetry import logs

STATUS_SECONDS = 2.0
"""A status that changes all the time is told this often."""

EXTENSION_SECONDS, EXTEND_EVERY_SECONDS = 30.0, 5.0
"""While a start or an end takes its time, the loop asks for so much more of it, this often. One that hangs does not."""

RETRY_SECONDS = 0.1

FEEDS_PER_PATIENCE = 4.0
"""So often the watchdog is fed in the time after which it bites: a turn may be late, a datagram may get lost."""


class Overdue(Protocol):
    """What the watchdog needs of the database threads."""

    @property
    def overdue_seconds(self) -> Mapping[str, float]: ...


class Stage(Enum):
    """How far the service is, with the words for it."""

    STARTING = ""
    READY = "READY=1"
    RELOADING = "RELOADING=1"
    STOPPING = "STOPPING=1"


class ServiceManager:
    """Call `turn` in each turn of the loop. `status_line` says in one line how the worker is.

    `watchdog_seconds`: the time after which it bites; None if there is none.
    """

    def __init__(
        self,
        notify_socket: NotifySocket,
        *,
        status_line: Callable[[], str],
        database: Overdue,
        watchdog_seconds: float | None,
    ) -> None:
        self._socket = notify_socket
        self._status_line = status_line
        self._database = database
        self._feed_every = math.inf if watchdog_seconds is None else watchdog_seconds / FEEDS_PER_PATIENCE
        self._feed_at = 0.0 if watchdog_seconds is not None else math.inf
        self._extend_at = 0.0
        self._retry_at = 0.0
        self._stage = Stage.STARTING
        self._told_status = ""
        self._look_at = 0.0
        self._state = ("", False)
        self._is_starving = False
        self._log = logs.get("supervisor")

    def turn(self, status: PoolStatus, now: float) -> None:
        """Say what is new or due. What was not taken is said again, RETRY_SECONDS later."""
        if now < self._retry_at:
            return
        stage, text = self._stage_of(status), self._new_status(status, now)
        is_feeding = now >= self._feed_at and self._gets_on()
        is_new_stage = stage is not self._stage
        # a new stage has a clock of its own: that of the stage before was extended, if any
        is_extending = (is_new_stage or now >= self._extend_at) and _takes_its_time(status)
        lines = _words(stage) if is_new_stage else []
        if text:
            lines.append(f"STATUS={text}")
        if is_feeding:
            lines.append("WATCHDOG=1")
        if is_extending:
            lines.append(f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1e6:.0f}")
        if not lines:
            return
        if not self._socket.send(lines):
            self._retry_at = self._look_at = now + RETRY_SECONDS
            return
        self._stage = stage
        self._told_status = text or self._told_status
        if is_feeding:
            self._feed_at = now + self._feed_every
        if is_extending:
            self._extend_at = now + EXTEND_EVERY_SECONDS

    def next_due(self) -> float:
        """When the watchdog is to be fed; a turn for its sake may be needed. CLOCK_MONOTONIC seconds."""
        return math.inf if self._is_starving else max(self._feed_at, self._retry_at)

    def _stage_of(self, status: PoolStatus) -> Stage:
        if status.state in LEAVING:
            return Stage.STOPPING
        if not status.is_ready:
            return Stage.STARTING
        if status.state == State.RELOADING and self._stage is not Stage.STARTING:
            return Stage.RELOADING
        return Stage.READY

    def _new_status(self, status: PoolStatus, now: float) -> str:
        """The status line, if it is time for one and it has changed; a new state is told at once."""
        state = (status.state, status.is_ready)
        if now < self._look_at and state == self._state:
            return ""
        self._look_at, self._state = now + STATUS_SECONDS, state
        line = " ".join(self._status_line().split())  # a line of its own would be an order to the service manager
        return line if line != self._told_status else ""

    def _gets_on(self) -> bool:
        """Whether the database threads get on. That the loop does is said by this being asked."""
        overdue = self._database.overdue_seconds
        if overdue and not self._is_starving:
            facts = {thread: f"late by {seconds:.0f} s" for thread, seconds in overdue.items()}
            self._log.error("watchdog_not_fed", reason="a database thread has not come back from a call", **facts)
        self._is_starving = bool(overdue)
        return not overdue


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """After which time the service manager's watchdog bites this process; None: it has none for us."""
    try:
        if int(environ.get("WATCHDOG_PID") or os.getpid()) != os.getpid():
            return None
        return int(environ["WATCHDOG_USEC"]) / 1e6 or None
    except (KeyError, ValueError):
        return None


def _words(stage: Stage) -> list[str]:
    lines = [stage.value] if stage.value else []
    if stage is Stage.RELOADING:
        lines.append(f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
    return lines


def _takes_its_time(status: PoolStatus) -> bool:
    """Whether the time that the service manager gives should not run out.

    A drain takes as long as SHUTDOWN_TIMEOUT lets it. A start may have to wait for the database, or for the lease of
    another instance; and once some child works it is not to be killed because another one does not come up. But an
    import that hangs, or a pool of which no child comes up, is the service manager's to end.
    """
    if status.state in LEAVING:
        return True
    if status.is_ready:
        return False
    return bool(status.types) if status.state == State.STARTING else status.ready > 0
