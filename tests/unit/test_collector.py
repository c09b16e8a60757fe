"""Outcomes of several children in one order: from whom, how many, and only if they would be written at once."""

from collections.abc import Iterator

import pytest

from orchestrator.board.layout import Word
from orchestrator.mailbox import Finish
from orchestrator.supervisor.collector import AGAIN_SECONDS, COLLECT_SECONDS, LEAST_CHILDREN, MOST_OUTCOMES, Collector
from tests.fixtures.theatre import CAPACITY, Actor, Theatre, claim, outcome

TASK_SECONDS = 0.005


class Round:
    """Children who have done a batch each, and offer what came of it."""

    def __init__(self, size: int) -> None:
        self.theatre = Theatre(size)
        self.actors = self.theatre.get_ready()
        self.has_time = True
        self.collector = Collector(self.theatre.pool, has_time=lambda: self.has_time)
        self.now = 100.0
        self._last = 0

    def work(self, actor: Actor, count: int = 1) -> list[int]:
        """The tokens of what it has done."""
        tokens = [self._last + number for number in range(1, count + 1)]
        self._last += count
        actor.board.publish([claim(token) for token in tokens])
        for token in tokens:
            actor.board.start(0)
            actor.board.end(outcome(token))
        return tokens

    def look(self, after: float = COLLECT_SECONDS) -> list[int]:
        """The tokens of what is ordered to be written."""
        self.now += after
        del self.theatre.orders[:]
        self.collector.look(self.now)
        orders = [order for order in self.theatre.orders if isinstance(order, Finish)]
        assert len(orders) <= 1 and not any(order.is_estate for order in orders)
        return [each.token for order in orders for each in order.outcomes]

    def told(self) -> list[int]:
        return [actor.board.word(Word.COLLECTING) for actor in self.actors]


@pytest.fixture
def round_() -> Iterator[Round]:
    round_ = Round(LEAST_CHILDREN)
    for actor in round_.actors:
        round_.work(actor)
        actor.board.offer_outcomes(TASK_SECONDS)
    yield round_
    round_.theatre.close()


def test_what_all_children_offer_is_one_order_and_is_ordered_once(round_: Round) -> None:
    assert sorted(round_.look()) == [1, 2, 3, 4]
    assert round_.told() == [1, 1, 1, 1]
    assert round_.look() == []
    (token,) = round_.work(round_.actors[1])
    assert round_.look(COLLECT_SECONDS / 2) == [], "company may come"
    assert round_.look() == [token]
    assert round_.theatre.pool.outcomes.is_finishing(token)


def test_what_is_being_written_already_is_not_ordered_again(round_: Round) -> None:
    """Once it is settled it would be sent again; and should that reply be lost, it would be counted again."""
    lingering = tuple(each for number in (0, 1) for each in round_.theatre.pool.links[number].board.read().outcomes)
    round_.theatre.pool.outcomes.finish(Finish(lingering))
    assert sorted(round_.look()) == [3, 4]


def test_of_fewer_children_each_writes_its_own(round_: Round) -> None:
    round_.look()
    round_.actors[0].board.offer_outcomes(0.0)
    round_.work(round_.actors[1])
    assert round_.look() == []
    assert round_.told()[1:] == [0, 0, 0]
    assert round_.collector.next_look(round_.now) is None


def test_what_is_too_little_each_writes_itself(round_: Round) -> None:
    """Four children bring five outcomes in time while each of their tasks takes 16 ms."""
    for seconds, is_collecting in ((0.5, 0), (0.017, 0), (0.015, 1), (0.5, 0)):
        for actor in round_.actors:
            round_.work(actor)
            actor.board.offer_outcomes(seconds)
        assert bool(round_.look()) == bool(is_collecting)
        assert round_.told() == [is_collecting] * LEAST_CHILDREN


def test_while_it_would_not_be_written_at_once_nothing_is_collected_and_the_children_know(round_: Round) -> None:
    round_.look()
    tokens = [round_.work(actor)[0] for actor in round_.actors]
    round_.has_time = False
    assert round_.look() == []
    assert round_.told() == [0, 0, 0, 0]
    assert round_.collector.next_look(round_.now) == pytest.approx(AGAIN_SECONDS)
    round_.has_time = True
    assert sorted(round_.look(AGAIN_SECONDS)) == tokens
    assert round_.told() == [1, 1, 1, 1]


def test_what_is_too_much_at_once_comes_the_next_time_and_nobody_is_always_last() -> None:
    round_ = Round(2 * MOST_OUTCOMES // CAPACITY)
    tokens = [token for actor in round_.actors for token in round_.work(actor, CAPACITY)]
    for actor in round_.actors:
        actor.board.offer_outcomes(TASK_SECONDS)
    seen, looks = [], 0
    while len(seen) < len(tokens):
        found = round_.look()
        assert 0 < len(found) < MOST_OUTCOMES + CAPACITY
        seen += found
        looks += 1
        assert looks <= 3
    assert sorted(seen) == tokens
    assert {token // CAPACITY for token in seen[:MOST_OUTCOMES]} != {0, 1, 2, 3}, "another than the first begins"
    round_.theatre.close()
