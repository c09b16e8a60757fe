"""Who of the children is to look for work: who sleeps is woken, and who works is told that tasks have become slower."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.board.layout import SlotState
from orchestrator.mailbox import Sleeper
from orchestrator.supervisor.link import Link


class Wakeups:
    """Of one pool. `links` are all of its children's, `live()` those of children that are ready."""

    def __init__(self, links: Mapping[int, Link], live: Callable[[], Sequence[Link]], sleeper: Sleeper) -> None:
        self._links = links
        self._live = live
        self._sleeper = sleeper
        self._is_owed = False
        self._task_seconds = 0.0  # that tasks take now; 0: nothing waits to be claimed again, or they are brief

    def wake(self, count: int = 1) -> None:
        """Something may be claimable: so many idle children look. If fewer are idle, the next that falls idle looks
        again."""
        for link in self._live():
            if link.is_asleep and link.wake():
                count -= 1
                if not count:
                    return
        self._owe(True)

    def _owe(self, is_owed: bool) -> None:
        """Children that are told so say nothing of further full claims: with a hundred of them these would be hundreds
        of messages a second, and each wakes us."""
        self._is_owed = is_owed
        for link in self._links.values():
            link.board.tell_wake_owed(is_owed)

    def went_idle(self, link: Link) -> None:
        """Its child says that it sleeps."""
        link.woken_at = None
        if self._is_owed and link.wake():
            self._owe(False)

    def offer_sleeper(self) -> None:
        """Whom a notification wakes that is heard before our next turn, unless it is no longer asleep by then."""
        link = next((link for link in self._live() if link.is_asleep), None)
        self._sleeper.offer(link.wake if link is not None else None)

    def has_sleepers(self) -> bool:
        return any(link.board.state is SlotState.IDLE for link in self._live())

    def tasks_are_slow(self, task_seconds: float) -> None:
        """Claims were taken back, since tasks take so long now: nobody is to take all of them in good faith."""
        self._task_seconds = task_seconds
        for link in self._live():
            link.board.tell_slowness(task_seconds)

    def can_be_claimed_again(self) -> None:
        """What was taken back: who works looks for more so often that it has forgotten by now what it was told."""
        if self._task_seconds:
            self.tasks_are_slow(self._task_seconds)
            self._task_seconds = 0.0
