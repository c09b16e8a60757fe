"""The checker finds what it is for: small histories, each with one thing wrong, and one with nothing wrong."""

from dataclasses import replace

import pytest

from tests.chaos.checker import check
from tests.chaos.history import Cancel, Change, Death, Deed, Enqueue, Execution, History, Leadership, Row

PENDING = Change(
    at=1.0, transaction=1, role="postgres", holder_role="a", task_id="t", old_status=None, new_status="pending",
    old_attempts=0, new_attempts=0, old_token=None, new_token=None, old_ended_token=None, new_ended_token=None,
    old_worker=None, new_worker=None, is_recovery=False,
)  # fmt: skip
CLAIMED = replace(
    PENDING, at=2.0, transaction=2, role="a", old_status="pending", new_status="claimed", new_token=7, new_worker="wa"
)
ENDED = replace(
    CLAIMED, at=3.0, transaction=3, old_status="claimed", new_status="completed", new_attempts=1, old_token=7,
    new_ended_token=7, old_worker="wa",
)  # fmt: skip
RUNNING = replace(CLAIMED, at=2.2, old_status="claimed", new_status="running", new_attempts=1, old_token=7)
RECOVERED = replace(
    RUNNING, at=2.5, role="a", old_status="running", new_status="pending", old_attempts=1, new_token=None,
    new_worker=None, old_worker="wa", is_recovery=True,
)  # fmt: skip
RUN = Execution("t", 1, 100, 2.1, 2.9)
ROW = Row("t", 1, "work", None, "completed", 1, 0, 1.0, None)
TICK = Row("p", None, "tick", "tick@10", "completed", 1, 0, 10.1, None, due=10.0)
NEXT = replace(TICK, task_id="q", key="tick@11", created=11.1, due=11.0)
TRIED = Enqueue(1, "work", None, None, "t")


def history(**more: object) -> History:
    """A task that was enqueued, claimed, run and completed; with `more` instead."""
    whole = History(
        is_distributed=True,
        worker_timeout=1.5,
        enqueues=[TRIED],
        executions=[RUN],
        changes=[PENDING, CLAIMED, ENDED],
        deaths=[Death(2.4, "a", "a", "wb", 2.0)],
        leaderships=[Leadership(0.5, 1, 2, "wb", "wa", -0.1), Leadership(0.9, 2, 2, "wa", "wa", 1.0)],
        rows=[ROW],
    )
    return replace(whole, **more)  # type: ignore[arg-type]


def rules(broken: History) -> set[str]:
    return {each.rule for each in check(broken)}


def test_a_history_with_nothing_wrong() -> None:
    assert check(history()) == []
    assert check(history(rows=[ROW, TICK, NEXT, replace(NEXT, status="pending", created=30.2, due=29.0)])) == []


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("lost", {"rows": []}),
        ("periodic", {"rows": [ROW, TICK, replace(NEXT, due=10.0, created=10.2)]}),
        ("periodic", {"rows": [ROW, NEXT, replace(TICK, created=11.9)]}),
        ("periodic", {"rows": [ROW, replace(TICK, created=9.0)]}),
        ("periodic", {"rows": [ROW, replace(TICK, created=18.0)]}),
        ("invented", {"enqueues": [replace(TRIED, n=2)]}),
        ("unfinished", {"rows": [replace(ROW, status="claimed")]}),
        ("ended twice", {"changes": [PENDING, CLAIMED, ENDED, ENDED]}),
        ("wrong end", {"rows": [replace(ROW, status="dead_letter")]}),
        ("wrong end", {"rows": [replace(ROW, type="broken", status="dead_letter", attempts=2)]}),
        (
            "key used twice",
            {
                "enqueues": [replace(TRIED, key="k"), replace(TRIED, n=2, key="k", task_id="u")],
                "rows": [ROW, replace(ROW, n=2, task_id="u")],
            },
        ),
        ("transition", {"changes": [CLAIMED, ENDED, replace(ENDED, old_status="completed", new_status="failed")]}),
        ("stale outcome", {"changes": [PENDING, CLAIMED, replace(ENDED, new_ended_token=6)]}),
        ("token used twice", {"changes": [PENDING, CLAIMED, ENDED, replace(CLAIMED, task_id="u")]}),
        ("attempts", {"changes": [PENDING, CLAIMED, replace(ENDED, new_attempts=0)]}),
        ("attempts", {"changes": [PENDING, CLAIMED, RUNNING, replace(RECOVERED, new_attempts=0)]}),
        ("attempts", {"executions": [replace(RUN, attempt=2)]}),
        ("leader's write", {"changes": [PENDING, CLAIMED, RUNNING, replace(RECOVERED, role="b")]}),
        ("leader's write", {"deaths": [Death(2.4, "b", "a", "wb", 2.0)]}),
        ("leader's write", {"deaths": [Death(2.4, "b", None, "wb", 2.0)]}),
        ("term", {"leaderships": [Leadership(0.5, 2, 1, "wb", "wa", -0.1)]}),
        ("term", {"leaderships": [Leadership(0.5, 2, 2, "wb", "wa", -0.1)]}),
        ("declared dead", {"deaths": [Death(2.4, "a", "a", "wb", 1.0)]}),
        (
            "recovered early",
            {"changes": [PENDING, CLAIMED, RUNNING, RECOVERED], "deaths": [Death(2.6, "a", "a", "wa", 2.0)]},
        ),
        ("overlap", {"executions": [RUN, replace(RUN, pid=101, started=2.5, ended=3.0)]}),
        ("cancelled", {"cancels": [Cancel("t", 1.5)]}),
        ("too early", {"enqueues": [replace(TRIED, run_at=2.5)]}),
    ],
)  # fmt: skip
def test_each_rule_sees_what_breaks_it(rule: str, wrong: dict[str, object]) -> None:
    assert rule in rules(history(**wrong))


@pytest.mark.parametrize(
    ("changes", "cancels", "is_right"),
    [
        ([replace(RECOVERED, old_status="claimed", old_attempts=0, new_attempts=0)], [Cancel("t", 2.95)], True),
        ([replace(RECOVERED, old_status="claimed", old_attempts=0, new_attempts=0)], [], False),
        ([], [Cancel("t", 2.95)], False),
    ],
)
def test_an_attempt_that_was_lost_with_its_worker_need_not_be_counted_once_the_task_is_cancelled(
    changes: list[Change], cancels: list[Cancel], is_right: bool
) -> None:
    failed = replace(ENDED, old_status="pending", new_status="failed", new_attempts=0, new_ended_token=None)
    rows = [replace(ROW, status="failed", attempts=0)]
    found = rules(history(changes=[PENDING, CLAIMED, *changes, failed], cancels=cancels, rows=rows))
    assert ("attempts" not in found) is is_right


def test_an_overlap_is_allowed_if_the_first_claim_was_recovered_in_between() -> None:
    runs = [RUN, replace(RUN, pid=101, attempt=2, started=2.6, ended=3.0)]
    assert "overlap" not in rules(history(executions=runs, changes=[PENDING, CLAIMED, RUNNING, RECOVERED]))


@pytest.mark.parametrize(
    ("crash", "claims", "is_right"),
    [
        (2.3, [replace(CLAIMED, at=2.5)], True),  # the first claim was forgotten with the crash
        (2.3, [CLAIMED], False),  # it was not: it is on record
        (2.3, [CLAIMED, replace(CLAIMED, at=2.5)], False),
        (None, [replace(CLAIMED, at=2.5)], False),  # there was no crash
        (3.2, [replace(CLAIMED, at=2.5)], False),  # ... or only later: by then the mark had brought it to the disk
        (0.5, [replace(CLAIMED, at=2.5)], False),  # ... or before it was enqueued
        ((0.5, 2.3), [replace(CLAIMED, at=2.5)], True),  # it took a while
        ((0.5, 0.6), [replace(CLAIMED, at=2.5)], False),
    ],
)
def test_an_overlap_is_allowed_if_the_first_claim_was_forgotten_in_a_crash_of_the_database(
    crash: float | tuple[float, float] | None, claims: list[Change], is_right: bool
) -> None:
    runs = [RUN, replace(RUN, pid=101, started=2.6, ended=3.0)]
    begin, end = crash if isinstance(crash, tuple) else (crash, crash)
    deeds = [Deed(at, what, "database") for at, what in ((begin, "crash"), (end, "is down")) if at is not None]
    found = rules(history(executions=runs, changes=[PENDING, *claims, ENDED], deeds=deeds))
    assert ("overlap" not in found) is is_right


def test_a_single_instance_buries_its_predecessor_at_once() -> None:
    assert "declared dead" not in rules(history(is_distributed=False, deaths=[Death(2.4, "a", "a", "wb", 0.1)]))


@pytest.mark.parametrize(("first", "is_right"), [(0, False), (5, True)])
def test_a_batch_runs_in_the_order_of_priority(first: int, is_right: bool) -> None:
    """Task t runs first, with priority `first`; u of priority 1 came in the same claim."""
    other = replace(TRIED, n=2, task_id="u")
    both = history(
        enqueues=[TRIED, other],
        executions=[RUN, Execution("u", 1, 100, 2.95, 2.96)],
        changes=[PENDING, CLAIMED, replace(PENDING, task_id="u"), replace(CLAIMED, task_id="u", new_token=8)],
        rows=[replace(ROW, priority=first), replace(ROW, task_id="u", n=2, priority=1, created=1.1)],
    )
    assert ("order" not in rules(both)) is is_right


def test_the_history_of_a_task_can_be_read() -> None:
    lines = history().of("t")
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)
    assert any("attempt 1 began in 100" in line for line in lines)
