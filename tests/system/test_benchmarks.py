"""`make bench` works: very small runs of it, whose figures mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.__main__ import MEASUREMENTS
from benchmarks.figures import Line, Spread, paired
from benchmarks.rivals.rival import RIVALS
from orchestrator import Client

ROOT = Path(__file__).parents[2]


def bench(*arguments: object, module: str = "benchmarks", database_url: str = "") -> subprocess.CompletedProcess[str]:
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=environ | ({"BENCH_DATABASE_URL": database_url} if database_url else {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def lines_of(folder: Path) -> list[Line]:
    (written,) = folder.glob("*.json")
    return [Line.from_json(each) for each in json.loads(written.read_text())["lines"]]


# the rivals are others' programs, and not among what the tests install
@pytest.mark.parametrize("name", sorted(MEASUREMENTS.keys() - {"rivals"}))
def test_a_tiny_run_of_each_measurement_finds_figures(name: str, tmp_path: Path, database_url: str) -> None:
    arguments = (name, "--rounds", 1, "--size", 0.002, "--no-plot", "--results", tmp_path)
    result = bench(*arguments, database_url=database_url)

    assert result.returncode == 0, result.stderr
    measured = [line for line in lines_of(tmp_path) if line.ours is not None]
    assert measured
    assert all(line.ours.median > 0 for line in measured if line.ours and name != "idle")
    assert all(line.name in result.stdout for line in measured)


@pytest.mark.slow
def test_a_small_run_of_everything_on_a_server_of_its_own_has_a_line_for_each_bar(tmp_path: Path) -> None:
    result = bench("--rounds", 2, "--size", 0.01, "--results", tmp_path)

    assert result.returncode == 0, result.stderr
    lines = lines_of(tmp_path)
    assert len([line for line in lines if line.bar is not None]) >= 20
    assert all(line.ours is not None or line.note for line in lines)
    assert {rival.name for rival in RIVALS} <= {line.beside.split()[0] for line in lines if line.beside}
    (picture,) = tmp_path.glob("*.svg")
    assert "not measured" not in picture.read_text()


def test_a_missed_bar_is_an_error_if_it_is_asked_for(tmp_path: Path, database_url: str) -> None:
    # so few tasks are done before the pool is at full speed
    arguments = ("drain", "--rounds", 1, "--size", 0.001, "--check", "--no-plot", "--results", tmp_path)
    result = bench(*arguments, database_url=database_url)

    assert result.returncode == 1
    assert "MISSED" in result.stdout


def test_a_file_of_results_gives_its_table_and_its_plot(tmp_path: Path) -> None:
    pairs = [(50.0, 100.0), (80.0, 100.0)]
    lines = [
        Line("drain 100,000 no-ops, pool of 10", "tasks/s", Spread.of([30_000.0]), bar=40_000),
        paired("drain 100,000 no-ops, pool of 10", "tasks/s", pairs, beside="pgbench, batches of 100", bar=0.5),
        Line("CPU for a no-op: Python", "us/task", Spread.of([20.0])),
        paired("p50", "ms", pairs, beside="two commits", percentiles={"50": [1.5, 1.2], "99": [4.0, 3.0]}),
        paired("all", "tasks/s", pairs, beside="fewer", sizes=[[1_000_000, 30_000.0], [500_000, 31_000.0]]),
    ]
    machine = {"cores": 2, "load": [0, 0, 0.5], "python": "3.11", "kernel": "6", "processor": "fast", "memory_gb": 8.0}
    document = {"at": "2026-01-02T03:04:05", "version": "1.0", "postgresql": "15.1 (Debian)", "origin": "Debian's",
                "machine": machine, "options": {"rounds": 3, "size": 1.0},
                "lines": [line.as_json() for line in lines]}  # fmt: skip
    file = tmp_path / "results.json"
    file.write_text(json.dumps(document))

    printed = bench(file, module="benchmarks.report")
    drawn = bench(file, module="benchmarks.plot")

    assert printed.stdout.startswith("2026-01-02, Task Orchestrator 1.0, PostgreSQL 15.1 (Debian's)"), printed.stderr
    assert report.table(lines) in printed.stdout
    assert drawn.returncode == 0, drawn.stderr
    assert "<svg" in file.with_suffix(".svg").read_text()


def test_a_database_with_tasks_in_it_is_refused(database_url: str) -> None:
    Client(database_url).enqueue("noop")
    result = bench("idle", database_url=database_url)

    assert result.returncode == 1
    assert "the database has tasks in it" in result.stderr
