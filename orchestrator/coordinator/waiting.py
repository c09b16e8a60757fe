"""How the two threads wait: on file descriptors until a monotonic deadline, never by polling."""

import math
import os
import select
import time
from typing import Protocol

LONGEST_WAIT_SECONDS = 3600.0


class Pollable(Protocol):
    """Anything that poll() takes."""

    def fileno(self) -> int: ...


class Bell:
    """An eventfd: any thread rings, the threads that wait on it wake up. It stays rung until it is cleared.

    It is closed with its last user, never before: a ring must not hit a descriptor that is somebody else's by then.
    """

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._descriptor

    def ring(self) -> None:
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            pass

    def __del__(self) -> None:
        os.close(self._descriptor)


def wait_until(deadline: float, *sources: Pollable) -> None:
    """Returns at `deadline` (CLOCK_MONOTONIC seconds), or once any of `sources` is readable or broken."""
    poller = select.poll()
    for source in sources:
        poller.register(source.fileno(), select.POLLIN)
    seconds = min(max(deadline - time.monotonic(), 0.0), LONGEST_WAIT_SECONDS)
    poller.poll(math.ceil(seconds * 1000))
