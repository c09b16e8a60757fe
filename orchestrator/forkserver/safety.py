"""What an imported app must not leave behind, because forking would hang or corrupt it. Runs in the forkserver.

A thread is not copied by fork, but the locks it held are; a connected socket is shared by all children, who would
read each other's replies; so is an event loop's epoll. They belong in `on_child_start`.
"""

import contextlib
import faulthandler
import os
import signal
import socket
import threading
from typing import NamedTuple

from orchestrator.board.kernel import file_identity, let_orphans_pass, socket_as_it_is

CURE = "open it in a function marked @app.on_child_start instead of at import (FORK_SAFETY=warn only warns)"


class Findings(NamedTuple):
    """What was found after the import: `unsafe` must be cured, `doubtful` deserves a line in the log."""

    unsafe: tuple[str, ...]
    doubtful: tuple[str, ...]


_DATABASES = (".s.PGSQL.", "mysql", "mariadb", "redis", "mongodb")
"""In the names of their unix sockets. Others are known to survive a fork: a name service's, which looks at its pid."""

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


def mend() -> tuple[str, ...]:
    """Undo what an import may have set for this process that keeps it from forking; what was undone, in words."""
    mended = []
    if let_orphans_pass():
        mended.append(
            "this process was to adopt orphans (PR_SET_CHILD_SUBREAPER), its own children too: that is undone"
        )
    if {signal.setitimer(timer, 0.0) for timer in _TIMERS} != {(0.0, 0.0)}:
        mended.append("a timer ran (signal.alarm, signal.setitimer) that might have ended this process: it is stopped")
    faulthandler.cancel_dump_traceback_later()  # has a thread; a child that cancelled it would wait for that for ever
    return tuple(mended)


def inspect(own: frozenset[int]) -> Findings:
    """Look at this process's threads and sockets; `own` are the descriptors that are ours."""
    unsafe = [
        f"the thread {thread.name!r} is running"
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
    ]
    doubtful: list[str] = []
    if native := _native_threads():
        named = f" ({', '.join(sorted({*filter(None, native)}))})" if any(native) else ""
        what = "a numeric library's are started anew after a fork, those of a client (Kafka's, gRPC's) may not be"
        doubtful.append(f"{len(native)} native threads run that Python does not know{named}: {what}")
    open_files = _open_files()
    if loops := sum(target == "anon_inode:[eventpoll]" for target in open_files.values()):
        cure = "make them in a function marked @app.on_child_start"
        doubtful.append(f"{loops} event loops are open, whose wake-ups any child may take from another: {cure}")
    unix: list[str] = []
    standard = {file_identity(each) for each in (0, 1, 2)}  # journald's, under systemd
    sockets = {descriptor for descriptor, target in open_files.items() if target.startswith("socket:")}
    for descriptor in sockets - own:
        if file_identity(descriptor) in standard:
            continue
        family, peer = _peer(descriptor)
        if family == socket.AF_UNIX and not any(each in os.path.basename(peer) for each in _DATABASES):
            unix.append(peer)
        elif peer:
            unsafe.append(f"descriptor {descriptor} is connected to {peer}")
    if unix:
        named = f" ({', '.join(sorted({*filter(None, unix)}))})" if any(unix) else ""
        doubtful.append(f"{len(unix)} unix sockets are open{named} and will be shared by all children")
    return Findings(tuple(unsafe), tuple(doubtful))


def _native_threads() -> list[str]:
    """The names of those that Python has not started; "" where it is the process's own, as of most."""
    known = {thread.native_id for thread in threading.enumerate()}
    own, found = _thread_name(os.getpid()), []
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(OSError):  # it has ended
            if thread not in known and (name := _thread_name(thread)):
                found.append("" if name == own else name)
    return found


def _thread_name(thread: int) -> str:
    with open(f"/proc/self/task/{thread}/comm", errors="replace") as comm:
        return comm.read().strip()


def _open_files() -> dict[int, str]:
    """What each descriptor is of, as /proc has it."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor is gone by now
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _peer(descriptor: int) -> tuple[int, str]:
    """The family of a socket, and to whom it is connected: host:port of TCP, the path of a unix socket; else ""."""
    with socket_as_it_is(os.dup(descriptor)) as copy:
        is_tcp = copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM
        if not is_tcp and copy.family != socket.AF_UNIX:
            return copy.family, ""
        try:
            peer = copy.getpeername()
        except OSError:
            return copy.family, ""
        if is_tcp:
            return copy.family, f"{peer[0]}:{peer[1]}"
        return copy.family, peer if isinstance(peer, str) else repr(peer)  # bytes: an abstract name
