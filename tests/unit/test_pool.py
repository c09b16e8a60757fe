"""The pool's dealings with its children over board and channel; the test plays the children, and nothing is forked."""

import time

import pytest

from orchestrator.board.channel import FULL, HELLO, IDLE, LOST
from orchestrator.board.layout import ChildOrder, SlotState, Word
from orchestrator.mailbox import Audit, Finish, Written
from orchestrator.supervisor.children import Doom, Phase
from orchestrator.supervisor.link import STUCK_CONNECTING_SECONDS, STUCK_SECONDS
from orchestrator.supervisor.reaper import HELLO_SECONDS
from orchestrator.telemetry import logs
from tests.fixtures.theatre import Theatre, claim, outcome


def test_what_a_child_says_is_news_unless_it_is_of_work(theatre: Theatre) -> None:
    first, second, third = theatre.actors
    assert theatre.pool.hear([0, 1, 2], time.monotonic()) is False, "nothing was said"
    first.channel.send(HELLO + b" 1000000000")
    assert theatre.pool.hear([0], time.monotonic())
    second.get_ready()
    for message, is_news in ((IDLE, False), (FULL, False), (LOST, True)):
        second.channel.send(message)
        assert theatre.pool.hear([1], time.monotonic()) is is_news, message
    third.channel.close()
    assert theatre.pool.hear([2], time.monotonic()), "it has ended"


def test_a_pool_is_quiet_while_all_sleep_and_nobody_was_woken(theatre: Theatre) -> None:
    first, *_ = theatre.get_ready()
    assert theatre.pool.is_quiet()
    theatre.pool.wakeups.wake()
    assert not theatre.pool.is_quiet()  # it may run a task before its board says so to us
    first.sleep()
    assert theatre.pool.is_quiet()
    theatre.pool.order_all(ChildOrder.WORK)
    assert not theatre.pool.is_quiet()


def test_a_lost_reply_asks_the_database_what_the_slot_owns(theatre: Theatre) -> None:
    _, second, _ = theatre.get_ready()
    second.say(LOST)
    assert theatre.orders == [Audit(1)]


def test_a_claim_is_known_while_it_is_on_a_board_under_way_or_being_written(theatre: Theatre) -> None:
    first, *_ = theatre.get_ready()
    pool = theatre.pool
    assert not pool.knows(0, 7)
    first.board.claim_begins()
    assert pool.knows(0, 7)  # the reply may be on its way
    first.board.publish([claim(7)])
    first.board.claim_ended()
    assert pool.knows(0, 7)
    assert not pool.knows(0, 8)
    assert not pool.knows(1, 7)
    first.permits.add(1)
    assert [each.token for each in pool.links[0].take_back()] == [7]
    assert not pool.knows(0, 7)
    pool.outcomes.finish(Finish((outcome(9),)))
    assert pool.knows(0, 9)
    pool.outcomes.written(Written((9,)))
    assert not pool.knows(0, 9)


def test_a_child_that_ends_before_it_says_hello_was_not_born(theatre: Theatre) -> None:
    actor = theatre.actors[0]
    actor.channel.close()
    theatre.pool.hear([0], time.monotonic())
    theatre.pool.end_cut_births(time.monotonic())
    assert theatre.pool.children[0].phase is Phase.VACANT
    assert theatre.pool.children[0].backoff.failures == 1
    assert 0 not in theatre.pool.links


def test_a_child_that_could_not_be_forked_is_told_with_the_forkservers_reason(
    theatre: Theatre, capfd: pytest.CaptureFixture[str]
) -> None:
    """Which is there before the end of the channel, and is heard after it."""
    logs.configure(debug=False, format="text", process="test")
    theatre.actors[0].channel.close()
    theatre.pool.hear([0], time.monotonic())
    theatre.pool.fork_failed(0, theatre.pool.children[0].incarnation, "no room", time.monotonic())
    theatre.pool.end_cut_births(time.monotonic())
    (line,) = capfd.readouterr().err.splitlines()
    assert 'child_not_born slot=0 reason="no room"' in line


def test_a_fork_that_nobody_answers_is_given_up_and_its_forkserver_suspected(theatre: Theatre) -> None:
    theatre.actors[1].get_ready()
    assert theatre.turn_for(HELLO_SECONDS + 1.0)
    assert [seat.phase for seat in theatre.pool.children] == [Phase.VACANT, Phase.LIVE, Phase.VACANT]


def test_a_child_that_moves_or_rightly_waits_is_not_stuck(theatre: Theatre) -> None:
    first, *_ = theatre.get_ready()
    link = theatre.pool.links[0]
    late = time.monotonic() + STUCK_SECONDS + 1.0
    assert link.stuck_in(late, since=0.0) is None  # idle, and nobody woke it
    first.board.enter(SlotState.CLAIMING)
    first.board.publish([claim(7), claim(8)])
    first.board.enter(SlotState.BUSY)
    first.board.start(0)
    assert link.stuck_in(late, since=0.0) is None  # a task may run for ever
    first.board.end(outcome(7))
    assert link.stuck_in(time.monotonic(), since=0.0) is None


@pytest.mark.parametrize("state", [each for each in SlotState if each is not SlotState.IDLE])
def test_a_child_that_stands_still_outside_of_a_task_is_stuck(theatre: Theatre, state: SlotState) -> None:
    first, *_ = theatre.get_ready()
    before = time.monotonic()
    first.board.enter(state)
    assert theatre.pool.links[0].stuck_in(before, since=0.0) is None
    limit = STUCK_CONNECTING_SECONDS if state is SlotState.CONNECTING else STUCK_SECONDS
    assert theatre.pool.links[0].stuck_in(before + limit - 1.0, since=0.0) is None
    assert theatre.pool.links[0].stuck_in(time.monotonic() + limit + 1.0, since=0.0) is state


def test_a_child_that_was_stopped_together_with_the_supervisor_is_given_its_time_anew(theatre: Theatre) -> None:
    first, *_ = theatre.get_ready()
    first.board.enter(SlotState.CLAIMING)
    now = time.monotonic()
    theatre.reaper.check_deadlines(now)
    theatre.reaper.check_deadlines(now + STUCK_SECONDS + 1.0)  # a paused container goes on
    assert theatre.pool.children[0].phase is Phase.LIVE
    theatre.turn_for(STUCK_SECONDS + 1.0, since=now + STUCK_SECONDS + 1.0)
    assert theatre.pool.children[0].doom is Doom.STUCK


def test_a_child_whose_long_task_has_brought_a_large_result_is_not_stuck(theatre: Theatre) -> None:
    first, *_ = theatre.get_ready()
    first.board.publish([claim(7)])
    first.board.enter(SlotState.BUSY)
    first.board._words[Word.STATE_SINCE] -= int(2 * STUCK_SECONDS * 1e9)
    first.board.start(0)
    first.board.handler_ended()
    first.board.end_elsewhere(7)
    assert theatre.pool.links[0].stuck_in(time.monotonic(), since=0.0) is None


def test_a_child_that_does_not_wake_up_is_stuck_and_is_killed_for_it(theatre: Theatre) -> None:
    theatre.get_ready()
    theatre.pool.wakeups.wake()
    theatre.turn_for(STUCK_SECONDS + 1.0)
    assert theatre.pool.children[0].doom is Doom.STUCK
    assert [seat.phase for seat in theatre.pool.children] == [Phase.DOOMED, Phase.LIVE, Phase.LIVE]


def test_a_child_that_falls_asleep_after_a_long_task_is_not_stuck_because_it_was_woken_long_ago(
    theatre: Theatre,
) -> None:
    first, *_ = theatre.get_ready()
    theatre.pool.wakeups.wake()
    theatre.pool.links[0].woken_at = time.monotonic() - 2 * STUCK_SECONDS
    first.board.enter(SlotState.BUSY)
    first.board.enter(SlotState.IDLE)  # and it says so, but the loop looks before it hears
    theatre.reaper.check_deadlines(time.monotonic())
    assert theatre.pool.children[0].phase is Phase.LIVE


def test_orders_reach_everybody_but_those_who_were_told_to_leave(theatre: Theatre) -> None:
    first, second, third = theatre.get_ready()
    theatre.pool.retire(theatre.pool.children[1])
    theatre.pool.order_all(ChildOrder.PAUSE)
    assert [actor.board.order for actor in (first, second, third)] == [
        ChildOrder.PAUSE, ChildOrder.LEAVE, ChildOrder.PAUSE,
    ]  # fmt: skip
