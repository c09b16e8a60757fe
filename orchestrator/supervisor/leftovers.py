"""Processes that a task started and its dead child left behind. Found by the mark they carry, killed by pidfd.

A subprocess carries its child's marker in its environment; a process that was forked without exec has the child's
board mapped. A pid alone is no identity: the mark is looked at again once the pidfd holds the process.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from orchestrator.board.birth import MARKER_VARIABLE

_MARK = MARKER_VARIABLE.encode() + b"="


def kill_marked(marker: str) -> int:
    """Kill all that the child named by `marker` left; returns how many. Its own process must have ended."""
    return _kill(lambda found: found == marker)


def kill_of_dead_workers(own_worker_id: str) -> int:
    """Kill what workers left whose supervisor is gone (kill -9 leaves their tasks' subprocesses to init)."""

    def is_orphaned(marker: str) -> bool:
        worker_id = marker.partition("/")[0]
        pid = worker_id.rsplit("-", 2)[-2:-1]
        return worker_id != own_worker_id and bool(pid) and pid[0].isdigit() and not os.path.exists(f"/proc/{pid[0]}")

    return _kill(is_orphaned)


def _kill(matches: Callable[[str], bool]) -> int:
    killed = 0
    for _ in range(20):  # what is being killed may still fork: look until nothing new is there
        round_killed = sum(1 for pid in _own_processes() if _kill_if(pid, matches))
        killed += round_killed
        if not round_killed:
            break
    return killed


def _kill_if(pid: int, matches: Callable[[str], bool]) -> bool:
    found = _marker(pid)
    if found is None or not matches(found):
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if _marker(pid) != found or _is_zombie(pid):
            return False
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return True
        return False
    finally:
        os.close(descriptor)


def _own_processes() -> Iterator[int]:
    uid = os.getuid()
    me = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != me:
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == uid or uid == 0:
                    yield int(name)


def _marker(pid: int) -> str | None:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as environ:
        for entry in environ.read().split(b"\0"):
            if entry.startswith(_MARK):
                return entry[len(_MARK) :].decode(errors="replace")
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", "rb") as maps:
        for line in maps:
            _, found, name = line.rstrip().partition(b"/memfd:orchestrator ")
            if found:
                return name.removesuffix(b" (deleted)").decode(errors="replace")
    return None


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
