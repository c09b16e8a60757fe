"""Begin → Serving: the app is registered, and what an earlier run left taken back. In the coordinator thread."""

from dataclasses import dataclass

from orchestrator.coordinator.duties.examples import Examples
from orchestrator.coordinator.duties.recovery import Recovery
from orchestrator.coordinator.errands import register
from orchestrator.coordinator.order_book import OrderBook
from orchestrator.coordinator.standing import Lead, Standing
from orchestrator.mailbox import Begin, Mailbox, Report, Serving
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

BURIALS = 20
"""A remnant whose row is locked at the moment is declared dead at the next try; so many are made before serving."""


@dataclass(slots=True)
class _Progress:
    """How far one Begin has got."""

    begin: Begin
    is_app_registered: bool = False
    burials: int = 0
    recovered: int = 0


class BeginServing:
    """An errand; each `run` is one step of at most a few statements, which may be repeated.

    A single instance takes over whatever is left, which it may only while it holds the lease: without it, it waits. A
    distributed worker takes back only if it leads; else the leader does.
    """

    name = "begin_serving"

    def __init__(
        self,
        book: OrderBook,
        standing: Standing,
        reports: Mailbox[Report],
        *,
        recovery: Recovery,
        examples: Examples,
        is_distributed: bool,
    ) -> None:
        self._book = book
        self._standing = standing
        self._reports = reports
        self._recovery = recovery
        self._examples = examples
        self._is_distributed = is_distributed
        self._progress: _Progress | None = None
        self._log = logs.get("coordinator")

    def run(self, connection: Connection) -> bool:
        begin = self._book.begin()
        if begin is None:
            return False
        if self._progress is None or self._progress.begin is not begin:
            self._progress = _Progress(begin)
        progress = self._progress
        if not progress.is_app_registered:
            register(connection, begin)
            progress.is_app_registered = True
        lead = self._standing.lead
        if lead is None and not self._is_distributed:
            return False
        if lead is not None and not self._take_over(connection, lead, progress):
            return True
        self._recovery.has_begun = True
        self._examples.begin()
        self._book.settle_begin(begin)
        self._progress = None
        self._reports.post(Serving(progress.recovered))
        return True

    def _take_over(self, connection: Connection, lead: Lead, progress: _Progress) -> bool:
        """One step. True: nothing is left of earlier runs."""
        if not self._is_distributed and progress.burials < BURIALS:
            self._recovery.bury_others(connection, lead)
            progress.burials = progress.burials + 1 if self._recovery.has_remnants else BURIALS
            if progress.burials < BURIALS:
                return False
        recovered = self._recovery.take_back(connection, lead)
        progress.recovered += len(recovered)
        if recovered:
            return False
        self._recovery.forget(connection, lead)
        return True
