"""The command behind `make bench`."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from benchmarks import backlog, burst, costs, drain, enqueue, handlers, idle, latency, mix, report
from benchmarks.figures import Line
from benchmarks.progress import tell
from benchmarks.rivals import redis
from benchmarks.rivals.measure import measure_rivals
from benchmarks.server import Server, server

Measurement = Callable[[Server, int, float], Iterable[Line]]

# each is given how many rounds to make, and the size: 1 is what the bars are about. The long ones make fewer.
MEASUREMENTS: dict[str, Measurement] = {
    "drain": lambda where, rounds, size: drain.measure(where, int(100_000 * size), rounds),
    "costs": lambda where, rounds, size: costs.measure(where, int(100_000 * size)),
    "rivals": lambda where, rounds, size: measure_rivals(where, int(100_000 * size), rounds),
    "payloads": lambda where, rounds, size: drain.measure_payloads(where, int(50_000 * size), rounds),
    "enqueue": lambda where, rounds, size: enqueue.measure(where, int(5_000 * size), int(100_000 * size), rounds),
    "latency": lambda where, rounds, size: latency.measure(where, max(5, int(150 * size)), rounds),
    "handlers": lambda where, rounds, size: handlers.measure(where, 3 * size, rounds),
    "mix": lambda where, rounds, size: mix.measure(where, max(200, int(6_000 * size)), rounds),
    "burst": lambda where, rounds, size: burst.measure(where, size, rounds),
    "scheduled": lambda where, rounds, size: backlog.measure_scheduled(
        where, int(100_000 * size), max(1, rounds - 1), int(1_000_000 * size)
    ),
    "snapshot": lambda where, rounds, size: backlog.measure_snapshot(
        where, int(500_000 * size), int(100_000 * size), max(1, rounds - 1)
    ),
    "backlog": lambda where, rounds, size: backlog.measure(
        where, int(1_000_000 * size), int(100_000 * size), max(1, rounds - 1)
    ),
    "idle": lambda where, rounds, size: idle.measure(where, 20 * size),
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(MEASUREMENTS)))
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(1), help="Pairs of runs; fewer of the long ones."
)
@click.option(
    "--size", default=1.0, show_default=True, type=click.FloatRange(0.001, 10), help="Of the queues; the bars want 1."
)
@click.option("--check", is_flag=True, help="Exit 1 if a bar is missed.")
@click.option("--plot/--no-plot", default=True, show_default=True, help="Draw the figures, beside the JSON file.")
@click.option("--install-redis", is_flag=True, help="As root: apt-get install the server that dramatiq needs.")
@click.option(
    "--results", default=report.RESULTS, type=click.Path(path_type=Path), help="Folder for the JSON file and the plot."
)
def main(
    names: tuple[str, ...], rounds: int, size: float, check: bool, plot: bool, install_redis: bool, results: Path
) -> None:
    """Measures NAMES, or everything, on BENCH_DATABASE_URL or a private PostgreSQL."""
    if install_redis and redis.find() is None:
        redis.install()
    lines: list[Line] = []
    with server() as where:
        tell(f"PostgreSQL {where.version} ({where.origin})")
        for name in names or MEASUREMENTS:
            tell(name)
            for line in MEASUREMENTS[name](where, rounds, size):
                lines.append(line)
                tell("  " + report.sentence(line))
        path = report.save(lines, where, results, {"names": names, "rounds": rounds, "size": size})
    click.echo(report.table(lines))
    tell(f"written to {path}")
    if plot and importlib.util.find_spec("matplotlib") is None:
        tell("there is no plot: pip install matplotlib")
    elif plot:
        subprocess.run([sys.executable, "-m", "benchmarks.plot", str(path)], check=True)
    if check and any(line.is_reached is False for line in lines):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
