"""Where in the queue a child's next claim begins to look."""

from orchestrator.child.cursor import FRONT_SECONDS, FRONT_SHARE, Cursor
from orchestrator.store.claims import Place

HERE, THERE = Place(0, "2026-01-01 00:00:00.000001+00"), Place(0, "2026-01-01 00:00:00.000002+00")


def test_the_first_claim_begins_at_the_front() -> None:
    assert Cursor().start(now=0.0) is None


def test_after_full_claims_the_next_begins_where_the_last_ended() -> None:
    cursor = Cursor()
    cursor.learn(None, is_full=True, last=HERE, began=1.0, now=1.001)
    assert cursor.start(now=1.01) == HERE
    cursor.learn(HERE, is_full=True, last=THERE, began=1.01, now=1.02)
    assert cursor.start(now=1.03) == THERE


def test_after_one_that_was_not_full_it_begins_at_the_front() -> None:
    cursor = Cursor()
    cursor.learn(None, is_full=True, last=HERE, began=1.0, now=1.001)
    cursor.learn(HERE, is_full=False, last=THERE, began=1.01, now=1.02)
    assert cursor.start(now=1.03) is None


def test_after_one_that_left_something_out_it_begins_at_the_front() -> None:
    cursor = Cursor()
    cursor.learn(None, is_full=True, last=None, began=1.0, now=1.001)
    assert cursor.start(now=1.01) is None


def test_every_now_and_then_it_begins_at_the_front() -> None:
    cursor = Cursor()
    cursor.learn(None, is_full=True, last=HERE, began=1.0, now=1.001)
    cursor.learn(HERE, is_full=True, last=THERE, began=1.1, now=1.101)
    assert cursor.start(now=1.0 + FRONT_SECONDS) == THERE
    assert cursor.start(now=1.002 + FRONT_SECONDS) is None


def test_a_front_that_takes_long_to_pass_is_seldom_passed() -> None:
    cursor = Cursor()
    cursor.learn(None, is_full=True, last=HERE, began=1.0, now=1.2)
    assert cursor.start(now=1.2 + 0.9 * 0.2 / FRONT_SHARE) == HERE
    assert cursor.start(now=1.2 + 1.1 * 0.2 / FRONT_SHARE) is None
