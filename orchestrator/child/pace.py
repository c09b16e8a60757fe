"""How many tasks a child claims at once. Pure.

One at a time while tasks are slow or few; twice as many after each full and quick batch, so that the children of a
pool share a burst fairly before one of them takes a hundred.
"""

TARGET_SECONDS = 0.08
"""A batch should be done in about this time: what waits in it is nobody else's meanwhile."""

PLENTY_AFTER = 8
"""After so many full claims in a row there is evidently more than enough for all: then a batch may take twice as long,
so that tasks of some milliseconds wait half as often for a claim. (They need a fifth less of both processors' time.)"""


CAUTION_SECONDS = 0.02
"""After tasks have become slower a batch should be done in this time, so that all children get their part of them."""


class Pace:
    """The size of the next claim, learnt from the last."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._full_claims = 0
        self.size = 1
        self.task_seconds = 0.0
        """How long each task of the last batch took; 0.0: none ran."""

    @property
    def is_largest(self) -> bool:
        """Whether tasks are as brief and plentiful as it can tell."""
        return self.size == self._largest

    def heed(self, task_seconds: float) -> None:
        """Tasks have become slower, and take so long now."""
        self._full_claims = 0
        if task_seconds > 0:
            self.size = max(1, min(self.size, int(CAUTION_SECONDS / task_seconds)))

    def learn(self, *, asked: int, got: int, ran: int, seconds: float) -> None:
        """A claim for `asked` brought `got` tasks (more than none), and running `ran` of them took `seconds`: the
        others were taken back, since one was slow or other children had nothing to do."""
        if not ran:
            return
        self.task_seconds = seconds / ran
        if ran < got:
            self.heed(seconds / ran)
            return
        affordable = self._largest if seconds <= 0 else int(TARGET_SECONDS * ran / seconds)
        self._full_claims = self._full_claims + 1 if got >= asked else 0
        if self._full_claims >= PLENTY_AFTER and affordable < self._largest:
            affordable = min(2 * affordable, self._largest - 1)  # as many as possible only of the brief ones
        wanted = asked * 2 if got >= asked else got
        self.size = max(1, min(self._largest, affordable, wanted))
