"""The pool's dealings with its children over board and channel; the test plays the children, and nothing is forked."""

import time

import pytest

from orchestrator.board.channel import FULL, HELLO, IDLE, LOST
from orchestrator.board.layout import ChildOrder, SlotState, Word
from orchestrator.mailbox import Audit, Finish, Written
from orchestrator.model import Stale, TaskStatus
from orchestrator.supervisor.children import Doom, Phase
from orchestrator.supervisor.link import STUCK_CONNECTING_SECONDS, STUCK_SECONDS
from orchestrator.supervisor.reaper import HELLO_SECONDS
from tests.fixtures.theatre import Theatre, claim, outcome


def test_work_wakes_one_idle_child_and_a_full_claim_the_next(theatre: Theatre) -> None:
    first, second, third = theatre.get_ready()
    theatre.pool.wakeups.wake()
    assert [actor.looks() for actor in theatre.actors] == [1, 0, 0]
    first.board.enter(SlotState.BUSY)
    first.say(FULL)
    assert [second.looks(), third.looks()] == [1, 0]
    second.sleep()  # it found nothing: nobody else is woken
    assert [first.looks(), second.looks(), third.looks()] == [0, 0, 0]


def test_a_child_that_was_woken_is_not_woken_again_before_it_was_heard_of(theatre: Theatre) -> None:
    theatre.get_ready()
    for _ in range(3):
        theatre.pool.wakeups.wake()
    assert [actor.looks() for actor in theatre.actors] == [1, 1, 1]


def test_a_wake_up_that_finds_nobody_idle_is_owed_to_the_next_that_falls_idle(theatre: Theatre) -> None:
    actors = theatre.get_ready()
    for actor in actors:
        actor.board.enter(SlotState.BUSY)
    theatre.pool.wakeups.wake()
    theatre.pool.wakeups.wake()
    actors[2].sleep()
    actors[0].sleep()
    assert [actor.looks() for actor in actors] == [0, 0, 1]


def test_while_a_wake_up_is_owed_children_need_not_say_that_there_is_more(theatre: Theatre) -> None:
    first, second, third = theatre.get_ready()
    second.board.enter(SlotState.BUSY)
    third.board.enter(SlotState.BUSY)
    second.say(FULL)
    assert [actor.board.word(Word.WAKE_OWED) for actor in theatre.actors] == [0, 0, 0], "the first was woken"
    first.board.enter(SlotState.BUSY)
    first.say(FULL, FULL)
    assert [actor.board.word(Word.WAKE_OWED) for actor in theatre.actors] == [1, 1, 1]
    third.sleep()
    assert third.looks() == 1, "it was owed one"
    assert [actor.board.word(Word.WAKE_OWED) for actor in theatre.actors] == [0, 0, 0]


def test_several_full_claims_that_are_heard_of_together_wake_as_many(theatre: Theatre) -> None:
    first, second, third = theatre.get_ready()
    first.board.enter(SlotState.BUSY)
    first.say(FULL, FULL)
    assert [second.looks(), third.looks()] == [1, 1]
    assert not first.board.word(Word.WAKE_OWED)


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


def test_a_wake_up_that_is_owed_does_not_go_to_a_child_that_is_about_to_leave(theatre: Theatre) -> None:
    actors = theatre.get_ready()
    for actor in actors:
        actor.board.enter(SlotState.BUSY)
    theatre.pool.wakeups.wake()
    theatre.pool.retire(theatre.pool.children[2])
    actors[2].sleep()  # it had found nothing just before it was told
    actors[0].sleep()
    assert [actor.looks() for actor in actors] == [1, 0, 1], "the last for the order"


def test_a_notification_wakes_the_next_sleeper_that_was_not_told_to_look(theatre: Theatre) -> None:
    first, second, third = theatre.get_ready()
    assert not theatre.sleeper.wake(), "nobody was offered yet"
    theatre.pool.wakeups.offer_sleeper()
    assert theatre.sleeper.wake()
    assert not theatre.sleeper.wake(), "until the loop has turned again"
    theatre.pool.wakeups.offer_sleeper()
    assert theatre.sleeper.wake()
    assert [actor.looks() for actor in theatre.actors] == [1, 1, 0]
    theatre.pool.wakeups.wake()
    assert [actor.looks() for actor in theatre.actors] == [0, 0, 1], "who was woken so counts as woken"
    assert not theatre.pool.is_quiet()
    theatre.pool.wakeups.offer_sleeper()
    assert not theatre.sleeper.wake(), "all were told to look"
    second.sleep()
    theatre.pool.wakeups.offer_sleeper()
    assert theatre.sleeper.wake()
    assert [first.looks(), second.looks(), third.looks()] == [0, 1, 0]


def test_a_sleeper_that_sleeps_again_before_its_waking_has_returned_can_be_woken_again(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = theatre.get_ready()
    channel = theatre.pool.links[0].channel
    send = channel.send

    def send_and_be_answered(message: bytes) -> bool:
        is_sent = send(message)
        first.sleep()  # it looked, found nothing, and the loop has heard that
        return is_sent

    monkeypatch.setattr(channel, "send", send_and_be_answered)
    theatre.pool.wakeups.offer_sleeper()
    assert theatre.sleeper.wake()
    monkeypatch.undo()
    first.looks()
    theatre.pool.wakeups.wake()
    assert first.looks() == 1


def test_whom_the_loop_has_woken_no_notification_wakes_as_well(theatre: Theatre) -> None:
    """It may run a long task by then, and who was to look for what was notified would be another."""
    _, second, _ = theatre.get_ready()
    theatre.pool.wakeups.offer_sleeper()
    theatre.pool.wakeups.wake()
    assert not theatre.sleeper.wake(), "so the loop is to wake the next"
    assert [actor.looks() for actor in theatre.actors] == [1, 0, 0]

    for actor in theatre.actors:
        actor.board.enter(SlotState.BUSY)
    theatre.pool.wakeups.wake()  # it is owed
    second.board.enter(SlotState.IDLE)
    theatre.pool.wakeups.offer_sleeper()
    second.say(IDLE)
    assert not theatre.sleeper.wake()
    assert second.looks() == 1


def test_no_notification_wakes_a_child_that_is_about_to_go(theatre: Theatre) -> None:
    first, second, _ = theatre.get_ready()
    theatre.pool.wakeups.offer_sleeper()
    theatre.pool.retire(theatre.pool.children[0])
    assert not theatre.sleeper.wake()
    assert first.looks() == 1, "for the order"
    theatre.pool.wakeups.offer_sleeper()
    theatre.pool.drop_link(theatre.pool.children[1])
    assert not theatre.sleeper.wake(), "its channel is closed"
    assert second.channel.receive() is None


def test_a_child_that_was_told_to_leave_is_woken_no_more_though_it_said_just_then_that_it_sleeps(
    theatre: Theatre,
) -> None:
    first, second, third = theatre.get_ready()
    theatre.pool.retire(theatre.pool.children[0])
    first.say(IDLE)
    theatre.pool.wakeups.wake()
    theatre.pool.wakeups.offer_sleeper()
    assert theatre.sleeper.wake()
    assert [first.looks(), second.looks(), third.looks()] == [1, 1, 1]


def test_no_notification_wakes_a_pool_that_claims_nothing(theatre: Theatre) -> None:
    theatre.get_ready()
    theatre.pool.wakeups.offer_sleeper()
    theatre.pool.order_all(ChildOrder.PAUSE)
    assert not theatre.sleeper.wake()
    for actor in theatre.actors:
        actor.looks()
        actor.sleep()
    theatre.pool.wakeups.offer_sleeper()
    assert not theatre.sleeper.wake()


def test_a_sleeper_that_has_died_is_not_woken_and_the_loop_is_to_find_another(theatre: Theatre) -> None:
    first, *_ = theatre.get_ready()
    theatre.pool.wakeups.offer_sleeper()
    first.channel.close()
    assert not theatre.sleeper.wake()


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
    first.board.publish([claim(1)])
    first.board.start(0)
    first.board.end(outcome(1))
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
    first.board.publish([claim(7)])
    first.board.start(0)
    first.board.end(outcome(7))
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


def test_a_child_that_ends_before_it_says_hello_was_not_born(theatre: Theatre) -> None:
    actor = theatre.actors[0]
    actor.channel.close()
    theatre.pool.hear([0], time.monotonic())
    assert theatre.pool.children[0].phase is Phase.VACANT
    assert theatre.pool.children[0].backoff.failures == 1
    assert 0 not in theatre.pool.links


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
