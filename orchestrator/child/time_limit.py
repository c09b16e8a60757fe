"""The soft time limit: TaskTimeout raised inside the handler. Runs in a child.

It is a courtesy: a handler that blocks signals, hangs in C or swallows the exception meets the supervisor's kill.
"""

import signal
from types import FrameType

from orchestrator.errors import TaskTimeout


class TimeLimit:
    """Arms SIGALRM for one handler at a time."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self.is_armed = False
        signal.signal(signal.SIGALRM, self._time_is_up)

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
