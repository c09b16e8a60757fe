"""Where orders lie that cannot be carried out now, while all others go on. Runs in the coordinator thread.

Those about rows that somebody has locked (an operator's open transaction, any number of them, for hours) are set aside
until the locks are gone. What a trigger or a constraint of the user's is against is put off for a while.
"""

import math
import time
from collections.abc import Sequence

from orchestrator.coordinator.order_book import OrderBook
from orchestrator.errors import StatementRefused
from orchestrator.model import ClaimRef, Outcome, Start
from orchestrator.store import holdings
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

LOOK_SECONDS = 0.5
REFUSED_SECONDS = 5.0
"""Until the next look if this one fails."""

ANSWER_SECONDS = 5.0

PUT_OFF_SECONDS, LONGEST_PUT_OFF_SECONDS = 5.0, 60.0


class Shelf:
    """An errand: `run` puts back into the book's line what is free again, or has been put off for long enough."""

    name = "look_at_locks"

    def __init__(self, book: OrderBook) -> None:
        self._book = book
        self._put_off: dict[int, float] = {}  # tokens of held orders, and until when
        self._log = logs.get("coordinator")
        self._told: set[int] = set()  # tokens
        self.due_at = math.inf
        """When (CLOCK_MONOTONIC) to look again; infinity while nothing lies here."""

    def set_aside(self, connection: Connection, orders: Sequence[Outcome | ClaimRef | Start]) -> bool:
        """Those of these orders whose rows are locked. False: none is, so it is something else that refuses them."""
        locked = holdings.locked(connection, [each.task_id for each in orders], within=ANSWER_SECONDS)
        held = {each.token: each.task_id for each in orders if each.task_id in locked}
        if not held:
            return False
        self._book.hold(held)
        self.due_at = min(self.due_at, time.monotonic() + LOOK_SECONDS)
        return True

    def put_off(self, outcome: Outcome) -> None:
        """It is refused, and no lock is to blame: for half as long as it has waited already."""
        now = time.monotonic()
        seconds = min(LONGEST_PUT_OFF_SECONDS, max(PUT_OFF_SECONDS, (now - outcome.ended_monotonic) / 2))
        self._put_off[outcome.token] = now + seconds
        self._book.hold({outcome.token: outcome.task_id})
        self.due_at = min(self.due_at, now + LOOK_SECONDS)

    def run(self, connection: Connection) -> bool:
        now = time.monotonic()
        if now < self.due_at:
            return False
        held = self._book.held()
        if not held:
            self.due_at = math.inf
            return False
        self._put_off = {token: until for token, until in self._put_off.items() if until > now and token in held}
        held = {token: task_id for token, task_id in held.items() if token not in self._put_off}
        if not held:
            self.due_at = now + LOOK_SECONDS
            return False
        self.due_at = now + REFUSED_SECONDS
        try:
            locked = holdings.locked(connection, [*held.values()], within=ANSWER_SECONDS)
        except StatementRefused as refusal:  # the whole table is locked: whoever wants to write to it says so
            self._log.debug("locks_not_seen", sqlstate=refusal.sqlstate, error=str(refusal))
            return False
        self.due_at = time.monotonic() + LOOK_SECONDS
        self._tell({token for token, task_id in held.items() if task_id in locked})
        self._book.let_go(token for token, task_id in held.items() if task_id not in locked)
        return len(locked) < len(set(held.values()))

    def _tell(self, held: set[int]) -> None:
        """Once of each, and nothing of what is free by now: a busy server's own writes hold a row for a moment too."""
        if held - self._told:
            self._log.warning("rows_are_locked", orders=len(held), then="they wait; look at pg_locks")
        self._told = held
