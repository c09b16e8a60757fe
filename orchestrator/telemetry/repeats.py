"""What goes on being so is told when it begins, when it changes, and now and then. Used by one thread."""

import time

REPORT_SECONDS = 30.0


class Repeats:
    """Remembers what was told last, until it is `over`."""

    __slots__ = ("_told", "_told_at")

    def __init__(self) -> None:
        self._told: str | None = None
        self._told_at = 0.0

    def is_news(self, text: str) -> bool:
        """Whether this is to be told now: then it counts as told."""
        now = time.monotonic()
        if text == self._told and now - self._told_at < REPORT_SECONDS:
            return False
        self._told, self._told_at = text, now
        return True

    def over(self) -> None:
        """What comes next is news."""
        self._told = None
