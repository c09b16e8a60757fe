"""What goes on being so is told now and then."""

import pytest

from orchestrator.telemetry import repeats
from orchestrator.telemetry.repeats import REPORT_SECONDS, Repeats


def test_the_same_is_told_once_until_it_changes_is_over_or_has_gone_on_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(repeats, "time", clock)
    told = Repeats()
    assert [told.is_news("a"), told.is_news("a"), told.is_news("b"), told.is_news("b")] == [True, False, True, False]
    clock.now += REPORT_SECONDS
    assert [told.is_news("b"), told.is_news("b")] == [True, False]
    told.over()
    assert told.is_news("b")
