"""The forkserver: who its children belong to, what they start with, and what befalls when it is hurt."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.board.birth import MARKER_VARIABLE, ChildSettings, ForkserverOrders
from orchestrator.board.kernel import OOM_STEP
from orchestrator.supervisor.forkserver import Forkserver
from tests.fixtures.proc import descriptors, is_alive, parent, state
from tests.fixtures.toys import MakeWorkshop
from tests.fixtures.waiting import eventually
from tests.toys.workshop import PROJECT, Workshop


def status_line(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(name + ":"))


def of_kind(pid: int, kind: str) -> set[str]:
    """What of that kind a process has open; a duplicate counts once."""
    return {each for each in descriptors(pid) if kind in each}


def phases(workshop: Workshop) -> dict[int, str]:
    """The phase of each slot, as SIGUSR1 tells it."""
    told = len(workshop.events("slot_state"))
    workshop.signal(signal.SIGUSR1)
    seats = workshop.status()["capacity"]
    lines = workshop.wait_for(lambda: found if len(found := workshop.events("slot_state")[told:]) >= seats else None)
    return {line["slot"]: line["phase"] for line in lines}


def test_children_belong_to_the_supervisor_lead_their_own_session_and_are_born_clean(
    make_workshop: MakeWorkshop,
) -> None:
    workshop = make_workshop(pool_size=4).start(environment={"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1"}).ready()
    (forkserver,) = workshop.forkservers()
    born = workshop.births()
    assert [birth["parent"] for birth in born] == [workshop.pid] * 4  # from their first line on
    for slot, pid in workshop.children().items():
        assert parent(pid) == workshop.pid
        assert os.getsid(pid) == os.getpgid(pid) == pid
        assert int(status_line(pid, "SigBlk"), 16) == 0
        ignored = int(status_line(pid, "SigIgn"), 16)
        # Python's own two, and the two that glibc's posix_spawn (make's, say) ignores in whatever it starts
        usual = (signal.SIGPIPE, signal.SIGXFSZ, 32, 33)
        assert ignored & ~sum(1 << number - 1 for number in usual) == 0
        (board,) = of_kind(pid, "memfd:orchestrator")  # and no other slot's
        assert f"/{slot}/" in board
        assert len(of_kind(pid, "socket:")) == 1  # its channel, and no other's lifeline
        assert len(of_kind(pid, "eventfd")) == 1
    variables = json.loads(workshop.ended(workshop.add("environment"), "completed")["result"])
    assert MARKER_VARIABLE in variables
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(variables)
    assert status_line(forkserver, "Threads") == "1"
    workshop.wait_for(lambda: of_kind(forkserver, "memfd:") == set())  # what it has handed to the last child it closes
    assert len(of_kind(forkserver, "socket:")) == 1


def test_out_of_memory_a_child_goes_before_the_forkserver_and_that_before_the_supervisor(workshop: Workshop) -> None:
    def weight(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    (forkserver,) = workshop.forkservers()
    assert weight(forkserver) == weight(workshop.pid) + OOM_STEP
    assert {weight(pid) for pid in workshop.children().values()} == {weight(workshop.pid) + 2 * OOM_STEP}


def test_all_are_gone_within_two_seconds_of_a_killed_supervisor_even_those_that_are_stopped_or_deaf(
    make_workshop: MakeWorkshop,
) -> None:
    workshop = make_workshop(pool_size=4).start().ready()
    workshop.add("deaf")
    workshop.started("deaf")
    busy = workshop.begin()
    idle = next(pid for pid in workshop.children().values() if pid != busy)
    (forkserver,) = workshop.forkservers()
    for pid in (idle, forkserver):
        os.kill(pid, signal.SIGSTOP)
    everybody = [*workshop.children().values(), forkserver]
    workshop.signal(signal.SIGKILL)
    workshop.exit_code()
    eventually(lambda: not any(map(is_alive, everybody)), within=2.0)


def test_a_killed_forkserver_is_back_within_a_second_and_running_children_do_not_notice(workshop: Workshop) -> None:
    busy = workshop.begin()
    before = workshop.children()
    (old,) = workshop.forkservers()
    known = {old, *before.values()}
    os.kill(old, signal.SIGKILL)
    began = time.monotonic()
    (new,) = workshop.wait_for(lambda: set(workshop.offspring()) - known)
    assert time.monotonic() - began < 4.0  # a tenth of it, were the machine this test's own; its import takes longer
    workshop.wait_for(lambda: workshop.forkservers() == [new])
    assert workshop.children() == before
    idle = next(pid for pid in before.values() if pid != busy)
    os.kill(idle, signal.SIGKILL)
    workshop.wait_for(lambda: len(workshop.births()) == 3)  # the new one forks
    workshop.let_go()
    workshop.ended(1, "completed")
    assert is_alive(busy) and is_alive(new)


def test_forkservers_that_die_soon_after_they_have_served_are_started_ever_more_rarely(workshop: Workshop) -> None:
    """One that its app's timer, or the kernel for want of memory, ended each time imported it ten times a second."""
    for deaths in (1, 2):
        (forkserver,) = workshop.wait_for(lambda: workshop.forkservers())
        os.kill(workshop.children()[0], signal.SIGKILL)
        workshop.wait_for(lambda: len(workshop.births(0)) == deaths + 1 and workshop.status()["ready"] == 2)  # noqa: B023
        os.kill(forkserver, signal.SIGKILL)
        workshop.wait_for(lambda: len(workshop.events("forkserver_died")) == deaths)  # noqa: B023
    assert [event["restart_in"] for event in workshop.events("forkserver_died")] == [0.1, 0.2]


def test_a_forkserver_that_died_and_cannot_import_the_app_again_is_tried_until_it_can(workshop: Workshop) -> None:
    before = workshop.children()
    good = (workshop.folder / "toyapp.py").read_text()
    workshop.use_app("raise RuntimeError('half an edit')")
    os.kill(workshop.forkservers()[0], signal.SIGKILL)
    workshop.wait_for(lambda: "half an edit" in str(workshop.events("app_not_loaded")))
    assert workshop.children() == before
    assert workshop.ended(workshop.add("ok"), "completed")
    workshop.use_app(good)
    workshop.wait_for(lambda: workshop.forkservers())
    os.kill(before[0], signal.SIGKILL)
    workshop.wait_for(lambda: len(workshop.births(0)) == 2 and workshop.status()["ready"] == 2)


def test_a_stopped_forkserver_holds_up_births_and_nothing_else(workshop: Workshop) -> None:
    (forkserver,) = workshop.forkservers()
    os.kill(forkserver, signal.SIGSTOP)
    os.kill(workshop.children()[0], signal.SIGKILL)
    workshop.wait_for(lambda: workshop.status()["ready"] == 1)
    assert workshop.ended(workshop.add("ok"), "completed")
    workshop.wait_for(lambda: phases(workshop)[0] == "forking")
    # orders that reach a child before the supervisor's go must not be taken for it, nor make it miss it
    for is_paused in (True, False):
        workshop.signal(signal.SIGUSR2)
        workshop.wait_for(lambda: workshop.status()["is_paused"] is is_paused)  # noqa: B023 asked at once
    os.kill(forkserver, signal.SIGCONT)
    workshop.wait_for(lambda: workshop.status()["ready"] == 2)
    assert len(workshop.births(0)) == 2
    assert len(workshop.events("child_died")) == 1
    os.kill(forkserver, signal.SIGSTOP)
    os.kill(workshop.children()[1], signal.SIGKILL)
    workshop.wait_for(lambda: phases(workshop)[1] == "forking")
    workshop.signal(signal.SIGTERM)
    assert workshop.exit_code(within=5.0) == 0
    assert not is_alive(forkserver)
    assert workshop.events("child_not_born") == []  # nobody is needed any more: that is no warning


def test_a_fork_that_cannot_be_made_is_tried_again(workshop: Workshop) -> None:
    """The interpreter is gone for a while, as during an upgrade: no forkserver can be started."""
    before = workshop.children()
    workshop.ask("executable", path="/nonexistent/python")
    (old,) = workshop.forkservers()
    os.kill(old, signal.SIGKILL)
    workshop.wait_for(lambda: workshop.events("forkserver_not_started"))
    assert workshop.ended(workshop.add("ok"), "completed")
    workshop.signal(signal.SIGHUP)
    workshop.wait_for(lambda: workshop.events("app_reload_failed"))
    assert workshop.children() == before
    workshop.ask("executable", path=sys.executable)
    workshop.wait_for(lambda: workshop.forkservers())


def test_killing_a_forkserver_that_has_died_leaves_its_status_to_be_reaped() -> None:
    """Popen.send_signal takes it: then nobody would hear of that death, nor start another."""
    child = ChildSettings("", 1, 1, None, 1.0, 0, 0, 1, False, "text")
    nobody = ForkserverOrders(1 << 30, None, False, "tests.toys.child:run", False, "", child)
    forkserver = Forkserver(0, nobody, {"PYTHONPATH": str(PROJECT)})  # it is no child of nobody, and leaves
    os.waitid(os.P_PID, forkserver.pid, os.WEXITED | os.WNOWAIT)
    forkserver.kill()
    assert not forkserver.is_reaped
    _, status = os.waitpid(forkserver.pid, 0)
    forkserver.was_reaped(status)
    forkserver.close()


def test_one_whose_supervisor_was_killed_before_it_got_its_orders_leaves_without_a_word() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = [sys.executable, PROJECT / "orchestrator" / "forkserver", str(theirs.fileno())]
        forkserver = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE)
    assert forkserver.communicate(timeout=30) == (None, b"")
    assert forkserver.returncode == 0


def test_term_while_the_app_is_being_imported_ends_at_once(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop()
    workshop.use_app("import time\nopen('importing', 'w')\ntime.sleep(600)")
    workshop.start()
    workshop.wait_for((workshop.folder / "importing").exists)
    workshop.signal(signal.SIGTERM)
    assert workshop.exit_code(within=5.0) == 0
    assert workshop.processes() == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import sys; sys.exit(5)", "SystemExit"),
        pytest.param("from orchestrator import App\napp = App()", "has no tasks", marks=pytest.mark.slow),
        pytest.param("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV", marks=pytest.mark.slow),
        pytest.param(
            "import os; os.closerange(3, 100); 1 / 0",
            "exited with code 3; at import an app may neither",
            marks=pytest.mark.slow,
        ),
        ("import os\nif os.fork(): os._exit(0)\nos.setsid()\nfrom toys import app", "exited with code 0; at import"),
        pytest.param(
            "import os, select\nif copy := os.fork(): select.select([os.pidfd_open(copy)], [], []); os._exit(0)\n"
            "from toys import app",
            "exited with code 0; at import",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "import threading, time\nfrom toys import app\n"
            "threading.Thread(target=time.sleep, args=(600,), name='mine').start()",
            "the thread 'mine' is running",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["exits", "has_no_tasks", "crashes", "closes_all", "is_a_daemon", "is_one_later", "has_threads"],
)
def test_an_app_that_cannot_serve_ends_the_start_with_the_reason_and_no_child(
    make_workshop: MakeWorkshop, source: str, reason: str
) -> None:
    """What else an app may do is among the slow: in the quick suite `check`, which imports it once, has them too."""
    workshop = make_workshop()
    os.rename(workshop.folder / "toyapp.py", workshop.folder / "toys.py")
    workshop.use_app(source)
    workshop.start()
    assert workshop.exit_code(within=60.0) == 3  # it is tried three times
    (failed,) = workshop.events("start_failed")
    assert reason in failed["reason"]
    assert workshop.births() == []
    assert workshop.processes() == []


def test_a_copy_that_the_app_forks_at_import_ends_with_the_import_and_says_nothing_in_its_name(
    make_workshop: MakeWorkshop,
) -> None:
    """It told the types a second time, or why it could not be imported, and took requests for children."""
    workshop = make_workshop()
    os.rename(workshop.folder / "toyapp.py", workshop.folder / "toys.py")
    source = "import os, sys\ncopies = [os.fork() for _ in range(1)]\n{}\nfrom toys import app\n"
    wait = "if copies[0]: os.waitpid(copies[0], 0)\n"
    workshop.use_app(
        source.format(
            "sys.exit(7) if not copies[0] else open('ended', 'w').write("
            "str(os.waitstatus_to_exitcode(os.waitpid(copies[0], 0)[1])))"
        )
    )
    workshop.start().ready()
    assert (workshop.folder / "ended").read_text() == "7"
    for end, event in (("", "fork_safety"), ("1 / copies[0]", "copy_failed")):
        workshop.use_app(source.format(wait + end))
        workshop.signal(signal.SIGHUP)
        workshop.wait_for(lambda: workshop.events(event))  # noqa: B023 asked at once
        workshop.wait_for(lambda: len(workshop.forkservers()) == 1)
    assert [event["names"] for event in workshop.events("types")] == [workshop.events("types")[0]["names"]] * 3
    assert len(workshop.events("types")[0]["names"]) == len(set(workshop.events("types")[0]["names"]))


def test_what_keeps_the_process_that_imported_the_app_from_forking_is_undone_and_told(
    make_workshop: MakeWorkshop,
) -> None:
    workshop = make_workshop()
    os.rename(workshop.folder / "toyapp.py", workshop.folder / "toys.py")
    workshop.use_app(
        "import ctypes, signal\nctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\nsignal.alarm(600)\nfrom toys import app"
    )
    workshop.start().ready()
    assert {birth["parent"] for birth in workshop.births()} == {workshop.pid}
    adopts, timer = (event["found"] for event in workshop.events("fork_safety"))
    assert "PR_SET_CHILD_SUBREAPER" in adopts
    assert "signal.alarm" in timer


CONNECTED = """
import _thread, asyncio, ctypes, os, socket, threading, time
from toys import app
listener = socket.create_server(("127.0.0.1", 0))
connected = socket.create_connection(listener.getsockname())
accepted = listener.accept()[0]
pair = socket.socketpair()

def connect_to(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(path)
        return connected

def send():
    ctypes.CDLL(None).prctl(15, b"sender", 0, 0, 0)  # PR_SET_NAME
    named.set()
    time.sleep(600)

named = threading.Event()
_thread.start_new_thread(send, ())
named.wait()
loop = asyncio.new_event_loop()
os.makedirs("redis", exist_ok=True)
database, names = connect_to(".s.PGSQL.5432"), connect_to("redis/names")
"""


def test_a_connected_socket_is_refused_by_name_and_a_setting_makes_it_a_warning(make_workshop: MakeWorkshop) -> None:
    for may_have_threads in (False, True):
        workshop = make_workshop(may_have_threads=may_have_threads)
        os.rename(workshop.folder / "toyapp.py", workshop.folder / "toys.py")
        workshop.use_app(CONNECTED)
        workshop.start()
        if not may_have_threads:
            assert workshop.exit_code(within=60.0) == 3  # it is tried three times
            reason = workshop.events("start_failed")[0]["reason"]
            assert "is connected to 127.0.0.1:" in reason
            assert "on_child_start" in reason
            assert "is connected to .s.PGSQL.5432" in reason
            assert reason.count("is connected to") == 3  # the one that listens is none
        else:
            workshop.ready()
            found = [event["found"] for event in workshop.events("fork_safety")]
            assert sum("is connected to" in each for each in found) == 3
            assert any("5 unix sockets are open (redis/names) and" in each for each in found)
            assert any("1 event loops are open" in each for each in found)
            assert any("1 native threads run that Python does not know (sender)" in each for each in found)


@pytest.mark.slow
def test_an_app_that_imports_numpy_just_runs(make_workshop: MakeWorkshop) -> None:
    pytest.importorskip("numpy", reason="numpy is not installed: pip install task-orchestrator[test]")
    workshop = make_workshop()
    os.rename(workshop.folder / "toyapp.py", workshop.folder / "toys.py")
    workshop.use_app(
        "import numpy\nfrom toys import app\n"
        "big = numpy.ones((300, 300)) @ numpy.ones((300, 300))\n"  # its threads have worked before the fork
        "@app.task('multiply')\ndef multiply():\n"
        "    return float((numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum())\n"
    )
    workshop.start().ready()
    assert workshop.ended(workshop.add("multiply"), "completed")["result"] == "27000000.0"
    warned = [event["found"] for event in workshop.events("fork_safety")]
    assert len(warned) <= 1 and all("native threads" in each for each in warned)


def test_a_child_that_is_being_born_survives_the_question_for_its_stack(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(pool_size=1)
    workshop.write("hold-birth", "")
    workshop.start()
    (birth,) = workshop.wait_for(lambda: workshop.births())
    workshop.signal(signal.SIGUSR1)
    (told,) = workshop.wait_for(lambda: workshop.events("slot_state"))
    assert "did not answer" in told["stack"]
    (workshop.folder / "hold-birth").unlink()
    workshop.ready()
    assert workshop.children() == {0: birth["pid"]}
    assert state(birth["pid"]) != ""
