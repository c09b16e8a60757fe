"""What a child leaves to its supervisor: outcomes that this may write, with those of other children. Runs in a child.

For both it is a hint, no right. Whoever comes first has written it; the other's is refused, for the claim has ended.
"""

from orchestrator.board.child_half import ChildBoard

SEND_SECONDS = 0.035
"""An outcome waits no longer than this for company before it is sent (between tasks); on its way to the server's disk
it is for some milliseconds more, and after 50 ms it is to be there."""

LEAST_TASK_SECONDS, LONGEST_TASK_SECONDS = 0.002, 0.5
"""Of tasks that take so long, what ends in SEND_SECONDS is too little for a statement of its own. Those that take
longer are so few that it does not matter."""

UNCOLLECTED_SECONDS = 0.1
"""While the supervisor collects what is offered, it comes much sooner than this (supervisor/collector.py)."""

COLLECTED_SECONDS = 0.25
"""What it has on its way is written sooner than this, or has met a lock. Not much sooner where the processors are
overloaded, and both of us writing the same would be more load: each statement waits for the other's rows."""


class Offer:
    """Made for a batch. While statements of our own are on their way it does not hold."""

    def __init__(self, board: ChildBoard) -> None:
        self._board = board
        self._task_seconds = 0.0

    def make(self, task_seconds: float) -> None:
        """What ends from now on, of tasks that take so long, may be written by the supervisor; 0.0: may not."""
        self._task_seconds = task_seconds
        self._board.offer_outcomes(task_seconds)

    def suspend(self) -> None:
        self._board.offer_outcomes(0.0)

    def renew(self) -> None:
        self._board.offer_outcomes(self._task_seconds)

    @property
    def is_taken(self) -> bool:
        """Whether the supervisor comes for what ends."""
        return self._task_seconds > 0 and self._board.is_collecting

    def patience(self, first: int) -> float | None:
        """How many seconds outcomes, of which the first stands there on the board, wait for the supervisor; None: it
        does not come."""
        if self._board.is_collected(first):
            return COLLECTED_SECONDS
        return UNCOLLECTED_SECONDS if self.is_taken else None
