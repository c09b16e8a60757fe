"""Periodic tasks: what is due by now is enqueued, each moment once. A leader's duty.

Of several moments that have passed meanwhile, since nobody led, the newest counts.
"""

import time
from collections.abc import Callable
from datetime import datetime

from orchestrator import cron
from orchestrator.coordinator.duties.duty import leaders_call_seconds
from orchestrator.coordinator.standing import Lead, Standing
from orchestrator.errors import StatementRefused
from orchestrator.model import PeriodicTask
from orchestrator.store import periodic
from orchestrator.store.connection import Connection
from orchestrator.store.periodic import Registered
from orchestrator.telemetry import logs

LOOK_SECONDS = 60.0
"""What other workers register meanwhile is seen so much later at most, and what was refused is tried again then. More
often would bring an idle worker above two statements a second."""

AGAIN_SECONDS = 1.0
"""At least, and no more than a few, after a look that failed: what is due each second shall not miss many."""

LIST_SECONDS = 5.0
SOONEST_SECONDS = 0.01
AT_ONCE, LONG_SECONDS = 20, 1.0
"""Each is a statement: at midnight others' orders come in between. And if they took longer than so long, say since
somebody has locked the table, for as long as they took."""


class Periodic:
    """Wanted while this worker leads and `has_begun`: until its app is registered, what that has no more stands there.

    All that it has to know stands in the database.
    """

    name = "periodic"
    every_seconds = AGAIN_SECONDS

    def __init__(self, standing: Standing, *, has_begun: Callable[[], bool], lease_seconds: float) -> None:
        self._standing = standing
        self._has_begun = has_begun
        self._within = leaders_call_seconds(lease_seconds)
        self._usable: set[tuple[str, str]] = set()
        self._unusable: dict[str, str] = {}
        self._refused_until: dict[str, float] = {}
        self._log = logs.get("coordinator")

    def is_wanted(self) -> bool:
        return self._has_begun() and self._standing.lead is not None

    def run_once(self, connection: Connection) -> float | None:
        """Enqueues what is due, and returns in time for what is due next."""
        lead = self._standing.lead
        if lead is None:
            return None
        now, found = periodic.list_all(connection, within=LIST_SECONDS)
        read_at = time.monotonic()
        soonest = LOOK_SECONDS
        due = []
        if any(each.last_due_at > now for each in found):
            periodic.set_back(connection, term=lead.term.number, holder=lead.holder, within=self._within)
            soonest = AGAIN_SECONDS
        for each in found:
            following = self._following(each, now, read_at)
            if following is not None and following <= now:
                due.append((following, each))
            elif following is not None:
                soonest = min(soonest, (following - now).total_seconds())
        due.sort(key=lambda each: each[0])  # else what comes each second would keep others waiting, if it is that much
        began = time.monotonic()
        for tries, (_, each) in enumerate(due):
            took = time.monotonic() - began
            if tries == AT_ONCE or took > LONG_SECONDS:
                return took if took > LONG_SECONDS else SOONEST_SECONDS
            self._enqueue(connection, lead, each, now)
            following = cron.next_due(each.task.cron, each.task.timezone, now)
            if following is not None:
                soonest = min(soonest, (following - now).total_seconds())
        return max(soonest - (time.monotonic() - read_at), SOONEST_SECONDS)

    def _following(self, registered: Registered, now: datetime, read_at: float) -> datetime | None:
        """Its first moment that is not enqueued yet. None: there is none, or it is not to be tried now."""
        task = registered.task
        if read_at < self._refused_until.get(task.name, 0.0) or not self._is_usable(task):
            return None
        return cron.next_due(task.cron, task.timezone, min(registered.last_due_at, now))

    def _enqueue(self, connection: Connection, lead: Lead, registered: Registered, now: datetime) -> None:
        """One that is refused, by a trigger of the user's say, must not keep the others from their time."""
        task = registered.task
        due_at = cron.newest_due(task.cron, task.timezone, min(registered.last_due_at, now), now)
        assert due_at is not None, "BUG: it was due"
        try:
            task_id = periodic.enqueue_due(
                connection,
                registered,
                due_at,
                shown=cron.local_time(due_at, task.timezone),
                term=lead.term.number,
                holder=lead.holder,
                within=self._within,
            )
        except StatementRefused as refusal:
            self._refused_until[task.name] = time.monotonic() + LOOK_SECONDS
            self._log.warning("periodic_task_refused", name=task.name, type=task.type, error=str(refusal))
            return
        if task_id is not None:
            late = round((now - due_at).total_seconds(), 1)
            self._log.info("periodic_task_enqueued", name=task.name, type=task.type, task_id=task_id, late_seconds=late)

    def _is_usable(self, task: PeriodicTask) -> bool:
        """What this worker cannot read is said once: another version's, or somebody's who has changed the row."""
        times = (task.cron, task.timezone)
        if times in self._usable:
            return True
        problem = cron.cron_problem(*times)
        if problem is None:
            self._usable.add(times)
        elif self._unusable.get(task.name) != problem:
            self._unusable[task.name] = problem
            self._log.warning("periodic_task_unusable", name=task.name, type=task.type, error=problem)
        return problem is None
