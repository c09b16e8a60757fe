"""Retention: completed tasks are deleted once they are older than RETENTION. A leader's duty.

It walks along the ids in small steps, with pauses that keep it to a share of the database's time, and begins anew at
the front when it has come to those that are too young, and has seen those of foreign ids. What stays there for ever,
such as dead letters, is looked at in every walk: so the more it costs, the rarer the walks.
"""

import time

from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.duties.duty import leaders_call_seconds
from orchestrator.coordinator.standing import Standing
from orchestrator.store import retention
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

STEP = 1000
SHARE_WHILE_PRUNING, SHARE_WHILE_LOOKING = 0.2, 0.01
"""Of the database's time: within a walk, and of all time for the steps that found nothing to delete."""


class Retention:
    """Wanted while this worker leads, unless RETENTION is none."""

    name = "retention"

    def __init__(
        self,
        standing: Standing,
        counting: Counting,
        *,
        keep_seconds: float | None,
        lease_seconds: float,
        every_seconds: float,
    ) -> None:
        self._standing = standing
        self._counting = counting
        self._keep_seconds = keep_seconds
        self._within = leaders_call_seconds(lease_seconds)
        self._position = retention.START
        self._is_foreign = False
        self._deleted = 0
        self._looked_seconds = 0.0
        self._log = logs.get("coordinator")
        self.every_seconds = every_seconds

    def is_wanted(self) -> bool:
        return self._keep_seconds is not None and self._standing.lead is not None

    def run_once(self, connection: Connection) -> float | None:
        """One step. Returns when the next is due: soon within a walk, else `every_seconds` or later."""
        lead = self._standing.lead
        if lead is None or self._keep_seconds is None:
            return None
        began = time.monotonic()
        step = retention.prune(
            connection,
            term=lead.term.number,
            holder=lead.holder,
            keep_seconds=self._keep_seconds,
            after=self._position,
            limit=STEP,
            within=self._within,
            is_foreign=self._is_foreign,
        )
        spent = time.monotonic() - began
        self._counting.pruned(step.deleted)
        self._deleted += step.deleted
        if not step.deleted:
            self._looked_seconds += spent
        if step.position is None:
            if self._is_foreign:
                return self._walked()
            self._is_foreign = True
        self._position = step.position or retention.START
        return spent / SHARE_WHILE_PRUNING

    def _walked(self) -> float:
        """The end of a walk."""
        if self._deleted:
            self._log.info("tasks_pruned", deleted=self._deleted)
        wait = max(self.every_seconds, self._looked_seconds / SHARE_WHILE_LOOKING)
        self._position, self._is_foreign = retention.START, False
        self._deleted, self._looked_seconds = 0, 0.0
        return wait
