"""Counts what anybody added to the queue, from the ids that the database made. A leader's duty.

Exact: how far the counting has got stands in the lease row and moves under the term, and a reply that was lost is
recognised by the position and counted again for this worker alone. Needs two looks, so it is some seconds behind;
after a burst it takes its time, for what was added is about to be run.
"""

import time
from collections import deque

from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.duties.duty import leaders_call_seconds
from orchestrator.coordinator.standing import Lead, Standing
from orchestrator.store import arrivals
from orchestrator.store.arrivals import Sample
from orchestrator.store.connection import Connection

SHARE_OF_TIME = 0.1
"""Of the database's, while there is more to count than fits into one step: a million tasks are counted in 4 seconds."""

SAMPLES_KEPT = 500
"""A transaction that is open for longer than these cover delays the count until it ends, and no more."""


class Enqueued:
    """Wanted while this worker leads."""

    name = "enqueued"

    def __init__(self, standing: Standing, counting: Counting, *, lease_seconds: float, every_seconds: float) -> None:
        self._standing = standing
        self._counting = counting
        self._within = leaders_call_seconds(lease_seconds)
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)
        self._term = 0
        self._counted_to: str | None = None
        self._is_provisional = False
        self.every_seconds = every_seconds

    def is_wanted(self) -> bool:
        return self._standing.lead is not None

    def run_once(self, connection: Connection) -> float | None:
        lead = self._standing.lead
        if lead is None:
            return None
        self._enter(lead)
        latest = arrivals.sample(connection, within=self._within)
        if self._samples and self._samples[-1].clock > latest.clock:
            self._samples.clear()  # the server's clock was set back: these tell nothing
        up_to = arrivals.horizon(self._samples, latest)
        self._samples.append(latest)
        if self._counted_to is None:
            self._count(connection, lead, 0.0)
        if up_to is None or self._counted_to is None:
            return None
        self._forget_samples_before(up_to)
        began = time.monotonic()
        is_complete = self._count(connection, lead, up_to)
        return None if is_complete else (time.monotonic() - began) / SHARE_OF_TIME

    def _enter(self, lead: Lead) -> None:
        """Terms that follow one another, both ours: nobody counted in between, so our own position still holds."""
        if lead.term.number not in (self._term, self._term + 1):
            self._counted_to = None
        self._term = lead.term.number

    def _count(self, connection: Connection, lead: Lead, up_to: float) -> bool:
        """One step. False: there is more to count."""
        count = arrivals.count_enqueued(
            connection,
            term=lead.term.number,
            holder=lead.holder,
            after=self._counted_to,
            is_provisional=self._is_provisional,
            up_to=up_to,
            within=self._within,
        )
        if count is None:
            return True  # the term is over: its successor goes on from where the row says
        self._counted_to, self._is_provisional = count.counted_to, count.is_provisional
        for type_name, number in count.by_type:
            self._counting.enqueued(type_name, number)
        return count.is_complete

    def _forget_samples_before(self, up_to: float) -> None:
        while self._samples and self._samples[0].clock < up_to:
            self._samples.popleft()
