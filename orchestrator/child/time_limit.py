"""The soft time limit: TaskTimeout raised inside the handler. Runs in a child.

It is a courtesy: a handler that blocks signals, hangs in C or swallows the exception meets the supervisor's kill.
"""

import signal
from _signal import getsignal  # type: ignore[import-not-found]  # signal's looks for an enum member: 2 us, not 0.03
from types import FrameType

from orchestrator.errors import TaskTimeout


class TimeLimit:
    """Arms SIGALRM for one handler at a time."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self.is_armed = False
        self._handler = self._time_is_up
        self.install()

    def install(self) -> None:
        """(Re)set the handler: user code may have taken the signal."""
        if getsignal(signal.SIGALRM) is not self._handler:
            signal.signal(signal.SIGALRM, self._handler)

    def arm(self, seconds: float) -> None:
        self._seconds = seconds
        self.is_armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def disarm(self) -> None:
        """After this no TaskTimeout comes. Call it inside the `try` that expects one: it may come until then."""
        self.is_armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _time_is_up(self, signum: int, frame: FrameType | None) -> None:
        if self.is_armed:
            self.is_armed = False
            raise TaskTimeout(f"the task's time limit of {self._seconds:g} s is up")
