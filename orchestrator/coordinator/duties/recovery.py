"""Recovery: who is dead, and what dead or missing workers left is taken back; then their rows go. A leader's duty.

Each statement checks the term, so a leader that lost its lease changes nothing, and skips what is locked: a row that
its living owner is just finishing is looked at again the next time.
"""

from typing import NamedTuple

from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.duties.duty import leaders_call_seconds
from orchestrator.coordinator.standing import Lead, Standing
from orchestrator.model import Recovered, TaskStatus
from orchestrator.store import upkeep, workers
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

RECOVERED_AT_ONCE = 200
LOOK_SECONDS = 30.0
"""For finding what is to be recovered, which holds no lease: some tenths of a microsecond for each claim that was made
since somebody's snapshot."""


class Silence(NamedTuple):
    """A worker unheard of for `timeout_seconds` is dead; who has not beaten for `gap_seconds` itself judges nobody."""

    timeout_seconds: float
    gap_seconds: float


class Recovery:
    """Wanted while this worker leads and knows its task types, whose limits decide what becomes of a task."""

    name = "recovery"

    def __init__(
        self,
        standing: Standing,
        counting: Counting,
        *,
        lease_seconds: float,
        every_seconds: float,
        silence: Silence | None,
    ) -> None:
        """`silence`: what makes a worker dead. None in single-instance mode: beside it none lives."""
        self._standing = standing
        self._counting = counting
        self._within = leaders_call_seconds(lease_seconds)
        self._log = logs.get("coordinator")
        self._silence = silence
        self.every_seconds = every_seconds
        self.has_begun = False
        self.has_remnants = False

    def is_wanted(self) -> bool:
        return self.has_begun and self._standing.lead is not None

    def run_once(self, connection: Connection) -> float | None:
        lead = self._standing.lead
        if lead is None:
            return None
        if self.has_remnants:
            self.bury_others(connection, lead)
        if self._silence is not None:
            self._declare_silent(connection, lead, self._silence)
        if self.take_back(connection, lead):
            return 0.0
        self.forget(connection, lead)
        return None

    def _declare_silent(self, connection: Connection, lead: Lead, silence: Silence) -> None:
        declared = upkeep.declare_silent_dead(
            connection,
            term=lead.term.number,
            holder=lead.holder,
            timeout_seconds=silence.timeout_seconds,
            gap_seconds=silence.gap_seconds,
            within=self._within,
        )
        if declared:
            self._log.warning(
                "workers_declared_dead", declared=len(declared), workers=",".join(declared[:10]), term=lead.term.number
            )

    def bury_others(self, connection: Connection, lead: Lead) -> None:
        """Single-instance mode: whoever is registered besides us is no more. `has_remnants`: one could not be declared
        dead, because its row was locked; it will be the next time."""
        declared = upkeep.declare_others_dead(
            connection, term=lead.term.number, holder=lead.holder, within=self._within
        )
        if declared:
            self._log.info("workers_declared_dead", declared=declared, term=lead.term.number)
        present = workers.list_all(connection, within=self._within)
        self.has_remnants = any(each.id != lead.holder and not each.is_dead for each in present)

    def take_back(self, connection: Connection, lead: Lead) -> list[Recovered]:
        """One batch of at most RECOVERED_AT_ONCE; none means that all are back."""
        tasks = upkeep.recover(
            connection,
            term=lead.term.number,
            holder=lead.holder,
            limit=RECOVERED_AT_ONCE,
            within=self._within,
            look_within=LOOK_SECONDS,
        )
        for task in tasks:
            self._counting.recovered(task)
        if tasks:
            self._log.warning(
                "recover_stale_tasks",
                recovered=len(tasks),
                dead_letter=sum(task.status is TaskStatus.DEAD_LETTER for task in tasks),
                workers=",".join(sorted({task.worker_id for task in tasks})[:10]),
                term=lead.term.number,
            )
        return tasks

    def forget(self, connection: Connection, lead: Lead) -> None:
        """The rows of dead workers that own nothing any more go."""
        forgotten = upkeep.forget_dead_workers(
            connection, term=lead.term.number, holder=lead.holder, within=self._within
        )
        if forgotten:
            self._log.info("dead_workers_forgotten", forgotten=forgotten, term=lead.term.number)
