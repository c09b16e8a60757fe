"""What the app starts when it is imported lives as long as the children that may use it, and no longer."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.command import ENTRY, Command, clean_environment
from tests.fixtures.proc import is_alive
from tests.fixtures.toys import MakeWorkshop
from tests.fixtures.waiting import eventually
from tests.toys.workshop import Workshop

STARTING = """
import json, multiprocessing, os, subprocess, tempfile, time
from pathlib import Path

tempfile.tempdir = os.getcwd()  # a manager that is killed leaves its socket

def daemon():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writer, b"%d" % os.getpid())
            while True:
                time.sleep(600)
        os._exit(0)
    os.wait()
    return int(os.read(reader, 64))

manager = multiprocessing.get_context("fork").Manager()
started = [manager._process.pid, daemon(), subprocess.Popen(["sleep", "600"]).pid,
           subprocess.Popen(["sleep", "600"], start_new_session=True).pid]
unmarked = subprocess.Popen(["sleep", "600"], env={})
Path("family.new").write_text(json.dumps([*started, unmarked.pid]))
os.rename("family.new", f"family-{os.getpid()}")
"""
SERVING = STARTING + "from toys import app\n"
"""A server and a daemon that were only forked, and three programs: the last has no mark, and is in its group."""


def family(workshop: Workshop, forkserver: int) -> list[int]:
    """What the import in this forkserver has started."""
    found: list[int] = json.loads((workshop.folder / f"family-{forkserver}").read_text())
    return found


def forkservers(workshop: Workshop) -> list[int]:
    """Those that live and have imported the app; what they have forked bears their title."""
    return [pid for pid in workshop.forkservers() if (workshop.folder / f"family-{pid}").exists()]


def families(workshop: Workshop) -> list[int]:
    """What all imports have started."""
    return [pid for path in workshop.folder.glob("family-*") for pid in json.loads(path.read_text())]


@pytest.fixture
def busy(make_workshop: MakeWorkshop) -> Workshop:
    """A workshop whose app starts programs at import; one of its two children runs a task."""
    workshop = make_workshop()
    os.rename(workshop.folder / "toyapp.py", workshop.folder / "toys.py")
    workshop.use_app(SERVING)
    workshop.start().ready()
    workshop.begin()
    return workshop


def all_live(family: list[int]) -> bool:
    return all(map(is_alive, family))


def none_lives(family: list[int]) -> bool:
    return not any(map(is_alive, family))


def test_it_ends_with_the_worker_and_not_before_the_last_task(busy: Workshop) -> None:
    (forkserver,) = forkservers(busy)
    started = family(busy, forkserver)
    busy.signal(signal.SIGTERM)
    busy.wait_for(lambda: busy.status()["state"] == "draining" and len(busy.children()) == 1)
    assert all_live([*started, forkserver])
    busy.let_go()
    assert busy.exit_code() == 0
    eventually(lambda: none_lives([*started, forkserver]), within=5.0)


def test_after_a_reload_it_ends_with_the_last_child_of_the_old_code(busy: Workshop) -> None:
    (old,) = forkservers(busy)
    busy.signal(signal.SIGHUP)
    busy.wait_for(lambda: len(busy.births()) == 3 and busy.status()["ready"] == 2)
    (new,) = [pid for pid in forkservers(busy) if pid != old]
    before, after = family(busy, old), family(busy, new)
    assert all_live([*before, old]), "the task that runs may need them"
    busy.let_go()
    busy.wait_for(lambda: none_lives([*before, old]))
    busy.wait_for(lambda: len(busy.births()) == 4 and busy.status()["ready"] == 2)
    assert all_live([*after, new])


@pytest.mark.slow
def test_a_reload_that_is_refused_leaves_nothing_of_its_import_and_takes_nothing_of_the_old(busy: Workshop) -> None:
    (old,) = forkservers(busy)
    busy.use_app(STARTING + "raise RuntimeError('half an edit')")
    busy.signal(signal.SIGHUP)
    busy.wait_for(lambda: busy.events("app_reload_failed"))
    tried = [pid for pid in families(busy) if pid not in family(busy, old)]
    assert len(tried) == 5
    busy.wait_for(lambda: none_lives(tried))
    assert all_live(family(busy, old))


@pytest.mark.slow
def test_if_the_forkserver_is_killed_it_ends_with_the_last_child_that_was_forked_by_that_one(busy: Workshop) -> None:
    (old,) = forkservers(busy)
    *marked, unmarked = family(busy, old)
    os.kill(old, signal.SIGKILL)
    (new,) = busy.wait_for(lambda: [pid for pid in forkservers(busy) if pid != old])
    os.kill(busy.children()[0], signal.SIGKILL)
    busy.wait_for(lambda: len(busy.births(0)) == 2 and busy.status()["ready"] == 2)
    assert all_live(marked)
    os.kill(busy.children()[1], signal.SIGKILL)
    busy.wait_for(lambda: none_lives(marked))
    assert all_live(family(busy, new))
    os.kill(unmarked, signal.SIGKILL)  # nobody can tell whose it was: the number of its group may be another's by now


def test_the_next_worker_ends_what_the_app_of_a_killed_one_has_started(busy: Workshop) -> None:
    (forkserver,) = forkservers(busy)
    *marked, unmarked = family(busy, forkserver)
    busy.signal(signal.SIGKILL)
    busy.exit_code()
    eventually(lambda: not is_alive(forkserver), within=5.0)
    busy.use_app("from toys import app\n")
    busy.start().ready()  # or another test's worker, which starts on this host now, was the first to look
    eventually(lambda: none_lives(marked), within=5.0)
    os.kill(unmarked, signal.SIGKILL)


@pytest.mark.parametrize(
    "end",
    [
        "1 / 0",
        pytest.param("os._exit(0)", marks=pytest.mark.slow),
        pytest.param("from orchestrator import App\napp = App()", marks=pytest.mark.slow),
    ],
)
def test_it_ends_with_a_start_that_fails_whatever_the_app_fails_with(make_workshop: MakeWorkshop, end: str) -> None:
    workshop = make_workshop()
    workshop.use_app(STARTING + end)
    assert workshop.start().exit_code(within=60.0) == 3
    started = families(workshop)
    assert len(started) in (5, 15)
    eventually(lambda: none_lives(started), within=5.0)


def test_what_the_app_has_in_shared_memory_is_removed_with_the_worker(make_workshop: MakeWorkshop) -> None:
    memory = Path("/dev/shm", f"toys-{os.getpid()}")
    workshop = make_workshop()
    os.rename(workshop.folder / "toyapp.py", workshop.folder / "toys.py")
    kept = f"kept = shared_memory.SharedMemory({memory.name!r}, create=True, size=1)"
    workshop.use_app(f"from multiprocessing import shared_memory\n{kept}\nfrom toys import app\n")
    workshop.start().ready()
    assert memory.exists()
    workshop.signal(signal.SIGTERM)
    assert workshop.exit_code() == 0
    eventually(lambda: not memory.exists(), within=5.0)


@pytest.mark.parametrize("end", ["app = App()\n@app.task('greet')\ndef greet(): ...", "1 / 0"])
def test_check_leaves_nothing_of_the_import(
    orchestratord_here: Command, database_url: str, tmp_path: Path, end: str
) -> None:
    (tmp_path / "starting.py").write_text(f"{STARTING}from orchestrator import App\n{end}")
    done = orchestratord_here("check", "--app", "starting:app", DATABASE_URL=database_url)
    assert done.returncode == (3 if end == "1 / 0" else 0)
    (told,) = tmp_path.glob("family-*")
    eventually(lambda: none_lives(json.loads(told.read_text())), within=5.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_check_that_is_ended_amid_the_import_leaves_nothing_of_it(
    database_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    """By a `timeout` around it, or with the terminal that it ran in."""
    (tmp_path / "starting.py").write_text(f"{STARTING}\ntime.sleep(600)")
    check = subprocess.Popen(
        [*ENTRY, "check", "--app", "starting:app", "--metrics-port", "0"],
        env=clean_environment(DATABASE_URL=database_url),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        (told,) = eventually(lambda: list(tmp_path.glob("family-*")), within=60.0) or ()
        check.send_signal(number)
        assert check.wait(10.0) == 130
    finally:
        check.kill()
        check.wait()
    eventually(lambda: none_lives(json.loads(told.read_text())), within=5.0)
