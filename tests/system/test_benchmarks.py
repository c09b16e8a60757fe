"""`make bench` works: very small runs of it, whose figures mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.figures import Line, Spread, paired
from benchmarks.rivals.rival import RIVALS
from orchestrator import Client

ROOT = Path(__file__).parents[2]


def bench(*arguments: object, module: str = "benchmarks", **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def lines_of(folder: Path) -> list[Line]:
    (written,) = folder.glob("*.json")
    return [Line.from_json(each) for each in json.loads(written.read_text())["lines"]]


@pytest.mark.parametrize(
    "name", ["enqueue", *(pytest.param(name, marks=pytest.mark.slow) for name in ("idle", "latency"))]
)
def test_a_tiny_run_finds_figures(name: str, tmp_path: Path, database_url: str) -> None:
    arguments = (name, "--rounds", 1, "--size", 0.002, "--no-plot", "--results", tmp_path)
    result = bench(*arguments, BENCH_DATABASE_URL=database_url)

    assert result.returncode == 0, result.stderr
    lines = lines_of(tmp_path)
    assert all(line.ours and line.ours.median > 0 for line in lines if name != "idle")
    assert lines and all(line.name in result.stdout for line in lines)


@pytest.mark.slow
def test_a_small_run_of_everything_on_a_server_of_its_own_has_a_line_for_each_bar(tmp_path: Path) -> None:
    result = bench("--rounds", 1, "--size", 0.01, "--results", tmp_path / "results", MPLCONFIGDIR=str(tmp_path))

    assert result.returncode == 0, result.stderr
    lines = lines_of(tmp_path / "results")
    assert len([line for line in lines if line.bar is not None]) == 25
    assert all(line.ours is not None or line.note for line in lines)
    assert {rival.name for rival in RIVALS} <= {line.beside.split()[0] for line in lines if line.beside}
    (picture,) = (tmp_path / "results").glob("*.svg")
    assert "not measured" not in picture.read_text()


@pytest.mark.slow
def test_a_missed_bar_is_an_error_if_it_is_asked_for(tmp_path: Path, database_url: str) -> None:
    # so few tasks are done before the pool is at full speed
    arguments = ("drain", "--rounds", 1, "--size", 0.001, "--check", "--no-plot", "--results", tmp_path)
    result = bench(*arguments, BENCH_DATABASE_URL=database_url)

    assert result.returncode == 1
    assert "MISSED" in result.stdout


def test_a_file_of_results_gives_its_table(tmp_path: Path) -> None:
    pairs = [(50.0, 100.0), (80.0, 100.0)]
    lines = [
        Line("drain 100,000 no-ops, pool of 10", "tasks/s", Spread.of([30_000.0]), bar=40_000),
        paired("drain 100,000 no-ops, pool of 10", "tasks/s", pairs, beside="pgbench, batches of 100", bar=0.5),
        Line("drain 100,000 no-ops, pool of 10", "tasks/s", None, beside="pgqueuer", note="it is not installed"),
    ]
    machine = {"cores": 2, "load": [0, 0, 0.5], "python": "3.11", "kernel": "6", "processor": "fast", "memory_gb": 8.0}
    document = {"at": "2026-01-02T03:04:05", "version": "1.0", "postgresql": "15.1 (Debian)", "origin": "Debian's",
                "machine": machine, "options": {"rounds": 3, "size": 1.0},
                "lines": [line.as_json() for line in lines]}  # fmt: skip
    file = tmp_path / "results.json"
    file.write_text(json.dumps(document))

    printed = bench(file, module="benchmarks.report")

    assert printed.stdout.startswith("2026-01-02, Task Orchestrator 1.0, PostgreSQL 15.1 (Debian's)"), printed.stderr
    assert report.table(lines) in printed.stdout


def test_a_database_with_tasks_in_it_is_refused(database_url: str) -> None:
    Client(database_url).enqueue("noop")
    result = bench("idle", BENCH_DATABASE_URL=database_url)

    assert result.returncode == 1
    assert "the database has tasks in it" in result.stderr
