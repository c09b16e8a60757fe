"""The line that `systemctl status` shows, for every way a worker can be."""

from dataclasses import replace

import pytest

from orchestrator.status.snapshot import Snapshot
from orchestrator.status.status_line import status_line

LEADER = Snapshot(
    worker_id="host-1-abc", version="1.0.0", distributed=True, state="running", is_paused=False, pool_capacity=20,
    pool_active=12, slots_total=20, slots_ready=20, is_database_reachable=True, is_leader=True, term=7, types=("t",),
)  # fmt: skip
STARTING = replace(LEADER, state="starting", worker_id="", is_database_reachable=False, types=())


@pytest.mark.parametrize(
    ("snapshot", "line"),
    [
        (LEADER, "12/20 running, leader, term 7"),
        (replace(LEADER, is_leader=False, term=None), "12/20 running, follower"),
        (replace(LEADER, distributed=False), "12/20 running, single instance"),
        (replace(LEADER, slots_ready=18), "12/20 running, leader, term 7, 18/20 children ready"),
        (replace(LEADER, state="paused", is_paused=True), "12/20 running, leader, term 7, paused (SIGUSR2 resumes)"),
        (replace(LEADER, state="reloading"), "12/20 running, leader, term 7, loading the app anew"),
        (
            replace(LEADER, is_reload_refused=True),
            "12/20 running, leader, term 7, the app as it is now does not load (the old code goes on)",
        ),
        (
            replace(LEADER, is_leader=False, is_database_reachable=False, database_down_seconds=12.3),
            "12/20 running, follower, database unreachable for 12 s",
        ),
        (replace(LEADER, state="draining"), "draining, 12/20 running"),
        (replace(LEADER, state="stopping", pool_active=0), "stopping, 0/20 running"),
        (STARTING, "starting, waiting for the app to load and the database"),
        (
            replace(STARTING, types=("t",), database_down_seconds=29.6),
            "starting, waiting for the database, unreachable for 30 s",
        ),
        (replace(STARTING, types=("t",), waiting_for="b-2-def"), "starting, waiting for the lease of b-2-def"),
        (replace(STARTING, types=("t",), worker_id="host-1-abc"), "starting"),
    ],
)
def test_the_line_says_what_it_does_first_and_what_hinders_it_last(snapshot: Snapshot, line: str) -> None:
    assert status_line(snapshot) == line
