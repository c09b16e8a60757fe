"""The kernel has no room for a child: too many descriptors under way, too many processes. Each says so, and is tried
again."""

import errno
import os
import subprocess
import sys

import pytest

from orchestrator.errors import NO_ROOM
from tests.toys.workshop import PROJECT

CROWDED = """
import os, resource, socket, sys
from orchestrator.board.birth import ForkRequest
from orchestrator.supervisor.forkserver import Forkserver

forkserver = Forkserver.__new__(Forkserver)
forkserver._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if os.geteuid() == 0:
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
ours, others = socket.socketpair()
ours.setblocking(False)
try:
    while True:
        socket.send_fds(ours, [b"."], [0] * 8)
except OSError as error:
    print(error.strerror)
print(forkserver.request(ForkRequest("w", 0, 1), [0, 0, 0, 0]))
"""


def test_a_request_that_the_kernel_has_no_room_for_is_not_sent_and_no_error() -> None:
    """As many descriptors are on their way, between any processes of this user, as one may have open."""
    done = subprocess.run([sys.executable, "-c", CROWDED], cwd=PROJECT, capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == [os.strerror(errno.ETOOMANYREFS), "False"], done.stderr


CROWDED_OUT = """
import os, resource, socket, sys
from orchestrator.board.birth import ChildSettings, ForkRequest
from orchestrator.board.roster import Roster
from orchestrator.forkserver.fork import fork_child

os.setuid(int(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))  # this process and one more
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
descriptors = [os.open(os.devnull, os.O_RDWR), os.eventfd(0), theirs.fileno(), os.open(os.devnull, os.O_RDWR)]
try:
    fork_child(
        ForkRequest("w", 0, 1), ChildSettings("", 1, 1, None, 1.0, 0, 0, 1, False, "text"), descriptors,
        supervisor_pid=os.getpid(), roster=Roster(1), child_main=lambda context: None, not_for_children=ours,
        become=lambda name: None,
    )
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a user without any process has to be become")
def test_that_the_second_of_the_two_forks_cannot_be_made_is_told_in_words() -> None:
    nobody_else = str(1_000_000_000 + os.getpid())
    program = [sys.executable, "-c", CROWDED_OUT, nobody_else]
    done = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == (f"{os.strerror(errno.EAGAIN)}\n", "")


STARTED = """
import encodings.idna, os, resource, sys
from orchestrator.cli import main

os.setuid(int(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_NPROC, (int(sys.argv[2]), int(sys.argv[2])))
main(["start", "--database-url", "postgres://127.0.0.1:9/x", "--metrics-port", "0", "--metrics-host", "127.0.0.1"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a user without any process has to be become")
@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_a_start_without_room_for_its_own_threads_says_what_to_raise(allowed: int) -> None:
    """There are to be four: the main one, that of the pages, and two for the database."""
    nobody_else = str(1_000_000_000 + os.getpid())
    program = [sys.executable, "-c", STARTED, nobody_else, str(allowed)]
    done = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"orchestratord: {NO_ROOM}"
    assert "Traceback" not in done.stderr
