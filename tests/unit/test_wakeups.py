"""Who of a pool's children is woken when there may be work; the test plays the children, and nothing is forked."""

import pytest

from orchestrator.board.channel import FULL, IDLE
from orchestrator.board.layout import ChildOrder, SlotState, Word
from tests.fixtures.theatre import Theatre


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


def test_a_wake_up_that_is_owed_does_not_go_to_a_child_that_is_about_to_leave(theatre: Theatre) -> None:
    actors = theatre.get_ready()
    for actor in actors:
        actor.board.enter(SlotState.BUSY)
    theatre.pool.wakeups.wake()
    theatre.pool.retire(theatre.pool.children[2])
    actors[2].sleep()  # it had found nothing just before it was told
    actors[0].sleep()
    assert [actor.looks() for actor in actors] == [1, 0, 1], "the last for the order"


def test_how_slow_tasks_are_is_told_once_more_when_what_was_taken_back_can_be_claimed(theatre: Theatre) -> None:
    theatre.get_ready()

    def told() -> set[tuple[int, int]]:
        return {(actor.board.word(Word.SLOWNESS), actor.board.word(Word.TASK_NS)) for actor in theatre.actors}

    theatre.pool.wakeups.can_be_claimed_again()
    assert told() == {(0, 0)}, "what was taken back for another reason"
    theatre.pool.wakeups.tasks_are_slow(0.05)
    assert told() == {(1, 50_000_000)}
    theatre.pool.wakeups.can_be_claimed_again()
    assert told() == {(2, 50_000_000)}
    theatre.pool.wakeups.can_be_claimed_again()
    assert told() == {(2, 50_000_000)}


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
