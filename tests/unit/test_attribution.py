"""Who pays when a child dies."""

import os
import signal

import pytest

from orchestrator.board.supervisor_half import BatchView, BoardClaim
from orchestrator.model import MAX_ERROR_BYTES, ClaimRef, Outcome, TaskStatus
from orchestrator.retry import RetryPolicy
from orchestrator.supervisor.attribution import Estate, describe_status, settle_estate
from orchestrator.supervisor.children import Doom

NOW = 100.0


def claim(number: int, *, attempt: int = 1, max_retries: int = 3, started: float | None = None) -> BoardClaim:
    return BoardClaim(
        place=number,
        task_id=f"task-{number}",
        type="t",
        token=number,
        attempt=attempt,
        max_retries=max_retries,
        is_running=False,
        started_ns=int(started * 1e9) if started is not None else 0,
        deadline_ns=0,
    )


def outcome(number: int) -> Outcome:
    return Outcome(f"task-{number}", number, "t", TaskStatus.COMPLETED, 1, 98.0, 99.0)


def settle(
    view: BatchView | None,
    *taken_back: BoardClaim,
    doom: Doom | None = None,
    cause: str = "killed by SIGSEGV",
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 frozen
) -> Estate:
    return settle_estate(view, taken_back, cause=cause, doom=doom, now=NOW, policy=lambda _: policy)


def refs(*numbers: int) -> tuple[ClaimRef, ...]:
    return tuple(ClaimRef(f"task-{number}", number) for number in numbers)


def test_a_child_that_held_nothing_leaves_nothing() -> None:
    assert settle(BatchView(2, (), None, ())) == Estate((), (), None)


def test_the_running_task_pays_an_attempt_and_its_neighbours_nothing() -> None:
    view = BatchView(2, (outcome(1),), claim(2, started=99.5), (claim(3),))
    estate = settle(view, claim(4), claim(5))
    assert estate.outcomes[0] == outcome(1)  # it ended well before: that is written, whoever died later
    crash = estate.outcomes[1]
    assert (crash.task_id, crash.token, crash.status, crash.attempt) == ("task-2", 2, TaskStatus.PENDING, 1)
    assert (crash.started_monotonic, crash.ended_monotonic, crash.error) == (99.5, NOW, "killed by SIGSEGV")
    assert len(estate.outcomes) == 2
    assert set(estate.released) == set(refs(3, 4, 5))
    assert estate.casualty == view.running


def test_a_task_that_began_after_the_turn_of_the_loop_did_has_not_ended_before_it_began() -> None:
    (crash,) = settle(BatchView(1, (), claim(1, started=NOW + 0.02), ())).outcomes
    assert crash.started_monotonic == crash.ended_monotonic == NOW + 0.02


def test_a_claim_whose_permission_was_taken_but_that_was_not_started_is_handed_back_once() -> None:
    # the child took a permission (so it is not among taken_back) and died before it marked the start
    estate = settle(BatchView(2, (), None, (claim(1), claim(2))), claim(2))
    assert sorted(estate.released, key=lambda each: each.token) == list(refs(1, 2))
    assert estate.outcomes == ()
    assert estate.casualty is None


def test_a_child_that_died_while_it_wrote_a_batch_leaves_what_was_taken_back() -> None:
    assert settle(None, claim(1)) == Estate((), refs(1), None)


@pytest.mark.parametrize(
    ("attempt", "max_retries", "status"),
    [
        (1, 0, TaskStatus.DEAD_LETTER),
        (1, 1, TaskStatus.PENDING),
        (2, 1, TaskStatus.DEAD_LETTER),
        (3, 3, TaskStatus.PENDING),
        (4, 3, TaskStatus.DEAD_LETTER),
        (9, 3, TaskStatus.DEAD_LETTER),
    ],
)
def test_a_crash_is_retried_until_the_attempts_are_used_up(attempt: int, max_retries: int, status: TaskStatus) -> None:
    running = claim(1, attempt=attempt, max_retries=max_retries, started=99.0)
    (crash,) = settle(BatchView(2, (), running, ())).outcomes
    assert (crash.status, crash.attempt) == (status, attempt)
    if status is TaskStatus.DEAD_LETTER:
        assert crash.delay_seconds == 0.0


def test_a_crash_waits_by_its_types_policy() -> None:
    running = claim(1, attempt=3, started=99.0)
    delays = [
        settle(BatchView(2, (), running, ()), policy=RetryPolicy(base=1.0, cap=60.0)).outcomes[0].delay_seconds
        for _ in range(200)
    ]
    assert 0.0 <= min(delays) < 1.0
    assert 3.0 < max(delays) <= 4.0


@pytest.mark.parametrize("doom", [doom for doom in Doom if doom is not Doom.DRAIN])
def test_a_task_that_was_killed_for_its_own_sake_pays(doom: Doom) -> None:
    estate = settle(BatchView(2, (), claim(1, started=99.0), ()), doom=doom)
    assert [each.status for each in estate.outcomes] == [TaskStatus.PENDING]
    assert estate.released == ()


def test_a_task_that_the_drain_killed_pays_nothing() -> None:
    running = claim(1, started=99.0)
    estate = settle(BatchView(2, (outcome(0),), running, (claim(2),)), doom=Doom.DRAIN)
    assert estate.outcomes == (outcome(0),)
    assert set(estate.released) == set(refs(1, 2))
    assert estate.casualty == running


def test_a_long_cause_is_cut_between_characters() -> None:
    (crash,) = settle(BatchView(2, (), claim(1, started=99.0), ()), cause="é" * MAX_ERROR_BYTES).outcomes
    assert crash.error is not None
    assert crash.error == "é" * (MAX_ERROR_BYTES // 2)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (int(signal.SIGSEGV), "the child was killed by SIGSEGV"),
        (int(signal.SIGABRT) | 0x80, "the child was killed by SIGABRT"),  # with a core dump
        (int(signal.SIGKILL), "the child was killed by SIGKILL"),
        (40, "the child was killed by signal 40"),  # a real-time signal has no name
        (3 << 8, "the child exited with code 3"),
        (0, "the child exited with code 0"),
    ],
)
def test_a_wait_status_is_told_in_words(status: int, words: str) -> None:
    assert os.WIFSIGNALED(status) or os.WIFEXITED(status)
    assert describe_status(status) == words
