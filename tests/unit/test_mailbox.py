"""The mailbox between two threads: nothing is lost, doubled or reordered, and its reader can wait for it; and the
sleeper that one of them offers and the other wakes."""

import os
import select
import threading

import pytest

from orchestrator.mailbox import Mailbox, Sleeper


def is_readable(mailbox: Mailbox[int], within: float = 0.0) -> bool:
    return bool(select.select([mailbox], [], [], within)[0])


def test_messages_come_out_in_the_order_they_were_posted() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for number in range(100):
        mailbox.post(number)
    assert mailbox.take() == list(range(100))
    assert mailbox.take() == []
    mailbox.close()


def test_it_is_readable_while_something_waits_and_only_then() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert not is_readable(mailbox)
    mailbox.post(1)
    mailbox.post(2)
    assert is_readable(mailbox)
    mailbox.take()
    assert not is_readable(mailbox)
    mailbox.close()


def test_its_descriptor_is_not_passed_on_and_is_closed_with_it() -> None:
    mailbox: Mailbox[int] = Mailbox()
    descriptor = mailbox.fileno()
    assert not os.get_inheritable(descriptor)
    mailbox.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_nothing_is_lost_doubled_or_reordered_between_many_writers_and_one_reader() -> None:
    writers, each = 4, 5_000
    mailbox: Mailbox[tuple[int, int]] = Mailbox()

    def write(writer: int) -> None:
        for number in range(each):
            mailbox.post((writer, number))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    taken: list[tuple[int, int]] = []
    while len(taken) < writers * each:
        # a reader that waits is always woken: no message is left behind a descriptor that is not readable
        assert select.select([mailbox], [], [], 10.0)[0], f"{len(taken)} came, then nothing"
        taken += mailbox.take()
    for thread in threads:
        thread.join()
    assert mailbox.take() == []
    for writer in range(writers):
        assert [number for who, number in taken if who == writer] == list(range(each))
    mailbox.close()


def test_a_sleeper_is_woken_once_for_each_offer() -> None:
    woken: list[int] = []

    def wake() -> bool:
        woken.append(1)
        return True

    sleeper = Sleeper()
    assert not sleeper.wake()
    sleeper.offer(wake)
    assert [sleeper.wake(), sleeper.wake()] == [True, False]
    sleeper.offer(wake)
    sleeper.offer(None)
    assert not sleeper.wake()
    sleeper.offer(lambda: False)
    assert not sleeper.wake(), "it could not be told"
    assert len(woken) == 1


def test_who_was_offered_is_not_being_woken_any_more_once_another_is() -> None:
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def wake() -> bool:
        began.set()
        assert may_end.wait(10.0)
        ended.set()
        return True

    def withdraw() -> None:
        sleeper.offer(None)
        order.append(ended.is_set())

    sleeper, order = Sleeper(), []
    sleeper.offer(wake)
    waking, withdrawing = threading.Thread(target=sleeper.wake), threading.Thread(target=withdraw)
    waking.start()
    assert began.wait(10.0)
    withdrawing.start()
    may_end.set()
    for thread in (waking, withdrawing):
        thread.join(10.0)
    assert order == [True]
