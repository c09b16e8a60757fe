"""What a run found: a table, and a file with all of it."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.figures import Line, short
from benchmarks.server import Server
from orchestrator import __version__

RESULTS = Path(__file__).parent / "results"


def table(lines: Sequence[Line]) -> str:
    """Each figure as the median of its runs (lowest to highest)."""
    rows = [
        [
            line.name,
            line.unit,
            str(line.ours),
            line.beside,
            "" if line.theirs is None else str(line.theirs),
            "" if line.ratio is None else str(line.ratio),
            "" if line.bar is None else f"{'at most' if line.is_upper_bar else 'at least'} {short(line.bar)}",
            {None: "", True: "reached", False: "MISSED"}[line.is_reached],
        ]
        for line in lines
    ]
    titles = ["what", "unit", "ours", "beside", "theirs", "ratio", "bar", ""]
    return tabulate(rows, titles, tablefmt="github", disable_numparse=True)


def save(lines: Sequence[Line], server: Server, folder: Path, options: dict[str, Any]) -> Path:
    """Writes DATE-pgVERSION.json into the folder."""
    now = datetime.now(UTC)
    document = {
        "at": now.isoformat(timespec="seconds"),
        "version": __version__,
        "postgresql": server.version,
        "origin": server.origin,
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version(),
                    "kernel": platform.release(), "processor": _processor()},
        "options": options,
        "lines": [line.as_json() for line in lines],
    }  # fmt: skip
    path = folder / f"{now:%Y-%m-%dT%H%M%S}-pg{server.version.split()[0]}.json"
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
