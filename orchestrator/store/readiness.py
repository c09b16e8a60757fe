"""Waiting for a connection's socket, with a deadline. Used by `Connection`, and while it connects."""

import select
import time

from orchestrator.errors import DatabaseUnavailable, DeadlineExceeded


class Interrupted(DatabaseUnavailable):
    """The interrupt descriptor became readable; the connection was given up."""


class _PollBySelect:
    """What select.poll() is, for a web process where eventlet's monkey_patch() has taken that away."""

    def __init__(self) -> None:
        self._awaited: dict[int, int] = {}

    def register(self, descriptor: int, events: int) -> None:
        self._awaited[descriptor] = events

    def unregister(self, descriptor: int) -> None:
        del self._awaited[descriptor]

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        reads, writes = ([each for each, events in self._awaited.items() if events & kind] for kind in _KINDS)
        ready = select.select(reads, writes, list(self._awaited), milliseconds / 1000)
        return [(each, self._awaited[each]) for each in {each for some in ready for each in some}]


_KINDS = select.POLLIN, select.POLLOUT


class Readiness:
    """Waits for the socket of one connection, or for its interrupt descriptor. Made once: a poll object costs as much
    as a wait."""

    __slots__ = ("_awaited", "_interrupt", "_poll")

    def __init__(self, interrupt: int | None) -> None:
        self._interrupt = interrupt
        self._poll = select.poll() if hasattr(select, "poll") else _PollBySelect()
        if interrupt is not None:
            self._poll.register(interrupt, select.POLLIN)
        self._awaited: tuple[int, int] | None = None

    def wait(self, descriptor: int, events: int, deadline: float) -> bool | None:
        """True: `descriptor` is ready. False: the deadline came. None: `interrupt` is readable, which comes first."""
        if self._awaited != (descriptor, events):  # libpq may open another socket until it is connected
            if self._awaited is not None:
                self._poll.unregister(self._awaited[0])
            self._poll.register(descriptor, events)
            self._awaited = (descriptor, events)
        ready = self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if self._interrupt is not None and any(which == self._interrupt for which, _ in ready):
            return None
        return bool(ready)

    def await_events(self, descriptor: int, events: int, deadline: float) -> None:
        """Returns once it is ready; DeadlineExceeded or Interrupted."""
        ready = self.wait(descriptor, events, deadline)
        if ready is None:
            raise Interrupted("interrupted")
        if not ready:
            raise DeadlineExceeded("the database did not answer in time")
