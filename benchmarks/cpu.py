"""CPU time of a process and all that it has started, from /proc."""

import os
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system seconds of the process, of its living descendants, and of those that each has reaped."""
    return sum(_ticks(each) for each in _family(pid)) * _TICK_SECONDS


def exact_cpu_seconds(pid: int) -> float:
    """The same to the nanosecond, for what is less than a tick in each process; without what has ended meanwhile."""
    total = 0
    for each in _family(pid):
        for thread in Path(f"/proc/{each}/task").glob("*/schedstat"):
            try:
                total += int(thread.read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return total / 1e9


def proportional_kilobytes(pid: int) -> int:
    """PSS: what it has alone, and its share of what several have."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _family(pid: int) -> list[int]:
    """The process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _ticks(pid: int) -> int:
    return sum(map(int, _stat(pid)[11:15]))


def _stat(pid: int) -> list[str]:
    """The fields after the name; none: it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
