"""When a failed task runs again. Pure: no clock, no database."""

import random
from dataclasses import dataclass

from orchestrator.errors import MAX_SECONDS

chance = random.SystemRandom()
"""Of our own, for children: a handler that seeds the common one (for an experiment to be repeated, say) would have all
tasks of its burst retried at one moment, by all children."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter: the n-th retry waits between 0 and min(cap, base × 2^(n-1)) seconds.

    Full jitter spreads the retries of a burst best: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    schema.sql's retry_delay() is the same formula for tasks whose worker died.
    """

    base: float = 1.0
    cap: float = 3600.0

    def __post_init__(self) -> None:
        if not (_are_numbers(self.base, self.cap) and 0 <= self.base <= self.cap <= MAX_SECONDS):
            raise ValueError(
                f"RetryPolicy(base={self.base!r}, cap={self.cap!r}): write seconds as numbers,"
                " 0 <= base <= cap <= one year"
            )

    def ceiling(self, retry: int) -> float:
        """The longest wait, in seconds, before retry number `retry` (1 is the first)."""
        doublings = min(max(retry, 1) - 1, 62)  # beyond 2^62 the cap has long decided, and floats stay finite
        return float(min(self.cap, self.base * 2.0**doublings))

    def delay(self, retry: int) -> float:
        """A wait in seconds drawn evenly from 0 to `ceiling(retry)`."""
        return chance.uniform(0.0, self.ceiling(retry))


def _are_numbers(*values: object) -> bool:
    """A Decimal or a timedelta could neither be doubled nor told to the supervisor."""
    return all(isinstance(each, int | float) for each in values)
