"""Promotion: tasks whose time has come become claimable, and somebody who sleeps hears of work.

This is the poll: one statement per CLAIM_INTERVAL for a whole worker, however many children it has. Any worker does it.
"""

import random

from orchestrator.coordinator.standing import POLL, Standing
from orchestrator.errors import StatementRefused
from orchestrator.mailbox import Mailbox, Report, WorkIsDue
from orchestrator.store import upkeep
from orchestrator.store.connection import Connection

PROMOTE_SECONDS = 5.0
PROMOTED_AT_ONCE = 1000
SOONEST_SECONDS = 0.01
REFUSALS_TO_TELL = 2
"""In a row: one passes."""


class Promotion:
    """Wanted while this worker may claim."""

    name = "promotion"

    def __init__(self, standing: Standing, reports: Mailbox[Report], *, claim_interval: float) -> None:
        self._standing = standing
        self._reports = reports
        self._refusals = 0
        self.every_seconds = claim_interval

    def is_wanted(self) -> bool:
        return self._standing.activity.is_claiming

    def run_once(self, connection: Connection) -> float | None:
        """Also returns early enough for the next waiting task."""
        due = self._promote(connection)
        if due.is_ready and self._standing.activity.has_sleepers:
            self._standing.stirred()
            self._reports.post(WorkIsDue())
        seconds = self.every_seconds * random.uniform(0.95, 1.0)  # many workers must not ask in step
        if due.next_due_in is not None:
            seconds = min(seconds, due.next_due_in)
        return max(seconds, SOONEST_SECONDS)

    def _promote(self, connection: Connection) -> upkeep.Due:
        """While it is refused nothing can be claimed either: rights are missing, or somebody has locked the table."""
        try:
            due = upkeep.promote_due(connection, limit=PROMOTED_AT_ONCE, within=PROMOTE_SECONDS)
        except StatementRefused:
            self._refusals += 1
            if self._refusals >= REFUSALS_TO_TELL and self.is_wanted():
                self._standing.missed(POLL)
            raise
        self._refusals = 0
        self._standing.reached(POLL)
        return due
