"""What a run found: a table, and a file with all of it. `python -m benchmarks.report FILE` prints that as Markdown."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from benchmarks.figures import Line, short
from benchmarks.server import Server
from orchestrator import __version__

RESULTS = Path(__file__).parent / "results"
_REACHED = {None: "", True: "reached", False: "MISSED"}


def table(lines: Sequence[Line]) -> str:
    """Each figure as the median of its runs (lowest to highest)."""
    rows = [
        [
            line.name,
            line.unit,
            str(line.ours or "not measured"),
            line.beside,
            str(line.theirs or ""),
            str(line.ratio or ""),
            _bar(line),
            "; ".join(each for each in (_REACHED[line.is_reached], line.note) if each),
        ]
        for line in lines
    ]
    titles = ["what", "unit", "ours", "beside", "theirs", "ratio", "bar", ""]
    return tabulate(rows, titles, tablefmt="github", disable_numparse=True)


def sentence(line: Line) -> str:
    """The same of one line."""
    if line.ours is None:
        return f"{line.name}, beside {line.beside}: {line.note}" if line.beside else f"{line.name}: {line.note}"
    beside = f"; {line.ratio} x {line.beside}" if line.ratio else ""
    asked = f"; {_bar(line)}: {_REACHED[line.is_reached]}" if line.bar is not None else ""
    return f"{line.name}: {line.ours} {line.unit}{beside}{asked}"


def save(lines: Sequence[Line], server: Server, folder: Path, options: dict[str, Any]) -> Path:
    """Writes DATE-pgVERSION.json into the folder."""
    now = datetime.now(UTC)
    document = {
        "at": now.isoformat(timespec="seconds"),
        "version": __version__,
        "postgresql": server.version,
        "origin": server.origin,
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version(),
                    "kernel": platform.release(), "processor": _processor(), "memory_gb": _memory_gigabytes()},
        "options": options,
        "lines": [line.as_json() for line in lines],
    }  # fmt: skip
    path = folder / f"{now:%Y-%m-%dT%H%M%S}-pg{server.version.split()[0]}.json"
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def heading(document: dict[str, Any]) -> str:
    """When, where, on what: without it the figures say nothing."""
    machine, options = document["machine"], document["options"]
    postgresql = document["postgresql"].split()[0]
    return (
        f"{document['at'][:10]}, Task Orchestrator {document['version']}, PostgreSQL {postgresql}"
        f" ({document['origin']}), Python {machine['python']}, {machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory_gb']:.0f} GB, Linux {machine['kernel']};"
        f" load {machine['load'][2]:.1f} in the last 15 minutes; {options['rounds']} rounds, size {options['size']:g}."
    )


def _bar(line: Line) -> str:
    return "" if line.bar is None else f"{'at most' if line.is_upper_bar else 'at least'} {short(line.bar)}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gigabytes() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    """Prints the results in FILE as Markdown, for docs/performance.md."""
    document = json.loads(file.read_text())
    click.echo(heading(document) + "\n")
    click.echo(table([Line.from_json(each) for each in document["lines"]]))


if __name__ == "__main__":
    main()
