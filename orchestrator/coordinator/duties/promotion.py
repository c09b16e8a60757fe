"""Promotion: tasks whose time has come become claimable, and somebody who sleeps hears of work.

This is the poll: one statement per CLAIM_INTERVAL for a whole worker, however many children it has. Any worker does it.
"""

import random
import time

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
LONG_LOOK_SECONDS, LOOKING_SHARE = 0.25, 0.2
"""Once looking whether there is work takes so long, twice in a row, that share of the time goes into it and no more: as
long as somebody holds an old snapshot, all that was claimed since lies dead in the way, a million in a third of a
second."""


class Promotion:
    """Wanted while this worker may claim."""

    name = "promotion"

    def __init__(self, standing: Standing, reports: Mailbox[Report], *, claim_interval: float) -> None:
        self._standing = standing
        self._reports = reports
        self._refusals = 0
        self._look_at = 0.0
        self._look_seconds = 0.0
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
        """While it is refused nothing can be claimed either: rights are missing, or somebody has locked the table.

        Or the look took too long: then a child may look, who has more time.
        """
        began = time.monotonic()
        looks = self._standing.activity.has_sleepers and began >= self._look_at
        try:
            due = upkeep.promote_due(connection, limit=PROMOTED_AT_ONCE, within=PROMOTE_SECONDS, looks=looks)
        except StatementRefused as refusal:
            self._refusals += 1
            if looks and refusal.took_too_long:
                self._reports.post(WorkIsDue())
            if self._refusals >= REFUSALS_TO_TELL and self.is_wanted():
                self._standing.missed(POLL)
            raise
        finally:
            if looks:
                self._pace_looks(began, time.monotonic())
        self._refusals = 0
        self._standing.reached(POLL)
        return due

    def _pace_looks(self, began: float, ended: float) -> None:
        """A look that takes long but once says more about the server's moment than about the table."""
        took, before = ended - began, self._look_seconds
        self._look_seconds = took
        if min(took, before) >= LONG_LOOK_SECONDS:
            self._look_at = began + min(took, before) / LOOKING_SHARE
