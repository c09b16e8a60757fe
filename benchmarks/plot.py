"""Draws a file of results: `python -m benchmarks.plot FILE` writes an SVG beside it. A program of its own, because it
needs matplotlib, which nothing else does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import heading

Lines = list[dict[str, Any]]
OURS, OTHER, LIGHT = "#1f6f8b", "#c1666b", "#9fb8ad"


def throughput(axes: Axes, lines: Lines) -> bool:
    """How fast a queue of each size is drained, and what stood beside it."""
    sizes = next((line["extra"]["sizes"] for line in lines if "sizes" in line["extra"]), None)
    if not sizes:
        return False
    axes.plot([size for size, _ in sizes], [rate for _, rate in sizes], "o-", color=OURS, label="ours")
    for style, line in zip(("--", ":", "-.", (0, (1, 5))), _drains(lines), strict=False):
        axes.axhline(line["theirs"]["median"], color=OTHER, linestyle=style, label=line["beside"])
    axes.set(title="Throughput over backlog", xlabel="tasks pending", ylabel="tasks/s", ylim=(0, None))
    axes.ticklabel_format(style="plain")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize="small")
    return True


def latency(axes: Axes, lines: Lines) -> bool:
    """Percentiles of the time from enqueue to handler."""
    found = next((line for line in lines if "percentiles" in line["extra"]), None)
    if found is None:
        return False
    percentiles = found["extra"]["percentiles"]
    names = [f"p{each}" for each in percentiles]
    axes.plot(names, [ours for ours, _ in percentiles.values()], "o-", color=OURS, label="ours")
    axes.plot(names, [floor for _, floor in percentiles.values()], "s--", color=OTHER, label=found["beside"])
    axes.set(title="Enqueue to handler, 25 tasks/s", ylabel="ms", ylim=(0, None))
    axes.legend(fontsize="small")
    return True


def costs(axes: Axes, lines: Lines) -> bool:
    """CPU of a no-op."""
    found = {
        what: line["ours"]["median"]
        for line in lines
        for what in ("Python", "PostgreSQL")
        if line["name"] == f"CPU for a no-op: {what}"
    }
    if not found:
        return False
    below = 0.0
    for (what, cost), color in zip(found.items(), (OURS, LIGHT), strict=False):
        axes.bar(["a no-op"], [cost], 0.5, bottom=below, color=color, label=f"{what}: {cost:.0f} us")
        below += cost
    axes.set(title="CPU for a task", ylabel="us", xlim=(-1, 1))
    axes.legend(fontsize="small")
    return True


def _drains(lines: Lines) -> Lines:
    """What others did: pgbench at its best, and the rivals."""
    beside = [line for line in lines if line["name"].startswith("drain") and line["theirs"]]
    return [line for line in beside if not line["beside"].startswith("pgbench") or "100" in line["beside"]]


def draw(document: dict[str, Any]) -> Figure:
    """What the run has measured of the three, side by side."""
    panels: list[Callable[[Axes, Lines], bool]] = [throughput, latency, costs]
    figure = Figure(figsize=(15, 5), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), width_ratios=(4, 4, 2)), panels, strict=True):
        if not panel(axes, document["lines"]):
            axes.set_axis_off()
            axes.text(0.5, 0.5, f"{panel.__name__}: not measured", ha="center")
    figure.suptitle(heading(document), fontsize="x-small")
    return figure


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    """Draws the results in FILE beside it."""
    path = file.with_suffix(".svg")
    # the same figures make the same file
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    draw(json.loads(file.read_text())).savefig(path, metadata={"Date": None})
    click.echo(path)


if __name__ == "__main__":
    main()
