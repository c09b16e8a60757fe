"""When a slot may be forked again. Pure; the clock is an argument."""

from dataclasses import dataclass

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 30.0


@dataclass(slots=True)
class Backoff:
    """0.1 s, doubling to 30 s; reset by success."""

    failures: int = 0
    not_before: float = 0.0

    def failed(self, now: float) -> float:
        """One more failure: returns the wait in seconds."""
        wait = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self.failures, 20))
        self.failures += 1
        self.not_before = now + wait
        return wait

    def succeeded(self) -> None:
        self.failures = 0
        self.not_before = 0.0

    def is_due(self, now: float) -> bool:
        return now >= self.not_before
