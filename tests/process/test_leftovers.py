"""What dead children and dead workers leave behind is killed, and nothing else ever is."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.board.birth import MARKER_VARIABLE
from orchestrator.board.memory import create_memory
from orchestrator.supervisor import leftovers
from orchestrator.supervisor.leftovers import kill_marked
from tests.fixtures.proc import children, is_alive, state
from tests.fixtures.waiting import eventually
from tests.toys.workshop import PROJECT, Workshop

NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")
MINE = f"test-{os.getpid()}-{os.urandom(4).hex()}/3/17"

Processes = list["subprocess.Popen[bytes]"]


@pytest.fixture
def started() -> Iterator[Processes]:
    processes: Processes = []
    yield processes
    for each in processes:
        each.kill()
        each.wait()


def sleep(started: Processes, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
    program = command or ("sleep", "60")
    started.append(subprocess.Popen(program, env={"PATH": os.environ["PATH"], **variables}, start_new_session=True))
    return started[-1]


def test_only_what_carries_the_very_marker_is_killed(started: Processes) -> None:
    marked = [sleep(started, **{MARKER_VARIABLE: MINE}) for _ in range(3)]
    others = [
        sleep(started),
        sleep(started, **{MARKER_VARIABLE: MINE + "0"}),
        sleep(started, **{MARKER_VARIABLE: MINE[:-1]}),
        sleep(started, **{MARKER_VARIABLE: ""}),
        sleep(started, OTHER=f"{MARKER_VARIABLE}={MINE}"),
        sleep(started, **{"X" + MARKER_VARIABLE: MINE}),
    ]
    assert kill_marked(MINE) == 3
    assert [each.wait(5.0) for each in marked] == [-signal.SIGKILL] * 3
    assert kill_marked(MINE) == 0
    assert [each.poll() for each in others] == [None] * len(others)


def test_if_it_takes_long_all_that_may_be_meant_stand_still_until_it_is_done(
    started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that forks without end holds up whoever reads its environment: of 230 it took two minutes, now one second."""
    sent: list[tuple[int, signal.Signals]] = []
    kill = os.kill

    def noted(pid: int, number: signal.Signals) -> None:
        sent.append((pid, number))
        kill(pid, number)

    living = set(children(os.getpid()))
    marked, other, halted = sleep(started, **{MARKER_VARIABLE: MINE}), sleep(started), sleep(started)
    halted.send_signal(signal.SIGSTOP)
    eventually(lambda: state(halted.pid) == "T", within=5.0)
    monkeypatch.setattr(leftovers, "LONG_SECONDS", -1.0)
    monkeypatch.setattr(os, "kill", noted)
    assert kill_marked(MINE, living=living) == 1
    assert marked.wait(5.0) == -signal.SIGKILL
    assert [number for pid, number in sent if pid == other.pid] == [signal.SIGSTOP, signal.SIGCONT]
    assert [number for pid, number in sent if pid == halted.pid] == []


def test_what_is_below_another_child_is_nobody_elses_leftover(started: Processes) -> None:
    marked = {MARKER_VARIABLE: MINE}
    shell = sleep(started, "sh", "-c", "sleep 60 & exec sleep 60", **marked)
    (below,) = eventually(lambda: children(shell.pid), within=10.0)
    assert kill_marked(MINE, living={shell.pid}) == 0
    beside = sleep(started, **marked)
    assert leftovers.kill_left_by(1 << 30, MINE, living={shell.pid}) == 1
    assert beside.wait(5.0) == -signal.SIGKILL
    assert (shell.poll(), is_alive(below)) == (None, True)
    assert kill_marked(MINE) == 2


@pytest.mark.parametrize("spare", [0, 1])
def test_without_descriptors_to_look_with_it_is_not_said_that_nobody_is_left(started: Processes, spare: int) -> None:
    """One holds the process and one reads its mark: with a single one, everybody seemed to have none."""
    marked = sleep(started, **{MARKER_VARIABLE: MINE})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + spare, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            kill_marked(MINE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert marked.poll() is None
    assert kill_marked(MINE) == 1


def test_a_zombie_is_not_killed_again_and_again(started: Processes) -> None:
    zombie = sleep(started, "true", **{MARKER_VARIABLE: MINE})
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    began = time.monotonic()
    assert kill_marked(MINE) == 0
    assert time.monotonic() - began < 5.0


def test_a_process_that_has_the_childs_board_mapped_is_its_leftover_though_it_has_no_such_environment(
    started: Processes,
) -> None:
    memory = create_memory(f"orchestrator {MINE}", 1)
    code = f"import mmap, sys, time; m = mmap.mmap({memory}, 0); print(flush=True); time.sleep(60)"
    forked = subprocess.Popen(
        [sys.executable, "-S", "-c", code], env={}, pass_fds=(memory,), stdout=subprocess.PIPE, start_new_session=True
    )
    started.append(forked)
    os.close(memory)
    assert forked.stdout is not None
    forked.stdout.readline()
    assert kill_marked(MINE) == 1
    assert forked.wait(5.0) == -signal.SIGKILL
    forked.stdout.close()


def test_a_program_that_is_just_being_started_shows_its_marker_too(started: Processes, tmp_path: Path) -> None:
    """Of one that does nothing but start itself again, a look in a hundred meets the moment without an environment."""
    again = tmp_path / "again"
    again.write_text('#!/bin/sh\nexec "$0"\n')
    again.chmod(0o755)
    starting = sleep(started, str(again), **{MARKER_VARIABLE: MINE})
    assert {leftovers._marker(starting.pid) for _ in range(1000)} <= {MINE, None}  # it never seems to have none
    assert kill_marked(MINE) == 1


def test_only_what_is_just_being_started_is_looked_at_again(started: Processes) -> None:
    """On a busy machine somebody always is. Looking at everybody until nobody was held up a start for five seconds."""
    starting, other = sleep(started), sleep(started)
    looks: list[int] = []
    lists: list[int] = []

    def candidates() -> Iterator[int]:
        lists.append(1)
        yield from (starting.pid, other.pid)

    def matches(pid: int) -> bool | None:
        looks.append(pid)
        return None if looks.count(starting.pid) < 4 and pid == starting.pid else pid == starting.pid

    assert leftovers._kill(candidates, matches) == 1
    assert starting.wait(5.0) == -signal.SIGKILL
    assert len(lists) == 2, "once more, for what it may have forked"
    assert looks.count(other.pid) == len(lists)


def test_nobody_is_waited_for_who_has_no_environment(started: Processes) -> None:
    """A thread of the kernel, a zombie, who was started without one, who is gone."""
    bare, zombie = subprocess.Popen(["sleep", "60"], env={}), sleep(started, "true")
    started.append(bare)
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    assert {leftovers._marker(pid) for pid in (2, bare.pid, zombie.pid, 1 << 30)} == {""}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts other users' processes")
def test_nobody_is_waited_for_whose_environment_a_containers_root_may_not_see() -> None:
    """Each end of a child took a second then, in which the supervisor did nothing else."""
    look = f"""
import subprocess, sys
sys.path.insert(0, {str(PROJECT)!r})
from orchestrator.supervisor import leftovers
other = subprocess.Popen(["sleep", "60"], user=65534, group=65534, extra_groups=[], env={{}})
print([leftovers._marker(other.pid)])
other.kill()
other.wait()
"""
    unprivileged = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    done = subprocess.run([*unprivileged, sys.executable, "-c", look], capture_output=True, text=True, timeout=30)
    assert done.stdout == "['']\n", done.stderr


def in_a_namespace(play: str) -> Any:
    """What tests.toys.graveyard finds as the first process of a PID namespace, with which all others end."""
    played = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", "tests.toys.graveyard", play],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if played.returncode != 0 and played.stderr.startswith("unshare:"):
        pytest.skip(f"no PID namespace can be made here: {played.stderr.strip()}")
    assert played.returncode == 0, played.stderr
    return json.loads(played.stdout)


def test_what_forks_while_it_is_being_killed_does_not_get_away() -> None:
    found = in_a_namespace("forking")
    assert found["killed"] > 4
    assert (found["ended_otherwise"], found["killed_later"]) == (0, 0)


def test_what_forks_and_leaves_before_it_can_be_killed_does_not_get_away_either() -> None:
    assert in_a_namespace("moving") is True


def test_a_pid_that_is_used_again_is_not_taken_for_the_leftover_that_had_it() -> None:
    found = in_a_namespace("reuse")
    if found["same_pid"] == 0:
        pytest.skip("the kernel does not let a pid be chosen here")
    assert found["innocent_killed"] == 0
    assert found["same_pid"] > 10


def test_what_a_killed_workers_tasks_left_is_killed_and_nothing_of_the_living_or_of_a_container() -> None:
    assert in_a_namespace("dead_workers") == {
        "of a dead worker": False,
        "of a dead worker on a host with dashes": False,
        "of a living worker": True,
        "of this worker": True,
        "unmarked": True,
        "marked by somebody else": True,
        "marked with nonsense": True,
        "of a worker in a container": True,
    }


def test_a_worker_that_starts_after_a_kill_ends_what_the_killed_ones_tasks_left(workshop: Workshop) -> None:
    workshop.add("parent", then="hang")
    ((program, unmarked, forked, orphan),) = workshop.wait_for(lambda: workshop.store.notes("family"))
    before = workshop.children()
    workshop.signal(signal.SIGKILL)
    workshop.exit_code()
    eventually(lambda: not any(map(is_alive, before.values())), within=5.0)
    workshop.start().ready()  # or another test's worker, which starts on this host now, was the first to look
    eventually(lambda: not any(map(is_alive, (program, forked, orphan))), within=5.0)
    os.kill(unmarked, signal.SIGKILL)  # it was given an environment without the mark: nobody can tell whose it was
