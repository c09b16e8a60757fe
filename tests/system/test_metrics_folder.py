"""PROMETHEUS_MULTIPROC_DIR: what cannot be used is refused in one line; what is another's is left alone."""

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.daemon import Queue, Start

APP = """
from orchestrator import App
app = App()

@app.task("quick")
def quick():
    return 1
"""


def test_a_file_in_its_place_is_refused_by_name(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")

    worker = daemon(APP, is_awaited=False, DATABASE_URL=queue.url, PROMETHEUS_MULTIPROC_DIR=str(taken))

    assert worker.wait_exit() == 2
    assert "PROMETHEUS_MULTIPROC_DIR" in worker.log()
    assert "Traceback" not in worker.log()
    assert taken.read_text() == "mine"


def test_files_of_others_and_of_a_daemon_that_runs_are_left_alone_and_stale_ones_cleared(
    daemon: Start, queue: Queue, make_database: Callable[[], str], tmp_path: Path
) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "counter_7.db").write_bytes(b"another program's")
    killed = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url, PROMETHEUS_MULTIPROC_DIR=str(folder))
    stale = {each for each in folder.iterdir() if each.is_dir()}
    killed.kill()
    first = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url, PROMETHEUS_MULTIPROC_DIR=str(folder))
    second = daemon(APP, "--pool-size", "1", DATABASE_URL=make_database(), PROMETHEUS_MULTIPROC_DIR=str(folder))

    queue.wait_status(queue.enqueue("quick"), "completed")

    assert not any(each.exists() for each in stale)
    assert len([each for each in folder.iterdir() if each.is_dir()]) == 2
    assert first.get("/metrics")[0] == second.get("/metrics")[0] == 200
    assert (folder / "counter_7.db").read_bytes() == b"another program's"
    assert first.stop() == second.stop() == 0
    assert [each.name for each in folder.iterdir()] == ["counter_7.db"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_folder_that_fills_up_kills_nobody(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url, PROMETHEUS_MULTIPROC_DIR=str(folder))
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"x" * 4096):
                pass
        for pid in worker.children().values():
            os.kill(pid, 9)  # the next ones find no room for files of their own
        for _ in range(20):
            queue.wait_status(queue.enqueue("quick"), "completed")
        assert worker.get("/metrics")[0] == 200
        assert worker.health()[0] == 200
        assert worker.stop() == 0
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
