"""What the two threads know together: who this worker is, whether it leads, how the database is, what was counted.

Every method may be called from any thread; each answer is a whole, frozen value.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.mailbox import Activity
from orchestrator.model import Term

PATIENCE_SECONDS = 10.0
"""Between two calls, and after the end of a call's time, a thread may take so long: the machine may be busy."""

POLL = "poll"
"""Stands beside the threads for the looking for tasks: what they ask may be answered, and that refused."""


class Lead(NamedTuple):
    """A term together with the name it is held under: both are checked by every write of a leader."""

    holder: str
    term: Term

    @property
    def is_trusted(self) -> bool:
        """Whether no other worker can have the lease yet, going by this host's monotonic clock alone."""
        return time.monotonic() < self.term.trusted_until


class Counts(NamedTuple):
    """Tasks by type at `counted_at` (CLOCK_MONOTONIC seconds, from before the query).

    `due_seconds`: for how long the pending task that is due for longest has been.
    """

    pending: Mapping[str, int]
    running: Mapping[str, int]
    due_seconds: Mapping[str, float]
    counted_at: float


class CoordinationStatus(NamedTuple):
    """A snapshot for /health and /metrics.

    `down_seconds` is 0 while the database is reachable, and lets tasks be looked for: `is_refused` if that is all that
    fails. `is_leader` is judged at the snapshot's moment: a lease that could not be renewed ends by itself. `term` is
    the number of the term held, or None. `waiting_for`: the single instance whose lease must run out before this one
    may start. `counts` is None where this worker is not the one that counts.
    """

    is_database_reachable: bool
    is_refused: bool
    down_seconds: float
    worker_id: str | None
    is_leader: bool
    term: int | None
    waiting_for: str | None
    workers_total: int | None
    counts: Counts | None


@dataclass(slots=True)
class _Facts:
    worker_id: str | None = None
    is_app_loaded: bool = False
    lead: Lead | None = None
    waiting_for: str | None = None
    activity: Activity = field(default_factory=lambda: Activity(has_sleepers=False, is_claiming=False))
    stirs: int = 0
    workers_total: int | None = None
    counts: Counts | None = None
    down_since: dict[str, float] = field(default_factory=dict)
    back_by: dict[str, float] = field(default_factory=dict)


class Standing:
    """The facts above behind one lock that is held for a few assignments only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._facts = _Facts()

    # who we are

    @property
    def worker_id(self) -> str | None:
        """The id this worker is registered under; None until it is."""
        return self._facts.worker_id

    def registered(self, worker_id: str) -> None:
        with self._lock:
            self._facts.worker_id = worker_id
            self._facts.waiting_for = None

    @property
    def is_app_loaded(self) -> bool:
        """Whether the app could be imported, so that nothing of this machine's is in the way of the start any more."""
        return self._facts.is_app_loaded

    def app_loaded(self) -> None:
        with self._lock:
            self._facts.is_app_loaded = True

    def waits_for(self, holder: str | None) -> None:
        with self._lock:
            self._facts.waiting_for = holder

    @property
    def lead(self) -> Lead | None:
        """The term held and trusted at this moment."""
        lead = self._facts.lead
        return lead if lead is not None and lead.is_trusted else None

    def leads(self, lead: Lead | None) -> None:
        with self._lock:
            self._facts.lead = lead
            if lead is None:
                self._facts.counts = None  # somebody else counts now

    # how the pool is

    @property
    def activity(self) -> Activity:
        """How the pool is, by the latest order, whether or not the database knows yet."""
        return self._facts.activity

    def active(self, activity: Activity) -> None:
        with self._lock:
            self._facts.activity = activity
            if not activity.is_claiming:
                self._facts.down_since.pop(POLL, None)

    @property
    def stirs(self) -> int:
        """Grows whenever children may have been sent to look for work."""
        return self._facts.stirs

    def stirred(self) -> None:
        with self._lock:
            self._facts.stirs += 1

    # how the database is

    def reached(self, thread: str) -> float:
        """`thread` had an answer; returns for how many seconds it had none before."""
        with self._lock:
            down_since = self._facts.down_since.pop(thread, None)
        return 0.0 if down_since is None else time.monotonic() - down_since

    def missed(self, thread: str) -> float:
        """`thread` had no answer; returns since how many seconds."""
        now = time.monotonic()
        with self._lock:
            return now - self._facts.down_since.setdefault(thread, now)

    # what was counted

    def counted(self, counts: Counts | None) -> None:
        with self._lock:
            self._facts.counts = counts

    def workers_counted(self, total: int) -> None:
        with self._lock:
            self._facts.workers_total = total

    # who moves

    def moves(self, thread: str) -> None:
        """`thread` is at work: it must move again, call or wait before the watchdog loses patience."""
        self.calls(thread, time.monotonic())

    def calls(self, thread: str, by: float) -> None:
        """`thread` asks the database for something, which has an end at `by` (CLOCK_MONOTONIC), whatever happens."""
        with self._lock:
            self._facts.back_by[thread] = by + PATIENCE_SECONDS

    def waits(self, thread: str) -> None:
        """`thread` waits in poll() (or has ended), from where it cannot fail to return."""
        with self._lock:
            self._facts.back_by.pop(thread, None)

    def overdue_seconds(self) -> dict[str, float]:
        """For each thread that does not get on: for how long it should have come back from what it does. A failed try
        against an unreachable database is progress, a call past its own deadline isn't."""
        now = time.monotonic()
        with self._lock:
            return {thread: now - by for thread, by in self._facts.back_by.items() if by < now}

    def snapshot(self) -> CoordinationStatus:
        now = time.monotonic()
        with self._lock:
            facts = self._facts
            down_since = min(facts.down_since.values(), default=None)
            lead = facts.lead if facts.lead is not None and facts.lead.is_trusted else None
            return CoordinationStatus(
                is_database_reachable=down_since is None,
                is_refused=set(facts.down_since) == {POLL},
                down_seconds=0.0 if down_since is None else now - down_since,
                worker_id=facts.worker_id,
                is_leader=lead is not None,
                term=None if lead is None else lead.term.number,
                waiting_for=facts.waiting_for,
                workers_total=facts.workers_total,
                counts=facts.counts,
            )
