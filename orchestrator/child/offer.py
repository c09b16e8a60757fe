"""What a child leaves to its supervisor: outcomes that this may write, with those of other children. Runs in a child.

For both it is a hint, no right. Whoever comes first has written it; the other's is refused, for the claim has ended.
"""

from orchestrator.board.child_half import ChildBoard
from orchestrator.model import Outcome

SEND_SECONDS = 0.035
"""An outcome waits no longer than this for company before it is sent (between tasks); on its way to the server's disk
it is for some milliseconds more, and after 50 ms it is to be there."""

LEAST_TASK_SECONDS = 0.002
"""Of tasks that take so long, or longer, what ends in SEND_SECONDS is too little for a statement of its own."""

UNCOLLECTED_SECONDS = 0.1
"""While the supervisor collects what is offered, it comes much sooner than this (supervisor/collector.py)."""

COLLECTED_SECONDS = 0.25
"""What it has on its way is written sooner than this, or has met a lock. Not much sooner where the processors are
overloaded, and both of us writing the same would be more load: each statement waits for the other's rows."""


class Offer:
    """Made for a batch. While statements of our own are on their way it does not hold."""

    def __init__(self, board: ChildBoard) -> None:
        self._board = board
        self._is_made = False

    def make(self, is_made: bool) -> None:
        """Whether what ends from now on may be written by the supervisor."""
        self._is_made = is_made
        self._board.offer_outcomes(is_made)

    def suspend(self) -> None:
        self._board.offer_outcomes(False)

    def renew(self) -> None:
        self._board.offer_outcomes(self._is_made)

    def patience(self, first: Outcome | None) -> float:
        """How many seconds outcomes wait until we send them ourselves, of which this is the first."""
        if first is not None and self._board.is_collected(first.token):
            return COLLECTED_SECONDS
        return UNCOLLECTED_SECONDS if self._is_made and self._board.is_collecting else SEND_SECONDS
