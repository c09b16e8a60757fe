"""Single-instance mode: one worker on a database. A second one refuses, waits, or takes over; never both work."""

import os
import signal

from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually

LEASE = {"LEADER_TERM": "2s", "HEARTBEAT_INTERVAL": "300ms", "WORKER_TIMEOUT": "1s"}
RENEWED = {**LEASE, "LEADER_TERM": "2900ms"}
"""By the next look of who waits for it: as late as that allows, lest it run out while the machine stands still."""


def test_a_second_instance_refuses_and_names_the_first_which_is_undisturbed(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    first = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url, **RENEWED)
    task_id = queue.enqueue("hold")
    child = gates.wait_running("hold")
    name = first.health()[1]["worker_id"]

    def refused() -> Daemon | None:
        """A second one, which has left. None: before its page was read, since it waits for a second only."""
        second = daemon(APP, "--pool-size", "1", is_awaited=False, DATABASE_URL=queue.url, **RENEWED)
        second.wait_log(f"waiting_for_instance holder={name}")

        def says_whom_it_waits_for() -> bool:
            code, facts = second.health()
            return (code, facts["reason"]) == (503, f"starting, waiting for {name}")

        def has_left() -> bool:
            return second.process.poll() is not None

        eventually(lambda: has_left() or says_whom_it_waits_for(), within=15)
        has_said = not has_left()
        assert second.wait_exit(within=10) == 5
        return second if has_said else None

    second = eventually(refused, within=20, why="the waiting one is not healthy")
    assert second is not None
    assert f"{name} (process {first.pid} on host {os.uname().nodename})" in second.wait_log("start_failed")
    assert second.children() == {}

    assert first.health()[0] == 200
    assert first.children() == {0: child}
    gates.open("hold")
    done = queue.wait_status(task_id, "completed")
    assert done["result"]["pid"] == child
    assert done["attempts"] == 1
    assert queue.rows("SELECT id FROM workers") == [(name,)]
    assert queue.one("SELECT term FROM leadership") == 1


def test_a_lease_that_expires_is_taken_over_and_its_old_holder_drains_and_exits_5(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    first = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url, **LEASE)
    old_name = first.health()[1]["worker_id"]
    task_id = queue.enqueue("hold", {"name": "first"})
    gates.wait_running("first")
    queue.wait_status(task_id, "running")
    first.signal(signal.SIGSTOP)

    second = daemon(APP, "--pool-size", "1", is_awaited=False, DATABASE_URL=queue.url, **LEASE)
    second.wait_ready()  # it has waited for the lease, unless that was over before it had started
    taken = queue.wait_status(task_id, "pending", "claimed", "running")
    assert f"worker {old_name} died while it ran this task, attempt 1" in taken["last_error"]

    first.signal(signal.SIGCONT)
    first.wait_log("lease_lost")
    gates.open("first")
    assert first.wait_exit(within=10) == 5
    done = queue.wait_status(task_id, "completed")
    assert done["attempts"] == 2
    assert done["result"]["attempt"] == 2, "the first one's outcome came too late"
    assert queue.rows("SELECT id FROM workers") == [(second.health()[1]["worker_id"],)]
    assert second.health()[0] == 200
