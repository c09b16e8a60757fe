"""Whether a child had better leave the processors to others of its pool. Runs in a child.

While tasks are brief and plenty, children hardly wait for anything but a processor. Then more of them than keep the
processors busy only cost: each turn on a processor finds its caches full of another's, and each claim steps over the
rows of more claims that are under way. Ten children on two processors need an eighth more of their time for a no-op
than three. So some rest; as soon as those at work are too few (they met slow tasks, or wait for a distant server), the
others are back. Nor does anybody rest while tasks wait for something else, each a third of a millisecond for a service,
say: three children ran half as many of these as ten. A child that rests has claimed nothing.
"""

import os
from collections.abc import Callable

from orchestrator.board.kernel import processor_times
from orchestrator.board.memory import NANO
from orchestrator.board.roster import Roster

REST_SECONDS = 0.05

AT_WORK_NS = int(0.1 * NANO)
"""Who has claimed within this time is at work: a batch of brief tasks takes a little less (pace.TARGET_SECONDS)."""

CROWDED = 450
"""Of the time in which children at work could run, they wait for a processor so long (in thousandths), or longer."""

_LOOK_NS = int(0.01 * NANO)


class Crowd:
    """One child's view of its pool."""

    def __init__(
        self,
        roster: Roster,
        slot: int,
        *,
        processors: int | None = None,
        times: Callable[[], tuple[int, int]] = processor_times,
    ) -> None:
        """`processors` is how many this process may use; `times()` tells for how many nanoseconds it has run, and has
        waited for one of them. OSError or ValueError: that is not known here, and it waited never."""
        self._roster = roster
        self._slot = slot
        self._enough = processors or len(os.sched_getaffinity(0))
        self._times = times
        self._ran_ns = self._waited_ns = 0
        self._began: tuple[int, int, int] | None = None  # when, and both times then
        self._crowding = 0
        self._look_due = 0

    def should_rest(self, now_ns: int) -> bool:
        """Whether enough others are at work, and find it crowded. Else this child is at work from now on: it is to be
        asked before it claims, if its tasks are brief."""
        others = self._roster.others(self._slot, now_ns - AT_WORK_NS, now_ns)
        if len(others) > self._enough and sum(others) >= CROWDED * len(others):
            self.leave()
            return True
        if self._began is not None:
            self._look(now_ns, *self._began)
        self._roster.enter(self._slot, now_ns, self._crowding)
        return False

    def leave(self) -> None:
        """This child is no longer at work, it rests or has found nothing: who is woken next need not rest for it."""
        self._roster.leave(self._slot)
        self._began = None

    def begins(self, now_ns: int) -> None:
        """What was claimed begins to run, until this child is asked again or leaves."""
        if now_ns >= self._look_due:
            self._look_due = now_ns + _LOOK_NS
            self._began = (now_ns, *self._told())

    def _look(self, now_ns: int, began_ns: int, ran_before: int, waited_before: int) -> None:
        """The share of waiting since the last look. None, if in the batch that began then it waited so long for other
        things that one more of its like than there are processors would not keep these busy."""
        ran, waited = self._told()
        could_run = ran - self._ran_ns + waited - self._waited_ns
        self._crowding = 1000 * (waited - self._waited_ns) // could_run if could_run > 0 else 0
        self._ran_ns, self._waited_ns = ran, waited
        asleep = now_ns - began_ns - (ran - ran_before) - (waited - waited_before)
        if asleep * self._enough > ran - ran_before:
            self._crowding = 0
        self._began = None

    def _told(self) -> tuple[int, int]:
        try:
            return self._times()
        except (OSError, ValueError):
            return 0, 0
