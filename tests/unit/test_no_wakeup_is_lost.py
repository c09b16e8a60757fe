"""No wake-up is lost, in whatever order children, database threads and the supervisor's loop come to their steps.

Pool, boards, channels and sleeper are real; children and database are played. Some of their steps come while the
loop is in the midst of a wake-up.
"""

import random
import time
from collections.abc import Callable

import pytest

from orchestrator.board.channel import FULL, IDLE
from orchestrator.board.layout import ChildOrder, SlotState, Word
from tests.fixtures.theatre import Actor, Theatre


class Child:
    """It claims as `child/loop.py` does, one step at a time; what it runs may go on to the end of the play."""

    def __init__(self, play: "Play", actor: Actor) -> None:
        self._play = play
        self.actor = actor
        self._next: Callable[[], None] = self._look
        self._got = self._asked = 0
        self.runs_on = False

    @property
    def is_asleep(self) -> bool:
        return self._next == self._wait and not self.actor.channel.wait(0)

    @property
    def is_stuck(self) -> bool:
        return self.is_asleep or (self._next == self._run and self.runs_on)

    def step(self) -> None:
        self._next()

    def _wait(self) -> None:
        self.actor.channel.receive()
        self._next = self._look

    def _look(self) -> None:
        may_claim = self.actor.board.order is ChildOrder.WORK
        self.actor.board.enter(SlotState.CLAIMING)
        self._next = self._claim if may_claim else self._fall_idle

    def _claim(self) -> None:
        self._asked = self._play.random.choice([1, 1, 2])
        self._got = min(self._asked, self._play.due)
        self._play.due -= self._got
        self._next = self._tell_if_full if self._got else self._fall_idle

    def _tell_if_full(self) -> None:
        if self._got == self._asked and not self.actor.board.word(Word.WAKE_OWED):
            self.actor.channel.send(FULL)
        self.actor.board.begin_batch()
        self.runs_on = self._play.random.random() < 0.4
        self._next = self._run

    def _run(self) -> None:
        self._next = self._look

    def _fall_idle(self) -> None:
        self.actor.board.enter(SlotState.IDLE)
        self._next = self._tell_idle

    def _tell_idle(self) -> None:
        self.actor.channel.send(IDLE)
        self._next = self._wait


class Play:
    """Random inserts, pauses and turns of the loop, then all steps until nothing moves any more."""

    def __init__(self, theatre: Theatre, seed: int) -> None:
        self.random = random.Random(seed)
        self.due = 0
        self._pool = theatre.pool
        self._sleeper = theatre.sleeper
        self.children = [Child(self, actor) for actor in theatre.get_ready()]
        self._has_sleepers = self._notifies = self._is_to_look = False  # Activity, the worker's row, TellActivity
        self._is_notified = self._is_paused = self._is_interrupted = False
        self._reports: list[bool] = []  # WorkIsDue: has_woken
        for link in self._pool.links.values():
            self._interrupt_after(link.channel, "send")
            self._interrupt_after(link.board, "tell_wake_owed")

    def _interrupt_after(self, owner: object, name: str) -> None:
        act = getattr(owner, name)

        def act_and_be_interrupted(*arguments: object) -> object:
            result = act(*arguments)
            if not self._is_interrupted:
                self._is_interrupted = True
                for _ in range(self.random.choice([0, 0, 1, 3, 8])):
                    self._step_of_others()
                self._is_interrupted = False
            return result

        setattr(owner, name, act_and_be_interrupted)

    def _step_of_others(self) -> bool:
        steps = [child.step for child in self.children if not child.is_stuck]
        if self._is_notified and not self._is_interrupted:  # the pulse thread would wait for the link's lock
            steps.append(self._hear_notification)
        if steps:
            self.random.choice(steps)()
        return bool(steps)

    def _insert(self, count: int) -> None:
        self.due += count
        self._is_notified |= self._notifies

    def _hear_notification(self) -> None:
        self._is_notified = False
        if self._has_sleepers:
            self._reports.append(self._sleeper.wake())

    def _tell_activity(self) -> None:
        self._notifies = self._has_sleepers
        if self._is_to_look and self.due:
            self._reports.append(False)
        self._is_to_look = False

    def _turn(self) -> bool:
        speakers = [slot for slot, link in self._pool.links.items() if link.channel.wait(0)]
        reports, self._reports = self._reports, []
        self._pool.hear(speakers, time.monotonic())
        for has_woken in reports:
            if not has_woken:
                self._pool.wakeups.wake()
        if speakers or reports:
            self._pool.wakeups.offer_sleeper()
            before, self._has_sleepers = self._has_sleepers, self._pool.wakeups.has_sleepers()
            self._is_to_look |= self._has_sleepers and not before
        return bool(speakers or reports)

    def _pause_or_resume(self) -> None:
        self._is_paused = not self._is_paused
        self._pool.order_all(ChildOrder.PAUSE if self._is_paused else ChildOrder.WORK)

    def _some_end(self) -> None:
        for child in self.children:
            child.runs_on &= self.random.random() < 0.5

    def perform(self) -> None:
        acts: list[Callable[[], object]] = [
            lambda: self._insert(self.random.choice([1, 1, 2, 5])),
            self._turn, self._tell_activity, self._some_end, self._pause_or_resume, self._step_of_others,
        ]  # fmt: skip
        for act in self.random.choices(acts, weights=(8, 27, 7, 3, 1, 54), k=self.random.choice([30, 100, 300])):
            act()
        if self._is_paused:
            self._pause_or_resume()
        for _ in range(2000):
            if not any((self._step_of_others(), self._turn(), self._is_to_look)):
                return
            self._tell_activity()
        raise AssertionError("children are woken again and again for nothing")


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_child_sleeps_while_tasks_wait(make_theatre: Callable[[int], Theatre], size: int) -> None:
    for seed in range(50):
        play = Play(make_theatre(size), seed)
        play.perform()
        asleep = [child for child in play.children if child.is_asleep]
        assert not (play.due and asleep), f"seed {seed}: {play.due} tasks wait, {len(asleep)} children sleep"
        owed = {child.actor.board.word(Word.WAKE_OWED) for child in play.children}
        assert owed == {0} or (owed == {1} and not asleep), f"seed {seed}: owed {owed}, {len(asleep)} children sleep"
