"""Who a process is, beyond a pid that the kernel hands out again. Reads /proc only; any thread of the supervisor."""

import os
import secrets
import socket
from pathlib import Path

from orchestrator.errors import NO_PROC, NoProcError
from orchestrator.model import Process

_ENDED_STATES = frozenset("ZX")


def this_process() -> Process:
    """The identity of the calling process, which no other process on any machine ever has. Raises NoProcError."""
    stat = _stat(os.getpid())
    if stat is None or not _is_ours():
        raise NoProcError(NO_PROC)
    return Process(
        boot_id=_boot_id(),
        pid_namespace=os.readlink("/proc/self/ns/pid"),
        hostname=socket.gethostname(),
        pid=os.getpid(),
        start_ticks=stat[1],
    )


def new_worker_id(process: Process) -> str:
    """`hostname-pid-random`: a new one for each registration, so that a worker declared dead never comes back."""
    return f"{process.hostname}-{process.pid}-{secrets.token_hex(4)}"


def is_gone(process: Process) -> bool | None:
    """Whether `process` has ended; None if that cannot be told from here (another machine, container, or hidden)."""
    here = (_boot_id(), os.readlink("/proc/self/ns/pid"), socket.gethostname())
    if here != (process.boot_id, process.pid_namespace, process.hostname):
        return None
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    stat = _stat(process.pid)
    if stat is None:
        return None  # it ended this very moment, or /proc hides other users' processes (hidepid)
    state, start_ticks = stat
    return start_ticks != process.start_ticks or state in _ENDED_STATES


def _is_ours() -> bool:
    """Whether /proc is that of our PID namespace: by another's pids we would kill whoever has them here."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> tuple[str, int] | None:
    """(state, start time in clock ticks since boot) of `pid`; None if /proc does not show it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the command's name may hold spaces and brackets
    return fields[0], int(fields[19])
