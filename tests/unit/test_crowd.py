"""Which children rest while there are more of them at work than processors."""

import os
from collections.abc import Callable

import pytest

from orchestrator.board.kernel import processor_times
from orchestrator.board.roster import Roster
from orchestrator.child.crowd import AT_WORK_NS, CROWDED, REST_SECONDS, Crowd
from orchestrator.child.pace import TARGET_SECONDS

POOL = 10
PROCESSORS = 2
BATCH_NS = 7_000_000


class Child:
    """One that runs and waits for a processor in a given proportion, and sleeps in another to its running."""

    def __init__(self, roster: Roster, slot: int, crowding: int = 2 * CROWDED, asleep: float = 0.0) -> None:
        self.crowding = crowding
        self.asleep = asleep
        self._now = 0
        self._ran = self._waited = 0
        self.crowd = Crowd(roster, slot, processors=PROCESSORS, times=lambda: (self._ran, self._waited))

    def claims(self, now: int) -> bool:
        """Whether it does, having run a batch since it was asked last."""
        run = 1000 - self.crowding
        part = (now - self._now) // int(run + self.crowding + self.asleep * run)
        self._ran += part * run
        self._waited += part * self.crowding
        self._now = now
        if self.crowd.should_rest(now):
            return False
        self.crowd.begins(now)
        return True


class Pool:
    def __init__(self, size: int = POOL, crowding: int = 2 * CROWDED, asleep: float = 0.0) -> None:
        self.roster = Roster(size)
        self.children = [Child(self.roster, slot, crowding, asleep) for slot in range(size)]
        self.now = 1_000_000_000

    def round(self, slots: list[int] | None = None) -> list[int]:
        """A batch's time later these children want to claim; the slots of those that do."""
        self.now += BATCH_NS
        wanting = range(len(self.children)) if slots is None else slots
        return [slot for slot in wanting if self.children[slot].claims(self.now)]

    def settle(self) -> list[int]:
        """Those that work once each has forgotten how it was before."""
        for _ in range(3 * AT_WORK_NS // BATCH_NS):
            working = self.round()
        return working


def test_where_it_is_crowded_one_more_than_there_are_processors_stay_at_work() -> None:
    pool = Pool()
    working = pool.settle()
    assert len(working) == PROCESSORS + 1
    for _ in range(50):
        assert pool.round() == working, "those that rest go on to rest, and those that work need not"


def test_children_that_found_each_other_at_work_rest_until_few_are_left() -> None:
    pool = Pool(crowding=0)
    assert len(pool.settle()) == POOL
    for child in pool.children:
        child.crowding = 2 * CROWDED
    assert len(pool.settle()) == PROCESSORS + 1


def test_where_they_wait_for_no_processor_all_work() -> None:
    assert len(Pool(crowding=CROWDED // 2).settle()) == POOL


@pytest.mark.parametrize(("asleep", "working"), [(1.2 / PROCESSORS, POOL), (0.8 / PROCESSORS, PROCESSORS + 1)])
def test_where_tasks_sleep_so_much_that_few_of_them_keep_no_processors_busy_all_work(
    asleep: float, working: int
) -> None:
    assert len(Pool(asleep=asleep).settle()) == working


def test_as_soon_as_tasks_sleep_those_that_rested_are_back() -> None:
    pool = Pool()
    pool.settle()
    for child in pool.children:
        child.asleep = 3.0
    assert len(pool.settle()) == POOL


def test_a_pool_no_larger_than_keeps_the_processors_busy_never_rests() -> None:
    assert len(Pool(PROCESSORS + 1, crowding=999).settle()) == PROCESSORS + 1


def test_when_those_at_work_meet_slow_tasks_others_take_their_places_within_a_moment() -> None:
    pool = Pool()
    stuck = pool.settle()
    others = [slot for slot in range(POOL) if slot not in stuck]
    pool.now += AT_WORK_NS
    assert len(pool.round(others)) > PROCESSORS
    assert REST_SECONDS + AT_WORK_NS / 1e9 < 0.2, "so soon each looks again"


def test_who_found_nothing_and_sleeps_keeps_nobody_from_work_who_is_woken_a_moment_later() -> None:
    pool = Pool()
    working = pool.settle()
    woken = next(slot for slot in range(POOL) if slot not in working)
    assert pool.round([woken]) == []
    for slot in working:
        pool.children[slot].crowd.leave()
    assert pool.round([woken]) == [woken]


def test_who_runs_a_batch_of_the_usual_length_counts_as_at_work_all_the_while() -> None:
    assert AT_WORK_NS / 1e9 > TARGET_SECONDS


def test_only_a_span_in_which_it_waited_makes_a_child_call_it_crowded() -> None:
    roster, now = Roster(2), 1_000_000_000
    child = Child(roster, 0)
    seen = []
    for crowding in (800, 800, 200, 200):
        child.crowding = crowding
        assert child.claims(now)
        seen += roster.others(1, now, now)
        now += 20_000_000
    assert seen == [0, 800, 200, 200], "of the first it is not known yet"


def _unknown() -> tuple[int, int]:
    raise FileNotFoundError


def _nonsense() -> tuple[int, int]:
    return 0, int("x")


def _still() -> tuple[int, int]:
    return 0, 0


@pytest.mark.parametrize("times", [_unknown, _nonsense, _still])
def test_where_the_kernel_does_not_tell_nobody_rests(times: Callable[[], tuple[int, int]]) -> None:
    roster = Roster(POOL)
    crowds = [Crowd(roster, slot, processors=1, times=times) for slot in range(POOL)]
    for now in range(BATCH_NS, 9 * BATCH_NS, BATCH_NS):
        for crowd in crowds:
            assert not crowd.should_rest(now)
            crowd.begins(now)


def test_children_beyond_the_roster_work_and_are_not_seen() -> None:
    roster = Roster(POOL)
    beyond = [Child(roster, slot) for slot in range(POOL, 2 * POOL)]
    assert all(child.claims(now) for now in range(BATCH_NS, 9 * BATCH_NS, BATCH_NS) for child in beyond)
    assert roster.others(0, 1, BATCH_NS) == []


def test_a_time_that_is_yet_to_come_is_nonsense_and_nobody_is_at_work_then() -> None:
    roster = Roster(2)
    roster.enter(1, 2**62, 1000)
    assert roster.others(0, 1, BATCH_NS) == []


def in_a_fork(act: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_what_one_process_notes_the_others_that_were_forked_see() -> None:
    roster = Roster(2)
    in_a_fork(lambda: roster.enter(1, 5, 700))
    assert roster.others(0, 1, 10) == [700]
    in_a_fork(lambda: roster.leave(1))
    assert roster.others(0, 1, 10) == []


def test_the_kernel_tells_how_long_this_process_has_run() -> None:
    ran, waited = processor_times()
    sum(range(1_000_000))
    now_ran, now_waited = processor_times()
    assert ran < now_ran
    assert waited <= now_waited
