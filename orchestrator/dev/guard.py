"""The guard: a small process between an owner and its private PostgreSQL, so that the server never outlives the owner.

Run as a script (`python -I -S guard.py ORDER`), by path, with nothing but the standard library. It watches the owner
by a pidfd, which neither a dying thread of the owner nor a pipe inherited by some grandchild can confuse. When the
owner is gone, or sends SIGTERM, it stops the server: fast, then at once, then by force. It exits with the server. If
the guard itself is killed the server gets SIGINT from the kernel, which is a fast shutdown too.

The lock of the data folder is inherited and held until the server is gone.
"""

import ctypes
import json
import os
import select
import signal
import sys
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_STOPS = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""A signal for the server and how many seconds it has: fast shutdown, immediate shutdown, force."""


def main(order: str) -> int:
    """Start the server and stay until it has ended; its exit status, or 128 + the signal that ended it.

    `order` is JSON: argv, the owner's pid, uid and gid to run under (null: our own), the lock's descriptor, and the
    socket's folder, which is removed at the end.
    """
    what = json.loads(order)
    os.set_inheritable(what["lock"], False)  # the server itself must not hold it, or no successor could stop that
    owner = os.pidfd_open(what["owner"])
    if os.getppid() != what["owner"]:
        return 1  # the owner died before we could watch it
    bell, ringer = os.pipe()
    os.set_blocking(ringer, False)
    signal.set_wakeup_fd(ringer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    pid = _start(what["argv"], what["uid"], what["gid"])
    server = os.pidfd_open(pid)
    _wait((owner, bell, server), None)
    for number, seconds in _STOPS:
        if _wait((server,), 0):
            break
        signal.pidfd_send_signal(server, number)
        _wait((server,), seconds)
    _, status = os.waitpid(pid, 0)
    _remove(what["sockets"])
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _start(argv: list[str], uid: int | None, gid: int | None) -> int:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_server(argv, uid, gid, guard, prctl)
    return pid


def _become_server(
    argv: list[str], uid: int | None, gid: int | None, guard: int, prctl: "ctypes._FuncPointer"
) -> NoReturn:
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if uid is not None and gid is not None:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)  # after the change of user: that clears it
        if os.getppid() == guard:
            os.umask(0o077)
            os.execv(argv[0], argv)
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _wait(descriptors: tuple[int, ...], seconds: float | None) -> bool:
    """Whether one of them is readable within `seconds` (None: however long it takes)."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _remove(folder: str) -> None:
    for name in os.listdir(folder):  # what a killed server left there
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
