"""One exposition of all the files of a worker. The supervisor runs it at each scrape.

It must never fail a scrape: a file that is empty, torn or gone is read as far as it makes sense, counted and logged.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily

from orchestrator.telemetry import logs
from orchestrator.telemetry.files import Entry, read_entries

MAX_REMEMBERED_KEYS = 100_000

_FILE_NAME = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_([^_/]+)\.db")
_BOUND = re.compile(r"[+-]?(Inf|\d+(\.\d*)?(e[+-]?\d+)?)")

Labels = tuple[tuple[str, str], ...]


class Series(NamedTuple):
    """What an entry's key says."""

    metric: str
    name: str
    labels: Labels
    help: str


@dataclass(slots=True)
class Family:
    """One metric, merged: its kind and the value of each of its series."""

    kind: str
    help: str
    values: dict[tuple[str, Labels], float] = field(default_factory=dict)
    written: dict[tuple[str, Labels], float] = field(default_factory=dict)


class SlotFilesCollector:
    """Merges the value files in the folder `path`; register it with the registry that /metrics shows."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._series: dict[bytes, Series | None] = {}
        self._last_whole: dict[str, list[Entry]] = {}
        self._unreadable: set[str] = set()
        self._failures = 0
        self._log = logs.get("telemetry")

    def collect(self) -> Iterator[Metric]:
        """Every metric of every process, by name. One call at a time."""
        counts, gauges = self._read_all()
        families: dict[str, Family] = {}
        for kind, sums in counts.items():
            for key, value in sums.items():
                found = self._family(families, kind, key)
                if found:
                    family, series = found
                    place = (series.name, series.labels)
                    family.values[place] = family.values.get(place, 0.0) + value
        for mode, identity, entries in gauges:
            for entry in entries:
                found = self._family(families, "gauge", entry.key)
                if found:
                    _merge_gauge(found[0], found[1], mode, identity, entry)
        for name in sorted(families):
            yield _exposed(name, families[name])
        failures = "Times a metrics file could not be read whole: its series may lag"
        yield CounterMetricFamily("metrics_file_failures", failures, value=self._failures)

    def _read_all(self) -> tuple[dict[str, dict[bytes, float]], list[tuple[str, str, list[Entry]]]]:
        """Sums of everything that counts, by kind and raw key, and the gauges of each file."""
        counts: dict[str, dict[bytes, float]] = {}
        gauges: list[tuple[str, str, list[Entry]]] = []
        for file_name in self._file_names():
            matched = _FILE_NAME.fullmatch(file_name)
            if not matched:
                continue
            kind, identity = matched.groups()
            entries = self._read(file_name, counts_up=not kind.startswith("gauge"))
            if kind.startswith("gauge"):
                gauges.append((kind.removeprefix("gauge_"), identity, entries))
                continue
            sums = counts.setdefault(kind, {})
            for entry in entries:
                sums[entry.key] = sums.get(entry.key, 0.0) + entry.value
        return counts, gauges

    def _file_names(self) -> list[str]:
        """Those that are there, and those of counts that were: nobody who may has removed them."""
        try:
            names = os.listdir(self._path)
        except OSError as error:
            self._failures += 1
            self._say_folder_unreadable(error)
            names = []
        else:
            self._unreadable.discard(self._path)
        return sorted({*names, *self._last_whole})

    def _read(self, file_name: str, *, counts_up: bool) -> list[Entry]:
        """A file's entries. Counts that can't be read now are those read last: a dip would look like a restart."""
        path = os.path.join(self._path, file_name)
        try:
            with open(path, "rb") as file:
                entries, is_whole = read_entries(file.read())
            problem = "" if is_whole else "empty, torn or garbage"
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not counts_up:
                return []  # a dead child's gauges, removed just now
            entries, problem = [], str(error)
        if not problem:
            self._unreadable.discard(path)
            if counts_up:
                self._last_whole[file_name] = entries
            return entries
        self._failed(path, problem)
        return self._last_whole.get(file_name, entries)

    def _failed(self, path: str, problem: str) -> None:
        self._failures += 1
        if path not in self._unreadable and self._path not in self._unreadable:
            self._unreadable.add(path)
            self._log.warning("metrics_file_unreadable", path=path, error=problem)

    def _say_folder_unreadable(self, error: OSError) -> None:
        """Once, and then nothing of each file in it: of a large pool that would be hundreds of lines."""
        if self._path not in self._unreadable:
            self._unreadable.add(self._path)
            self._log.error(
                "metrics_folder_unreadable", path=self._path, error=error.strerror,
                then="counters stand still; if it was removed, until a restart makes it anew",
            )  # fmt: skip

    def _family(self, families: dict[str, Family], kind: str, key: bytes) -> tuple[Family, Series] | None:
        """Where an entry belongs; None if its key is garbage, or its name another kind's already."""
        try:
            series = self._series[key]
        except KeyError:
            if len(self._series) >= MAX_REMEMBERED_KEYS:
                self._series.clear()
            series = self._series[key] = _parsed(key)
        if series is None:
            self._failures += 1
            return None
        family = families.setdefault(series.metric, Family(kind, series.help))
        return (family, series) if family.kind == kind else None


def _parsed(key: bytes) -> Series | None:
    try:
        metric, name, labels, text = json.loads(key)
        Metric(metric, text, "gauge")  # its check of names
        pairs = tuple(sorted((_storable(label), _storable(value)) for label, value in labels.items()))
        return Series(metric, _storable(name), pairs, _storable(text))
    except (ValueError, TypeError, AttributeError):
        return None


def _storable(text: str) -> str:
    """Without lone surrogates, which no exposition can be encoded with."""
    return text.encode("utf-8", "replace").decode()


def _merge_gauge(family: Family, series: Series, mode: str, identity: str, entry: Entry) -> None:
    """As prometheus_client defines its multiprocess modes; of a mode it does not know, every process has a series."""
    mode = mode.removeprefix("live")
    place = (series.name, series.labels)
    present = family.values.get(place)
    if mode == "sum":
        family.values[place] = (present or 0.0) + entry.value
    elif mode == "min":
        family.values[place] = entry.value if present is None else min(present, entry.value)
    elif mode == "max":
        family.values[place] = entry.value if present is None else max(present, entry.value)
    elif mode == "mostrecent":
        if entry.timestamp > family.written.get(place, 0.0):
            family.values[place], family.written[place] = entry.value, entry.timestamp
    else:
        family.values[series.name, (*series.labels, ("pid", identity))] = entry.value


def _exposed(name: str, family: Family) -> Metric:
    """What has the same labels stands together, as OpenMetrics demands; some who read it refuse all of it otherwise."""
    metric = Metric(name, family.help, family.kind)
    groups: dict[Labels, list[tuple[str, Labels, float]]] = {}
    for (series, labels), value in family.values.items():
        group = _without_bound(labels) if family.kind == "histogram" else labels
        groups.setdefault(group, []).append((series, labels, value))
    for group, samples in groups.items():
        if family.kind == "histogram":
            _add_buckets(metric, group, samples)
        for series, labels, value in samples:
            if labels == group:
                metric.add_sample(series, dict(labels), value)
    return metric


def _without_bound(labels: Labels) -> Labels:
    return tuple(pair for pair in labels if pair[0] != "le")


def _add_buckets(metric: Metric, group: Labels, samples: list[tuple[str, Labels, float]]) -> None:
    """Buckets are stored each for itself; shown they include the smaller ones, and the last is the count."""
    buckets = []
    for _, labels, value in samples:
        bound = next((text for label, text in labels if label == "le"), None)
        if bound is not None and _BOUND.fullmatch(bound):
            buckets.append((float(bound), bound, value))
    count = 0.0
    for _, bound, value in sorted(buckets):
        count += value
        metric.add_sample(f"{metric.name}_bucket", {**dict(group), "le": bound}, count)
    if buckets:
        metric.add_sample(f"{metric.name}_count", dict(group), count)
