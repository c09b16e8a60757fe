"""How long a child keeps its outcomes for the supervisor: by what that says, and not while it writes them itself."""

import pytest

from orchestrator.child.offer import COLLECTED_SECONDS, UNCOLLECTED_SECONDS, Offer
from tests.fixtures.theatre import Theatre, claim, outcome


class Table:
    """A child with one outcome, and its supervisor."""

    def __init__(self, theatre: Theatre) -> None:
        child, self.supervisor = theatre.actors[0].board, theatre.pool.links[0].board
        self.offer = Offer(child)
        child.publish([claim(7)])
        child.start(0)
        child.end(outcome(7))


@pytest.fixture
def table(theatre: Theatre) -> Table:
    return Table(theatre)


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
