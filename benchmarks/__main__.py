"""The command behind `make bench`."""

from collections.abc import Callable, Iterable
from pathlib import Path

import click

from benchmarks import drain, enqueue, handlers, idle, latency, report
from benchmarks.figures import Line
from benchmarks.server import Server, server

Measurement = Callable[[Server, int, float], Iterable[Line]]

# each is given how many rounds to make, and the size: 1 is what the bars are about
MEASUREMENTS: dict[str, Measurement] = {
    "drain": lambda where, rounds, size: drain.measure(where, int(100_000 * size), rounds),
    "enqueue": lambda where, rounds, size: enqueue.measure(where, int(5_000 * size), int(100_000 * size), rounds),
    "latency": lambda where, rounds, size: latency.measure(where, int(300 * size), rounds),
    "handlers": lambda where, rounds, size: handlers.measure(where, 5 * size, rounds),
    "payloads": lambda where, rounds, size: drain.measure_payloads(where, int(50_000 * size), rounds),
    "scheduled": lambda where, rounds, size: drain.measure_scheduled(
        where, int(100_000 * size), rounds, int(1_000_000 * size)
    ),
    "backlog": lambda where, rounds, size: drain.measure_backlog(
        where, int(1_000_000 * size), int(100_000 * size), max(1, rounds - 1)
    ),
    "idle": lambda where, rounds, size: idle.measure(where, 20 * size),
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(MEASUREMENTS)))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Pairs of runs of each kind.")
@click.option(
    "--size", default=1.0, show_default=True, type=click.FloatRange(0.01, 10), help="Of the queues; the bars want 1."
)
@click.option("--check", is_flag=True, help="Exit 1 if a bar is missed.")
@click.option("--results", default=report.RESULTS, type=click.Path(path_type=Path), help="Folder for the JSON file.")
def main(names: tuple[str, ...], rounds: int, size: float, check: bool, results: Path) -> None:
    """Measures NAMES, or everything, on BENCH_DATABASE_URL or a private PostgreSQL."""
    lines: list[Line] = []
    with server() as where:
        click.echo(f"PostgreSQL {where.version} ({where.origin})", err=True)
        for name in names or MEASUREMENTS:
            click.echo(f"{name} ...", err=True)
            for line in MEASUREMENTS[name](where, rounds, size):
                lines.append(line)
                click.echo(f"  {line.name}: {line.ours} {line.unit}", err=True)
        path = report.save(lines, where, results, {"names": names, "rounds": rounds, "size": size})
    click.echo(report.table(lines))
    click.echo(f"written to {path}", err=True)
    if check and any(line.is_reached is False for line in lines):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
