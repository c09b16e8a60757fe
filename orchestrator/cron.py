"""The moments that a cron expression names in a time zone. Pure.

What an expression means is cronsim's to say, an extra: minute, hour, day, month and weekday as Debian's cron reads
them, also where summer time skips or repeats an hour; or six fields, of which the first are the seconds.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

NO_CRONSIM = "periodic tasks need cronsim, which is not installed here: pip install cronsim"

MAX_LENGTH = 1000
"""Of an expression, in characters: it travels from process to process in one message."""

REMEMBERED = 5000
"""Answers: of a thousand periodic tasks all are asked about whenever one is due."""

_SECOND = timedelta(seconds=1)


def cron_problem(expression: object, timezone: object) -> str | None:
    """Why nothing can be done at these times: in words for whoever wrote them, or None."""
    if not isinstance(expression, str) or not isinstance(timezone, str):
        return f"the cron expression {expression!r} and the time zone {timezone!r} are texts"
    if len(expression) > MAX_LENGTH:
        return f"the cron expression {expression[:40]!r}… is longer than {MAX_LENGTH} characters"
    try:
        from cronsim import CronSimError  # noqa: PLC0415 an extra
    except ImportError:
        return NO_CRONSIM
    try:
        _zone(timezone)
    except (LookupError, ValueError, OSError):
        return f"there is no time zone {timezone!r}: write one such as 'Europe/Berlin' (does the tzdata package miss?)"
    try:
        if next_due(expression, timezone, datetime.now(UTC)) is None:
            return f"the cron expression {expression!r} names no moment in the next 50 years"
    except CronSimError as error:
        return f"the cron expression {expression!r} cannot be read: {error}. Write one such as '30 3 * * MON-FRI'"
    return None


@lru_cache(REMEMBERED)
def next_due(expression: str, timezone: str, after: datetime) -> datetime | None:
    """The first moment later than `after` (an aware time, to the second), in UTC. None: none in 50 years.

    For expressions and time zones of which `cron_problem` says nothing.
    """
    return _next(expression, _zone(timezone), after)


def newest_due(expression: str, timezone: str, after: datetime, now: datetime) -> datetime | None:
    """The last moment later than `after` and no later than `now`, in UTC; None: there is none.

    By halves, since the moments of a year that nobody worked may be many.
    """
    zone = _zone(timezone)
    first = _next(expression, zone, after)
    if first is None or first > now:
        return None
    low, high = after, now  # one lies later than `low`, and none that is not later than `now` lies later than `high`
    while high - low > _SECOND:
        middle = low + (high - low) / 2
        found = _next(expression, zone, middle)
        if found is not None and found <= now:
            low = middle
        else:
            high = middle
    return _next(expression, zone, low)


def _next(expression: str, zone: tzinfo, after: datetime) -> datetime | None:
    from cronsim import CronSim  # noqa: PLC0415 an extra

    for local in CronSim(expression, after.astimezone(zone)):
        found = local.astimezone(UTC)
        if found > after:  # in an hour that is repeated it may begin with the first of the two
            return found
    return None


def _zone(name: str) -> tzinfo:
    """UTC needs no database of time zones."""
    return UTC if name == "UTC" else ZoneInfo(name)


def local_time(moment: datetime, timezone: str) -> str:
    """In ISO 8601, with the offset of that time zone: 2026-11-27T03:00:00+01:00."""
    return moment.astimezone(_zone(timezone)).isoformat()
