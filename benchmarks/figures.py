"""What was measured: ratios of runs that were made one after the other, and their spread."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.progress import tell


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
        if self.low == self.high:
            return short(self.median)
        return f"{short(self.median)} ({short(self.low)} to {short(self.high)})"


@dataclass(frozen=True)
class Line:
    """One line of the report. `ratio` is ours to `beside`, pair by pair; `bar` is what it must be, and how.

    `ours` is None where it could not be measured; then `note` says why.
    """

    name: str
    unit: str
    ours: Spread | None
    beside: str = ""
    theirs: Spread | None = None
    ratio: Spread | None = None
    bar: float | None = None
    is_upper_bar: bool = False
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def is_reached(self) -> bool | None:
        """None: nothing is asked of it, or it was not measured. What is asked is asked of the ratio, or of our figure
        if there is none."""
        spread = self.ratio or self.ours
        if self.bar is None or spread is None:
            return None
        return spread.median <= self.bar if self.is_upper_bar else spread.median >= self.bar

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_reached": self.is_reached}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Line":
        spreads = {name: Spread(**fields[name]) if fields[name] else None for name in ("ours", "theirs", "ratio")}
        return cls(**{name: value for name, value in fields.items() if name != "is_reached"} | spreads)


def paired(
    name: str,
    unit: str,
    pairs: Sequence[tuple[float, float]],
    *,
    beside: str,
    bar: float | None = None,
    is_upper_bar: bool = False,
    note: str = "",
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
        note=note,
        extra=extra,
    )


def take_turns(rounds: int, runs: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """All of them in each round, forth and back: neighbours stay neighbours, and a drift of the machine favours
    nobody."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds):
        for name in reversed(runs) if index % 2 else runs:
            figure = runs[name]()
            found[name].append(figure)
            tell(f"round {index + 1} of {rounds}, {name}: {short(figure)}")
    return found


def interleave(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> list[tuple[float, float]]:
    """Both, again and again."""
    found = take_turns(rounds, {"ours": ours, "beside": theirs})
    return list(zip(found["ours"], found["beside"], strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def short(value: float) -> str:
    """Three digits that say something: 22,500; 47.1; 0.38."""
    if abs(value) >= 1000:
        return f"{round(value, -2 if abs(value) >= 10_000 else -1):,.0f}"
    return f"{value:.3g}"
