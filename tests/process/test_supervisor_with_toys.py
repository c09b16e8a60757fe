"""The supervisor and its pool with real children and no database: replacement, backoff, who pays, hand-backs."""

import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from orchestrator.board.reactions import DEAF_TO, HUNG_STACK_SIGNAL, STACK_SIGNAL
from tests.fixtures.proc import descriptors, is_alive
from tests.fixtures.toys import MakeWorkshop
from tests.fixtures.waiting import eventually
from tests.toys.workshop import Workshop


def pause(workshop: Workshop) -> None:
    workshop.signal(signal.SIGUSR2)
    workshop.wait_for(lambda: workshop.status()["state"] == "paused")


def resume(workshop: Workshop) -> None:
    workshop.signal(signal.SIGUSR2)
    workshop.wait_for(lambda: workshop.status()["state"] == "running")


def restarts(workshop: Workshop) -> list[str]:
    return [event["reason"] for event in workshop.events("restarted")]


# Replacement


def test_a_slot_whose_children_die_at_boot_backs_off_from_a_tenth_of_a_second_and_doubles(
    make_workshop: MakeWorkshop,
) -> None:
    workshop = make_workshop().start().ready()
    other = workshop.children()[1]
    workshop.write("boot", "die")
    os.kill(workshop.children()[0], signal.SIGKILL)
    workshop.wait_for(lambda: len(workshop.births(0)) >= 4)
    born = [birth["at"] for birth in workshop.births(0)][:4]
    gaps = [later - earlier for earlier, later in itertools.pairwise(born[1:])]
    for gap, wait in zip(gaps, (0.2, 0.4), strict=True):
        assert wait <= gap < 2 * wait + 3.0, "and not 30 s, as of one that has failed for long"
    assert workshop.children()[1] == other
    workshop.wait_for(lambda: workshop.status()["backing_off"] == 1)  # of two: a crash loop
    causes = [event["cause"] for event in workshop.events("child_died")]
    assert causes[:2] == ["the child was killed by SIGKILL", "the child exited with code 3"]
    assert set(restarts(workshop)) == {"died_idle"}


def test_a_child_that_does_not_become_ready_in_time_is_replaced(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(boot_seconds=0.3).start().ready()
    workshop.write("boot", "hang")
    os.kill(workshop.children()[0], signal.SIGKILL)
    workshop.wait_for(lambda: workshop.events("child_not_ready"))
    workshop.write("boot", "")
    workshop.ready()
    assert "boot" in restarts(workshop)


def test_a_child_that_a_task_killed_is_replaced_at_once(workshop: Workshop) -> None:
    number = workshop.add("leave", code=3)
    task = workshop.ended(number, "dead_letter")
    assert (task["attempts"], task["error"]) == (2, "the child exited with code 3")
    workshop.wait_for(lambda: restarts(workshop) == ["crash", "crash"])  # told after the outcome is on its way
    workshop.ready()
    assert workshop.status()["backing_off"] == 0


def test_the_pool_grows_and_shrinks_by_signals_and_a_running_task_is_finished_first(workshop: Workshop) -> None:
    for seats in (3, 4):
        workshop.signal(signal.SIGTTIN)
        workshop.wait_for(lambda: workshop.status()["ready"] == seats)  # noqa: B023 asked at once
    workshop.wait_for(lambda: set(workshop.children()) == {0, 1, 2, 3})
    for file in "abcd":
        workshop.begin(file)
    for seats in (3, 2, 1):
        workshop.signal(signal.SIGTTOU)
        workshop.wait_for(lambda: workshop.status()["capacity"] == seats)  # noqa: B023 asked at once
    workshop.signal(signal.SIGTTOU)  # the last seat stays
    assert len(workshop.children()) == 4
    for file in "abcd":
        workshop.let_go(file)
    workshop.wait_for(lambda: workshop.store.statuses() == {"completed": 4} and set(workshop.children()) == {0})
    assert workshop.status()["capacity"] == 1
    workshop.signal(signal.SIGTTIN)
    workshop.wait_for(lambda: set(workshop.children()) == {0, 1})


def test_signals_that_reach_a_whole_group_end_no_child(workshop: Workshop) -> None:
    """All at once, as after a stop: their frames lie on the signal stack together."""
    before = workshop.children()
    everybody = [*before.values(), *workshop.forkservers()]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
        for number in (*DEAF_TO, STACK_SIGNAL, HUNG_STACK_SIGNAL):
            os.killpg(pid, number)
        os.kill(pid, signal.SIGCONT)
    assert workshop.ended(workshop.add("ok"), "completed")
    assert workshop.children() == before
    assert [*before.values(), *workshop.forkservers()] == everybody


def test_dozens_of_deaths_leak_no_descriptor_and_no_zombie(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(pool_size=6, claim_limit=1).start().ready()

    def die(count: int) -> None:
        for _ in range(count):
            workshop.store.add("leave", max_retries=0, timeout=None, payload={})
        workshop.report("WorkIsDue")
        deaths = len(workshop.births()) - 6 + count
        workshop.wait_for(lambda: set(workshop.store.statuses()) == {"dead_letter"}, within=30.0)
        workshop.wait_for(lambda: len(workshop.births()) == 6 + deaths)
        workshop.ready()
        (forkserver,) = workshop.forkservers()
        workshop.wait_for(lambda: not any("memfd:" in each for each in descriptors(forkserver)))  # the last child's

    die(12)
    (forkserver,) = workshop.forkservers()
    before = len(descriptors(workshop.pid)), len(descriptors(forkserver))
    die(36)
    assert (len(descriptors(workshop.pid)), len(descriptors(forkserver))) == before
    assert workshop.zombies() == []
    assert len(workshop.births()) == 6 + 12 + 36


# Who pays


def test_the_task_that_killed_its_child_pays_and_those_beside_it_nothing(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(pool_size=1).start().ready()
    first, crash, *rest = workshop.add_batch(
        ("ok", {}), ("crash", {"number": int(signal.SIGSEGV)}), ("ok", {}), ("ok", {}), ("ok", {})
    )
    task = workshop.ended(crash, "dead_letter")
    assert task["attempts"] == 2
    assert task["error"].startswith("the child was killed by SIGSEGV")
    assert "Fatal Python error: Segmentation fault" in task["error"]
    assert " in crash" in task["error"]
    assert task["writer"] == "supervisor"
    assert (workshop.task(first)["attempts"], workshop.task(first)["writer"]) == (1, "supervisor")
    for number in rest:
        assert workshop.ended(number, "completed")["attempts"] == 1
    reasons = {order["reason"] for order in workshop.orders("Release")}
    assert reasons and reasons <= {"child_gone", "slow_task"}  # to die may take a busy machine a tenth of a second


def test_tasks_that_overrun_their_time_are_killed_with_their_stack_or_the_reason_why_there_is_none(
    make_workshop: MakeWorkshop,
) -> None:
    workshop = make_workshop(pool_size=3).start().ready()
    bystander = workshop.begin()
    stubborn, deaf = workshop.add("stubborn", timeout=0.5), workshop.add("deaf", timeout=0.5)
    for number in (stubborn, deaf):
        task = workshop.ended(number, "dead_letter")
        assert "it ran longer than its time limit and grace, 0.6 s together" in task["error"]
        assert task["attempts"] == 1
    assert " in stubborn" in workshop.task(stubborn)["error"]
    assert "no Python stack: the child did not answer (state S" in workshop.task(deaf)["error"]
    workshop.wait_for(lambda: restarts(workshop) == ["timeout", "timeout"])  # told after the outcome is on its way
    assert is_alive(bystander)
    workshop.ready()


def test_a_task_over_its_memory_limit_is_killed_and_pays(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(pool_size=1, task_memory_limit=80 << 20).start().ready()
    task = workshop.ended(workshop.add("fat", mebibytes=150), "dead_letter")
    assert "over TASK_MEMORY_LIMIT of 80 MiB" in task["error"]
    workshop.wait_for(lambda: restarts(workshop) == ["memory"])
    assert workshop.ended(workshop.add("fat", mebibytes=0), "completed")


def test_what_waits_behind_a_slow_task_is_handed_back_within_a_second_and_what_ended_before_it_is_written(
    workshop: Workshop,
) -> None:
    before, slow, *behind = workshop.add_batch(("ok", {}), ("until", {"file": "go-on"}), ("ok", {}), ("ok", {}))
    slow_child = workshop.started("go-on")
    for number in (before, *behind):
        workshop.wait_for(lambda: workshop.store.status(number) == "completed", within=5.0)  # noqa: B023
    assert workshop.task(before)["writer"] == "supervisor"
    assert {workshop.task(number)["result"] for number in behind} != {str(slow_child)}
    assert {order["reason"] for order in workshop.orders("Release")} == {"slow_task"}
    assert workshop.ended(slow, "running")
    marked = [task_id for order in workshop.orders("MarkRunning") for task_id, *_ in order["starts"]]
    assert marked.count(f"{slow:036d}") == 1
    workshop.let_go()
    assert workshop.ended(slow, "completed")["writer"] == "child"


def test_what_runs_is_marked_so_in_time_though_the_pool_slept_before(workshop: Workshop) -> None:
    def seconds(name: str) -> float:
        """From the start of a task until it is marked."""
        began = time.monotonic()
        workshop.begin(name)
        known = len(names)
        names.append(name)
        workshop.wait_for(lambda: len(workshop.orders("MarkRunning")) > known)
        marked = workshop.store.rows("SELECT max(at) FROM orders WHERE kind = 'MarkRunning'")[0][0]
        workshop.let_go(name)
        workshop.ended(known + 1, "completed")
        return float(marked) - began

    names: list[str] = []
    assert any(seconds(name) < 0.9 for name in "abcde"), "0.25 on a machine of one's own; a loop that sleeps takes 1 s"


def test_a_pause_hands_back_what_has_not_started_and_claims_nothing_until_it_is_over(workshop: Workshop) -> None:
    workshop.begin("other")  # else its child might run, before the pause, what waits behind a slow task
    workshop.add_batch(("until", {"file": "go-on"}), ("ok", {}), ("ok", {}))
    workshop.started("go-on")
    pause(workshop)
    workshop.wait_for(lambda: workshop.store.statuses().get("pending") == 2)
    for file in ("other", "go-on"):
        workshop.let_go(file)
    workshop.wait_for(lambda: workshop.store.statuses() == {"completed": 2, "pending": 2})
    more = workshop.add("ok")
    for _ in range(3):
        workshop.report("WorkIsDue")
    workshop.wait_for(lambda: workshop.status()["active"] == 0)
    assert workshop.store.status(more) == "pending"
    assert workshop.orders("Activity")[-1]["is_claiming"] is False
    resume(workshop)
    workshop.report("WorkIsDue")
    workshop.wait_for(lambda: workshop.store.statuses() == {"completed": 5})


# What tasks leave behind


@pytest.mark.parametrize("then", ["crash", "hang"])
def test_whatever_a_task_started_ends_with_its_child(workshop: Workshop, then: str) -> None:
    number = workshop.add("parent", then=then, timeout=None if then == "crash" else 1.0)
    (family,) = workshop.wait_for(lambda: workshop.store.notes("family"))
    workshop.ended(number, "dead_letter")
    eventually(lambda: not any(map(is_alive, family)), within=5.0)
    workshop.wait_for(lambda: workshop.zombies() == [])
    workshop.ready()


@pytest.mark.parametrize("then", ["crash", "hang"])
def test_what_a_killed_task_has_in_shared_memory_is_removed(workshop: Workshop, then: str) -> None:
    """By multiprocessing's resource tracker, which was killed with the task: it stayed there until the next boot."""
    memory = Path("/dev/shm", f"toys-{os.getpid()}-{then}")
    number = workshop.add("share", name=memory.name, then=then, timeout=None if then == "crash" else 1.0)
    workshop.wait_for(lambda: workshop.store.notes("shared"))
    workshop.ended(number, "dead_letter")
    eventually(lambda: not memory.exists(), within=5.0)
    workshop.ready()


def test_orphans_of_a_task_that_goes_on_are_reaped(workshop: Workshop) -> None:
    workshop.ended(workshop.add("orphans", count=40), "completed")
    workshop.wait_for(lambda: workshop.zombies() == [])


# What the database's threads report


def test_a_worker_that_was_declared_dead_kills_what_runs_and_goes_on_under_another_name(workshop: Workshop) -> None:
    before = set(workshop.children().values())
    workshop.begin()
    workshop.report("DeclaredDead", worker_id=f"toys-{workshop.pid}-reborn")
    workshop.wait_for(lambda: len(workshop.children()) == 2 and not before & set(workshop.children().values()))
    for pid in workshop.children().values():
        maps = Path(f"/proc/{pid}/maps")
        eventually(lambda: f"toys-{workshop.pid}-reborn/" in maps.read_text(), within=5.0)  # noqa: B023 asked at once
    workshop.report("WorkIsDue")
    workshop.let_go()
    assert workshop.ended(1, "completed")["attempts"] == 1
    assert set(restarts(workshop)) == {"drain"}
    workshop.signal(signal.SIGTERM)
    assert workshop.exit_code() == 0  # what ran when it was declared dead was put back by others, long before


def test_how_children_ended_before_their_worker_was_declared_dead_is_no_crash_loop(workshop: Workshop) -> None:
    for _ in range(2):  # as those do that find themselves unregistered, until the supervisor hears of it
        pid = workshop.wait_for(lambda: workshop.children().get(0))
        os.kill(pid, signal.SIGKILL)
        workshop.wait_for(lambda: workshop.children().get(0, pid) != pid)  # noqa: B023 asked at once
    workshop.wait_for(lambda: workshop.status()["backing_off"] == 1)
    workshop.report("DeclaredDead", worker_id=f"toys-{workshop.pid}-reborn")
    workshop.wait_for(lambda: workshop.status()["backing_off"] == 0, within=5.0)


def test_a_lost_lease_drains_and_exits_5(workshop: Workshop) -> None:
    workshop.begin()
    workshop.report("LeaseLost", holder="another")
    workshop.wait_for(lambda: workshop.status()["state"] == "draining")
    workshop.let_go()
    assert workshop.exit_code() == 5
    assert workshop.store.statuses() == {"completed": 1}


def test_a_database_that_cannot_serve_ends_the_start_with_its_code(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(serves=False).start()
    workshop.wait_for(lambda: workshop.orders("Begin"))
    workshop.report("StartFailed", exit_code=6, message="the schema is newer")
    assert workshop.exit_code() == 6
    assert workshop.events("start_failed")[0]["reason"] == "the schema is newer"
    assert workshop.births() == []


def test_claims_that_no_board_knows_are_handed_back(workshop: Workshop) -> None:
    with workshop.store.transaction():
        number = workshop.store.add("ok", max_retries=None, timeout=None, payload={})
        workshop.store.take(number, slot=0)  # its reply never reached the child
    os.kill(workshop.children()[0], signal.SIGKILL)
    assert workshop.ended(number, "completed")["attempts"] == 1
    assert "unknown_claim" in [order["reason"] for order in workshop.orders("Release")]
