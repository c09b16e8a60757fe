"""How long to wait after failures in a row. Pure but for the dice."""

import random

BASE_SECONDS = 0.5
CAP_SECONDS = 30.0
FIRST_SECONDS = 0.1


class Backoff:
    """Exponential with full jitter: many workers that lost the same database come back spread out.

    The first retry is quick, because most failures are one reset connection and no outage. One thread only.
    """

    def __init__(self, *, base: float = BASE_SECONDS, cap: float = CAP_SECONDS) -> None:
        self._base = base
        self._cap = cap
        self.failures = 0

    def fail(self) -> float:
        """One more failure: the seconds to wait before the next try."""
        self.failures += 1
        if self.failures == 1:
            return random.uniform(0.0, min(FIRST_SECONDS, self._cap))
        doublings = min(self.failures - 2, 20)
        return random.uniform(0.0, min(self._cap, self._base * 2.0**doublings))

    def succeed(self) -> None:
        self.failures = 0
