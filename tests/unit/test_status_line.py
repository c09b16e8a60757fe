"""The line that `systemctl status` shows, for every way a worker can be."""

import pytest

from orchestrator.status.snapshot import Snapshot
from orchestrator.status.status_line import status_line

LEADER = Snapshot(
    worker_id="host-1-abc", version="1.0.0", distributed=True, state="running", is_paused=False, pool_capacity=20,
    pool_active=12, slots_ready=20, is_database_reachable=True, is_leader=True, term=7, types=("t",),
)  # fmt: skip
STARTING = LEADER._replace(state="starting", worker_id="", is_database_reachable=False, types=())


@pytest.mark.parametrize(
    ("snapshot", "line"),
    [
        (LEADER, "12/20 running, leader, term 7"),
        (LEADER._replace(is_leader=False, term=None), "12/20 running, follower"),
        (LEADER._replace(distributed=False), "12/20 running, single instance"),
        (LEADER._replace(slots_ready=18), "12/20 running, leader, term 7, 18/20 children ready"),
        (LEADER._replace(state="paused", is_paused=True), "12/20 running, leader, term 7, paused (SIGUSR2 resumes)"),
        (LEADER._replace(state="reloading"), "12/20 running, leader, term 7, loading the app anew"),
        (
            LEADER._replace(is_reload_refused=True),
            "12/20 running, leader, term 7, the app as it is now does not load (the old code goes on)",
        ),
        (
            LEADER._replace(is_leader=False, is_database_reachable=False, database_down_seconds=12.3),
            "12/20 running, follower, database unreachable for 12 s",
        ),
        (LEADER._replace(state="draining"), "draining, 12/20 running"),
        (LEADER._replace(state="stopping", pool_active=0), "stopping, 0/20 running"),
        (STARTING, "starting, waiting for the app to load and the database"),
        (
            STARTING._replace(types=("t",), database_down_seconds=29.6),
            "starting, waiting for the database, unreachable for 30 s",
        ),
        (STARTING._replace(types=("t",), waiting_for="b-2-def"), "starting, waiting for the lease of b-2-def"),
        (STARTING._replace(types=("t",), worker_id="host-1-abc"), "starting"),
    ],
)
def test_the_line_says_what_it_does_first_and_what_hinders_it_last(snapshot: Snapshot, line: str) -> None:
    assert status_line(snapshot) == line
