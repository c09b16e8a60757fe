"""The Linux calls that Python lacks, and small readings from /proc. Any process uses them."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

from orchestrator.errors import NO_ROOM, NoRoomError

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def die_with_parent() -> None:
    """SIGKILL for this process when the *thread* that is its parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start_thread(thread: threading.Thread) -> None:
    """NoRoomError: there are too many threads and processes."""
    try:
        thread.start()
    except RuntimeError as error:
        raise NoRoomError(NO_ROOM) from error


def why_not_started(error: OSError) -> str:
    """Why a process could not be started, in words."""
    return NO_ROOM if error.errno == errno.EAGAIN else error.strerror or str(error)


def end_as_python_would(raised: BaseException | None) -> NoReturn:
    """End this process with the exit code of one that this exception ends, or none; what it has printed is not lost."""
    code = int(raised is not None)
    if isinstance(raised, SystemExit):
        code = raised.code if isinstance(raised.code, int) else int(raised.code is not None)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


OOM_STEP, OOM_MOST = 100, 1000
"""In thousandths of the memory of the machine, or of the cgroup that is full: what weighs most is killed first."""


def be_killed_first() -> None:
    """Out of memory, this process goes before its parent: a child before the forkserver, that before the supervisor.

    A wish: where /proc cannot be written, all stays as it is.
    """
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as score:
            weight = min(int(score.read()) + OOM_STEP, OOM_MOST)
            score.write(b"%d" % weight)
    except OSError:
        pass


def processor_times() -> tuple[int, int]:
    """For how many nanoseconds the main thread, which asks, has run, and for how many it waited for a processor.

    OSError, ValueError: this kernel does not tell (CONFIG_SCHED_INFO). It tells the first as well, but late by a tick.
    """
    descriptor = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _, waited, _ = os.read(descriptor, 100).split()
    finally:
        os.close(descriptor)
    return time.thread_time_ns(), int(waited)


class _SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_signal_stacks: list[mmap.mmap] = []  # in use as long as the process lives


def take_signal_stack(size: int = 1 << 20) -> None:
    """Have the calling thread's signal handlers run on a stack of `size` bytes (used only as far as it is needed).

    faulthandler's has 16 KB, and Python runs all handlers on it; signals that arrive together put their frames there
    together, up to 11 KB each on today's processors: the kernel ends a process whose frames do not fit.
    """
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a fork has its own
    stack = _SignalStack(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 0, size)
    if _libc.sigaltstack(ctypes.byref(stack), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"sigaltstack: {os.strerror(number)}")
    _signal_stacks.append(memory)


def adopt_orphans() -> None:
    """Orphaned descendants become this process's children (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def let_orphans_pass() -> bool:
    """Orphaned descendants become whose they would be without this process; whether they were to be its children."""
    adopts = ctypes.c_int(0)
    _libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(adopts), 0, 0, 0)
    if adopts.value:
        _prctl(_PR_SET_CHILD_SUBREAPER, 0)
    return bool(adopts.value)


_HIGH_DESCRIPTOR = 1008
_BELOW_LIMIT = 16


def out_of_the_way(descriptor: int) -> int:
    """The same open file under a high number, close-on-exec; the old number is closed.

    Should user code close it by mistake, the next open() gets another number, a lower one: whoever uses this one is
    told that it is closed, and writes into no file of the user's.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, max(3, min(limit - _BELOW_LIMIT, _HIGH_DESCRIPTOR)))
    os.close(descriptor)
    return number


def file_identity(descriptor: int) -> tuple[int, int] | None:
    """Which file the descriptor is of; None: it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def socket_as_it_is(descriptor: int) -> socket.socket:
    """The socket of a descriptor. Made while the user's app has a default timeout (socket.setdefaulttimeout) it would
    have O_NONBLOCK from then on, for all that share it: what is printed to journald, too."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)
    try:
        return socket.socket(fileno=descriptor)
    finally:
        socket.setdefaulttimeout(timeout)


def resident_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process without what it shares with files and shared memory; 0 once it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            fields = statm.read().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 2 else 0


def stat_fields(pid: int) -> list[bytes]:
    """The fields of proc_pid_stat(5) from the third, the state; none once the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()  # the name in brackets may hold spaces and brackets
    except OSError:
        return []


def parent_pid(pid: int) -> int | None:
    """The parent of a process; None once it is gone."""
    fields = stat_fields(pid)
    return int(fields[1]) if fields else None


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for this signal."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            caught = int(status.read().partition(b"SigCgt:")[2].split()[0], 16)
    except (OSError, IndexError):
        return False
    return bool(caught >> (number - 1) & 1)


def wait_channel(pid: int) -> str:
    """Where in the kernel a process waits, for a child that does not answer: "state D in io_schedule"."""
    fields = stat_fields(pid)
    state, place = fields[0].decode() if fields else "gone", ""
    try:
        with open(f"/proc/{pid}/wchan", "rb") as wchan:
            place = wchan.read().decode()
    except OSError:
        pass
    return f"state {state} in {place}" if place not in ("", "0") else f"state {state}"
