"""Where in the queue a child's next claim begins to look. Pure.

What was claimed lately lies dead at the front of the index until a vacuum comes by, and for as long as some session
holds an old snapshot: a claim that began there would pass all of it, at two buffers a hundred. So it begins where the
last one ended, as long as each comes back full. What that passes over (a task put back, or committed late) is found
when a claim begins at the front again: as soon as one is not full, before the child sleeps, and every now and then.
"""

from orchestrator.store.claims import Place

FRONT_SECONDS = 0.5
"""So often at the most a claim begins at the front of a queue that is never empty ..."""

FRONT_SHARE = 0.005
"""... and no more of the time than this goes into it, however much lies dead there."""


class Cursor:
    """`start` is for the next claim; None: the front."""

    def __init__(self) -> None:
        self._last: Place | None = None
        self._front_due = 0.0

    def start(self, now: float) -> Place | None:
        return self._last if now < self._front_due else None

    def learn(self, start: Place | None, *, is_full: bool, last: Place | None, began: float, now: float) -> None:
        """A claim from `start`, made between `began` and `now`, was full or not, and ended at `last`."""
        self._last = last if is_full else None
        if start is None:
            self._front_due = now + max(FRONT_SECONDS, (now - began) / FRONT_SHARE)
