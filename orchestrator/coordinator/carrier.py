"""Carries out the supervisor's orders, the urgent kinds first. One kind that is refused holds up no other."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.coordinator.backoff import Backoff
from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.errands import Errand
from orchestrator.errors import DatabaseUnavailable, StatementRefused, StoreError
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

LONGEST_PAUSE_SECONDS = 5.0


@dataclass(slots=True)
class _Entry:
    errand: Errand
    retry_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(base=0.2, cap=LONGEST_PAUSE_SECONDS))


class Carrier:
    """The errands in the order of their urgency. One thread only."""

    def __init__(self, errands: Sequence[Errand], counting: Counting) -> None:
        self._entries = [_Entry(errand) for errand in errands]
        self._counting = counting
        self._log = logs.get("coordinator")

    def carry(self, connection: Connection) -> bool:
        """At most one statement's worth of each kind; whether anything was done. Raises DatabaseUnavailable."""
        has_done = False
        for entry in self._entries:
            if time.monotonic() >= entry.retry_at:
                has_done = self._carry_one(entry, connection) or has_done
        return has_done

    @property
    def retry_at(self) -> float:
        """When (CLOCK_MONOTONIC) an order that was refused is to be tried again; infinity if none was."""
        now = time.monotonic()
        return min((entry.retry_at for entry in self._entries if entry.retry_at > now), default=math.inf)

    def _carry_one(self, entry: _Entry, connection: Connection) -> bool:
        try:
            has_done = entry.errand.run(connection)
        except DatabaseUnavailable:
            raise
        except StatementRefused as refusal:
            entry.retry_at = time.monotonic() + entry.backoff.fail()
            self._counting.database_failed(refusal)
            self._log.warning("order_refused", order=entry.errand.name, sqlstate=refusal.sqlstate, error=str(refusal))
            return False
        except Exception as error:  # noqa: BLE001 - one kind of order must not stop the others
            entry.retry_at = time.monotonic() + entry.backoff.fail()
            self._counting.database_failed(StoreError(str(error)))
            self._log.exception("order_failed", order=entry.errand.name)
            return False
        if has_done:
            entry.backoff.succeed()
        return has_done
