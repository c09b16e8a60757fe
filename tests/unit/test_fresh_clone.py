"""What `make run` and the like need of a machine is said, in a line, before anything is installed."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "setup.cfg", "setup.py"):
        shutil.copy(ROOT / name, folder)
    env = {"PATH": os.environ["PATH"]}  # and not the MAKEFLAGS of a `make test`
    return subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=30)


def put_old_python(path: Path) -> None:
    """One that answers every program as Python 3.10 answers whether it is new enough, and would install."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 1\ntouch asked-for-more\n')
    path.chmod(0o755)


def test_an_older_python_is_refused(tmp_path: Path) -> None:
    put_old_python(tmp_path / "python3.10")
    done = make(tmp_path, "run", "PYTHON=./python3.10")
    assert done.returncode != 0
    assert done.stderr.startswith("Python 3.11 or newer is needed: ./python3.10 is none\n")
    assert not (tmp_path / ".venv").exists()


def test_none_that_is_new_enough_is_told_what_to_install(tmp_path: Path) -> None:
    done = make(tmp_path, "run", "PYTHON=")
    assert done.returncode != 0
    assert "python3.11 python3.11-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_older_python_in_the_folder_s_environment_is_refused(tmp_path: Path) -> None:
    """Its pip would look for a release that it can use, without end."""
    put_old_python(tmp_path / ".venv/bin/python")
    done = make(tmp_path, "run")
    assert done.returncode != 0
    assert done.stderr.startswith("Python 3.11 or newer is needed, and that of .venv is older: make clean, and again\n")
    assert not (tmp_path / "asked-for-more").exists()


def test_a_fresh_clone_says_how_it_is_set_up(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "bin/orchestratord", tmp_path / "bin")
    put_old_python(tmp_path / "path/python3")
    done = subprocess.run(
        [tmp_path / "bin/orchestratord", "start"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}/path:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "orchestratord: nothing is installed here yet: make run does it, or pip install .\n",
    )
