"""Memory that the children of a forkserver share: which of them are at work. Forkserver and children use it.

Each child writes its own two words, and nobody waits for what another writes: whatever a task's C code may write here
by mistake, a child rests for a moment, or does not.
"""

import mmap

from orchestrator.board.layout import WORD


class Roster:
    """When the child of each slot claimed last, and how crowded it found the processors (in thousandths)."""

    def __init__(self, slots: int) -> None:
        """Made by the forkserver: what it forks inherits it. Children of further slots are on no roster."""
        self.slots = slots
        self._words = memoryview(mmap.mmap(-1, 2 * slots * WORD)).cast("q")

    def enter(self, slot: int, now_ns: int, crowding: int) -> None:
        """The slot's child claims, at this CLOCK_MONOTONIC nanosecond."""
        if slot < self.slots:
            self._words[self.slots + slot] = crowding
            self._words[slot] = now_ns

    def leave(self, slot: int) -> None:
        """The slot's child is no longer at work."""
        if slot < self.slots:
            self._words[slot] = 0

    def others(self, slot: int, since_ns: int, now_ns: int) -> list[int]:
        """How crowded the other slots' children found it that have claimed in this time."""
        words, slots = self._words, self.slots
        return [
            words[slots + other]
            for other, entered in enumerate(words[:slots])
            if since_ns <= entered <= now_ns and other != slot
        ]
