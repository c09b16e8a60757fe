"""A pool's outcomes under random interleavings: whoever writes one, it is written once and counted once.

Ledgers, boards, collector, order book and WriteOutcomes are the real ones, over a table that fences by token. At each
call of the database, and at each word of a board, others may step in: another child, the supervisor, its coordinator.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.board.layout import Word
from orchestrator.child.ledger import SLOW_SECONDS, Ledger
from orchestrator.coordinator.order_book import OrderBook
from orchestrator.coordinator.outcomes import WriteOutcomes
from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.mailbox import Finish, Mailbox, Order, Report
from orchestrator.model import Claim, Outcome, Stale, TaskStatus, Verdict
from orchestrator.store import claims, holdings
from orchestrator.store.claims import Batch
from orchestrator.supervisor.collector import COLLECT_SECONDS, Collector
from orchestrator.supervisor.watch import LINGER_SECONDS, Watch
from tests.fixtures.theatre import Actor, Theatre

COUNT = 60
MILLISECONDS = 0.005


class Killed(BaseException):
    """In the midst of a statement."""


class Line:
    """A connection."""

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.is_open = True
        self.prepared: set[str] = set()
        self.reply: Callable[[], Batch] | None = None  # to what was sent and not executed yet

    def has_answer(self) -> bool:
        return self.reply is None


class Table:
    """The database: which token holds which task, and how it ended. `ends` is the sum of all that was accepted."""

    def __init__(self, play: "Play") -> None:
        self._play = play
        self._firsts = play.chance.sample(range(10, 10 * COUNT + 10, 10), COUNT)  # behind a pooler tokens need not grow
        self._held: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        self._pending = COUNT
        self.locked: set[str] = set()
        self.ends: Counter[int] = Counter()

    def _execute(self, outcomes: Sequence[Outcome], sign: int, limit: int = 0) -> Batch:
        if self.locked.intersection(each.task_id for each in outcomes):
            raise StatementRefused("locked", sqlstate="55P03")
        accepted = [each for each in outcomes if self._held.get(each.task_id) == each.token]
        for each in accepted:
            del self._held[each.task_id]
            self._ended[each.task_id] = sign * each.token
            self.ends[each.token] += 1
        first = self._firsts.pop() if limit and self._pending else 0
        tokens = range(first, first + min(limit, self._pending))
        self._pending -= len(tokens)
        got = tuple(Claim(f"{token:036d}", "t", token, None, 1, None, None, False) for token in tokens)
        self._held.update((each.task_id, each.token) for each in got)
        return Batch(len(accepted), tuple(each for each in outcomes if each not in accepted), got, True)

    def _call(self, line: Line, act: Callable[[], Batch]) -> Batch:
        """It may be lost before it arrives, or its reply; meanwhile others go on."""
        self._play.others_step()
        fate = self._play.chance.random()
        if line.is_open and fate < 0.96:
            batch = act()
            self._play.others_step()
            if fate < 0.92:
                return batch
        line.is_open = False
        if isinstance(line.owner, Child) and fate > 0.98:
            raise Killed
        raise DatabaseUnavailable("lost", sent=True)

    def finish_and_claim(self, line: Line, outcomes: Sequence[Outcome], *, limit: int, **_: object) -> Batch:
        return self._call(line, lambda: self._execute(outcomes, 1, limit))

    def send_outcomes(self, line: Line, outcomes: Sequence[Outcome], **_: object) -> Callable[[float], Batch]:
        line.reply = partial(self._execute, outcomes, 1)
        self._play.sent.append(line)
        answers: list[Batch | StatementRefused] = []

        def execute() -> Batch:
            if line in self._play.sent:
                self._play.sent.remove(line)
            act, line.reply = line.reply, None
            if act is not None:
                try:
                    answers.append(act())
                except StatementRefused as refusal:
                    answers.append(refusal)
            if isinstance(answers[0], StatementRefused):
                raise answers[0]
            return answers[0]

        self._play.executes[line] = execute
        return lambda within: self._call(line, execute)

    def finish_for_children(self, line: Line, outcomes: Sequence[Outcome], **_: object) -> Batch:
        return self._call(line, lambda: self._execute(outcomes, -1))

    def verdicts(self, line: Line, outcomes: Sequence[Outcome], **_: object) -> dict[int, Verdict]:
        self._play.others_step()
        known = {1: Verdict.BY_CHILD, -1: Verdict.BY_SUPERVISOR}
        ended = {each.token: self._ended.get(each.task_id, 0) for each in outcomes}
        return {token: known.get(end // token, Verdict.STALE) for token, end in ended.items()}

    def stale(self, line: Line, outcomes: Sequence[Outcome], **_: object) -> tuple[Stale, ...]:
        return tuple(Stale(each, {}) for each in outcomes)

    def lock_or_unlock(self) -> None:
        chance = self._play.chance
        self.locked = set() if self.locked else {each for each in sorted(self._held) if chance.random() < 0.1}

    def release(self, task_id: str, token: int) -> None:
        if self._held.get(task_id) == token:
            del self._held[task_id]


class Child:
    """Claims, runs and records as child/loop.py does, until it is killed."""

    def __init__(self, play: "Play", actor: Actor) -> None:
        self._play = play
        self._board = actor.board
        self.connection: Line | None = Line(self)
        self._metrics = SimpleNamespace(
            additions=lambda outcomes: [partial(play.count, outcomes)], ended=play.count, stale=play.stale.append,
            claimed=lambda _: None, database_failed=lambda _: None,
        )  # fmt: skip
        self.ledger = Ledger(self._board, self, self._metrics, worker_id="w", slot=0)  # type: ignore[arg-type]
        self._claims: list[Claim] = []
        self.may_claim = True

    def lost(self, error: object) -> None:
        self.connection = None

    @property
    def is_done(self) -> bool:
        return not (self._claims or self.may_claim or len(self.ledger.unwritten))

    def step(self) -> None:
        if self.connection is None or not self.connection.is_open:
            self.connection = Line(self)
        try:
            if self._claims:
                self._run(self._claims.pop(0))
            else:
                self._claim(self._play.chance.choice([1, 2, 5]) if self.may_claim else 0)
        except (DatabaseUnavailable, StatementRefused):
            pass

    def _claim(self, limit: int) -> None:
        batch = self.ledger.exchange(limit)
        if limit:
            self._board.publish([(claim, 3) for claim in batch.claims])
            self._claims = list(batch.claims)
            self._board.begin_batch()
            self.ledger.begin_batch(MILLISECONDS)
            self.may_claim = bool(batch.claims)

    def _run(self, claim: Claim) -> None:
        index, chance = self._board.word(Word.STARTED), self._play.chance
        began = self._board.start(0) / 1e9
        status = chance.choices([TaskStatus.COMPLETED, TaskStatus.PENDING], (9, 1))[0]
        result = f'"{claim.token}"' * chance.choice([1, 100])
        seconds = chance.choice([MILLISECONDS, 2 * SLOW_SECONDS])
        outcome = Outcome(
            claim.task_id, claim.token, "t", status, 1, began - seconds, began, None, result, chance.choice([0, 9])
        )
        if status is not TaskStatus.COMPLETED:
            self.ledger.withdraw_offer()
        self._play.results[claim.token] = result
        self._board.end(outcome)
        self.ledger.ended(index, outcome, seconds)
        moment = time.monotonic() + chance.choice([0.0, 0.05, 0.2, 0.5])
        if self.ledger.must_send(moment, moment):
            self.ledger.send()
        elif self.ledger.has_answer or chance.random() < 0.1:
            self.ledger.hear()


class Play:
    """`perform` has all of them step at random, then each until nothing is left."""

    def __init__(self, theatre: Theatre, seed: int, patch: pytest.MonkeyPatch) -> None:
        self.chance = random.Random(seed)
        self.table = Table(self)
        for module, name in (
            (claims, "finish_and_claim"), (claims, "send_outcomes"), (claims, "finish_for_children"),
            (holdings, "verdicts"), (holdings, "stale"),
        ):  # fmt: skip
            patch.setattr(module, name, getattr(self.table, name))
        self.counted: Counter[int] = Counter()
        self.stale: list[str] = theatre.stale
        self.results: dict[int, str | None] = {}
        self.sent: list[Line] = []
        self.executes: dict[Line, Callable[[], Batch]] = {}
        self.pool, self.pool_counted = theatre.pool, theatre.counted
        self.book = OrderBook()
        self._theatre = theatre
        self._line = Line(None)
        self._reports: Mailbox[Report] = Mailbox()
        locks: Any = SimpleNamespace(set_aside=self._set_aside)
        counting: Any = SimpleNamespace(ended=self.count)
        self._write = WriteOutcomes(self.book, locks, self._reports, counting)
        self.children = {number: Child(self, actor) for number, actor in enumerate(theatre.get_ready())}
        settings: Any = SimpleNamespace(task_memory_limit=0, task_kill_grace=0.0)
        self._watch = Watch(self.pool, theatre.reaper, settings, post=self._post)
        self.pool.post = self.pool.outcomes._post = self._post
        self._collector = Collector(self.pool, has_time=lambda: self.chance.random() < 0.9)
        self._now = time.monotonic()
        self._busy: set[object] = set()
        self._dead: list[int] = []
        for actor, link in zip(theatre.actors, self.pool.links.values(), strict=True):
            for owner, name in (
                (actor.board, "end"), (actor.board, "offer_outcomes"), (actor.board, "sends"),
                (actor.board, "is_collected"), (link.board, "_outcome"), (link.board, "_column"),
            ):  # fmt: skip
                self._interrupt_after(owner, name)

    def _interrupt_after(self, owner: object, name: str) -> None:
        act = getattr(owner, name)

        def act_and_be_interrupted(*arguments: Any, **more: Any) -> Any:
            result = act(*arguments, **more)
            if self.chance.random() < 0.5:
                self.others_step()
            return result

        setattr(owner, name, act_and_be_interrupted)

    def count(self, outcomes: Sequence[Outcome]) -> None:
        self.counted.update(each.token for each in outcomes)

    def _set_aside(self, line: Line, outcomes: Sequence[Outcome]) -> bool:
        held = {each.token: each.task_id for each in outcomes if each.task_id in self.table.locked}
        self.book.hold(held)
        return bool(held)

    def others_step(self) -> None:
        """Some of those who are not in the midst of something."""
        for _ in range(self.chance.choice([0, 0, 1, 2])):
            who = self.chance.choice([*self.children, "supervisor", "supervisor", "coordinator", "server", "server"])
            if who in self._busy:
                continue
            self._busy.add(who)
            try:
                self._step(who)
            finally:
                self._busy.discard(who)

    def _step(self, who: object) -> None:
        if isinstance(who, int):
            try:
                self.children[who].step()
            except Killed:
                self._is_killed(who)
        elif who == "supervisor":
            self._supervise()
        elif who == "coordinator":
            self._coordinate()
        elif self.sent:
            line = self.sent[0]
            try:
                self.executes[line]()
            except StatementRefused:
                pass
        elif self.chance.random() < 0.2:
            self.table.lock_or_unlock()

    def _is_killed(self, number: int) -> None:
        """The supervisor, if it is in the midst of something, hears of it afterwards."""
        del self.children[number]
        self._dead.append(number)

    def _supervise(self) -> None:
        while self._dead:
            self._theatre.reaper._ended(self.pool.children[self._dead.pop()], 9, time.monotonic())
        for report in self._reports.take():
            self.pool.outcomes.written(report)  # type: ignore[arg-type]
        self._now += COLLECT_SECONDS
        self._collector.look(self._now)
        if self.chance.random() < 0.6:
            for link in self.pool.links.values():
                self._watch._write_lingering(link, time.monotonic() + LINGER_SECONDS * self.chance.choice([1, 100]))

    def _post(self, order: Order) -> None:
        for each in order.outcomes if isinstance(order, Finish) else ():
            assert each.result == self.results.get(each.token) or each.error, "it was overwritten meanwhile"
        self.book.post(order)

    def _coordinate(self) -> None:
        if not self._line.is_open:
            self._line = Line(None)
        self.book.let_go(token for token, task_id in self.book.held().items() if task_id not in self.table.locked)
        for hand_back in self.book.hand_backs(99):
            self.table.release(*hand_back.claim)
            self.book.settle_hand_backs([hand_back.claim.token])
        for audit in iter(self.book.audit, None):
            self.book.settle_audit(audit)
        try:
            self._write.run(self._line)  # type: ignore[arg-type]
        except (DatabaseUnavailable, StatementRefused):
            pass

    def perform(self) -> None:
        for _ in range(20_000):
            self.others_step()
            if self._is_over():
                return
        raise AssertionError("it does not come to an end")

    def _is_over(self) -> bool:
        children = self.children.values()
        return not (self._dead or self.book.outstanding or self.pool.outcomes._finishing) and all(
            child.is_done and child.ledger._sent is None for child in children
        )


@pytest.mark.parametrize("size", [4, 6])
def test_whoever_writes_an_outcome_it_is_accepted_once_and_counted_once(
    make_theatre: Callable[[int], Theatre], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for seed in range(20):
        play = Play(make_theatre(size), seed, monkeypatch)
        play.perform()
        play.count(play.pool_counted)
        outcomes = play.pool.outcomes
        assert play.counted == play.table.ends, f"seed {seed}"
        assert set(play.counted.values()) <= {1} and not play.stale, f"seed {seed}"
        assert not (outcomes._finishing or outcomes._bequeathed or play.book._estates), f"seed {seed}"
