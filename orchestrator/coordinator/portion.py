"""How many orders of a kind go into one statement. Runs in the coordinator thread."""

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
