"""When which duty is due; one that fails is tried again later and keeps no other from its time. Coordinator thread."""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.coordinator.backoff import Backoff
from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.duties.duty import Duty
from orchestrator.errors import DatabaseUnavailable, DeadlineExceeded, StatementRefused, StoreError
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs
from orchestrator.telemetry.repeats import Repeats

LONGEST_PAUSE_SECONDS = 5.0
"""Between tries of a duty whose own pace is quicker: whatever refuses it, somebody's lock mostly, soon after its end it
is to be done again. No task that waits for its time runs before that."""

SHARE_OF_TIME = 0.2
"""Of a duty that sets no pace itself: if it takes long it is done more rarely, and leaves the connection to orders."""


@dataclass(slots=True)
class _Entry:
    duty: Duty
    due_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(base=1.0, cap=LONGEST_PAUSE_SECONDS))
    refusals: Repeats = field(default_factory=Repeats)


class Schedule:
    """The duties and their times, by the monotonic clock. One thread only."""

    def __init__(self, duties: Sequence[Duty], counting: Counting) -> None:
        self._entries = {duty.name: _Entry(duty) for duty in duties}
        self._counting = counting
        self._log = logs.get("coordinator")

    def hasten(self, name: str) -> None:
        """The duty is due now."""
        self._entries[name].due_at = 0.0

    @property
    def due_at(self) -> float:
        """When the next wanted duty is due; infinity if none is wanted."""
        return min((entry.due_at for entry in self._entries.values() if entry.duty.is_wanted()), default=math.inf)

    def run_one(self, connection: Connection) -> bool:
        """Runs the wanted duty that has been due for longest; False: none is due.

        DatabaseUnavailable is the caller's to handle, but for a deadline: that is the duty's own like any other
        failure, because one slow statement is no outage, though it costs the connection.
        """
        wanted = [entry for entry in self._entries.values() if entry.duty.is_wanted()]
        entry = min(wanted, key=lambda each: each.due_at, default=None)
        if entry is None or time.monotonic() < entry.due_at:
            return False
        began = time.monotonic()
        try:
            again_seconds = entry.duty.run_once(connection)
        except (StatementRefused, DeadlineExceeded) as failure:
            self._postpone(entry)
            self._counting.database_failed(failure)
            if entry.refusals.is_news(str(failure)):
                self._log.warning("duty_refused", duty=entry.duty.name, error=str(failure))
        except DatabaseUnavailable:
            entry.due_at = time.monotonic() + entry.backoff.fail()  # were it the cause, it must not come first again
            raise
        except Exception as error:  # noqa: BLE001 - one duty must not stop the others
            self._postpone(entry)
            self._counting.database_failed(StoreError(str(error)))
            self._log.exception("duty_failed", duty=entry.duty.name)
        else:
            entry.backoff.succeed()
            entry.refusals.over()
            if again_seconds is None:
                again_seconds = entry.duty.every_seconds * random.uniform(0.9, 1.0)
                again_seconds = max(again_seconds, (time.monotonic() - began) * (1 / SHARE_OF_TIME - 1))
            entry.due_at = time.monotonic() + again_seconds
        return True

    def _postpone(self, entry: _Entry) -> None:
        """Never sooner than its own pace, and later with each failure in a row."""
        entry.due_at = time.monotonic() + max(entry.backoff.fail(), min(entry.duty.every_seconds, 600.0))
