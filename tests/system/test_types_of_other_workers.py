"""Workers with different apps on one queue: a leader counts what it recovers of types that it does not serve."""

import signal

import pytest

from tests.fixtures.daemon import Queue
from tests.fixtures.fleet import NOTICED, SLACK, Fleet
from tests.fixtures.gates import APP, Gates
from tests.fixtures.psql import empty_all_tables
from tests.fixtures.waiting import eventually

FOREIGN = """

@app.task("foreign", max_retries=0)
def foreign():
    hold("foreign")
"""


@pytest.mark.slow
def test_the_limits_of_a_type_are_known_again_after_somebody_has_emptied_all_tables(
    fleet: Fleet, queue: Queue, gates: Gates
) -> None:
    leader = fleet.add(APP, DATABASE_URL=queue.url)
    other = fleet.add(APP + FOREIGN, DATABASE_URL=queue.url)
    empty_all_tables(queue.url)
    for worker in (leader, other):
        worker.wait_log("declared_dead new_worker_id")
    eventually(lambda: len(fleet.leaders()) == 1, within=20, why="one leads")
    eventually(lambda: queue.one("SELECT max_retries FROM task_types WHERE type = 'foreign'") == 0, within=20)


def test_the_first_dead_letter_of_a_type_that_only_a_dead_worker_served_is_seen_to_be_the_first(
    fleet: Fleet, queue: Queue, gates: Gates
) -> None:
    """`increase()` sees no series that is born at 1, so it must be there at 0 before."""
    leader = fleet.add(APP, DATABASE_URL=queue.url)
    other = fleet.add(APP + FOREIGN, DATABASE_URL=queue.url)
    eventually(
        lambda: leader.metric("tasks_dead_letter_total", type="foreign") == 0,
        within=20,
        why="the leader has heard of the type",
    )
    assert leader.metric("tasks_recovered_total", type="foreign") == 0

    leader.signal(signal.SIGUSR2)  # so that the other one takes it
    leader.wait_log("paused")
    task_id = queue.enqueue("foreign")
    gates.wait_running("foreign")
    queue.wait_status(task_id, "running")
    other.kill()
    queue.wait_status(task_id, "dead_letter", within=NOTICED + SLACK)
    eventually(lambda: leader.metric("tasks_dead_letter_total", type="foreign") == 1, within=20)
