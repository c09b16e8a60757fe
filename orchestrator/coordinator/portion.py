"""How many orders of a kind go into one statement. Runs in the coordinator thread."""

from collections.abc import Callable
from typing import TypeVar

from orchestrator.errors import StatementRefused

Answer = TypeVar("Answer")

LOCK_SECONDS = 0.25
"""A statement waits no longer for rows that somebody has locked, an operator's open transaction perhaps: whatever else
the coordinator has to do waits with it."""


class Portion:
    """All at once, until one of them is refused for itself: then halves, until that one stands alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = most

    def succeeded(self) -> None:
        self.size = min(self.size * 2, self._most)

    def halve(self, count: int) -> bool:
        """After `count` were refused: whether the next will be fewer. False: it was one."""
        self.size = max(1, count // 2)
        return count > 1

    def past_locks(
        self,
        statement: Callable[[], Answer],
        count: int,
        *,
        set_aside: Callable[[], bool],
        put_first_last: Callable[[], None],
    ) -> Answer | None:
        """The answer of a statement for the first `count` orders; None: it met a lock, and the next is without those
        that were set aside, or for fewer if there were none, or if one of them is to blame. The first is put last if it
        was alone, or refused for another reason; that StatementRefused is raised."""
        try:
            answer = statement()
        except StatementRefused as refusal:
            if refusal.blames_lock and set_aside():
                return None
            if (refusal.blames_lock or refusal.blames_data) and self.halve(count):
                return None
            put_first_last()
            raise
        self.succeeded()
        return answer
