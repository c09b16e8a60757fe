"""What an imported app must not leave behind, because forking would hang or corrupt it. Runs in the forkserver.

A thread is not copied by fork, but the locks it held are; a connected socket is shared by all children, who would
read each other's replies. Both belong in `on_child_start`.
"""

import faulthandler
import os
import signal
import socket
import threading
from typing import NamedTuple

from orchestrator.board.kernel import let_orphans_pass, socket_as_it_is

CURE = "open it in a function marked @app.on_child_start instead of at import (FORK_SAFETY=warn only warns)"


class Findings(NamedTuple):
    """What was found after the import: `unsafe` must be cured, `doubtful` deserves a line in the log."""

    unsafe: tuple[str, ...]
    doubtful: tuple[str, ...]


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
    native = len(os.listdir("/proc/self/task")) - threading.active_count()
    if native > 0:
        doubtful.append(f"{native} native threads run that Python does not know (a numeric library's pool, usually)")
    unix = 0
    for descriptor in _sockets() - own:
        peer = _tcp_peer(descriptor)
        if peer is None:
            unix += 1
        elif peer:
            unsafe.append(f"descriptor {descriptor} is connected to {peer}")
    if unix:
        doubtful.append(f"{unix} unix sockets are open and will be shared by all children")
    return Findings(tuple(unsafe), tuple(doubtful))


def _sockets() -> frozenset[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.add(int(name))
        except OSError:  # the listing's own descriptor is gone by now
            continue
    return frozenset(found)


def _tcp_peer(descriptor: int) -> str | None:
    """The peer of a connected TCP socket; "" for one that listens or is no stream; None for a unix socket."""
    with socket_as_it_is(os.dup(descriptor)) as copy:
        if copy.family == socket.AF_UNIX:
            return None
        if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.type != socket.SOCK_STREAM:
            return ""
        try:
            host, port = copy.getpeername()[:2]
        except OSError:
            return ""
        return f"{host}:{port}"
