"""Where log lines go: standard error, written so that it can neither block nor break the process.

Any process uses it. It must never raise, and never wait for a reader longer than PATIENCE_SECONDS.

A blocking write to a pipe that nobody reads hangs for ever, and a poll before it is no help when twenty children share
that pipe. O_NONBLOCK on descriptor 2 itself is shared with the shell and everybody else who has it. So: a pipe or a
terminal is opened a second time through /proc, with O_NONBLOCK for us alone; a socket (journald's) is sent to with
MSG_DONTWAIT; a regular file is written through a plain duplicate, for it shares its offset with what others print.
"""

import fcntl
import os
import select
import socket
import stat
import time

from orchestrator.board.kernel import socket_as_it_is

PATIENCE_SECONDS = 1.0
LOWEST_DESCRIPTOR = 64
"""Our duplicate keeps clear of the small numbers that programs close and reuse."""


class Stderr:
    """Standard error as it is now. `write` may be called by one thread at a time (the log handler has a lock).

    Lines that could not be written are counted in `lost`; it is 0 again after `lost_reported`.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._is_stuck = False
        self._is_line_torn = False
        self._socket: socket.socket | None = None
        self._descriptor = -1
        self._identity: tuple[int, int] | None = None
        try:
            self._attach()
        except OSError:
            self._descriptor = -1

    def _attach(self) -> None:
        found = os.fstat(2)
        self._identity = (found.st_dev, found.st_ino)
        self._descriptor = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, LOWEST_DESCRIPTOR)
        if stat.S_ISSOCK(found.st_mode):
            self._socket = socket_as_it_is(self._descriptor)
        elif stat.S_ISFIFO(found.st_mode) or os.isatty(2):
            self._reopen()

    def _reopen(self) -> None:
        """Swap the duplicate for a description of our own that does not block; refused: keep the duplicate."""
        try:
            own = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return
        os.dup2(own, self._descriptor, inheritable=False)
        os.close(own)

    def detach(self) -> None:
        """Give the descriptor back, if it is still ours."""
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        if self._is_ours():
            os.close(self._descriptor)
        self._descriptor = -1

    def _is_ours(self) -> bool:
        """A task may have closed our descriptor, and its number may be a database connection by now."""
        if self._descriptor < 0:
            return False
        try:
            found = os.fstat(self._descriptor)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def write(self, line: str) -> bool:
        """Write one line (it ends with a newline); False and counted when it is lost, whole or in part."""
        data = line.encode("utf-8", "backslashreplace")
        is_written = False
        try:
            is_written = self._is_ours() and self._write_all(b"\n" + data if self._is_line_torn else data)
        except OSError:
            pass
        finally:
            if not is_written:
                self.lost += 1
        return is_written

    def _write_all(self, data: bytes) -> bool:
        deadline = time.monotonic() + (0.0 if self._is_stuck else PATIENCE_SECONDS)
        rest = memoryview(data)
        while rest:
            written = self._write_some(rest)
            if written:
                self._is_line_torn = written < len(rest)
                rest = rest[written:]
            elif not self._wait_until(deadline):
                self._is_stuck = True  # from now on nobody waits, until a line gets through
                return False
        self._is_stuck = False
        return True

    def _write_some(self, data: memoryview) -> int:
        """Bytes taken; 0 when the reader is behind."""
        try:
            if self._socket is not None:
                return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if not self._is_ready(0):
                return 0
            # select.PIPE_BUF bytes fit at once where poll says ready, should this descriptor be a blocking one
            return os.write(self._descriptor, data[: select.PIPE_BUF])
        except BlockingIOError:
            return 0

    def _wait_until(self, deadline: float) -> bool:
        remaining = deadline - time.monotonic()
        return remaining > 0 and self._is_ready(remaining)

    def _is_ready(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))
