"""Of children with brief tasks some rest while processors are crowded: they hear every order, and nothing is lost."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.waiting import eventually

APP = """
from orchestrator import App

app = App()

@app.task("nothing")
def nothing() -> None:
    pass
"""
POOL = 6
MANY = 20_000
ADD = "INSERT INTO tasks (type) SELECT 'nothing' FROM generate_series(1, %s)"
COUNT = "SELECT count(*) FROM tasks WHERE status = ANY (%s::task_status[])"


@pytest.fixture
def one_processor() -> Iterator[None]:
    """What the test starts has no other."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_of_them)})
    yield
    os.sched_setaffinity(0, all_of_them)


def see_rest(worker: Daemon) -> None:
    """Wait until a child rests."""

    def is_seen() -> bool:
        told = worker.log().count("slot_state ")
        worker.signal(signal.SIGUSR1)
        eventually(lambda: worker.log().count("slot_state ") >= told + POOL, within=15, why="every slot's state")
        return "state=resting" in "".join(worker.log().split("slot_state ")[told + 1 :])

    eventually(is_seen, within=20, why="a child rests")


def counted(worker: Daemon) -> float | None:
    return worker.metric("tasks_completed_total", type="nothing", status="success")


@pytest.mark.slow
@pytest.mark.usefixtures("one_processor")
def test_children_that_rest_hear_a_pause_a_reload_and_a_drain_and_nothing_is_lost_or_counted_twice(
    queue: Queue, daemon: Start
) -> None:
    queue.rows(ADD, MANY)
    worker = daemon(APP, "--pool-size", str(POOL), DATABASE_URL=queue.url)
    see_rest(worker)
    worker.signal(signal.SIGUSR2)
    eventually(lambda: queue.one(COUNT, ["claimed", "running"]) == 0, within=15, why="nothing is claimed in a pause")
    assert queue.one(COUNT, ["pending"]) > 0
    eventually(lambda: counted(worker) == queue.one(COUNT, ["completed"]), within=15)

    queue.rows(ADD, MANY)
    worker.signal(signal.SIGUSR2)
    see_rest(worker)
    before = set(worker.children().values())
    worker.signal(signal.SIGHUP)
    eventually(lambda: len(set(worker.children().values()) - before) == POOL, within=20, why="all are replaced")

    queue.rows(ADD, MANY)
    see_rest(worker)
    assert worker.stop() == 0
    assert queue.one(COUNT, ["claimed", "running"]) == 0
    assert queue.rows("SELECT DISTINCT attempts FROM tasks WHERE status = 'completed'") == [(1,)]
