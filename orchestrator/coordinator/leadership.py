"""The lease as this worker holds it: won, renewed, trusted until a deadline of its own clock, given back.

Runs in the pulse thread. `Standing.lead` is how the other threads see it; what they write under it names the term, and
the database refuses a term that is over: a trust that lasts too long could delay, but never harm.
"""

import random
import time

from orchestrator.coordinator.process import is_gone
from orchestrator.coordinator.standing import Lead, Standing
from orchestrator.model import LeaseHolder, Process, Term
from orchestrator.store import leadership
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

RENEWALS_PER_LEASE = 3

TRUSTED_SHARE = 0.95
"""Of the lease, counted from before the query that won or renewed it: so much may this clock run slow."""

SHORTEST_CALL_SECONDS, LONGEST_CALL_SECONDS = 0.5, 5.0

_FREE = LeaseHolder(holder=None, term=0, renewed_at=None, remaining_seconds=0.0, process=None)


class Leadership:
    """One lease, held under the worker's present name. Methods with a connection raise StoreError; one thread only."""

    def __init__(self, *, process: Process, lease_seconds: float, standing: Standing) -> None:
        self._process = process
        self._lease_seconds = lease_seconds
        self._standing = standing
        self._lead: Lead | None = None
        self._within = min(max(lease_seconds / 6, SHORTEST_CALL_SECONDS), LONGEST_CALL_SECONDS)
        self._log = logs.get("coordinator")
        self.renew_at = 0.0

    @property
    def is_held(self) -> bool:
        """Whether the lease was ours when the database was last asked; it may have run out since."""
        return self._lead is not None

    @property
    def holder(self) -> str | None:
        """The name under which the lease is held."""
        return None if self._lead is None else self._lead.holder

    def acquire(self, connection: Connection, holder: str) -> bool:
        """Takes the lease if it is free, or ours by a reply that was lost."""
        asked_at = time.monotonic()
        term = leadership.acquire(
            connection,
            holder=holder,
            process=self._process,
            lease_seconds=self._lease_seconds,
            within=self._within,
        )
        return self._won(holder, term, asked_at)

    def read(self, connection: Connection) -> LeaseHolder:
        """The lease as the database has it. Its row is made anew if somebody has deleted it."""
        seen = leadership.read(connection, within=self._within)
        if seen is not None:
            return seen
        self._log.warning("lease_row_missing", then="it is made anew")
        leadership.restore(connection, within=self._within)
        return _FREE

    def inherit(self, connection: Connection, holder: str, seen: LeaseHolder) -> bool:
        """Takes the lease from `seen` if its process ran on this machine and has ended: nobody else can use it."""
        if seen.holder is None or seen.process is None or not is_gone(seen.process):
            return False
        return self._take_over(connection, holder, seen.holder, seen.term)

    def rename(self, connection: Connection, holder: str) -> bool:
        """Goes on holding the lease under a new name of this worker's (a new term). False: it is lost.

        Can be repeated if its reply was lost: then the lease is held under the new name already.
        """
        if self._lead is None:
            return False
        if self._take_over(connection, holder, self._lead.holder, self._lead.term.number):
            return True
        self.drop()
        return self.acquire(connection, holder)

    def renew(self, connection: Connection) -> bool:
        """Holds the lease for longer. False: it has run out, or somebody else has it; then it is dropped."""
        if self._lead is None:
            return False
        asked_at = time.monotonic()
        if leadership.renew(
            connection,
            holder=self._lead.holder,
            term=self._lead.term.number,
            lease_seconds=self._lease_seconds,
            within=self._within,
        ):
            self._hold(Lead(self._lead.holder, self._term(self._lead.term.number, asked_at)), asked_at)
            return True
        self._log.warning("lease_lost", worker_id=self._lead.holder, term=self._lead.term.number)
        self.drop()
        return False

    def resign(self, connection: Connection, *, within: float) -> None:
        """Gives the lease back, so that the next leader need not wait for its end."""
        if self._lead is not None:
            lead = self._lead
            self.drop()
            leadership.resign(connection, holder=lead.holder, term=lead.term.number, within=within)

    def drop(self) -> None:
        """Stops leading, whatever the database says."""
        self._lead = None
        self._standing.leads(None)

    def _take_over(self, connection: Connection, holder: str, previous_holder: str, previous_term: int) -> bool:
        asked_at = time.monotonic()
        term = leadership.take_over(
            connection,
            holder=holder,
            process=self._process,
            previous_holder=previous_holder,
            previous_term=previous_term,
            lease_seconds=self._lease_seconds,
            within=self._within,
        )
        return self._won(holder, term, asked_at)

    def _won(self, holder: str, term: int | None, asked_at: float) -> bool:
        if term is None:
            return False
        self._hold(Lead(holder, self._term(term, asked_at)), asked_at)
        self._log.info("lease_acquired", worker_id=holder, term=term)
        return True

    def _term(self, number: int, asked_at: float) -> Term:
        return Term(number, asked_at + self._lease_seconds * TRUSTED_SHARE)

    def _hold(self, lead: Lead, asked_at: float) -> None:
        self._lead = lead
        self._standing.leads(lead)
        self.renew_at = asked_at + self._lease_seconds / RENEWALS_PER_LEASE * random.uniform(0.85, 1.0)
