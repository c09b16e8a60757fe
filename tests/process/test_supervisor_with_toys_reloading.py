"""SIGHUP: new code is tried beside the old, and takes its place child by child; broken code takes nothing's place."""

import os
import re
import signal

import pytest

from orchestrator.supervisor.reaper import HELLO_SECONDS
from tests.fixtures.proc import is_alive
from tests.fixtures.toys import MakeWorkshop
from tests.toys.workshop import Workshop

GATED = """
import time
from pathlib import Path
Path("importing").touch()
while not Path("import-it").exists():
    time.sleep(0.005)
"""
"""Code that is being imported until the test lets it."""


def codes(workshop: Workshop) -> list[str]:
    """Which code each living child runs, in the order of the slots."""
    living = workshop.children()
    by_pid = {birth["pid"]: birth["code"] for birth in workshop.births()}
    return [by_pid[living[slot]] for slot in sorted(living)]


def reload_with(workshop: Workshop, old: str, new: str) -> None:
    workshop.rewrite_app(old, new)
    workshop.signal(signal.SIGHUP)


def is_importing(workshop: Workshop) -> bool:
    return (workshop.folder / "importing").exists()


def test_new_code_takes_over_when_busy_children_have_finished_and_broken_code_never(workshop: Workshop) -> None:
    busy = workshop.begin()
    before = workshop.children()
    for broken, reason in (
        ("raise RuntimeError('half an edit')", "half an edit"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ):
        good = (workshop.folder / "toyapp.py").read_text()
        workshop.use_app(broken)
        failed = len(workshop.events("app_reload_failed"))
        workshop.signal(signal.SIGHUP)
        workshop.wait_for(lambda: len(workshop.events("app_reload_failed")) > failed)  # noqa: B023 asked at once
        assert reason in workshop.events("app_reload_failed")[-1]["reason"]
        assert workshop.children() == before
        workshop.use_app(good)
    reload_with(workshop, '"first"', '"second"')
    workshop.wait_for(lambda: sorted(codes(workshop)) == ["first", "second"])
    assert is_alive(busy)
    workshop.let_go()
    workshop.ended(1, "completed")
    workshop.wait_for(lambda: codes(workshop) == ["second", "second"])
    assert [event["is_success"] for event in workshop.events("reloaded")] == [False, False, False, True]
    workshop.wait_for(lambda: len(workshop.forkservers()) == 1)
    assert len(workshop.orders("Types")) == 1
    assert {event["reason"] for event in workshop.events("restarted")} == {"ordered"}


@pytest.mark.slow
def test_a_hup_while_reloading_is_remembered_once_and_a_pause_survives_both(workshop: Workshop) -> None:
    workshop.signal(signal.SIGUSR2)
    workshop.wait_for(lambda: workshop.status()["state"] == "paused")
    source = (workshop.folder / "toyapp.py").read_text()
    workshop.use_app(source.replace('"first"', '"second"') + GATED)
    workshop.signal(signal.SIGHUP)
    workshop.wait_for(lambda: is_importing(workshop))
    workshop.use_app(source.replace('"first"', '"the third"') + GATED)
    for heard in (1, 2, 3):
        workshop.signal(signal.SIGHUP)
        workshop.wait_for(lambda: len(workshop.events("signal_received")) == 2 + heard)  # noqa: B023 asked at once
    workshop.let_go("import-it")
    workshop.wait_for(lambda: codes(workshop) == ["the third", "the third"])
    assert workshop.status()["state"] == "paused"
    assert len(workshop.events("reloaded")) == 2
    task = workshop.add("ok")
    workshop.signal(signal.SIGUSR2)
    workshop.wait_for(lambda: workshop.status()["state"] == "running")
    workshop.report("WorkIsDue")
    assert workshop.ended(task, "completed")


@pytest.mark.slow
def test_term_while_reloading_drops_the_new_forkserver_and_drains(workshop: Workshop) -> None:
    old = workshop.forkservers()
    workshop.begin()
    workshop.use_app(GATED)
    workshop.signal(signal.SIGHUP)
    workshop.wait_for(lambda: is_importing(workshop))
    workshop.signal(signal.SIGTERM)
    workshop.wait_for(lambda: workshop.status()["state"] == "draining" and workshop.forkservers() == old)
    workshop.let_go()
    assert workshop.exit_code() == 0
    assert workshop.store.statuses() == {"completed": 1}


@pytest.mark.slow
def test_a_hup_at_start_reloads_once_it_serves(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(serves=False).start()
    workshop.wait_for(lambda: workshop.orders("Begin"))
    workshop.rewrite_app('"first"', '"second"')
    workshop.signal(signal.SIGHUP)
    workshop.wait_for(lambda: workshop.events("signal_received"))
    workshop.report("Serving", recovered=0)
    workshop.wait_for(lambda: codes(workshop) == ["second", "second"])


@pytest.mark.slow
def test_a_child_that_died_before_does_not_hold_up_a_reload(workshop: Workshop) -> None:
    os.kill(workshop.children()[0], signal.SIGKILL)
    workshop.wait_for(lambda: len(workshop.births(0)) == 2)
    workshop.ready()
    reload_with(workshop, '"first"', '"second"')
    workshop.wait_for(lambda: codes(workshop) == ["second", "second"])


def test_new_code_whose_children_die_at_boot_costs_one_slot_and_is_mended_by_the_next(
    make_workshop: MakeWorkshop,
) -> None:
    workshop = make_workshop(pool_size=3).start().ready()
    reload_with(workshop, '"first"', '"second"\napp.on_child_start(lambda: 1 / 0)')
    workshop.wait_for(lambda: len([birth for birth in workshop.births() if birth["code"] == "second"]) >= 3)
    assert codes(workshop).count("first") == 2
    assert workshop.ended(workshop.add("ok"), "completed")
    reload_with(workshop, '"second"\napp.on_child_start(lambda: 1 / 0)', '"third"')
    workshop.wait_for(lambda: codes(workshop) == ["third", "third", "third"])


@pytest.mark.slow
def test_a_forkserver_that_is_killed_while_another_is_tried_is_no_loss(workshop: Workshop) -> None:
    source = (workshop.folder / "toyapp.py").read_text()
    (old,) = workshop.forkservers()
    workshop.use_app(source.replace('"first"', '"second"') + GATED)
    workshop.signal(signal.SIGHUP)
    workshop.wait_for(lambda: is_importing(workshop))
    os.kill(old, signal.SIGKILL)
    workshop.wait_for(lambda: workshop.events("forkserver_died"))
    workshop.let_go("import-it")
    workshop.wait_for(lambda: codes(workshop) == ["second", "second"])


def test_of_an_import_that_takes_long_it_is_told_where_it_is(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(boot_seconds=0.3)
    workshop.use_app((workshop.folder / "toyapp.py").read_text() + GATED)
    workshop.start()
    workshop.wait_for(lambda: re.search(r'toyapp.py", line \d+ in <module>', workshop.log()))
    workshop.signal(signal.SIGUSR1)
    workshop.wait_for(lambda: len(workshop.events("slot_state")) == 2)
    assert {told["seconds"] for told in workshop.events("slot_state")} == {None}, "not since the machine was started"
    workshop.let_go("import-it")
    workshop.wait_for(lambda: workshop.births())
    assert workshop.events("app_import_slow")


def test_new_code_whose_import_hangs_is_given_up_for_the_next(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(boot_seconds=1.5).start()
    workshop.wait_for(lambda: workshop.status()["ready"] == 2)
    before = workshop.children()
    good = (workshop.folder / "toyapp.py").read_text()
    workshop.use_app(GATED)
    workshop.signal(signal.SIGHUP)
    workshop.wait_for(lambda: is_importing(workshop))
    workshop.use_app(good.replace('"first"', '"second"'))

    def is_given_up() -> bool:
        workshop.signal(signal.SIGHUP)
        return bool(workshop.events("app_reload_failed"))

    workshop.wait_for(is_given_up)
    assert "the import had not ended" in workshop.events("app_reload_failed")[0]["reason"]
    assert workshop.children() == before

    def is_replaced() -> bool:
        nonlocal given_up
        if len(workshop.events("app_reload_failed")) > given_up:  # a busy machine takes that long for good code too
            given_up += 1
            workshop.signal(signal.SIGHUP)
        return codes(workshop) == ["second", "second"]

    given_up = 1
    workshop.wait_for(is_replaced)
    workshop.wait_for(lambda: len(workshop.forkservers()) == 1)


@pytest.mark.slow
def test_a_forkserver_that_hangs_while_a_reload_replaces_it_is_ended_and_not_the_new_one(workshop: Workshop) -> None:
    busy = workshop.begin()
    (old,) = workshop.forkservers()
    os.kill(old, signal.SIGSTOP)
    (idle,) = set(workshop.children().values()) - {busy}
    os.kill(idle, signal.SIGKILL)
    reload_with(workshop, '"first"', '"second"')
    workshop.wait_for(lambda: workshop.events("reloaded"))
    (new,) = set(workshop.forkservers()) - {old}
    workshop.wait_for(lambda: workshop.events("forkserver_hung"), within=HELLO_SECONDS + 10)
    workshop.wait_for(lambda: not is_alive(old))
    workshop.wait_for(lambda: "second" in codes(workshop))
    assert workshop.forkservers() == [new]
    assert [each["pid"] for each in workshop.events("forkserver_hung")] == [old]
    workshop.let_go()
