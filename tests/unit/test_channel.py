"""Permissions and the channel: the two things besides the board that a child shares with the supervisor."""

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from orchestrator.board.channel import FULL, GO, HELLO, IDLE, LOOK, LOST, READY, Channel, Permits


@pytest.fixture
def permits() -> Iterator[Permits]:
    made = Permits.create()
    yield made
    made.close()


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


def test_each_permission_is_given_once(permits: Permits) -> None:
    assert not permits.take()
    permits.add(3)
    assert [permits.take() for _ in range(4)] == [True, True, True, False]


def test_what_is_taken_back_is_counted_and_never_more_than_there_is(permits: Permits) -> None:
    permits.add(5)
    assert permits.take_up_to(2) == 2
    assert permits.take_up_to(10) == 3
    assert permits.take_up_to(10) == 0


def test_adding_none_changes_nothing(permits: Permits) -> None:
    permits.add(0)
    assert not permits.take()


def test_permissions_are_shared_with_whoever_has_the_descriptor(permits: Permits) -> None:
    other = Permits(os.dup(permits.descriptor))
    permits.add(2)
    assert [other.take(), permits.take(), other.take()] == [True, True, False]
    other.close()


def test_messages_arrive_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    sent = [HELLO + b" 42", READY, FULL, IDLE, LOST]
    assert all(theirs.send(message) for message in sent)
    assert ours.receive() == sent
    assert ours.receive() == []


def test_the_last_words_are_heard_before_the_end(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.send(READY)
    theirs.close()
    assert ours.receive() == [READY]
    assert ours.receive() is None
    assert ours.receive() is None


def test_sending_to_one_that_is_gone_is_an_answer(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.close()
    assert ours.send(GO) is False


def test_sending_to_one_that_reads_nothing_never_blocks(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    sent = 0
    while ours.send(LOOK):
        sent += 1
    assert sent > 10
    assert theirs.receive() == [LOOK] * sent
    assert ours.send(LOOK)


def test_waiting_ends_with_a_message_the_other_end_or_the_time(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    began = time.monotonic()
    assert not ours.wait(0.05)
    assert time.monotonic() - began >= 0.04
    theirs.send(READY)
    assert ours.wait(None)
    ours.receive()
    theirs.close()
    assert ours.wait(None)


def test_neither_end_is_passed_on_to_programs(ends: tuple[Channel, Channel]) -> None:
    assert not any(os.get_inheritable(end.fileno()) for end in ends)


def test_a_message_is_a_packet_not_a_stream(ends: tuple[Channel, Channel]) -> None:
    with socket.socket(fileno=os.dup(ends[0].fileno())) as end:
        assert end.type == socket.SOCK_SEQPACKET


def test_what_must_be_told_is_told_as_soon_as_the_other_end_reads_again(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    while theirs.send(FULL):
        pass
    theirs.tell(LOST)
    theirs.tell(IDLE)
    theirs.tell(IDLE)
    assert not theirs.wait(0.01)
    told = []

    def supervisor() -> None:
        while IDLE not in told:
            assert ours.wait(5)
            told.extend(ours.receive() or [])
        ours.send(LOOK)

    reading = threading.Thread(target=supervisor)
    reading.start()
    assert theirs.wait(10), "it was told to look because it had told that it sleeps"
    reading.join()
    assert [message for message in told if message != FULL] == [LOST, IDLE]


def test_a_wait_with_something_left_to_tell_ends_with_the_other_end(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    while theirs.send(FULL):
        pass
    theirs.tell(IDLE)
    ours.close()
    assert theirs.wait(None)
    assert theirs.receive() is None
