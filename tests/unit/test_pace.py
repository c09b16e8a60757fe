"""How many tasks a child claims at once."""

from orchestrator.child.pace import CAUTION_SECONDS, PLENTY_AFTER, TARGET_SECONDS, Pace


def quick_and_full(pace: Pace) -> None:
    pace.learn(asked=pace.size, got=pace.size, ran=pace.size, seconds=pace.size * 1e-5)


def grown(batches: int = 8) -> Pace:
    """One that has learnt from so many quick and full batches; of eight, that it may claim a hundred."""
    pace = Pace(100)
    for _ in range(batches):
        quick_and_full(pace)
    return pace


def test_it_begins_with_one_and_doubles_with_each_full_and_quick_batch_up_to_the_largest() -> None:
    pace = Pace(100)
    sizes = [pace.size]
    for _ in range(8):
        quick_and_full(pace)
        sizes.append(pace.size)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 100, 100]


def test_one_slow_task_brings_it_back_to_one() -> None:
    pace = grown()
    pace.learn(asked=100, got=100, ran=100, seconds=60.0)
    assert pace.size == 1


def test_what_was_taken_back_from_behind_a_slow_task_was_not_quick() -> None:
    pace = grown()
    pace.learn(asked=100, got=100, ran=1, seconds=1.0)
    assert pace.size == 1


def test_what_was_taken_back_because_others_had_nothing_to_do_is_not_taken_again() -> None:
    pace = grown()
    pace.learn(asked=100, got=100, ran=12, seconds=0.06)
    assert pace.size == round(CAUTION_SECONDS / 0.005), "a few, so that all get some"
    quick_and_full(pace)
    assert pace.size == 2 * round(CAUTION_SECONDS / 0.005)


def test_it_heeds_what_others_have_found_if_that_is_slower_than_it_knew() -> None:
    pace = grown()
    pace.heed(0.001)
    assert pace.size == round(CAUTION_SECONDS / 0.001)
    pace.heed(0.0001)
    assert pace.size == round(CAUTION_SECONDS / 0.001)
    pace.heed(1.0)
    assert pace.size == 1


def test_a_batch_of_which_nothing_ran_says_nothing() -> None:
    pace = grown(4)
    pace.learn(asked=16, got=16, ran=0, seconds=0.5)
    assert pace.size == 16


def taking_one_ms_each(pace: Pace, batches: int) -> Pace:
    for _ in range(batches):
        pace.learn(asked=pace.size, got=pace.size, ran=pace.size, seconds=pace.size * 0.001)
    return pace


def test_a_batch_takes_about_the_target_time() -> None:
    assert taking_one_ms_each(Pace(1000), PLENTY_AFTER - 1).size == round(TARGET_SECONDS / 0.001)


def test_while_there_is_more_and_more_a_batch_takes_twice_the_target_time_until_one_is_not_full() -> None:
    pace = taking_one_ms_each(Pace(1000), PLENTY_AFTER)
    assert pace.size == round(2 * TARGET_SECONDS / 0.001)
    pace.learn(asked=pace.size, got=pace.size - 1, ran=pace.size - 1, seconds=(pace.size - 1) * 0.001)
    assert pace.size == round(TARGET_SECONDS / 0.001)


def test_however_much_there_is_only_brief_tasks_are_claimed_as_many_as_may_be() -> None:
    pace = taking_one_ms_each(Pace(100), 2 * PLENTY_AFTER)
    assert (pace.size, pace.is_largest) == (99, False)


def test_however_much_there_is_a_slow_task_has_no_company() -> None:
    pace = Pace(100)
    for _ in range(2 * PLENTY_AFTER):
        pace.learn(asked=pace.size, got=pace.size, ran=pace.size, seconds=pace.size * 1.1 * TARGET_SECONDS)
    assert pace.size == 1


def test_a_batch_that_was_not_full_says_how_much_there_is() -> None:
    pace = grown()
    pace.learn(asked=100, got=3, ran=3, seconds=0.0001)
    assert pace.size == 3


def test_it_is_never_less_than_one_nor_more_than_the_largest() -> None:
    pace = Pace(4)
    pace.learn(asked=1, got=1, ran=1, seconds=1e9)
    assert pace.size == 1
    for _ in range(5):
        pace.learn(asked=pace.size, got=pace.size, ran=pace.size, seconds=0.0)
        assert 1 <= pace.size <= 4
