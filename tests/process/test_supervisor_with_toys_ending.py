"""TERM, a second one and QUIT, in each state: how long it takes, what is requeued, the exit code, and nobody left."""

import os
import signal

import pytest

from tests.fixtures.proc import is_alive
from tests.fixtures.toys import MakeWorkshop
from tests.toys.workshop import Workshop

TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT


def state_is(workshop: Workshop, state: str) -> None:
    workshop.wait_for(lambda: workshop.status()["state"] == state)


def assert_ended(workshop: Workshop, code: int, *, within: float = 5.0) -> None:
    assert workshop.exit_code(within=within) == code
    assert workshop.processes() == []
    assert workshop.orders("stop")  # it signed off
    assert workshop.store.owned(None) == ()  # no task is left claimed


def test_a_drain_hands_back_what_waits_and_lets_running_tasks_finish(workshop: Workshop) -> None:
    running = workshop.begin()
    waiting = [workshop.add("until", file="never") for _ in range(2)]
    other = workshop.started("never")
    workshop.signal(TERM)
    state_is(workshop, "draining")
    for ignored in (signal.SIGHUP, signal.SIGTTIN, signal.SIGUSR2):
        workshop.signal(ignored)
    workshop.signal(signal.SIGUSR1)
    workshop.wait_for(lambda: len(workshop.events("slot_state")) == 2)
    assert workshop.status()["capacity"] == 2 and not workshop.status()["is_paused"]
    assert is_alive(running) and is_alive(other)
    workshop.let_go()
    workshop.let_go("never")
    assert_ended(workshop, 0)
    statuses = [workshop.store.status(each) for each in (1, *waiting)]
    assert statuses[0] == "completed"
    assert sorted(statuses[1:]) in (["completed", "pending"], ["completed", "completed"])
    assert len(workshop.births()) == 2


def test_an_idle_worker_drains_at_once_in_any_state(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop().start().ready()
    workshop.signal(signal.SIGUSR2)
    state_is(workshop, "paused")
    workshop.signal(TERM)
    assert_ended(workshop, 0)


@pytest.mark.parametrize("number", [INT, QUIT])
def test_a_worker_that_does_not_serve_yet_leaves_at_once(make_workshop: MakeWorkshop, number: int) -> None:
    workshop = make_workshop(serves=False).start()
    workshop.wait_for(lambda: workshop.orders("Begin"))
    workshop.signal(number)
    assert_ended(workshop, 0)
    assert workshop.births() == []


def test_a_drain_that_runs_out_of_time_kills_and_requeues_for_nothing(make_workshop: MakeWorkshop) -> None:
    """A child that is hung with every signal blocked, one that is stopped, and one whose task just goes on."""
    workshop = make_workshop(pool_size=3, shutdown_timeout=0.3).start().ready()
    deaf = workshop.add("deaf")
    busy = {workshop.started("deaf"), workshop.begin()}
    os.kill(next(iter(set(workshop.children().values()) - busy)), signal.SIGSTOP)
    workshop.signal(TERM)
    assert_ended(workshop, 1)
    assert workshop.store.statuses() == {"pending": 2}
    assert workshop.task(deaf)["attempts"] == 0
    assert {order["reason"] for order in workshop.orders("Release")} == {"drain"}


def test_a_second_term_ends_a_drain_now(workshop: Workshop) -> None:
    workshop.begin()
    workshop.signal(TERM)
    state_is(workshop, "draining")
    workshop.signal(TERM)
    assert_ended(workshop, 1)
    assert workshop.store.statuses() == {"pending": 1}


@pytest.mark.parametrize(
    "state", ["running", *(pytest.param(state, marks=pytest.mark.slow) for state in ("reloading", "draining"))]
)
def test_quit_kills_and_requeues_at_once(workshop: Workshop, state: str) -> None:
    workshop.begin()
    if state == "reloading":
        workshop.use_app("import time\ntime.sleep(600)")
        workshop.signal(signal.SIGHUP)
    elif state == "draining":
        workshop.signal(TERM)
    state_is(workshop, state)
    workshop.signal(QUIT)
    assert_ended(workshop, 1)
    assert workshop.store.statuses() == {"pending": 1}


def test_a_drain_waits_for_nobody_who_is_not_there(workshop: Workshop) -> None:
    """A slot that backs off, and one whose child hangs in its boot."""
    workshop.write("boot", "hang")
    os.kill(workshop.children()[0], signal.SIGKILL)
    workshop.wait_for(lambda: workshop.store.notes("hangs"))
    workshop.write("boot", "die")
    os.kill(workshop.children()[1], signal.SIGKILL)
    workshop.wait_for(lambda: len(workshop.births(1)) >= 3)
    workshop.signal(TERM)
    state_is(workshop, "draining")
    workshop.signal(TERM)
    assert_ended(workshop, 0)
    assert workshop.zombies() == []
