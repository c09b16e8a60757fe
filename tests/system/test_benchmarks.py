"""`make bench` works: a very small run of it, whose figures mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import Client

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_small_run_prints_each_figure_and_writes_them_all(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rounds", "1", "--size", "0.02", "--results", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    (written,) = tmp_path.iterdir()
    lines = json.loads(written.read_text())["lines"]
    assert len(lines) >= 15
    assert all(line["ours"]["median"] > 0 for line in lines if "idle" not in line["name"])
    assert all(line["name"] in result.stdout for line in lines)


def test_a_database_with_tasks_in_it_is_refused(database_url: str) -> None:
    Client(database_url).enqueue("noop")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "idle"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "BENCH_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 1
    assert "the database has tasks in it" in result.stderr
