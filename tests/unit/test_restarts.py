"""Backoff: pure, the clock is an argument."""

from orchestrator.supervisor.restarts import Backoff


def test_the_wait_begins_at_a_tenth_of_a_second_and_doubles_to_thirty() -> None:
    backoff = Backoff()
    waits = [backoff.failed(now=0.0) for _ in range(12)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]
    assert backoff.failures == 12


def test_a_slot_is_due_at_once_then_when_its_wait_is_over() -> None:
    backoff = Backoff()
    assert backoff.is_due(0.0)
    backoff.failed(now=100.0)
    assert not backoff.is_due(100.0)
    assert not backoff.is_due(100.0999)
    assert backoff.is_due(100.1)


def test_success_forgets_all_failures() -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.failed(now=100.0)
    backoff.succeeded()
    assert backoff.is_due(0.0)
    assert backoff.failed(now=0.0) == 0.1


def test_a_million_failures_do_not_overflow() -> None:
    assert Backoff(failures=1_000_000).failed(now=0.0) == 30.0
