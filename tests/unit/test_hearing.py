"""Whom the supervisor's loop hears, and for how long it waits for somebody."""

import os
import time
from collections.abc import Iterator

import pytest

from orchestrator.supervisor.hearing import Hearing, Voice


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    pipes = [os.pipe() for _ in range(3)]
    yield pipes
    for reader, writer in pipes:
        os.close(reader)
        os.close(writer)


def test_all_who_speak_are_heard_at_once_and_until_they_were_listened_to(pipes: list[tuple[int, int]]) -> None:
    (signals, _), (first, says), (second, says_too) = pipes
    hearing = Hearing()
    hearing.attend({signals: Voice.SIGNALS, first: 7, second: 8})
    os.write(says, b"x")
    assert hearing.wait(60.0) == [7]
    os.write(says_too, b"x")
    assert set(hearing.wait(60.0)) == {7, 8}
    os.read(first, 1)
    assert hearing.wait(60.0) == [8]


def test_if_nobody_speaks_the_time_is_over_after_what_was_asked_for(pipes: list[tuple[int, int]]) -> None:
    hearing = Hearing()
    hearing.attend({pipes[0][0]: Voice.DATABASE})
    before = time.monotonic()
    assert hearing.wait(0.02) == []
    assert time.monotonic() - before >= 0.02


def test_who_has_gone_is_not_heard_any_more_and_a_descriptor_may_become_anothers(pipes: list[tuple[int, int]]) -> None:
    (first, says), (second, says_too), _ = pipes
    hearing = Hearing()
    hearing.attend({first: 1, second: 2})
    os.write(says, b"x")
    os.write(says_too, b"x")
    hearing.attend({second: 3})
    assert hearing.wait(60.0) == [3]
    hearing.attend({first: 1, second: Voice.FORKSERVER})
    assert set(hearing.wait(60.0)) == {1, Voice.FORKSERVER}
