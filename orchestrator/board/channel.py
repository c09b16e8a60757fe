"""A slot's start permissions (an eventfd) and its channel (a socket pair), which is also the child's lifeline."""

import os
import select
import socket
import time

HELLO = b"hello"  # child: I exist, and the supervisor is my parent. Followed by my pid
GO = b"go"  # supervisor: you are in my table
READY = b"ready"  # child: the app's start hooks have run
FULL = b"full"  # child: my claim came back full, another may find work too
IDLE = b"idle"  # child: I found nothing and sleep
LOST = b"lost"  # child: a claim's reply was lost: see what the database thinks is mine
LOOK = b"look"  # supervisor: there may be work, or a new order on the board

MESSAGE_BYTES = 256


class Permits:
    """A kernel semaphore that counts the claims of a slot that nobody has started or taken back.

    Each `take` by either side decides one claim's fate; the kernel makes sure that no permission is given twice.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @staticmethod
    def create() -> "Permits":
        return Permits(os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def add(self, count: int) -> None:
        if count:
            os.eventfd_write(self.descriptor, count)

    def take(self) -> bool:
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            return False
        return True

    def take_up_to(self, limit: int) -> int:
        taken = 0
        while taken < limit and self.take():
            taken += 1
        return taken

    def close(self) -> None:
        os.close(self.descriptor)


class Channel:
    """One end of a slot's socket pair. Messages are whole; sending never blocks; EOF means that the other end died."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._owed: dict[bytes, None] = {}  # in their order, each once
        end.setblocking(False)

    @staticmethod
    def pair() -> tuple["Channel", socket.socket]:
        """The supervisor's end, and the socket to send to the child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ours), theirs

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: bytes) -> bool:
        """Whether it was sent: a full buffer or a dead peer is an answer, not an error."""
        try:
            self._end.send(message, socket.MSG_NOSIGNAL)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
            return False
        return True

    def tell(self, message: bytes) -> None:
        """Send it; if there is no room for it now, because the other end has not read for long, then in `wait` or with
        the next one that is told, as soon as there is."""
        self._owed[message] = None
        self._owes()

    def _owes(self) -> bool:
        """Whether something is still to be sent, after another try."""
        while self._owed:
            message = next(iter(self._owed))
            if not self.send(message):
                return True
            del self._owed[message]
        return False

    def receive(self) -> list[bytes] | None:
        """All messages that wait, or None once the other end is gone and they are used up."""
        messages: list[bytes] = []
        while True:
            try:
                message = self._end.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return messages
            except ConnectionResetError:
                return messages or None
            if not message:
                return messages or None
            messages.append(message)

    def wait(self, seconds: float | None) -> bool:
        """Whether something can be received (or the other end is gone) within `seconds` (None: for ever)."""
        until = None if seconds is None else time.monotonic() + seconds
        poll = select.poll()
        while True:
            owes = self._owes()
            poll.register(self._end, select.POLLIN | (select.POLLOUT if owes else 0))
            ready = poll.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000)
            if not owes or not ready or ready[0][1] != select.POLLOUT:
                return bool(ready)

    def close(self) -> None:
        self._end.close()
