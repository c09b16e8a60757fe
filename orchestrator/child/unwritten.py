"""The outcomes that ended and are not written, in the order of the board. Runs in a child."""

from bisect import bisect_right
from collections.abc import Sequence
from math import inf
from operator import itemgetter

from orchestrator.board.child_half import ChildBoard
from orchestrator.board.layout import Word
from orchestrator.child.verdicts import Verdicts
from orchestrator.model import Outcome, TaskStatus

SOON_SECONDS = 0.2
"""A retry that is due so soon must not be on its way: who asks what became of it would find another execution."""

_index = itemgetter(0)


class Unwritten:
    """They stand on the board as well, where the supervisor may write them for us meanwhile."""

    def __init__(self, board: ChildBoard, verdicts: Verdicts) -> None:
        self._board = board
        self._verdicts = verdicts
        self._outcomes: list[tuple[int, Outcome]] = []
        self._given_up: set[int] = set()  # tokens of those that are the supervisor's, which has not marked them yet
        self._marks = 0  # of the board, when it was last looked at whether the supervisor has written any of them
        self.is_pressing = False
        """Whether a retry that is due soon is among them: they are to be written before anything else runs."""
        self.oldest_end = inf
        """When the first of those that were not sent ended, in CLOCK_MONOTONIC seconds; infinite: there is none."""

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, index: int, outcome: Outcome) -> None:
        """An outcome that stands on the board at `index`."""
        if not self._outcomes:
            self._marks = self._board.word(Word.MARKS)
        self._outcomes.append((index, outcome))
        if outcome.status is TaskStatus.PENDING and outcome.delay_seconds < SOON_SECONDS:
            self.is_pressing = True
        if self.oldest_end == inf:
            self.oldest_end = outcome.ended_monotonic

    @property
    def first(self) -> int | None:
        """Where the one stands on the board that ended first."""
        return self._outcomes[0][0] if self._outcomes else None

    @property
    def last(self) -> int:
        """Where the last of them stands on the board, or one behind it that is written; -1: there is none."""
        return self._board.word(Word.ENDED) - 1 if self._outcomes else -1

    def index_of(self, outcome: Outcome) -> int:
        """Where this one stands on the board; -1: it does not, or is not among them."""
        return next((index for index, each in self._outcomes if each.token == outcome.token), -1)

    def all(self) -> Sequence[tuple[int, Outcome]]:
        """Each with its place on the board."""
        return tuple(self._outcomes)

    def left_to_us(self) -> list[Outcome]:
        """Those that the supervisor has not written for us; the others are no longer among them.

        What it found written we wrote, and had not counted yet.
        """
        self.look()
        return [outcome for _, outcome in self._outcomes]

    def look(self) -> None:
        """Forget those that the supervisor has written meanwhile. None may be on its way."""
        marks = self._board.word(Word.MARKS)
        if marks != self._marks:
            self._marks = marks
            self.are_written_but([each for each in self._outcomes if not self._has_supervisor(*each)])

    def give_up(self, index: int, outcome: Outcome) -> None:
        """The supervisor is to write and to count this one. It stays among them until that has seen it."""
        self._given_up.add(outcome.token)
        self._board.give_up(index)

    @property
    def must_be_taken_over(self) -> bool:
        """Whether any that was given up is still among them: nothing may be written or claimed before that is over."""
        if self._given_up:
            self._given_up &= {outcome.token for _, outcome in self._outcomes}
        return bool(self._given_up)

    def _has_supervisor(self, index: int, outcome: Outcome) -> bool:
        if not self._board.supervisor_wrote(index, outcome.token):
            return False
        if self._board.supervisor_found(index, outcome.token):
            self._board.count_found(index)
            self._verdicts.found(outcome)
        return True

    def sent(self) -> None:
        """All of them are on their way."""
        self.oldest_end = inf

    def not_sent(self, outcomes: Sequence[Outcome]) -> None:
        """These were on their way, and perhaps did not arrive."""
        self.oldest_end = outcomes[0].ended_monotonic

    def are_written(self, last: int) -> None:
        """Those up to this board index are."""
        count = bisect_right(self._outcomes, last, key=_index)
        if count:
            self._board.outcomes_written(last + 1 if len(self._outcomes) > count else None)
            del self._outcomes[:count]
        self._find_oldest()

    def all_are_written(self) -> None:
        self.are_written(self.last)
        self.is_pressing = False

    def are_written_but(self, left: Sequence[tuple[int, Outcome]]) -> None:
        """All but these of them are."""
        self._outcomes = list(left)
        self._board.outcomes_written(left[0][0] if left else None)
        self._find_oldest()

    def _find_oldest(self) -> None:
        self.oldest_end = self._outcomes[0][1].ended_monotonic if self._outcomes else inf
