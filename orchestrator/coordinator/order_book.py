"""The orders that the database has not taken yet. No I/O but a bell: the supervisor posts, the coordinator settles."""

import threading
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple, TypeVar

from orchestrator.coordinator.waiting import Bell
from orchestrator.mailbox import Activity, Audit, Begin, Finish, MarkRunning, Order, Release, Types
from orchestrator.model import ClaimRef, Outcome, ReleaseReason, Start

Value = TypeVar("Value")


class HandBack(NamedTuple):
    """A claim to be made pending again, and why."""

    claim: ClaimRef
    reason: ReleaseReason


class OrderBook:
    """Orders by kind, so that what is urgent goes first and a batch is one statement.

    An order leaves the book only by `settle_…`, after the database took it: an outage loses none. Two orders about
    one claim keep their order: the later one is not shown before the earlier is settled. An execution that is over
    needs no mark of having started, so such marks are dropped. What is held is not shown. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bell = Bell()
        self._outcomes: dict[int, Outcome] = {}
        self._estates: set[int] = set()  # tokens of outcomes whose child died before it counted them
        self._hand_backs: dict[int, HandBack] = {}
        self._later: dict[int, Outcome | HandBack] = {}
        self._starts: dict[int, Start] = {}
        self._held: dict[int, str] = {}  # tokens of orders that are not shown now, with their tasks
        self._audits: dict[int | None, Audit] = {}
        self._activity: Activity | None = None
        self._begin: Begin | None = None
        self._types: Types | None = None

    def fileno(self) -> int:
        """Readable once something was posted that `hear` has not acknowledged."""
        return self._bell.fileno()

    def hear(self) -> None:
        """To be called before looking for orders, so that one posted meanwhile rings again."""
        self._bell.clear()

    def ring(self) -> None:
        """Wakes the coordinator for another reason than an order."""
        self._bell.ring()

    @property
    def outstanding(self) -> int:
        """How many single orders the database has not taken: an outcome, a claim, a start each count one."""
        with self._lock:
            tasks = len(self._outcomes) + len(self._hand_backs) + len(self._later) + len(self._starts)
            singles = (self._activity, self._begin, self._types)
            return tasks + len(self._audits) + sum(each is not None for each in singles)

    def post(self, order: Order) -> None:
        """Never blocks for longer than a few dictionary writes."""
        with self._lock:
            match order:
                case Finish(outcomes=outcomes, is_estate=is_estate):
                    for outcome in outcomes:
                        self._end(outcome.token, outcome)
                    if is_estate:
                        self._estates.update(outcome.token for outcome in outcomes)
                case Release(claims=claims, reason=reason):
                    for claim in claims:
                        self._end(claim.token, HandBack(claim, reason))
                case MarkRunning(starts=starts):
                    for start in starts:
                        if start.token not in self._outcomes and start.token not in self._hand_backs:
                            self._starts[start.token] = start
                case Audit(slot=slot):
                    self._audits[slot] = order
                case Activity():
                    self._activity = order
                case Begin():
                    self._begin = order
                case Types(only_missing=only_missing):
                    if self._types is None or not only_missing:
                        self._types = order
        self._bell.ring()

    def _end(self, token: int, end: Outcome | HandBack) -> None:
        """Under the lock: enters an execution's end, behind an end of the other kind that stands there already."""
        self._starts.pop(token, None)
        if isinstance(end, Outcome):
            if token in self._hand_backs:
                self._later[token] = end
            else:
                self._outcomes.setdefault(token, end)
        elif token in self._outcomes:
            self._later[token] = end
        else:
            self._hand_backs.setdefault(token, end)

    # what is to be done, oldest first

    def outcomes(self, limit: int) -> tuple[Outcome, ...]:
        return self._shown(self._outcomes, limit)

    def is_estate(self, token: int) -> bool:
        """Whether the outcome of this claim was left by a dead child that had not counted it."""
        with self._lock:
            return token in self._estates

    def hand_backs(self, limit: int) -> tuple[HandBack, ...]:
        return self._shown(self._hand_backs, limit)

    def starts(self, limit: int) -> tuple[Start, ...]:
        return self._shown(self._starts, limit)

    def _shown(self, orders: Mapping[int, Value], limit: int) -> tuple[Value, ...]:
        with self._lock:
            return tuple(islice((order for token, order in orders.items() if token not in self._held), limit))

    def audit(self) -> Audit | None:
        with self._lock:
            return next(iter(self._audits.values()), None)

    def activity(self) -> Activity | None:
        with self._lock:
            return self._activity

    def begin(self) -> Begin | None:
        with self._lock:
            return self._begin

    def types(self) -> Types | None:
        with self._lock:
            return self._types

    # what cannot be done now

    def hold(self, tasks: Mapping[int, str]) -> None:
        """Orders about these claims, by token with the task's id, are not shown until they are let go."""
        with self._lock:
            self._held.update(tasks)

    def held(self) -> dict[int, str]:
        """What is held, as far as there still are orders about it."""
        with self._lock:
            present = self._outcomes.keys() | self._hand_backs.keys() | self._starts.keys()
            self._held = {token: task_id for token, task_id in self._held.items() if token in present}
            return dict(self._held)

    def let_go(self, tokens: Iterable[int]) -> None:
        with self._lock:
            for token in tokens:
                self._held.pop(token, None)

    # what was done; each is given exactly what was shown, and leaves alone what was posted meanwhile

    def settle_outcomes(self, tokens: Iterable[int]) -> None:
        with self._lock:
            for token in tokens:
                later = self._later.pop(token, None)
                if later is not None:
                    assert isinstance(later, HandBack), "BUG: an outcome behind an outcome"
                    self._hand_backs[token] = later
                self._outcomes.pop(token, None)
                self._estates.discard(token)

    def settle_hand_backs(self, tokens: Iterable[int]) -> None:
        with self._lock:
            for token in tokens:
                later = self._later.pop(token, None)
                if later is not None:
                    assert isinstance(later, Outcome), "BUG: a hand-back behind a hand-back"
                    self._outcomes[token] = later
                self._hand_backs.pop(token, None)

    def settle_starts(self, starts: Iterable[Start]) -> None:
        with self._lock:
            for start in starts:
                self._starts.pop(start.token, None)

    def settle_audit(self, audit: Audit) -> None:
        with self._lock:
            if self._audits.get(audit.slot) is audit:
                del self._audits[audit.slot]

    def settle_activity(self, activity: Activity) -> None:
        with self._lock:
            if self._activity is activity:
                self._activity = None

    def settle_begin(self, begin: Begin) -> None:
        with self._lock:
            if self._begin is begin:
                self._begin = None

    def settle_types(self, types: Types) -> None:
        with self._lock:
            if self._types is types:
                self._types = None

    # what the database may have forgotten, or refused

    def repeat(self, activity: Activity) -> None:
        """Enters `activity` again unless a newer one stands there (the database lost its note of it)."""
        with self._lock:
            if self._activity is None:
                self._activity = activity
        self._bell.ring()

    def keep_ends_only(self) -> None:
        """The process is about to end: only what ends claims still matters."""
        with self._lock:
            self._starts.clear()
            self._audits.clear()
            self._activity = self._begin = self._types = None

    def put_last(self, token: int) -> None:
        """Puts a claim's hand-back or start behind all others."""
        with self._lock:
            for orders in (self._hand_backs, self._starts):
                if token in orders:
                    orders[token] = orders.pop(token)  # type: ignore[assignment]

    def replace(self, outcome: Outcome) -> None:
        """Puts `outcome` where another of the same claim stands, as the last of the line."""
        with self._lock:
            if self._outcomes.pop(outcome.token, None) is not None:
                self._outcomes[outcome.token] = outcome
