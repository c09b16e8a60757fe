"""Signals become bytes in a pipe that the loop reads. The handlers only exist; they do nothing."""

import os
import signal
from collections.abc import Iterable

from orchestrator.board.reactions import do_nothing
from orchestrator.supervisor.states import ENDING, SIGNALS


class SignalInbox:
    """Records what arrives, from `open` to `close`, for the one loop that takes it.

    A pipe has room for 65,536: of a socket pair 278 bytes that were sent one by one are all, and as many children may
    end while nobody reads. The signal after them was lost, a TERM too.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._received = bytearray()

    def open(self) -> None:
        """From here on none of the signals ends this process."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for each in (*SIGNALS, signal.SIGCHLD):
            signal.signal(each, do_nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGCHLD))

    def fileno(self) -> int:
        return self._reader

    def take(self) -> Iterable[signal.Signals]:
        """All that came since the last look, in order."""
        self._read()
        received, self._received = self._received, bytearray()
        return [signal.Signals(number) for number in received]

    def is_told_to_end(self) -> bool:
        """Whether TERM, INT or QUIT is among what `take` will tell; for those who wait before there is a loop."""
        self._read()
        return any(number in ENDING for number in self._received)

    def _read(self) -> None:
        try:
            while chunk := os.read(self._reader, 65536):
                self._received += chunk
        except BlockingIOError:
            pass

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self._reader)
        os.close(self._writer)
