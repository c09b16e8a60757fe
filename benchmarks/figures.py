"""What was measured: ratios of pairs that were run one after the other, and their spread."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The median of several runs, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)} to {short(self.high)})"


@dataclass(frozen=True)
class Line:
    """One line of the report. `ratio` is ours to `beside`, pair by pair; `bar` is what it must be, and how."""

    name: str
    unit: str
    ours: Spread
    beside: str = ""
    theirs: Spread | None = None
    ratio: Spread | None = None
    bar: float | None = None
    is_upper_bar: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def is_reached(self) -> bool | None:
        """None: nothing is asked of it. What is asked is asked of the ratio, or of our figure if there is none."""
        if self.bar is None:
            return None
        value = (self.ratio or self.ours).median
        return value <= self.bar if self.is_upper_bar else value >= self.bar

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_reached": self.is_reached}


def paired(
    name: str,
    unit: str,
    pairs: Sequence[tuple[float, float]],
    *,
    beside: str,
    bar: float | None = None,
    is_upper_bar: bool = False,
    **extra: Any,
) -> Line:
    """A line of pairs (ours, theirs)."""
    return Line(
        name=name,
        unit=unit,
        ours=Spread.of([ours for ours, _ in pairs]),
        beside=beside,
        theirs=Spread.of([theirs for _, theirs in pairs]),
        ratio=Spread.of([ours / theirs for ours, theirs in pairs]),
        bar=bar,
        is_upper_bar=is_upper_bar,
        extra=extra,
    )


def interleave(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> list[tuple[float, float]]:
    """Both, again and again; who is first alternates, so that a drift of the machine favours nobody."""
    pairs = []
    for index in range(rounds):
        if index % 2:
            second, first = theirs(), ours()
        else:
            first, second = ours(), theirs()
        pairs.append((first, second))
    return pairs


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def short(value: float) -> str:
    """Three digits that say something: 22,500; 47.1; 0.38."""
    if abs(value) >= 1000:
        return f"{round(value, -2 if abs(value) >= 10_000 else -1):,.0f}"
    return f"{value:.3g}"
