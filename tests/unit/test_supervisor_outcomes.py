"""Outcomes that the supervisor has written for children, living and dead, and who counts them; nothing is forked."""

import pytest

from orchestrator.mailbox import Finish, Written
from orchestrator.model import Stale, TaskStatus
from tests.fixtures.theatre import Actor, Theatre, claim, outcome


def run(actor: Actor, token: int) -> None:
    actor.board.publish([claim(token)])
    actor.board.start(0)
    actor.board.end(outcome(token))


def test_what_a_dead_child_wrote_and_did_not_count_is_counted_whenever_that_is_found_out(theatre: Theatre) -> None:
    theatre.pool.outcomes.finish(Finish((outcome(1), outcome(2))))  # ... while it lived
    theatre.pool.outcomes.inherit([outcome(1), outcome(2), outcome(3)], [outcome(4)])
    assert theatre.counted == [outcome(4)]
    assert theatre.orders[-1] == Finish((outcome(3),), is_estate=True)  # whoever writes that counts it
    theatre.pool.outcomes.written(Written((1, 2, 3), by_child=(2,)))
    assert theatre.counted == [outcome(4), outcome(2)]


@pytest.mark.parametrize("by_child", [(), (1,)])
def test_what_a_living_child_gave_up_is_counted_once_by_the_supervisor(
    theatre: Theatre, by_child: tuple[int, ...]
) -> None:
    """`by_child`: it had been ordered already, as the child's own, and turns out to have been written by it."""
    first, *_ = theatre.get_ready()
    run(first, 1)
    theatre.pool.outcomes.finish(Finish((outcome(1),)))
    theatre.pool.outcomes.take_over(theatre.pool.links[0], [outcome(1)])
    assert len(theatre.orders) == 1
    theatre.pool.outcomes.written(Written((1,), by_child=by_child))
    assert theatre.counted == [outcome(token) for token in by_child], "else by whoever has written it"
    assert not first.board.supervisor_found(0, 1)
    assert not theatre.pool.links[0].board.uncounted()


@pytest.mark.parametrize("has_heard", [False, True])
def test_a_refused_outcome_is_stale_unless_its_child_has_heard_of_it_meanwhile(
    theatre: Theatre, has_heard: bool
) -> None:
    """The child wrote it, the task was retried and ended again: the database no longer knows that it was the first."""
    first, *_ = theatre.get_ready()
    run(first, 7)
    theatre.pool.outcomes.finish(Finish((outcome(7),)))
    if has_heard:
        first.board.outcomes_written()
    theatre.pool.outcomes.written(Written((7,), stale=(Stale(outcome(7), {}),)))
    assert theatre.stale == ([] if has_heard else ["t"])
    assert not theatre.pool.outcomes.is_finishing(7)


def test_a_refused_outcome_of_a_dead_child_is_stale(theatre: Theatre) -> None:
    theatre.pool.outcomes.finish(Finish((outcome(7),)))
    theatre.pool.outcomes.inherit([outcome(7), outcome(8)], [])
    theatre.pool.outcomes.finish_crash(outcome(9))
    theatre.pool.outcomes.written(Written((7, 8, 9), stale=tuple(Stale(outcome(token), {}) for token in (7, 8, 9))))
    assert theatre.stale == ["t", "t", "t"]


def test_a_child_that_died_just_after_it_had_written_a_large_result_died_of_nothing(theatre: Theatre) -> None:
    crash = outcome(1)._replace(status=TaskStatus.PENDING, error="killed by SIGKILL", delay_seconds=1.0)
    theatre.pool.outcomes.finish_crash(crash)
    theatre.pool.outcomes.finish_crash(crash._replace(token=2))
    assert theatre.orders == [Finish((crash,)), Finish((crash._replace(token=2),))]
    theatre.pool.outcomes.written(Written((1, 2), by_child=(1,)))
    assert theatre.counted == [outcome(1)]
