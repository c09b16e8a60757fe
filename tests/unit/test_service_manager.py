"""What the service manager is told, turn by turn, at a socket of the test's own."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from orchestrator.supervisor.notify_socket import NotifySocket
from orchestrator.supervisor.service_manager import (
    EXTEND_EVERY_SECONDS,
    RETRY_SECONDS,
    STATUS_SECONDS,
    ServiceManager,
    watchdog_seconds,
)
from orchestrator.supervisor.stop_timeout import span_seconds, stop_timeout_seconds
from orchestrator.supervisor.surroundings import PoolStatus
from tests.fixtures.notices import Notices

IMPORTING = PoolStatus(
    state="starting", is_paused=False, is_ready=False, capacity=2, ready=0, settled=0, unconnected=0, active=0,
    backing_off=0, types=(), is_app_lost=False, turned_at=0.0,
)  # fmt: skip
LOADED = IMPORTING._replace(types=("t",))
BOOTING = LOADED._replace(state="running")
UP = BOOTING._replace(is_ready=True, ready=2)
EXTENSION = "EXTEND_TIMEOUT_USEC=30000000"


@dataclass
class Threads:
    """The database threads, as far as the watchdog looks at them."""

    overdue_seconds: dict[str, float] = field(default_factory=dict)


class Told:
    """A service manager's end and ours; `turn` answers with the lines that came of it, STATUS left out."""

    def __init__(self, notices: Notices, watchdog: float | None) -> None:
        self.notices = notices
        self.threads = Threads()
        self.line = "2/2 running"
        self.ours = NotifySocket(notices.address)
        self.manager = ServiceManager(
            self.ours, status_line=lambda: self.line, database=self.threads, watchdog_seconds=watchdog
        )

    def turn(self, status: PoolStatus, now: float) -> list[str]:
        return [line for line in self.whole_turn(status, now) if not line.startswith("STATUS=")]

    def whole_turn(self, status: PoolStatus, now: float) -> list[str]:
        self.manager.turn(status, now)
        return self.notices.take()


Tell = Callable[..., Told]


@pytest.fixture
def tell(notices: Notices) -> Iterator[Tell]:
    made: list[Told] = []

    def make(watchdog: float | None = None) -> Told:
        made.append(Told(notices, watchdog))
        return made[-1]

    yield make
    for each in made:
        each.ours.close()


def test_ready_is_told_once_when_the_pool_is_up_and_stopping_once_at_the_end(tell: Tell) -> None:
    told = tell()
    assert told.turn(IMPORTING, 100.0) == []
    assert told.turn(BOOTING, 100.1) == []
    assert told.turn(UP, 100.2) == ["READY=1"]
    assert told.turn(UP, 100.3) == []
    assert told.turn(UP._replace(state="paused", ready=1), 100.4) == []
    assert told.turn(UP._replace(state="draining"), 100.5) == ["STOPPING=1", EXTENSION]
    assert told.turn(UP._replace(state="stopping"), 100.6) == []


def test_a_reload_begins_with_the_time_and_ends_with_ready_whatever_became_of_the_code(tell: Tell) -> None:
    told = tell()
    told.turn(UP, 100.0)
    reloading, at = told.turn(UP._replace(state="reloading"), 100.1)
    assert reloading == "RELOADING=1"
    assert at.startswith("MONOTONIC_USEC=") and int(at.partition("=")[2]) > 0
    assert told.turn(UP._replace(state="reloading"), 100.2) == []
    assert told.turn(UP, 100.3) == ["READY=1"]


def test_a_pool_that_comes_up_while_it_reloads_is_ready_first(tell: Tell) -> None:
    told = tell()
    assert told.turn(UP._replace(state="reloading"), 100.0) == ["READY=1"]
    assert told.turn(UP._replace(state="reloading"), 100.1)[0] == "RELOADING=1"


def test_the_watchdog_is_fed_four_times_in_its_patience_and_the_loop_knows_when(tell: Tell) -> None:
    told = tell(watchdog=20.0)
    assert told.turn(UP, 100.0) == ["READY=1", "WATCHDOG=1"]
    assert told.manager.next_due() == 105.0
    assert told.turn(UP, 104.9) == []
    assert told.turn(UP, 105.0) == ["WATCHDOG=1"]
    assert tell().manager.next_due() == math.inf


def test_the_watchdog_goes_hungry_while_a_database_thread_is_late_and_no_longer(tell: Tell) -> None:
    told = tell(watchdog=20.0)
    told.turn(UP, 100.0)
    told.threads.overdue_seconds = {"pulse": 3.0}
    assert told.turn(UP, 106.0) == []
    assert told.manager.next_due() == math.inf, "the loop does not turn for nothing"
    told.threads.overdue_seconds = {}
    assert told.turn(UP, 107.0) == ["WATCHDOG=1"]
    assert told.manager.next_due() == 112.0


def test_a_status_is_told_when_it_is_new_at_most_every_other_second_and_at_once_with_a_new_state(tell: Tell) -> None:
    told = tell()
    assert told.whole_turn(UP, 100.0) == ["READY=1", "STATUS=2/2 running"]
    assert told.whole_turn(UP, 100.0 + STATUS_SECONDS) == []
    told.line = "1/2 running"
    assert told.whole_turn(UP, 100.0 + STATUS_SECONDS + 0.1) == []
    assert told.whole_turn(UP, 100.0 + 2 * STATUS_SECONDS) == ["STATUS=1/2 running"]
    told.line = "1/2 running,\npaused"
    assert told.whole_turn(UP._replace(state="paused"), 100.1 + 2 * STATUS_SECONDS) == ["STATUS=1/2 running, paused"]


@pytest.mark.parametrize(
    ("status", "is_extended"),
    [
        (IMPORTING, False),  # an import that hangs is systemd's to end
        (LOADED, True),  # the database, or another instance's lease, is waited for
        (BOOTING, False),  # no child comes up
        (BOOTING._replace(ready=1), True),  # one works already, and is not to be killed for the other
        (UP, False),
        (UP._replace(state="draining"), True),
    ],
)
def test_time_is_asked_for_while_it_is_well_spent(tell: Tell, status: PoolStatus, is_extended: bool) -> None:
    told = tell()
    assert (EXTENSION in told.turn(status, 100.0)) is is_extended
    assert told.turn(status, 100.0 + EXTEND_EVERY_SECONDS - 0.1) == []
    assert told.turn(status, 100.0 + EXTEND_EVERY_SECONDS) == ([EXTENSION] if is_extended else [])


def test_an_end_right_after_a_start_that_took_its_time_gets_time_too(tell: Tell) -> None:
    told = tell()
    assert told.turn(LOADED, 100.0) == [EXTENSION]
    assert told.turn(UP, 100.1) == ["READY=1"]
    assert told.turn(UP._replace(state="draining"), 100.2) == ["STOPPING=1", EXTENSION]


def test_what_nobody_took_is_told_again_and_the_loop_does_not_spin_meanwhile(tell: Tell, notices: Notices) -> None:
    told = tell(watchdog=20.0)
    notices.close()
    told.manager.turn(UP, 100.0)
    assert told.manager.next_due() == 100.0 + RETRY_SECONDS
    os.unlink(notices.address)
    told.notices = again = Notices(notices.address)
    with closing(again):
        assert told.turn(UP, 100.0 + RETRY_SECONDS / 2) == []
        assert told.whole_turn(UP, 100.0 + RETRY_SECONDS) == ["READY=1", "STATUS=2/2 running", "WATCHDOG=1"]


def test_a_full_socket_does_not_hold_up_the_loop(tell: Tell) -> None:
    told = tell()
    while told.ours.send(["STATUS=filling"]):
        pass
    told.manager.turn(UP, 100.0)
    assert "READY=1" not in told.notices.take()
    assert "READY=1" in told.turn(UP, 100.0 + RETRY_SECONDS)


def test_abstract_sockets_are_served_and_what_is_no_unix_socket_is_left_alone() -> None:
    notices = Notices(f"@orchestratord-test-{os.getpid()}")
    ours = NotifySocket.of({"NOTIFY_SOCKET": notices.address})
    assert ours is not None and ours.send(["READY=1", "STATUS=up"])
    assert notices.take() == ["READY=1", "STATUS=up"]
    ours.close()
    notices.close()
    assert NotifySocket.of({}) is None
    assert NotifySocket.of({"NOTIFY_SOCKET": "vsock:2:1234"}) is None


def test_a_watchdog_is_ours_only_if_it_names_this_process() -> None:
    assert watchdog_seconds({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}) == 20.0
    assert watchdog_seconds({"WATCHDOG_USEC": "500000"}) == 0.5
    assert watchdog_seconds({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_seconds({}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "soon"}) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1min 30s", 90.0), ("2s 500ms", 2.5), ("1h", 3600.0), ("infinity", None), ("", None), ("3 fortnights", None)],
)
def test_spans_of_time_are_read_as_systemd_writes_them(text: str, seconds: float | None) -> None:
    assert span_seconds(text) == seconds


def test_outside_of_a_service_no_stop_timeout_is_known() -> None:
    assert stop_timeout_seconds({"PATH": "/nowhere"}) is None
