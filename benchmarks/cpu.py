"""CPU time of a process and all that it has started, from /proc."""

import os
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system seconds of the process, of its living descendants, and of those that each has reaped."""
    children: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        spent[int(entry.name)] = sum(map(int, fields[11:15])) * _TICK_SECONDS
    total, todo = 0.0, [pid]
    while todo:
        each = todo.pop()
        total += spent.get(each, 0.0)
        todo += children.get(each, [])
    return total


def proportional_kilobytes(pid: int) -> int:
    """PSS: what it has alone, and its share of what several have."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
