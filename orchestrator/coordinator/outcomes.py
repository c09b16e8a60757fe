"""Finish → Written: outcomes that children ended and could not write themselves. Runs in the coordinator thread."""

from collections.abc import Sequence

from orchestrator.coordinator.counting import Counting
from orchestrator.coordinator.order_book import OrderBook
from orchestrator.coordinator.portion import LOCK_SECONDS, Portion
from orchestrator.coordinator.shelf import Shelf
from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.mailbox import Mailbox, Report, Written
from orchestrator.model import Outcome, Stale, Verdict
from orchestrator.store import claims, holdings
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

WRITE_SECONDS = 10.0
"""The statement is given up after so long, with its connection, and sent again."""

OUTCOMES_AT_ONCE = 200
BYTES_AT_ONCE = 4 << 20


class WriteOutcomes:
    """Finish → Written, counted once each, by whoever learns that it was accepted. (Of those that were refused the
    supervisor's loop tells: it sees whether their children know better.)"""

    name = "write_outcomes"

    def __init__(self, book: OrderBook, shelf: Shelf, reports: Mailbox[Report], counting: Counting) -> None:
        self._book = book
        self._shelf = shelf
        self._reports = reports
        self._counting = counting
        self._portion = Portion(OUTCOMES_AT_ONCE)
        self._unsure: set[int] = set()  # tokens of outcomes that were sent before, but the reply was lost
        self._put_off: dict[int, str] = {}  # tokens of outcomes that were, and in which words they were refused
        self._log = logs.get("coordinator")

    def run(self, connection: Connection) -> bool:
        outcomes = _fitting(self._book.outcomes(self._portion.size))
        if not outcomes:
            return False
        try:
            self._finish(connection, outcomes)
        except StatementRefused as refusal:
            if not (refusal.blames_data or refusal.blames_lock):
                raise
            if not (refusal.blames_lock and self._shelf.set_aside(connection, outcomes)):
                self._isolate(connection, outcomes, refusal)
        return True

    def _finish(self, connection: Connection, outcomes: Sequence[Outcome]) -> None:
        try:
            batch = claims.finish_for_children(connection, outcomes, within=WRITE_SECONDS, lock_within=LOCK_SECONDS)
        except DatabaseUnavailable as error:
            if error.sent:
                self._unsure.update(outcome.token for outcome in outcomes)
            raise
        self._portion.succeeded()
        refused = {outcome.token for outcome in batch.unaccepted}
        accepted = [outcome for outcome in outcomes if outcome.token not in refused]
        self._counting.ended(accepted)
        self._settle(accepted)
        if batch.unaccepted:
            self._judge(connection, batch.unaccepted)

    def _judge(self, connection: Connection, outcomes: Sequence[Outcome]) -> None:
        """What was not accepted was written before, by its child or by a statement of ours whose reply was lost, or
        its claim is no longer the task's."""
        verdicts = holdings.verdicts(connection, outcomes, within=WRITE_SECONDS)
        refused = [outcome for outcome in outcomes if verdicts[outcome.token] is Verdict.STALE]
        stale = holdings.stale(connection, refused, within=WRITE_SECONDS)
        by_child = []
        for outcome in outcomes:
            match verdicts[outcome.token]:
                case Verdict.STALE:
                    pass
                case Verdict.BY_SUPERVISOR:
                    if outcome.token in self._unsure:
                        self._counting.ended([outcome])
                case _ if self._book.is_estate(outcome.token):
                    self._counting.ended([outcome])
                case _:
                    by_child.append(outcome.token)
        self._settle(outcomes, tuple(by_child), stale)

    def _settle(
        self, outcomes: Sequence[Outcome], by_child: tuple[int, ...] = (), stale: tuple[Stale, ...] = ()
    ) -> None:
        tokens = tuple(outcome.token for outcome in outcomes)
        self._unsure.difference_update(tokens)
        for token in tokens:
            self._put_off.pop(token, None)
        self._book.settle_outcomes(tokens)
        if tokens:
            self._reports.post(Written(tokens, by_child, stale))

    def _isolate(self, connection: Connection, outcomes: Sequence[Outcome], refusal: StatementRefused) -> None:
        """Finds the outcome that PostgreSQL cannot store, by halves, and takes its texts from it; or the one that is
        refused without them too, and puts it off; or the one that takes too long, and puts it last."""
        if self._portion.halve(len(outcomes)):
            return
        (outcome,) = outcomes
        facts = {"task_id": outcome.task_id, "type": outcome.type, "sqlstate": refusal.sqlstate, "error": str(refusal)}
        if refusal.blames_lock:
            self._book.replace(outcome)  # as the last of the line
            raise refusal
        is_known = self._put_off.get(outcome.token) == str(refusal)  # its texts are not to blame
        if not is_known and self._finish_without_texts(connection, outcome, refusal):
            self._log.error("outcome_not_storable", **facts)
        else:
            self._put_off[outcome.token] = str(refusal)
            self._shelf.put_off(outcome)
            self._counting.database_failed(refusal)
            self._log.warning("outcome_refused", **facts, then="it waits; is a trigger or a constraint against it?")

    def _finish_without_texts(self, connection: Connection, outcome: Outcome, refusal: StatementRefused) -> bool:
        """False: they are not what is refused, a trigger or a constraint of the user's is against it."""
        plain = outcome.without_texts(f"the error could not be stored: {refusal.sqlstate}")
        try:
            self._finish(connection, (plain,))
        except StatementRefused:
            return False
        return True


class PlanAhead:
    """Once a connection, when there is nothing else to do: the first of the outcomes are not to wait for a plan too."""

    name = "plan_ahead"

    def __init__(self) -> None:
        self._planned_on: Connection | None = None
        self._log = logs.get("coordinator")

    def run(self, connection: Connection) -> bool:
        if connection is not self._planned_on:
            self._planned_on = connection
            try:
                claims.plan_ahead_for_children(connection, within=WRITE_SECONDS, lock_within=LOCK_SECONDS)
            except StatementRefused as refusal:
                self._log.debug("not_planned_ahead", sqlstate=refusal.sqlstate, error=str(refusal))
        return False


def _fitting(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """As many of the first as are not too much for one statement; one at least."""
    size = 0
    for index, outcome in enumerate(outcomes):
        size += len(outcome.error or "") + len(outcome.result or "")
        if size > BYTES_AT_ONCE and index > 0:
            return outcomes[:index]
    return outcomes
