"""How often the poll looks whether there is work, on a database and by a clock that only pretend."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest

from orchestrator.coordinator.duties import promotion
from orchestrator.coordinator.duties.promotion import LOOKING_SHARE, Promotion
from orchestrator.coordinator.standing import Standing
from orchestrator.errors import StatementRefused
from orchestrator.mailbox import Activity, Mailbox, Report, WorkIsDue
from orchestrator.store import upkeep
from orchestrator.store.connection import Connection


class Server:
    """Looking takes `look_seconds`, all else no time. Nothing is there."""

    is_settled = True

    def __init__(self) -> None:
        self.prepared = {upkeep._PROMOTE_DUE.name}
        self.now, self.look_seconds = 1000.0, 0.001
        self.looked: list[bool] = []

    def monotonic(self) -> float:
        return self.now

    def execute(self, _: str, params: Mapping[str, Any], *, within: float, lock_within: float) -> list[tuple[Any, ...]]:
        self.looked.append(params["looks"])
        if params["looks"]:
            self.now += min(self.look_seconds, within)
            if self.look_seconds > within:
                raise StatementRefused("canceling statement due to statement timeout", sqlstate="57014")
        return [(0, False, None)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(promotion, "time", server)
    return server


@pytest.fixture
def reports() -> Iterator[Mailbox[Report]]:
    mailbox: Mailbox[Report] = Mailbox()
    yield mailbox
    mailbox.close()


@pytest.fixture
def poll(server: Server, reports: Mailbox[Report]) -> Promotion:
    standing = Standing()
    standing.active(Activity(has_sleepers=True, is_claiming=True))
    return Promotion(standing, reports, claim_interval=1.0)


def polled(poll: Promotion, server: Server, times: int) -> list[bool]:
    server.looked.clear()
    for _ in range(times):
        try:
            server.now += poll.run_once(cast(Connection, server)) or 0.0
        except StatementRefused:
            server.now += 1.0
    return list(server.looked)


def test_each_poll_looks_unless_all_children_work(poll: Promotion, server: Server) -> None:
    assert polled(poll, server, 3) == [True] * 3
    poll._standing.active(Activity(has_sleepers=False, is_claiming=True))
    assert polled(poll, server, 3) == [False] * 3


def test_looks_that_take_long_are_made_for_a_share_of_the_time(poll: Promotion, server: Server) -> None:
    server.look_seconds = 2.0
    began, looks = server.now, polled(poll, server, 100)
    assert looks[:3] == [True, True, False]  # the first may have been the server's moment
    assert sum(looks) * 2.0 / (server.now - began) == pytest.approx(LOOKING_SHARE, rel=0.2)
    server.look_seconds = 0.001
    polled(poll, server, 20)
    assert polled(poll, server, 3) == [True] * 3


def test_while_looking_takes_too_long_a_child_looks_and_what_is_due_is_promoted(
    poll: Promotion, server: Server, reports: Mailbox[Report]
) -> None:
    server.look_seconds = 60.0
    looks = polled(poll, server, 100)
    assert 2 < sum(looks) < 10
    assert reports.take() == [WorkIsDue()] * sum(looks)
    assert not poll._standing.snapshot().is_refused
