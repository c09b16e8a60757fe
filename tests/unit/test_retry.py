"""How long a retry waits."""

import random
import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from orchestrator.errors import Retry
from orchestrator.retry import RetryPolicy


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    policy = RetryPolicy(base=1.0, cap=10.0)
    assert [policy.ceiling(retry) for retry in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_the_wait_is_drawn_from_nought_to_the_ceiling() -> None:
    policy = RetryPolicy(base=1.0, cap=3600.0)
    drawn = [policy.delay(4) for _ in range(2000)]
    assert 0.0 <= min(drawn) < 1.0
    assert 7.0 < max(drawn) <= 8.0


def test_a_handler_that_seeds_the_common_generator_does_not_decide_when_all_are_tried_again() -> None:
    drawn = set()
    for _ in range(10):
        random.seed(42)
        drawn.add(RetryPolicy(base=1.0, cap=3600.0).delay(4))
    assert len(drawn) == 10


def test_many_retries_do_not_overflow() -> None:
    assert RetryPolicy(base=1.0, cap=3600.0).ceiling(2**31) == 3600.0
    assert RetryPolicy(base=0.0, cap=0.0).delay(100) == 0.0


@pytest.mark.parametrize(
    ("base", "cap"),
    [(-1.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0), (1.0, float("nan"))],
)
def test_a_policy_that_makes_no_sense_is_refused(base: float, cap: float) -> None:
    with pytest.raises(ValueError, match=r"RetryPolicy.*: write seconds as numbers"):
        RetryPolicy(base=base, cap=cap)


@pytest.mark.parametrize("seconds", [Decimal("1.5"), timedelta(seconds=1), "1s", None])
def test_a_policy_of_what_is_no_plain_number_is_refused(seconds: Any) -> None:
    for limits in ({"base": seconds}, {"base": 0.0, "cap": seconds}):
        with pytest.raises(ValueError, match="write seconds as numbers"):
            RetryPolicy(**limits)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e12, "60s", timedelta(seconds=60)])
def test_a_handler_cannot_ask_for_a_senseless_wait(seconds: Any) -> None:
    with pytest.raises(ValueError, match=r"in_=.* seconds, as a number"):
        Retry(in_=seconds)


def test_a_retry_says_why_or_when() -> None:
    assert str(Retry("the API is down", in_=60)) == "the API is down"
    assert "60 s" in str(Retry(in_=60))


def test_seconds_that_stand_where_the_message_does_are_refused() -> None:
    with pytest.raises(TypeError, match=re.escape("write Retry(in_=60)")):
        Retry(60)
