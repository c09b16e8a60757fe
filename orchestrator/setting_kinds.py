"""How a setting's text becomes a value: durations, sizes, numbers, yes and no. Pure.

Each kind reads text or raises ValueError, and says in words what it accepts.
"""

import re
from typing import NamedTuple, Protocol

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)", re.ASCII | re.IGNORECASE)
_YES = frozenset({"true", "1", "yes", "on"})
_NO = frozenset({"false", "0", "no", "off"})


class Kind(Protocol):
    """What a setting may be."""

    @property
    def accepted(self) -> str:
        """What to write, in words."""

    def read(self, text: str) -> object:
        """The value. ValueError, with a hint or nothing in it, for any other text."""


def duration(seconds: float) -> str:
    """Seconds as one would write them: `500ms`, `1m30s`, `1h`."""
    left = round(seconds * 1000)
    if left == 0:
        return "0s"
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def size(count: int) -> str:
    """Bytes as one would write them: `512MB`, `0`."""
    for unit in ("G", "M", "K"):
        if count and count % _SIZE_UNITS[unit] == 0:
            return f"{count // _SIZE_UNITS[unit]}{unit}B"
    return f"{count}B" if count else "0"


class Duration(NamedTuple):
    """Seconds as a float. With `none` it may also be that word, which reads as None."""

    least: float
    most: float
    none: bool = False

    @property
    def accepted(self) -> str:
        examples = "such as 500ms, 1s, 1m, 1h30m or 7d"
        also = ", or none" if self.none else ""
        return f"write a duration from {duration(self.least)} to {duration(self.most)}, {examples}{also}"

    def read(self, text: str) -> float | None:
        if self.none and text.lower() == "none":
            return None
        if _NUMBER.fullmatch(text) and float(text) != 0:
            raise ValueError(f"write {text}s if you mean seconds")
        if _NUMBER.fullmatch(text) and self.least <= 0:
            return 0.0
        if not _DURATION.fullmatch(text):
            raise ValueError
        return float(_within(sum(float(n) * _DURATION_UNITS[u] for n, u in _DURATION_PART.findall(text)), self))


class Whole(NamedTuple):
    """A whole number."""

    least: int
    most: int

    @property
    def accepted(self) -> str:
        return f"write a whole number from {self.least} to {self.most}"

    def read(self, text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
            raise ValueError
        return int(_within(int(text), self))


class Size(NamedTuple):
    """A number of bytes; 1 KB is 1024."""

    least: int
    most: int

    @property
    def accepted(self) -> str:
        return f"write a size from {size(self.least)} to {size(self.most)}, such as 64KB, 512MB or 2GB"

    def read(self, text: str) -> int:
        if _NUMBER.fullmatch(text) and (float(text) != 0 or self.least > 0):
            raise ValueError(f"write {text}MB if you mean megabytes")
        if _NUMBER.fullmatch(text):
            return 0
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError
        return int(_within(float(match[1]) * _SIZE_UNITS[match[2].upper()], self))


class Boolean:
    """Yes or no."""

    @property
    def accepted(self) -> str:
        return "write true or false (or 1, 0, yes, no, on, off)"

    def read(self, text: str) -> bool:
        if text.lower() in _YES:
            return True
        if text.lower() in _NO:
            return False
        raise ValueError


class Choice(NamedTuple):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def accepted(self) -> str:
        return f"write {' or '.join(self.words)}"

    def read(self, text: str) -> str:
        if text.lower() not in self.words:
            raise ValueError
        return text.lower()


class Text(NamedTuple):
    """Any line of text that matches `pattern`."""

    accepted: str
    pattern: str = r".+"

    def read(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text) or not text.isprintable():
            raise ValueError
        return text


def _within(value: float, kind: Duration | Whole | Size) -> float:
    if not kind.least <= value <= kind.most:
        raise ValueError
    return value
