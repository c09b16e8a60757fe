"""Outcomes of many children go to the database in one statement, with one flush of its disk instead of one a child."""

from collections.abc import Callable, Sequence

from orchestrator.board.supervisor_half import SupervisorBoard
from orchestrator.mailbox import Finish
from orchestrator.model import Outcome
from orchestrator.supervisor.pool import Pool

COLLECT_SECONDS = 0.02
"""What a worker that is killed repeats is at most what ended in its last 50 ms: so long an outcome waits to be
collected, and some milliseconds more until it is on the server's disk."""

AGAIN_SECONDS = 0.005
"""Until the next look if the thread that writes them was busy."""

LEAST_CHILDREN, LEAST_OUTCOMES = 4, 5
"""So many must offer something, and that so many outcomes in COLLECT_SECONDS: less is not worth the statement."""

MOST_OUTCOMES = 200
"""At once: what is more its children write."""


class Collector:
    """One look at all boards whose children offer their outcomes (child/offer.py). A child that is not relieved of them
    in time sends them itself; if both do, the claim's token has one of them refused."""

    def __init__(self, pool: Pool, *, has_time: Callable[[], bool]) -> None:
        """`has_time()`: whether an order to write outcomes would be carried out at once."""
        self._pool = pool
        self._has_time = has_time
        self._due = 0.0
        self._is_offered = False
        self._first = 0

    def look(self, now: float) -> None:
        """Collect, if it is time to."""
        if now < self._due:
            return
        offers = [(link.board, link.board.offered_a_second) for link in self._pool.links.values()]
        boards = [board for board, a_second in offers if a_second]
        outcomes = sum(a_second for _, a_second in offers) * COLLECT_SECONDS
        self._is_offered = len(boards) >= LEAST_CHILDREN and outcomes >= LEAST_OUTCOMES
        is_collecting = self._is_offered and self._has_time()
        for board in boards:
            board.tell_collecting(is_collecting)
        self._due = now + (AGAIN_SECONDS if self._is_offered and not is_collecting else COLLECT_SECONDS)
        if is_collecting:
            self._collect(boards)

    def _collect(self, boards: Sequence[SupervisorBoard]) -> None:
        self._first += 1  # others come first the next time
        collected: list[Outcome] = []
        for number in range(len(boards)):
            outcomes = boards[(self._first + number) % len(boards)].collect()
            collected += [each for each in outcomes if not self._pool.outcomes.is_finishing(each.token)]
            if len(collected) >= MOST_OUTCOMES:
                break
        if collected:
            self._pool.outcomes.finish(Finish(tuple(collected)))

    def next_look(self, now: float) -> float | None:
        """When to look again, in seconds from now; None: when the loop turns anyway."""
        return max(0.0, self._due - now) if self._is_offered else None
