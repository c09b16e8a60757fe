"""Census: how many tasks of each type are pending and running. Whoever leads counts; a single instance does."""

import time
from collections.abc import Callable

from orchestrator.coordinator.standing import Counts, Lead, Standing
from orchestrator.model import TaskStatus
from orchestrator.store import statistics
from orchestrator.store.connection import Connection

CENSUS_SECONDS = 30.0
"""A busy server takes 1.5 s a million, and the longest queue is the one that somebody wants to be told of."""
SHARE_OF_TIME = 0.01
GROWTH, SHORT = 10, 100_000
"""A count goes as far as SHORT, or GROWTH times as far as the one before. If there is more, the next is to tell."""


class Census:
    """A long queue is counted more rarely, so that it never costs more than 1 % of the database's time.

    That includes one that was short a moment ago, whose tasks are about to be run: a count stops where it would take
    much longer than the last ones, which is then known to be so. The first of a term goes to the end. There is none
    before `has_begun`: the start would wait for it.
    """

    name = "census"

    def __init__(self, standing: Standing, *, has_begun: Callable[[], bool], every_seconds: float) -> None:
        self._standing = standing
        self._has_begun = has_begun
        self._soonest_seconds = every_seconds
        self._term: int | None = None
        self._most: int | None = None
        self.every_seconds = every_seconds

    def is_wanted(self) -> bool:
        return self._has_begun() and self._standing.lead is not None

    def run_once(self, connection: Connection) -> float | None:
        began = time.monotonic()
        self._enter(self._standing.lead)
        try:
            rows = statistics.counts(connection, within=CENSUS_SECONDS, most=self._most)
        finally:
            self._pace(began)
        if rows is None:
            self._most = GROWTH * (self._most or SHORT)
            return self.every_seconds
        pending: dict[str, int] = {}
        running: dict[str, int] = {}
        due: dict[str, float] = {}
        for type_name, status, count, due_seconds in rows:
            if status == TaskStatus.PENDING:
                pending[type_name] = count
                due[type_name] = due_seconds
            elif status == TaskStatus.RUNNING:
                running[type_name] = count
        self._standing.counted(Counts(pending, running, due, began))
        self._most = max(SHORT, GROWTH * sum(pending.values()))
        return self.every_seconds

    def _enter(self, lead: Lead | None) -> None:
        term = None if lead is None else lead.term.number
        if term != self._term:
            self._term, self._most = term, None

    def _pace(self, began: float) -> None:
        self.every_seconds = max(self._soonest_seconds, (time.monotonic() - began) / SHARE_OF_TIME)
