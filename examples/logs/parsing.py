"""Lines in Apache's and nginx's combined log format, added up. Pure Python, a core's work; no database."""

import gzip
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

# 203.0.113.7 - ann [10/Oct/2025:13:55:36 +0200] "GET /shop?q=tea HTTP/1.1" 200 2326 "https://…/" "Mozilla/5.0 …"
_LINE = re.compile(
    r"(?P<host>\S+) \S+ (?P<user>.+?) \[(?P<minute>\d\d/\w{3}/\d{4}:\d\d:\d\d):\d\d (?P<offset>[+-]\d{4})\]"
    r' "(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<bytes>\d+|-)'
    r' "(?:[^"\\]|\\.)*" "(?:[^"\\]|\\.)*"'
)
_REQUEST = re.compile(r"[A-Z]+ (?P<path>\S+) HTTP/\d(?:\.\d)?")
_NUMBER = re.compile(r"/\d+(?=/|$)")


class Key(NamedTuple):
    """What requests are counted by. `hour` is its beginning in UTC."""

    hour: datetime
    path: str
    status: int


@dataclass
class Totals:
    """What one file adds up to."""

    lines: int = 0
    malformed: int = 0
    hits: Counter[Key] = field(default_factory=Counter)
    bytes: Counter[Key] = field(default_factory=Counter)


def count_file(path: Path) -> Totals:
    """The totals of a log file, plain or .gz."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        return count_lines(line.decode("utf-8", "replace") for line in file)


def count_lines(lines: Iterable[str]) -> Totals:
    """The totals of lines. What is no log line (cut short by a full disk, say) is counted as malformed."""
    totals = Totals()
    for line in lines:
        totals.lines += 1
        found = _LINE.match(line)
        if found is None:
            totals.malformed += 1
            continue
        key = Key(_hour(found["minute"], found["offset"]), _path(found["request"]), int(found["status"]))
        totals.hits[key] += 1
        totals.bytes[key] += 0 if found["bytes"] == "-" else int(found["bytes"])
    return totals


@lru_cache(maxsize=10_000)
def _hour(minute: str, offset: str) -> datetime:
    """The minute matters: some zones are half an hour off."""
    return datetime.strptime(f"{minute} {offset}", "%d/%b/%Y:%H:%M %z").astimezone(UTC).replace(minute=0)


@lru_cache(maxsize=10_000)
def _path(request: str) -> str:
    """Without the query, and with :id for numbers: so /orders/17?page=2 and /orders/18 are one path."""
    found = _REQUEST.fullmatch(request)
    if found is None:
        return "(no request)"  # a port scanner's greeting, or TLS spoken to a plain port
    return _NUMBER.sub("/:id", found["path"].partition("?")[0])
