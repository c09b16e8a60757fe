"""Times as Python has them: PostgreSQL's go from 4714 BC to the year 294276 and to infinity. Used by `Connection`."""

from datetime import UTC, datetime
from typing import Any

from psycopg2.extensions import PYDATETIMETZ, new_type

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)

_OID = 1184  # of timestamptz


def _nearest(text: Any, cursor: Any) -> datetime | None:
    """One row by raw SQL with a time that Python has not must not keep all others from being seen."""
    if text is None:
        return None
    if text.endswith(("infinity", "BC")):
        return LATEST if text == "infinity" else EARLIEST
    try:
        moment: datetime = PYDATETIMETZ(text, cursor)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # which year it is depends on the zone
        return EARLIEST if text.startswith("0001") else LATEST


TIMES = new_type((_OID,), "TIMESTAMPTZ", _nearest)
