"""Randomized chaos: a workload, a nemesis, and a checker over all that happened.

`make chaos SECONDS=60 SEED=7 PROFILE=zombies` (as_asked.py) runs one as asked; a failing seed prints that command.
"""

import random
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.store import schema
from orchestrator.store.connection import Connection
from tests.chaos.audit import Audit
from tests.chaos.checker import Violation, check
from tests.chaos.cluster import TIMEOUT, Cluster
from tests.chaos.history import History, executions
from tests.chaos.nemesis import PROFILES, Nemesis
from tests.chaos.workload import Workload
from tests.fixtures.daemon import Start
from tests.fixtures.debian import library
from tests.fixtures.waiting import eventually

RATE = {"mixed": 60.0, "zombies": 12.0, "replies": 60.0, "single": 60.0}
LONGEST_MS = {"mixed": 400, "zombies": 4000, "replies": 200, "single": 400}
"""Zombies need tasks that outlast the pause of their worker."""

QUIET_SECONDS = 60.0

FAKETIME = ("libfaketime", "faketime/libfaketime.so.1")
"""The package, and its library."""


def faked_clock(faketime: Path, chance: random.Random) -> Mapping[str, str]:
    """The variables that shift a worker's clock by up to an hour."""
    return {"LD_PRELOAD": str(faketime), "FAKETIME": f"{chance.choice('+-')}{chance.randrange(60, 3600)}s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}  # fmt: skip


def run(
    server: PrivatePostgres,
    daemon: Start,
    folder: Path,
    *,
    seconds: float,
    seed: int,
    profile: str,
    quiet_within: float = QUIET_SECONDS,
    faketime: Path | None = None,
) -> tuple[History, str]:
    """One run; its history, and what was done in it in words. After it all must have ended `quiet_within` seconds.

    With libfaketime's library one worker's clock is off.
    """
    chance = random.Random(seed)
    connection = Connection.open(server.url(), within=10, application_name="chaos")
    schema.migrate(connection, within=20)
    connection.close()
    clocks = {} if faketime is None else {1: faked_clock(faketime, chance)}
    cluster = Cluster(server, daemon, folder, 1 if profile == "single" else 3, clocks)
    audit = Audit(cluster.queue)
    nemesis = Nemesis(cluster, profile, seed)
    is_varied = profile in ("mixed", "single")
    workload = Workload(
        server.url(), seed=seed, rate=RATE[profile], longest_ms=LONGEST_MS[profile], is_varied=is_varied
    )
    try:
        for node in cluster.nodes:
            node.start()
        workload.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pause = time.monotonic() + nemesis.strike()
            while time.monotonic() < min(pause, until):
                nemesis.proceed()
                time.sleep(0.02)
        nemesis.relent()
        workload.stop()
        cluster.reconnect()
        _wait_quiet(cluster, quiet_within)
        history = _history(cluster, audit, workload, nemesis, folder)
    finally:
        nemesis.proceed(at_once=True)
        workload.stop()
        cluster.close()
    return history, _summary(history)


def _wait_quiet(cluster: Cluster, seconds: float) -> None:
    left = "SELECT count(*) FROM tasks WHERE status IN ('pending', 'claimed', 'running')"
    try:
        eventually(lambda: cluster.queue.one(left) == 0, within=seconds)
    except AssertionError:
        return  # the checker names the tasks that are left
    for node in cluster.nodes:
        assert node.worker is not None
        # 1 where a worker that had been taken for dead still ran what had ended elsewhere
        exit_code = node.worker.wait_ready().stop()  # one that was started last may have no signal handlers yet
        assert exit_code in (0, 1), f"{node.role} left with {exit_code}"


def _history(cluster: Cluster, audit: Audit, workload: Workload, nemesis: Nemesis, folder: Path) -> History:
    audit = audit.on(cluster.queue)
    return History(
        is_distributed=len(cluster.nodes) > 1,
        worker_timeout=TIMEOUT,
        enqueues=workload.enqueues,
        cancels=workload.cancels,
        executions=executions((folder / "record").read_text().splitlines()),
        changes=audit.changes(),
        deaths=audit.deaths(),
        leaderships=audit.leaderships(),
        rows=audit.rows(),
        deeds=nemesis.deeds,
    )


def _summary(history: History) -> str:
    statuses = Counter(row.status for row in history.rows)
    periodic = sum(row.due is not None for row in history.rows)
    recovered = sum(change.is_recovery for change in history.changes)
    terms = max((each.new_term for each in history.leaderships), default=0)
    ends = [each.new_ended_token or 0 for each in history.changes if each.new_ended_token != each.old_ended_token]
    for_children = sum(token < 0 for token in ends)
    deeds = Counter(re.sub(r"node\d| \d+", "", f"{each.what} {each.target}") for each in history.deeds)
    return (
        f"{len(history.rows)} tasks {dict(statuses)}, {periodic} periodic, {len(history.executions)} executions, "
        f"{terms} terms, {len(history.deaths)} workers declared dead, {recovered} recoveries, "
        f"{for_children} of {len(ends)} outcomes written for their children, deeds {dict(deeds)}"
    )


def report(history: History, violations: list[Violation], again: str) -> str:
    """For people: what is wrong, how to run it again, and the history of the first task that it happened to."""
    lines = [f"{len(violations)} violations; again: {again}"]
    lines += [f"  {each.rule}: {each.task_id} {each.text}" for each in violations[:20]]
    task_id = next((each.task_id for each in violations if each.task_id), None)
    if task_id is not None:
        lines += [f"the history of {task_id}:", *(f"  {line}" for line in history.of(task_id))]
    return "\n".join(lines)


def chaos(
    server: PrivatePostgres,
    daemon: Start,
    folder: Path,
    seconds: float,
    seed: int,
    profile: str,
    *,
    faketime: Path | None = None,
) -> None:
    history, summary = run(server, daemon, folder, seconds=seconds, seed=seed, profile=profile, faketime=faketime)
    again = f"make chaos SECONDS={seconds:g} SEED={seed} PROFILE={profile}"
    violations = check(history)
    assert not violations, report(history, violations, again)
    assert history.rows and history.deeds
    assert seconds < 20 or any(row.due is not None for row in history.rows), "somebody has led for a second"
    clock = "" if faketime else " (no libfaketime: no clock was shifted)"
    print(f"{again}: {summary}{clock}")  # noqa: T201 `make chaos` shows it


def test_five_seconds_of_everything(private_postgres_tcp: PrivatePostgres, daemon: Start, tmp_path: Path) -> None:
    chaos(private_postgres_tcp, daemon, tmp_path, 5, random.randrange(100_000), "mixed")


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_two_minutes_of_everything_and_half_a_minute_of_each_profile(
    private_postgres_tcp: PrivatePostgres, daemon: Start, tmp_path: Path, profile: str
) -> None:
    seconds = 120 if profile == "mixed" else 30
    seed = random.randrange(100_000)
    chaos(private_postgres_tcp, daemon, tmp_path, seconds, seed, profile, faketime=library(*FAKETIME))


@pytest.mark.slow
def test_half_a_minute_with_one_clock_off(private_postgres_tcp: PrivatePostgres, daemon: Start, tmp_path: Path) -> None:
    faketime = library(*FAKETIME)
    if faketime is None:
        pytest.skip("libfaketime cannot be found, and the other runs go without it: apt-get install libfaketime")
    chaos(private_postgres_tcp, daemon, tmp_path, 30, random.randrange(100_000), "mixed", faketime=faketime)
