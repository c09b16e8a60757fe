"""A slot's start permissions (an eventfd) and its channel (a socket pair), which is also the child's lifeline."""

import os
import select
import socket

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
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(0, int(seconds * 1000))))

    def close(self) -> None:
        self._end.close()
