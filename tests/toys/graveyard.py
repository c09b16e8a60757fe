"""What must and what must not be killed as a leftover. Run it with -m, in a PID namespace of its own.

Prints, as JSON, what became of each process.
"""

import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from orchestrator.board.birth import MARKER_VARIABLE
from orchestrator.board.kernel import adopt_orphans
from orchestrator.supervisor import leftovers

REUSED = 3000
GONE = 31000
"""A pid that nobody has in the new namespace."""


def sleeper(marker: str | None, seconds: float = 60.0, *around: str) -> "subprocess.Popen[bytes]":
    """A program that carries this marker; it ends with 0 if it is let live."""
    environment = {"PATH": os.environ["PATH"], "OTHER": f"{MARKER_VARIABLE}=m-1-x/0/1"}
    if marker is not None:
        environment[MARKER_VARIABLE] = marker
    return subprocess.Popen([*around, "sleep", str(seconds)], env=environment)


def forking() -> dict[str, int]:
    """Marked programs that start others as fast as they can, and leave them to whoever adopts orphans."""
    adopt_orphans()
    script = "n=0; while [ $n -lt 2000 ]; do sleep 30 & n=$((n+1)); done"
    for _ in range(4):
        subprocess.Popen(["sh", "-c", script], env={"PATH": os.environ["PATH"], MARKER_VARIABLE: "m-1-x/0/1"})
    while sum(name.isdigit() for name in os.listdir("/proc")) < 12:  # this one, those four, and what they have started
        time.sleep(0.001)
    killed = leftovers.kill_marked("m-1-x/0/1")
    alive = 0
    try:
        while True:
            _, status = os.waitpid(-1, 0)
            alive += status != signal.SIGKILL
    except ChildProcessError:
        return {"killed": killed, "ended_otherwise": alive, "killed_later": leftovers.kill_marked("m-1-x/0/1")}


def moving() -> bool:
    """A session of processes each of which forks and leaves: whoever is found has gone before he can be killed.
    Whether all of them are gone after what the leader left was killed."""
    adopt_orphans()
    script = "import os\nfor _ in range(5):\n  if not os.fork():\n    while not os.fork(): pass"
    script = script.replace("while not os.fork(): pass", "while True:\n      if os.fork(): os._exit(0)")
    alive, theirs = os.pipe()
    leader = subprocess.Popen([sys.executable, "-S", "-c", script], pass_fds=(theirs,), start_new_session=True)
    os.close(theirs)
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    leftovers.kill_left_by(leader.pid, "m-1-x/0/1")
    return bool(select.select([alive], [], [], 5.0)[0])


def reuse(seconds: float) -> dict[str, object]:
    """Programs with and without a mark take turns with one pid while the marked are being hunted: so long, and until
    they have met in it, if they do at all."""
    is_over = threading.Event()

    def hunt() -> None:
        while not is_over.is_set():
            leftovers.kill_marked("m-1-x/0/1")

    hunter = threading.Thread(target=hunt)
    hunter.start()
    deadline = time.monotonic() + seconds
    turns = same_pid = killed = 0
    while time.monotonic() < deadline or turns < 30:
        marked = _with_pid(lambda: sleeper("m-1-x/0/1"))
        time.sleep(random.random() * 0.004)
        marked.kill()
        marked.wait()
        innocent = _with_pid(lambda: sleeper("m-1-x/0/12", 0.003))
        turns += 1
        same_pid += marked.pid == innocent.pid
        killed += innocent.wait() != 0
    is_over.set()
    hunter.join()
    return {"turns": turns, "same_pid": same_pid, "innocent_killed": killed}


def _with_pid(start: "Callable[[], subprocess.Popen[bytes]]") -> "subprocess.Popen[bytes]":
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(REUSED - 1))
    return start()


def dead_workers() -> dict[str, bool]:
    """Which of these processes live on after the leftovers of dead workers were killed."""
    me = os.getpid()
    of_the_dead = f"host-{GONE}-a1b2c3/0/1"
    container = ("env", "-u", MARKER_VARIABLE, "unshare", "--pid", "--fork", "--kill-child")
    inner = sleeper(None, 60.0, *container, "env", f"{MARKER_VARIABLE}={of_the_dead}")
    started = {
        "of a dead worker": sleeper(of_the_dead),
        "of a dead worker on a host with dashes": sleeper(f"my-host-7-{GONE}-a1b2c3/0/1"),
        "of a living worker": sleeper(f"host-{me}-a1b2c3/0/1"),
        "of this worker": sleeper("me/0/1"),
        "unmarked": sleeper(None),
        "marked by somebody else": sleeper("x"),
        "marked with nonsense": sleeper("a-b-c/d"),
    }
    while not (within := _children(inner.pid)) or "sleep" not in _command(within[0]):
        time.sleep(0.005)
    leftovers.kill_of_dead_workers("me")
    found = {name: process.poll() is None for name, process in started.items()}
    for name in ("of a dead worker", "of a dead worker on a host with dashes"):
        started[name].wait(10.0)
        found[name] = False
    found["of a worker in a container"] = bool(_children(inner.pid))
    return found


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [int(each) for each in children.read().split()]


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as comm:
        return comm.read()


if __name__ == "__main__":
    plays = {"forking": forking, "moving": moving, "reuse": lambda: reuse(0.7), "dead_workers": dead_workers}
    sys.stdout.write(json.dumps(plays[sys.argv[1]]()))
