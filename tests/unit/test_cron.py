"""Which moments cron expressions name: in time zones, around the changes of summer time, and of many the newest."""

import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cron import NO_CRONSIM, cron_problem, local_time, newest_due, next_due

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "timezone", "after", "due"),
    [
        ("* * * * *", "UTC", "2026-11-27 10:00:00.5", "2026-11-27 10:01:00"),
        ("*/10 * * * * *", "UTC", "2026-11-27 10:00:10", "2026-11-27 10:00:20"),
        ("30 3 * * MON-FRI", BERLIN, "2026-11-27 02:30:00", "2026-11-30 02:30:00"),
        ("0 12 * * *", "Asia/Kolkata", "2026-11-27 06:29:59", "2026-11-27 06:30:00"),
        ("0 0 29 2 *", "UTC", "2026-11-27 00:00:00", "2028-02-29 00:00:00"),
        ("30 2 * * *", BERLIN, "2026-03-28 12:00:00", "2026-03-29 01:00:00"),  # skipped: when the hour is over
        ("30 2 * * *", BERLIN, "2026-10-24 12:00:00", "2026-10-25 00:30:00"),  # repeated: the first time ...
        ("30 2 * * *", BERLIN, "2026-10-25 00:30:00", "2026-10-26 01:30:00"),  # ... and not the second
        ("30 2 * * *", BERLIN, "2026-10-25 01:10:00", "2026-10-26 01:30:00"),
        ("*/30 * * * *", BERLIN, "2026-10-25 00:30:00", "2026-10-25 01:00:00"),
    ],
)
def test_what_is_due_next(cron: str, timezone: str, after: str, due: str) -> None:
    assert next_due(cron, timezone, at(after)) == at(due)


CRONS = [
    "* * * * *",
    "*/7 * * * *",
    "15 1-3 * * *",
    "30 2 * * *",
    "0 */2 * * *",
    "0 0 * * SUN",
    "5 0 1 * *",
    "9 * * * * *",
]
ZONES = ["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "America/Santiago"]
CHANGES = [at("2026-03-29 00:00"), at("2026-10-25 00:00"), at("2026-11-01 05:00"), at("2026-04-04 14:00")]


@given(
    st.sampled_from(CRONS),
    st.sampled_from(ZONES),
    st.sampled_from(CHANGES),
    st.floats(-9000, 9000),
    st.floats(0, 9000),
)
def test_the_newest_is_the_last_of_those_that_follow_each_other(
    cron: str, timezone: str, change: datetime, before: float, seconds: float
) -> None:
    """Wherever the look begins: else a moment would be enqueued twice, or never."""
    after = change + timedelta(seconds=before)
    now = after + timedelta(seconds=seconds)
    last = None
    following = next_due(cron, timezone, after)
    while following is not None and following <= now:
        assert following > (last or after)
        last, following = following, next_due(cron, timezone, following)
    assert newest_due(cron, timezone, after, now) == last


def test_the_newest_of_the_seconds_of_ten_years_is_found_at_once() -> None:
    """A day of each week has 86,400 of them."""
    found = newest_due("* * * * * MON", "UTC", at("2016-11-27 00:00"), at("2026-11-27 12:00"))
    assert found == at("2026-11-23 23:59:59")


@pytest.mark.parametrize(
    ("cron", "timezone", "problem"),
    [
        ("* * * *", "UTC", "cannot be read: Wrong number of fields"),
        ("61 * * * *", "UTC", "cannot be read: Bad minute"),
        ("every day", "UTC", "cannot be read"),
        ("", "UTC", "cannot be read"),
        ("0," * 500 + "0 * * * *", "UTC", "longer than 1000 characters"),
        (f"{'1' * 5000} * * * *", "UTC", "longer than 1000 characters"),
        (None, "UTC", "are texts"),
        ("* * * * *", None, "are texts"),
        ("* * */20 * 1L", "UTC", "no moment in the next 50 years"),
        ("* * * * *", "Europe/Atlantis", "no time zone 'Europe/Atlantis'"),
        ("* * * * *", "Europe", "no time zone 'Europe'"),
        ("* * * * *", "/etc/passwd", "no time zone '/etc/passwd'"),
        ("* * * * *", "../etc/passwd", "no time zone"),
        ("* * * * *", "", "no time zone"),
        ("* * * * *", "a\0b", "no time zone"),
    ],
)
def test_what_is_no_time_is_told(cron: str, timezone: str, problem: str) -> None:
    assert problem in (cron_problem(cron, timezone) or "")


def test_without_cronsim_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    assert cron_problem("* * * * *", "UTC") == NO_CRONSIM


def test_a_moment_is_shown_with_the_offset_of_its_time_zone() -> None:
    assert local_time(at("2026-07-01 01:30"), BERLIN) == "2026-07-01T03:30:00+02:00"
    assert local_time(at("2026-07-01 01:30"), "UTC") == "2026-07-01T01:30:00+00:00"
