"""Whom the supervisor's loop waits for: descriptors, and who speaks when one of them can be read."""

import select
from collections.abc import Mapping, Sequence
from enum import Enum


class Voice(Enum):
    """Who may speak beside the children, who are known by their slots."""

    SIGNALS = "signals"
    DATABASE = "database"
    FORKSERVER = "forkserver"


class Hearing:
    """One poll for all of them. A loop waits some hundred times a second for as many children: this one is built anew
    only for those who come or go."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._speakers: Mapping[int, Voice | int] = {}

    def attend(self, speakers: Mapping[int, Voice | int]) -> None:
        """From now on these and nobody else, by descriptor."""
        if speakers == self._speakers:
            return
        for descriptor in self._speakers.keys() - speakers.keys():
            self._poll.unregister(descriptor)
        for descriptor in speakers.keys() - self._speakers.keys():
            self._poll.register(descriptor, select.POLLIN)
        self._speakers = speakers

    def wait(self, seconds: float) -> Sequence[Voice | int]:
        """All who speak, or have ended, as soon as one does; nobody, after so many seconds (and a millisecond)."""
        return [self._speakers[descriptor] for descriptor, _ in self._poll.poll(int(seconds * 1000) + 1)]
