"""How long a child keeps its outcomes for the supervisor: by what that says, and not while it writes them itself."""

import os
import time
from collections.abc import Iterator

import pytest

from orchestrator.board.child_half import ChildBoard
from orchestrator.board.memory import create_memory
from orchestrator.board.supervisor_half import SupervisorBoard
from orchestrator.child.offer import COLLECTED_SECONDS, UNCOLLECTED_SECONDS, Offer
from orchestrator.model import Claim, Outcome, TaskStatus


class Table:
    """A child with one outcome, and its supervisor."""

    def __init__(self) -> None:
        self._memory = create_memory("test offer", 4)
        self.child, self.supervisor = ChildBoard(self._memory), SupervisorBoard(self._memory)
        self.offer = Offer(self.child)
        self.child.publish([(Claim(f"{7:036d}", "t", 7, "{}", 1, None, None, False), 3)])
        self.child.start(0)
        now = time.monotonic()
        self.outcome = Outcome(f"{7:036d}", 7, "t", TaskStatus.COMPLETED, 1, now, now)
        self.child.end(self.outcome)

    def close(self) -> None:
        self.child.close()
        self.supervisor.close()
        os.close(self._memory)


@pytest.fixture
def table() -> Iterator[Table]:
    table = Table()
    yield table
    table.close()


def test_without_an_offer_nobody_else_comes_for_them(table: Table) -> None:
    table.supervisor.tell_collecting(True)
    assert (table.offer.patience(0), table.offer.is_taken) == (None, False)
    assert table.supervisor.collect() == ()


def test_what_is_offered_waits_if_somebody_comes_for_it_and_longest_once_it_was_collected(table: Table) -> None:
    table.offer.make(0.005)
    assert (table.offer.patience(0), table.offer.is_taken) == (None, False)
    table.supervisor.tell_collecting(True)
    assert (table.offer.patience(0), table.offer.is_taken) == (UNCOLLECTED_SECONDS, True)
    assert [each.token for each in table.supervisor.collect()] == [7]
    table.supervisor.tell_collecting(False)
    assert (table.offer.patience(0), table.offer.is_taken) == (COLLECTED_SECONDS, False)
    assert table.offer.patience(1) is None


def test_an_offer_holds_again_once_the_childs_own_statement_is_through_if_it_was_made(table: Table) -> None:
    table.offer.make(0.005)
    table.offer.suspend()
    assert not table.supervisor.offered_a_second
    table.offer.renew()
    assert table.supervisor.offered_a_second == 200.0
    table.offer.make(0.0)
    table.offer.renew()
    assert not table.supervisor.offered_a_second
