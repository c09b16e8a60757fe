"""Signals become bytes in a socket that the loop reads. The handlers only exist; they do nothing."""

import signal
import socket
from collections.abc import Iterable

from orchestrator.board.reactions import do_nothing
from orchestrator.supervisor.states import ENDING, SIGNALS


class SignalInbox:
    """Records what arrives, from `open` to `close`, for the one loop that takes it."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def open(self) -> None:
        """From here on none of the signals ends this process."""
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for each in (*SIGNALS, signal.SIGCHLD):
            signal.signal(each, do_nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGCHLD))

    def fileno(self) -> int:
        return self._reader.fileno()

    def take(self) -> Iterable[signal.Signals]:
        """All that came since the last look, in order. SIGCHLD may be missing if thousands came: reap at every look."""
        received = b""
        try:
            while chunk := self._reader.recv(4096):
                received += chunk
        except BlockingIOError:
            pass
        return [signal.Signals(number) for number in received]

    def is_told_to_end(self) -> bool:
        """Whether TERM, INT or QUIT is among what `take` will tell; for those who wait before there is a loop."""
        try:
            return any(number in ENDING for number in self._reader.recv(4096, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()
