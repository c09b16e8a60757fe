"""What a handler may have done to its process: undone where it can be, else a reason to replace the child.

Runs in a child after every task, so each look is a system call or two.
"""

import fcntl
import os
import resource
import signal
import sys
import threading
from _signal import getsignal  # type: ignore[import-not-found]  # signal's looks for an enum member: 2 us, not 0.03
from collections.abc import Iterable, Sequence

from orchestrator.board.birth import MARKER_VARIABLE
from orchestrator.board.reactions import DEAF_TO, do_nothing
from orchestrator.child.time_limit import TimeLimit

SHARE_OF_DESCRIPTORS = 0.75
"""Of the descriptors that a process may have; beyond it the next task might find none left, and pay for it."""


_CONNECTION_MARK = 10
"""Any number of a signal; the marks of the other descriptors follow it."""


class Sanity:
    """The state of a healthy child, taken once its start hooks have run, and the way back to it."""

    def __init__(self, time_limit: TimeLimit, own_descriptors: Iterable[int]) -> None:
        self._time_limit = time_limit
        self._directory = os.getcwd()
        self._umask = os.umask(0o022)
        os.umask(self._umask)
        self._threads = threading.active_count()
        self._has_children = _has_children()
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._standard = [(descriptor, _identity(descriptor)) for descriptor in (0, 1, 2)]
        self._own = [(descriptor, mark) for mark, descriptor in enumerate(own_descriptors, _CONNECTION_MARK + 1)]
        for descriptor, mark in self._own:
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, mark)
        self._handlers = {int(each): getsignal(each) for each in (*DEAF_TO, signal.SIGCHLD, signal.SIGPIPE)}
        self._most_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] * SHARE_OF_DESCRIPTORS
        self._marker = os.environ.get(MARKER_VARIABLE)

    def restore(self, connection: int | None) -> Sequence[str]:
        """Undo what can be undone. What cannot is returned in words: then no further task may run here.

        `connection` is the descriptor of the database connection, or None while there is none.
        """
        os.umask(self._umask)
        self._restore_signals()
        if self._marker is not None and os.environ.get(MARKER_VARIABLE) != self._marker:
            os.environ[MARKER_VARIABLE] = self._marker  # what later tasks start must be found by it
        wrong = self._broken_descriptors(connection)
        wrong += self._restore_streams()
        try:
            if os.getcwd() != self._directory:
                os.chdir(self._directory)
        except OSError as error:
            wrong.append(f"the working directory is gone: {error}")
        if threading.active_count() > self._threads:
            names = ", ".join(sorted(thread.name for thread in threading.enumerate()))
            wrong.append(f"threads were left running ({names}); start those that shall stay in @app.on_child_start")
        if not self._has_children and _has_children():
            wrong.append("subprocesses were left running")
        if not wrong and self._descriptors_run_out():
            wrong.append("file descriptors leak: nearly all that the process may have are open")
        return wrong

    def _restore_signals(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in self._handlers.items():
            if getsignal(each) is not handler:
                signal.signal(each, handler if handler is not None else do_nothing)
        self._time_limit.install()
        if signal.pthread_sigmask(signal.SIG_BLOCK, ()):
            signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _restore_streams(self) -> list[str]:
        """Put sys.stdout and its like back; one that was closed would raise in whichever task prints next."""
        sys.stdin, sys.stdout, sys.stderr = self._streams
        return ["sys.stdin, sys.stdout or sys.stderr was closed"] if any(map(_is_closed, self._streams)) else []

    def _broken_descriptors(self, connection: int | None) -> list[str]:
        """Ours that a handler closed or replaced. A replaced one must not be written to: it may be the user's file."""
        broken = [number for number, was in self._standard if _identity(number) != was]
        broken += [number for number, mark in self._own if not _has_mark(number, mark)]
        wrong = [f"descriptor {number} was closed or replaced" for number in broken]
        if connection is not None and not _has_mark(connection, _CONNECTION_MARK):
            wrong.append("the database connection was closed or replaced")
        return wrong

    def _descriptors_run_out(self) -> bool:
        """The kernel gives the lowest number that is free: one of the highest, and the rest are open."""
        try:
            lowest_free = os.dup(self._own[-1][0])
        except OSError:
            return True
        os.close(lowest_free)
        return lowest_free > self._most_descriptors

    def connected(self, connection: int | None) -> None:
        """Mark the socket that the database connection has now."""
        if connection is not None:
            fcntl.fcntl(connection, fcntl.F_SETSIG, _CONNECTION_MARK)


def _has_mark(descriptor: int, mark: int) -> bool:
    """Whether it still is the open file that was marked: one system call, a quarter of what fstat costs.

    The mark is the signal for input on it (F_SETSIG), which nobody gets who has not asked for signals.
    """
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GETSIG) == mark
    except OSError:
        return False


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_closed(stream: object) -> bool:
    """None, where a process was started without that descriptor, is not closed; nor is a start hook's own object."""
    return getattr(stream, "closed", False) is True


def _has_children() -> bool:
    """Whether subprocesses run. Those that have ended already are reaped: a handler left them as zombies."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return False
        if ended is None:
            return True
