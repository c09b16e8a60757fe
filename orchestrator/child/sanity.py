"""What a handler may have done to its process: undone where it can be, else a reason to replace the child.

Runs in a child after every task, the shortest too, so each look is one cheap system call or none. What would harm the
next task is looked at after each. What takes longer to do than a brief task lasts, or harms nobody before something is
sent, is looked at after any other, after a few brief ones, and before anything is sent.
"""

import faulthandler
import fcntl
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from _signal import getsignal, pthread_sigmask  # type: ignore[import-not-found]  # signal's make enums: 2 us, not 0.1
from _thread import _count as started_threads
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

from orchestrator.board.birth import MARKER_VARIABLE
from orchestrator.board.kernel import file_identity, out_of_the_way
from orchestrator.board.reactions import DEAF_TO, HUNG_STACK_SIGNAL, STACK_SIGNAL, do_nothing
from orchestrator.child.process_attributes import ProcessAttributes
from orchestrator.child.time_limit import TimeLimit

SHARE_OF_DESCRIPTORS = 0.75
"""Of the descriptors that a process may have; beyond it the next task might find none left, and pay for it."""

BRIEF_SECONDS = 0.00005
BRIEF_TASKS = 8
"""In so short a time no program can be started; and so few tasks as short hardly open a quarter of all descriptors."""

ENDING_SECONDS = 0.1
"""Threads that are just ending have ended long before: those of an event loop, or that waited for a program of its.
Others were left running."""

UNSEEN_SECONDS = 0.0002
"""After so many seconds of tasks the process's attributes are looked at, which takes 6 us; 11 in a privileged one."""

_STANDARD_MARKS = {0: signal.SIGCHLD, 1: signal.SIGURG, 2: signal.SIGWINCH}
"""Other processes share these files: should one ask for signals (O_ASYNC), it gets one that does nothing by default."""

_CONNECTION_MARK = 10
"""Any number of a signal; the marks of the other descriptors follow it."""

_TIMER_SIGNALS = (signal.SIGPROF, signal.SIGVTALRM)

_F_GETSIG = fcntl.F_GETSIG
_SIG_BLOCK = int(signal.SIG_BLOCK)
_MARKER = MARKER_VARIABLE.encode()


class Sanity:
    """The state of a healthy child, taken once its start hooks have run, and the way back to it."""

    def __init__(
        self, time_limit: TimeLimit, own_descriptors: Iterable[int], connection: Callable[[], int | None]
    ) -> None:
        """`connection()` is the descriptor of the database connection, or None while there is none."""
        self._connection = connection
        self._time_limit = time_limit
        self._directory = out_of_the_way(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self._umask = os.umask(0o022)
        os.umask(self._umask)
        self._threads = started_threads()
        self._known_threads = threading.enumerate()
        self._has_children = _has_children()
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        # None, where a process was started without that descriptor, cannot be closed; nor can a start hook's own object
        self._closable = [each for each in self._streams if getattr(each, "closed", None) is False]
        self._own = tuple(own_descriptors)
        for mark, descriptor in enumerate(self._own, _CONNECTION_MARK + 1):
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, mark)
        self._own_marks = [_mark_of(each) for each in self._own]
        self._standard_files = [(descriptor, file_identity(descriptor)) for descriptor in _STANDARD_MARKS]
        _mark_standard()
        self._standard = [descriptor for descriptor, identity in self._standard_files if identity is not None]
        self._standard_marks = [_mark_of(each) for each in self._standard]
        self._wakeup = signal.set_wakeup_fd(-1)
        if self._wakeup != -1:
            signal.set_wakeup_fd(self._wakeup)
        others = (STACK_SIGNAL, HUNG_STACK_SIGNAL, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE, *_TIMER_SIGNALS)
        self._signals = [int(each) for each in (*DEAF_TO, *others)]
        _survive_timers()
        self._handlers = [getsignal(each) for each in self._signals]
        self._most_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] * SHARE_OF_DESCRIPTORS
        self._environment: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # environb: 0.6 us
        self._marker = self._environment.get(_MARKER)
        self._most_calls = sys.getrecursionlimit()
        self._socket_timeout = socket.getdefaulttimeout()
        self._collects = gc.isenabled()
        self._attributes = ProcessAttributes()
        self._not_inspected = 0
        self._unseen_seconds = 0.0  # of tasks, since the attributes were looked at

    def restore(self, seconds: float) -> Sequence[str]:
        """Undo what can be undone after a task that took so long. What cannot is returned in words: then no further
        task may run here."""
        os.umask(self._umask)
        if list(map(getsignal, self._signals)) != self._handlers:
            self._restore_handlers()
            seconds = max(seconds, UNSEEN_SECONDS)  # who has a handler for a timer's signal has a timer, too
        if pthread_sigmask(_SIG_BLOCK, ()):
            pthread_sigmask(signal.SIG_SETMASK, ())
        if self._environment.get(_MARKER) != self._marker and self._marker is not None:
            os.environb[_MARKER] = self._marker  # what later tasks start must be found by it
        if sys.getrecursionlimit() != self._most_calls:
            sys.setrecursionlimit(self._most_calls)
        if socket.getdefaulttimeout() != self._socket_timeout:
            socket.setdefaulttimeout(self._socket_timeout)
        if gc.isenabled() is not self._collects:
            (gc.enable if self._collects else gc.disable)()
        wrong = [] if _marks_of(self._standard) == self._standard_marks else self._broken_standard()
        sys.stdin, sys.stdout, sys.stderr = self._streams
        for stream in self._closable:
            if stream.closed:  # it would raise in whichever task prints next
                wrong.append("sys.stdin, sys.stdout or sys.stderr was closed")
        try:
            os.fchdir(self._directory)
        except OSError as error:
            wrong.append(f"there is no way back to the working directory: {error}")
        if started_threads() > self._threads and not self._threads_end():
            left = [thread.name for thread in threading.enumerate() if thread not in self._known_threads]
            names = f" ({', '.join(sorted(left))})" if left else ""  # _thread's have none
            wrong.append(f"threads were left running{names}; start those that shall stay in @app.on_child_start")
        self._not_inspected += 1
        self._unseen_seconds += seconds
        if wrong or seconds >= BRIEF_SECONDS or self._not_inspected >= BRIEF_TASKS:
            wrong += self.inspect()
        return wrong

    def inspect(self) -> Sequence[str]:
        """The rest of it, unless that was done after the last task; before anything is sent."""
        if not self._not_inspected:
            return ()
        self._not_inspected = 0
        signal.alarm(0)  # ends an interval timer (setitimer) too; until now a signal of it met TimeLimit, and no harm
        faulthandler.cancel_dump_traceback_later()  # which may be told to end the process
        if self._wakeup == -1:
            signal.set_wakeup_fd(-1)  # its number may be another file's by now, and each signal would write to that
        wrong = self._broken_descriptors(self._connection())
        if self._unseen_seconds >= UNSEEN_SECONDS:
            self._unseen_seconds = 0.0
            wrong += self._attributes.restore()
        if not self._has_children and _has_children():
            wrong.append("subprocesses were left running")
        if not wrong and self._descriptors_run_out():
            wrong.append("file descriptors leak: nearly all that the process may have are open")
        return wrong

    def _restore_handlers(self) -> None:
        for each, handler in zip(self._signals, self._handlers, strict=True):
            signal.signal(each, handler if handler is not None else do_nothing)

    def _threads_end(self) -> bool:
        """Whether those that a handler started do so by themselves."""
        until = time.monotonic() + ENDING_SECONDS
        while started_threads() > self._threads:
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        return True

    def _broken_standard(self) -> list[str]:
        """The next open() would get the number of one that was closed, and whatever the next task prints."""
        broken = [number for number, was in self._standard_files if file_identity(number) != was]
        return [f"descriptor {number} was closed or replaced" for number in broken]

    def _broken_descriptors(self, connection: int | None) -> list[str]:
        """Ours that a handler closed or replaced. A replaced one must not be written to: it may be the user's file."""
        wrong = []
        if connection is not None and _mark_of(connection) != _CONNECTION_MARK:
            wrong.append("the database connection was closed or replaced")
        if _marks_of(self._own) != self._own_marks:
            marks = zip(self._own, self._own_marks, strict=True)
            wrong += [f"descriptor {own} was closed or replaced" for own, mark in marks if _mark_of(own) != mark]
        return wrong

    def _descriptors_run_out(self) -> bool:
        """The kernel gives the lowest number that is free: one of the highest, and the rest are open."""
        try:
            lowest_free = os.dup(self._own[-1])
        except OSError:
            return True
        os.close(lowest_free)
        return lowest_free > self._most_descriptors

    def connected(self) -> None:
        """Mark the socket that the database connection has now."""
        connection = self._connection()
        if connection is not None:
            fcntl.fcntl(connection, fcntl.F_SETSIG, _CONNECTION_MARK)


def _survive_timers() -> None:
    """A timer that a brief task leaves is ended a few tasks later: until then its signal must not kill one of them."""
    for each in _TIMER_SIGNALS:
        if getsignal(each) == signal.SIG_DFL:
            signal.signal(each, do_nothing)
            signal.siginterrupt(each, False)


def _mark_of(descriptor: int) -> int | None:
    """By what an open file was marked: one system call, a quarter of what fstat costs. None: it was closed.

    The mark is the signal for input on it (F_SETSIG), which nobody gets who has not asked for signals.
    """
    marks = _marks_of((descriptor,))
    return marks[0] if marks is not None else None


def _marks_of(descriptors: Sequence[int]) -> list[int] | None:
    """The marks of several, without a step of Python for each. None: one of them was closed."""
    try:
        return list(map(fcntl.fcntl, descriptors, repeat(_F_GETSIG)))
    except OSError:
        return None


def _mark_standard() -> None:
    """Mark the standard streams, unless they are: other processes share them, and perhaps they share one open file."""
    for descriptor, mark in _STANDARD_MARKS.items():
        if _mark_of(descriptor) == 0:
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, mark)


def _has_children() -> bool:
    """Whether subprocesses run. Those that have ended already are reaped: a handler left them as zombies."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return False
        if ended is None:
            return True
