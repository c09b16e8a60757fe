"""What the supervisor's loop hears of signals."""

import os
import signal
from collections.abc import Iterator

import pytest

from orchestrator.supervisor.signals import SignalInbox
from orchestrator.supervisor.states import SIGNALS


@pytest.fixture
def inbox() -> Iterator[SignalInbox]:
    before = {each: signal.getsignal(each) for each in (*SIGNALS, signal.SIGCHLD)}
    inbox = SignalInbox()
    inbox.open()
    yield inbox
    inbox.close()
    for each, handler in before.items():
        signal.signal(each, handler)


def test_a_term_behind_a_thousand_ended_children_is_heard(inbox: SignalInbox) -> None:
    for _ in range(1000):
        os.kill(os.getpid(), signal.SIGCHLD)
    assert not inbox.is_told_to_end()
    os.kill(os.getpid(), signal.SIGTERM)
    assert inbox.is_told_to_end()
    heard = list(inbox.take())
    assert (heard.count(signal.SIGCHLD), heard[-1]) == (1000, signal.SIGTERM)
    assert list(inbox.take()) == []
