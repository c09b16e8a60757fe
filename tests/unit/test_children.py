"""The table of children: seats, phases, growth and shrinkage, without a process."""

import pytest

from orchestrator.supervisor.children import MOST_FORKING, SETTLED_SECONDS, Children, Doom, Phase, Seat


def born(children: Children, seat: Seat, now: float = 0.0, *, generation: int = 0) -> Seat:
    """A live child on the seat; its pid is made from its incarnation."""
    incarnation = children.fork_requested(seat, generation, now)
    children.said_hello(seat, 1000 + incarnation, now)
    children.became_ready(seat, now)
    return seat


def full(size: int) -> Children:
    children = Children(size)
    for seat in children:
        born(children, seat)
    return children


def die(children: Children, seat: Seat, now: float = 0.0, *, is_fault: bool = True, has_finished: bool = False) -> None:
    children.ended(seat, now, is_fault=is_fault, has_finished_tasks=has_finished)


def numbers(children: Children) -> list[int]:
    return [seat.number for seat in children]


def test_a_new_pool_has_vacant_seats_that_are_due_at_once() -> None:
    children = Children(3)
    assert numbers(children) == [0, 1, 2]
    assert children.due(now=0.0) == list(children)
    assert children.capacity == 3


def test_a_large_pool_is_born_bit_by_bit() -> None:
    children = Children(MOST_FORKING + 2)
    asked = children.due(now=0.0)
    assert len(asked) == MOST_FORKING
    for seat in asked:
        children.fork_requested(seat, 0, now=0.0)
    assert (children.due(now=0.0), children.next_due()) == ([], None)
    children.said_hello(asked[0], 42, now=0.0)
    assert [seat.number for seat in children.due(now=0.0)] == [MOST_FORKING]
    assert children.next_due() is not None


def test_a_child_goes_through_its_phases_in_order() -> None:
    children = Children(1)
    seat = children[0]
    phases = [seat.phase]
    incarnation = children.fork_requested(seat, 7, now=1.0)
    phases.append(seat.phase)
    children.said_hello(seat, 42, now=2.0)
    phases.append(seat.phase)
    children.became_ready(seat, now=3.0)
    phases.append(seat.phase)
    children.doomed(seat, Doom.TIMEOUT, now=4.0)
    phases.append(seat.phase)
    assert phases == [Phase.VACANT, Phase.FORKING, Phase.BOOTING, Phase.LIVE, Phase.DOOMED]
    assert (seat.incarnation, seat.generation, seat.pid, seat.doom, seat.since) == (
        incarnation, 7, 42, Doom.TIMEOUT, 4.0,
    )  # fmt: skip
    assert children.by_pid(42) is seat
    die(children, seat, now=5.0, is_fault=False)
    assert (seat.phase, seat.pid, seat.doom, seat.since) == (Phase.VACANT, None, None, 5.0)
    assert children.by_pid(42) is None


def test_a_step_out_of_order_is_a_bug_and_says_so() -> None:
    children = full(1)
    with pytest.raises(AssertionError, match="BUG: seat 0 is live"):
        children.fork_requested(children[0], 0, now=0.0)
    with pytest.raises(AssertionError, match="BUG"):
        children.said_hello(children[0], 42, now=0.0)
    with pytest.raises(AssertionError, match="BUG"):
        children.became_ready(children[0], now=0.0)
    die(children, children[0])
    with pytest.raises(AssertionError, match="BUG"):
        children.doomed(children[0], Doom.BOOT, now=0.0)


def test_no_two_children_ever_have_one_incarnation() -> None:
    children = Children(3)
    seen = []
    for _ in range(5):
        for seat in children:
            seen.append(children.fork_requested(seat, 0, now=0.0))
            die(children, seat, is_fault=False)
    assert len(set(seen)) == 15


def test_a_seat_whose_child_died_of_a_task_is_due_at_once() -> None:
    children = full(2)
    die(children, children[0], now=10.0, is_fault=False, has_finished=True)
    assert children.due(now=10.0) == [children[0]]


def test_a_seat_whose_child_died_idle_waits_for_its_backoff() -> None:
    children = full(1)
    die(children, children[0], now=10.0)
    assert children.due(now=10.05) == []
    assert children.next_due() == pytest.approx(10.1)
    assert children.due(now=10.11) == [children[0]]


def test_a_finished_task_resets_the_backoff_even_if_the_child_then_dies_idle() -> None:
    children = full(1)
    seat = children[0]
    for _ in range(6):
        die(children, seat)
        born(children, seat)
    die(children, seat, now=100.0, has_finished=True)
    assert seat.backoff.not_before == pytest.approx(100.1)


def test_a_seat_backs_off_once_it_has_failed_twice() -> None:
    children = full(4)
    for seat in list(children)[:2]:
        die(children, seat)
    assert children.backing_off(now=0.0) == 0  # once may happen to anybody
    for seat in list(children)[:2]:
        born(children, seat)
        die(children, seat)
    assert children.backing_off(now=0.0) == 2


def test_a_child_that_lives_long_enough_is_no_part_of_a_crash_loop() -> None:
    children = full(1)
    for _ in range(3):
        die(children, children[0])
        born(children, children[0], now=50.0)
    assert children.backing_off(now=50.0) == 1
    assert children.backing_off(now=50.0 + SETTLED_SECONDS) == 1
    assert children.backing_off(now=50.1 + SETTLED_SECONDS) == 0


def test_a_seat_is_settled_or_backs_off_and_never_both() -> None:
    children = full(3)
    for _ in range(2):
        die(children, children[0])
        die(children, children[1])
        born(children, children[0], now=50.0)
        if not children[1].backoff.failures > 1:
            born(children, children[1], now=50.0)
    assert (children.settled(now=50.0), children.backing_off(now=50.0)) == (1, 2)
    later = 50.1 + SETTLED_SECONDS
    assert (children.settled(now=later), children.backing_off(now=later)) == (2, 1)


def test_a_child_that_has_worked_ends_its_seats_part_in_a_crash_loop_at_once() -> None:
    children = full(2)
    for _ in range(3):
        for seat in children:
            die(children, seat)
            born(children, seat, now=50.0)
    assert children.backing_off(now=50.0) == 2
    children.worked(children[0])
    assert (children.settled(now=50.0), children.backing_off(now=50.0)) == (1, 1)
    children.worked(children[1])
    assert children.backing_off(now=50.0) == 0


def test_new_code_forgets_what_failed_under_the_old() -> None:
    children = full(2)
    for _ in range(8):
        die(children, children[0], now=100.0)
        born(children, children[0], now=100.0)
    die(children, children[0], now=100.0)
    children.forget_failures()
    assert children.backing_off(now=100.0) == 0
    assert children.due(now=100.0) == [children[0]]


def test_a_generation_fails_until_a_child_of_it_has_lived_for_a_while() -> None:
    children = full(2)
    die(children, children[0], now=100.0)
    assert children.is_failing(0, now=100.0)
    born(children, children[0], now=100.1, generation=1)
    assert not children.is_failing(0, now=100.1)
    assert children.is_failing(1, now=100.1)
    assert not children.is_failing(1, now=100.2 + SETTLED_SECONDS)


def test_growing_takes_the_lowest_free_number() -> None:
    children = full(3)
    children.shrink()
    die(children, children[2])
    assert numbers(children) == [0, 1]
    assert children.grow().number == 2
    assert children.grow().number == 3
    assert children.capacity == 4


def test_shrinking_takes_the_highest_and_leaves_the_last() -> None:
    children = full(3)
    assert children.shrink() is children[2]
    assert children.shrink() is children[1]
    assert children.shrink() is None
    assert children.capacity == 1
    assert numbers(children) == [0, 1, 2]  # their children still live
    die(children, children[2])
    die(children, children[1])
    assert numbers(children) == [0]


def test_a_vacant_seat_that_is_surplus_is_gone_at_once() -> None:
    children = Children(2)
    gone = children.shrink()
    assert gone is not None and gone.number == 1
    assert numbers(children) == [0]
    assert children.get(1) is None


def test_growing_while_a_child_is_leaving_keeps_its_seat() -> None:
    children = full(2)
    leaving = children.shrink()
    assert leaving is not None
    assert children.grow() is leaving
    assert children.capacity == 2
    die(children, leaving, is_fault=False)
    assert children.due(now=0.0) == [leaving]


def test_a_seat_whose_child_leaves_forgets_that_it_was_retiring() -> None:
    children = full(1)
    children[0].is_retiring = True
    die(children, children[0], is_fault=False)
    assert not children[0].is_retiring


def test_the_pool_can_be_looped_over_while_seats_go() -> None:
    children = full(4)
    while children.shrink():
        pass
    for seat in children:
        die(children, seat)
    assert numbers(children) == [0]


def test_seats_are_found_by_phase() -> None:
    children = full(3)
    children.doomed(children[1], Doom.DRAIN, now=0.0)
    assert children.in_phase(Phase.LIVE) == [children[0], children[2]]
    assert children.in_phase(Phase.DOOMED, Phase.VACANT) == [children[1]]
