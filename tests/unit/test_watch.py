"""When the supervisor hands back what waits in a child's batch, what the others hear of it, and what it takes over."""

import time

import pytest

from orchestrator.board.layout import SlotState, Word
from orchestrator.mailbox import Finish, Order, Release
from orchestrator.model import TaskStatus
from orchestrator.supervisor import outcomes
from orchestrator.supervisor.surroundings import PoolSettings, SupervisorSettings
from orchestrator.supervisor.watch import (
    BATCH_SECONDS,
    HAND_BACK_SECONDS,
    IDLE_SECONDS,
    LINGER_SECONDS,
    LOOK_SECONDS,
    SENT_SECONDS,
    SLOW_SECONDS,
    Watch,
)
from tests.fixtures.theatre import CAPACITY, Actor, Theatre, claim, outcome


class Scene:
    """Three children; the first runs a batch, of which it has done some, and has the rest to start."""

    def __init__(self, theatre: Theatre, *, claims: int = 5, done: int = 2) -> None:
        self._pool = theatre.pool
        self._orders: list[Order] = theatre.orders
        self.finishes: list[Finish] = []
        self.busy, self.second, self.third = self.actors = theatre.get_ready()
        settings = SupervisorSettings("app", 3, 30.0, 5.0, 0, PoolSettings("w", CAPACITY, 20.0))
        self._watch = Watch(theatre.pool, theatre.reaper, settings, post=theatre.orders.append)
        self.busy.board.claim_begins()
        self.busy.board.publish([claim(token) for token in range(1, claims + 1)])
        self.busy.board.claim_ended()
        self.busy.permits.add(claims)
        self.began = time.monotonic()
        self.busy.board.begin_batch()
        for token in range(1, done + 1):
            self.start(self.busy)
            self.busy.board.end(outcome(token))

    @staticmethod
    def start(actor: Actor) -> None:
        assert actor.permits.take()
        actor.board.start(0)

    def work(self, *actors: Actor) -> None:
        for actor in actors:
            actor.board.enter(SlotState.BUSY)

    def look(self, seconds: float) -> list[int]:
        """Look so long after the batch began: the tokens that are handed back."""
        del self._orders[:]
        self._watch.look(self.began + seconds)
        self.finishes += [order for order in self._orders if isinstance(order, Finish)]
        releases = [order for order in self._orders if isinstance(order, Release)]
        assert all(order.reason == "slow_task" for order in releases)
        return sorted(ref.token for order in releases for ref in order.claims)

    def slowness(self) -> list[int]:
        """How often each child was told that tasks have become slower."""
        return [actor.board.word(Word.SLOWNESS) for actor in self.actors]


@pytest.fixture
def scene(theatre: Theatre) -> Scene:
    return Scene(theatre)


def test_what_waits_in_a_batch_is_handed_back_soon_while_another_child_has_nothing_to_do(scene: Scene) -> None:
    scene.work(scene.second)
    assert scene.look(IDLE_SECONDS / 2) == []
    assert scene.slowness() == [0, 0, 0]
    assert scene.look(BATCH_SECONDS - LOOK_SECONDS) == [3, 4, 5]
    assert scene.slowness() == [1, 1, 1], "lest the next one take them all"


def test_while_all_have_work_a_batch_may_take_longer(scene: Scene) -> None:
    scene.work(scene.second, scene.third)
    assert scene.look(BATCH_SECONDS - LOOK_SECONDS) == []
    assert scene.look(BATCH_SECONDS + 2.0) == [3, 4, 5]
    assert scene.slowness() == [1, 1, 1]


def test_behind_one_slow_task_nothing_waits_so_long(scene: Scene) -> None:
    scene.work(scene.second, scene.third)
    scene.start(scene.busy)
    assert scene.look(HAND_BACK_SECONDS - LOOK_SECONDS) == []
    assert scene.look(BATCH_SECONDS - LOOK_SECONDS) == [4, 5]


def test_a_child_that_has_started_all_of_its_batch_says_nothing_about_the_others(scene: Scene) -> None:
    for token in (3, 4):
        scene.start(scene.busy)
        scene.busy.board.end(outcome(token))
    scene.start(scene.busy)
    assert scene.look(1.0) == []
    assert scene.slowness() == [0, 0, 0]


def test_brief_tasks_are_left_where_they_are_though_others_have_nothing_to_do(theatre: Theatre) -> None:
    """They are done soon; a machine that is so busy would be busier with more claims."""
    scene = Scene(theatre, claims=60, done=30)
    assert scene.look(30 * SLOW_SECONDS - LOOK_SECONDS) == []
    assert scene.look(BATCH_SECONDS - LOOK_SECONDS) == list(range(31, 61)), "as soon as they are no longer brief"


def test_what_a_child_gives_up_is_taken_over_once_and_the_child_can_tell(scene: Scene) -> None:
    """It may well be claiming: it has been refused just then."""
    board = scene.busy.board
    board.enter(SlotState.CLAIMING)
    board.give_up(0)
    for seconds in (1.0, 2.0):
        scene.look(seconds)
    ((taken,), is_estate), *others = scene.finishes
    assert (taken.token, is_estate, others) == (1, True, [])
    assert board.supervisor_wrote(0, 1) and not board.supervisor_found(0, 1)
    assert not board.supervisor_wrote(1, 2)


def test_no_more_is_taken_over_than_there_is_room_for_and_what_is_left_to_its_child_is_written_all_the_same(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child claims nothing meanwhile: what is refused by a trigger, say, is not to be run on and on."""
    monkeypatch.setattr(outcomes, "MOST_BEQUEATHED", 1)
    board = scene.busy.board
    for seconds in (1.0, 2.0):
        board.give_up(int(seconds) - 1)
        scene.look(seconds)
    assert [(order.outcomes[0].token, order.is_estate) for order in scene.finishes] == [(1, True), (2, False)]
    assert [board.supervisor_wrote(index, index + 1) for index in (0, 1)] == [True, False]


def test_what_a_child_has_sent_is_written_for_it_only_after_a_while(theatre: Theatre) -> None:
    """It is busy, and does not hear that it is written. Both of us writing it would have each wait for the other."""
    scene = Scene(theatre, done=0)
    for token in (1, 2):
        scene.start(scene.busy)
        scene.busy.board.end(outcome(token)._replace(ended_monotonic=scene.began))
    scene.busy.board.sends(1)
    scene.look(2 * LINGER_SECONDS)
    assert [each.token for order in scene.finishes for each in order.outcomes] == [2]
    scene.look(SENT_SECONDS + LOOK_SECONDS)
    assert [each.token for order in scene.finishes for each in order.outcomes] == [2, 1]


def test_a_retry_that_a_busy_child_has_sent_is_asked_about_before_it_runs_elsewhere(theatre: Theatre) -> None:
    """Once it has ended there, the database no longer knows what this child wrote, and it would pass for refused."""
    scene = Scene(theatre, done=0)
    delays = {1: 0.0, 2: SENT_SECONDS / 2, 3: 60.0}
    for token, delay in delays.items():
        scene.start(scene.busy)
        retry = outcome(token)._replace(status=TaskStatus.PENDING, delay_seconds=delay, ended_monotonic=scene.began)
        scene.busy.board.end(retry)
    scene.busy.board.sends(len(delays))
    asked = []
    for seconds in (LINGER_SECONDS, SENT_SECONDS / 2, SENT_SECONDS):
        scene.look(seconds + LOOK_SECONDS / 2)
        asked.append([each.token for order in scene.finishes for each in order.outcomes])
    assert asked == [[1], [1, 2], [1, 2, 3]]
