"""Children at work: what waits behind a slow task, what the table says of what runs, when a child is replaced."""

import math
import time
from collections import Counter
from pathlib import Path

from orchestrator.supervisor.collector import LEAST_CHILDREN
from tests.fixtures import proc
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.fleet import SLACK
from tests.fixtures.waiting import eventually

APP = """
import os, time
from orchestrator import App

app = App()
hoard = []

@app.task("note")
def note(what: str) -> None:
    with open("notes", "a") as notes:
        notes.write(what + "\\n")

@app.task("pid")
def pid(leak: int = 0) -> int:
    hoard.append(bytearray(leak))
    return os.getpid()

@app.task("nap")
def nap() -> None:
    time.sleep(0.25)

@app.task("doze")
def doze() -> None:
    time.sleep(0.05)

@app.task("blink")
def blink() -> None:
    time.sleep(0.001)

@app.task("wait")
def wait(until: str) -> None:
    while not os.path.exists(until):
        time.sleep(0.01)
"""

SLOWER = 60

DRAW = """
import random, numpy.random

@app.task("draw")
def draw() -> tuple[float, float]:
    return random.random(), numpy.random.random()
"""


def test_tasks_that_are_claimed_one_by_one_begin_on_all_children_though_each_asked_for_more(
    queue: Queue, daemon: Start, tmp_path: Path
) -> None:
    daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url, CLAIM_INTERVAL="1h")
    for _ in range(3):  # by then each child takes many at once
        queue.rows("INSERT INTO tasks (type, payload) SELECT 'note', '{\"what\": \"\"}' FROM generate_series(1, 300)")
        queue.wait_empty()
    queue.rows(
        """
        INSERT INTO tasks (type, payload, recoveries)
        SELECT 'wait', '{"until": "go"}', 1 FROM generate_series(1, 3)
        """
    )
    running = "SELECT count(*) FROM tasks WHERE status = 'running'"
    eventually(lambda: queue.one(running) == 3, within=15, why="as recovered from a dead worker, nothing waits")
    (tmp_path / "go").touch()


def test_nothing_waits_behind_a_slow_task_and_the_table_tells_what_runs(
    queue: Queue, daemon: Start, tmp_path: Path
) -> None:
    # the 150th and the next of 300 are slow: by then a child takes many at once, and one may be the last of its batch
    queue.rows(
        """
        INSERT INTO tasks (type, payload)
        SELECT CASE WHEN n IN (150, 151) THEN 'wait' ELSE 'note' END,
            CASE WHEN n IN (150, 151) THEN '{"until": "go"}' ELSE jsonb_build_object('what', n::text) END
        FROM generate_series(1, 300) AS n ORDER BY n
        """
    )
    worker = daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url)
    slow_ones = "SELECT id FROM tasks WHERE type = 'wait'"
    quick = "SELECT count(*) FROM tasks WHERE type = 'note' AND status <> 'completed'"

    eventually(lambda: queue.one(quick) == 0, within=15, why="the quick ones are done while the slow ones run")

    slow = [queue.wait_status(task_id, "running") for (task_id,) in queue.rows(slow_ones)]
    for task in slow:
        assert task["attempts"] == 1 and task["worker_id"] is not None and task["started_at"] is not None
    last = queue.one("SELECT max(completed_at) FROM tasks WHERE type = 'note'")
    began = max(task["started_at"] for task in slow)
    assert (last - began).total_seconds() < 1.0 + SLACK, "a second or so after they had begun"
    worker.wait_log("reason=slow_task")  # some of them had waited behind it
    eventually(lambda: worker.metric("worker_pool_active") == 2, within=20)
    (tmp_path / "go").touch()
    queue.wait_empty()
    assert queue.rows("SELECT DISTINCT status::text, attempts FROM tasks") == [("completed", 1)]
    assert set(Counter((tmp_path / "notes").read_text().split()).values()) == {1}, "each ran once"


def test_nothing_waits_behind_many_tasks_none_of_which_is_slow(queue: Queue, daemon: Start) -> None:
    # by the time they are met a child takes more of them than it can run in a second
    queue.rows(
        """
        INSERT INTO tasks (type, payload)
        SELECT CASE WHEN n > 200 THEN 'nap' ELSE 'note' END,
            CASE WHEN n > 200 THEN '{}' ELSE '{"what": "brief"}'::jsonb END
        FROM generate_series(1, 212) AS n ORDER BY n
        """
    )
    worker = daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url)
    queue.wait_empty(within=20)
    took, ran, slots, attempts = queue.rows(
        """
        SELECT max(completed_at) - min(started_at), sum(completed_at - started_at), count(DISTINCT slot), sum(attempts)
        FROM tasks WHERE type = 'nap'
        """
    )[0]
    assert slots > 1, "another child took what had waited"
    assert took < ran, "at the same time as the first"
    assert attempts == 12
    worker.wait_log("reason=slow_task")


def test_when_tasks_become_slower_all_children_take_their_part_at_once(queue: Queue, daemon: Start) -> None:
    """One has taken all of them for brief ones. What it gives back no other takes whole, to give it back as well."""
    worker = daemon(APP, "--pool-size", "6", DATABASE_URL=queue.url, CLAIM_INTERVAL="1h")
    tries = [joining(queue, worker)]
    while not 0 < tries[-1] < 2 * SLOWER and len(tries) < 4:  # a busy machine makes brief tasks seem slow, now and then
        tries.append(joining(queue, worker))
    assert 0 < tries[-1] < 2 * SLOWER, f"so many were given back in each try: {tries}"


def joining(queue: Queue, worker: Daemon) -> float:
    """How many claims are given back until all children run tasks that are slower than those before; infinitely many,
    if one child gets none of them."""
    queue.rows("DELETE FROM tasks WHERE type = 'doze'")
    for _ in range(3):  # by then each child takes more of them than there will be
        queue.rows("INSERT INTO tasks (type, payload) SELECT 'note', '{\"what\": \"\"}' FROM generate_series(1, 600)")
        queue.wait_empty()
    before = worker.metric("tasks_released_total", reason="slow_task")
    queue.rows(f"INSERT INTO tasks (type) SELECT 'doze' FROM generate_series(1, {SLOWER})")
    queue.wait_empty()
    joined = queue.one("SELECT count(DISTINCT slot) FROM tasks WHERE type = 'doze'")
    given_back = worker.metric("tasks_released_total", reason="slow_task") - before
    return given_back if joined == 6 else math.inf


def test_a_pool_that_is_busy_all_over_wakes_its_supervisor_only_to_look(queue: Queue, daemon: Start) -> None:
    """Nobody could be woken for what a child has left to others, so none of them says that there is more. (They are too
    few for their outcomes to be collected.)"""
    worker = daemon(APP, "--pool-size", str(LEAST_CHILDREN - 1), DATABASE_URL=queue.url)
    queue.rows("INSERT INTO tasks (type) SELECT 'blink' FROM generate_series(1, 30000)")
    done = "SELECT count(*) FROM tasks WHERE status = 'completed'"
    eventually(lambda: queue.one(done) > 2000, within=20, why="all are at work, and claim as much as they may")
    before, waited_before = time.monotonic(), proc.waits(worker.pid)
    eventually(lambda: time.monotonic() > before + 1.0, within=20)
    seconds, waits = time.monotonic() - before, proc.waits(worker.pid) - waited_before
    assert queue.one(done) < 30000, "all the while they were at work"
    assert waits < 60 * seconds, "it looks 33 times a second, and goes its round 10 times"


def test_what_has_run_for_a_quarter_of_a_second_is_running_in_the_table(
    queue: Queue, daemon: Start, tmp_path: Path
) -> None:
    app = """
    import os, time
    import psycopg2
    from orchestrator import App, current_task

    app = App()

    @app.task("look")
    def look() -> dict:
        began, began_at = time.monotonic(), time.time()
        connection = psycopg2.connect(os.environ["DATABASE_URL"])
        connection.autocommit = True
        cursor = connection.cursor()
        status = "claimed"
        while status == "claimed" and time.monotonic() < began + 5.0:
            time.sleep(0.005)
            cursor.execute(
                "SELECT status, extract(epoch FROM started_at)::float, attempts FROM tasks WHERE id = %s",
                (current_task().id,),
            )
            status, started_at, attempts = cursor.fetchone()
        after = time.monotonic() - began
        return {"status": status, "after": after, "began_at": began_at, "started_at": started_at, "attempts": attempts}
    """
    daemon(app, "--pool-size", "2", DATABASE_URL=queue.url)

    looks = [queue.wait_status(queue.enqueue("look"), "completed")["result"] for _ in range(5)]

    for look in looks:
        assert (look["status"], look["attempts"]) == ("running", 1)
    # one of them on a busy machine may take its time, all of them may not
    assert sorted(abs(look["started_at"] - look["began_at"]) for look in looks)[1] < 0.05, looks
    assert sorted(look["after"] for look in looks)[1] < 0.25, looks


def test_a_child_is_replaced_after_so_many_tasks_or_so_much_memory_and_the_next_draws_other_numbers(
    queue: Queue, daemon: Start
) -> None:
    worker = daemon(
        APP + DRAW, "--pool-size", "1", "--max-tasks-per-child", "7", "--max-child-memory", "300MB",
        DATABASE_URL=queue.url,
    )  # fmt: skip
    thin = [queue.enqueue("pid") for _ in range(30)]
    queue.wait_empty()

    tasks_by_pid = Counter(queue.task(each)["result"] for each in thin)
    assert sum(tasks_by_pid.values()) == 30 and len(tasks_by_pid) == 5
    assert max(tasks_by_pid.values()) == 7
    fat = [queue.wait_status(queue.enqueue("pid", {"leak": 200 << 20}), "completed") for _ in range(4)]
    pids = [task["result"] for task in fat]
    assert pids[0] == pids[1] != pids[2] == pids[3], "each took two that leaked 200 MB"
    assert [task["attempts"] for task in fat] == [1] * 4, "what made it fat pays nothing"
    eventually(lambda: worker.metric("worker_child_restarts_total", reason="max_memory") == 2, within=20)
    assert worker.metric("worker_child_restarts_total", reason="max_tasks") == 4
    assert worker.metric("worker_child_restarts_total", reason="crash") == 0
    assert worker.health()[0] == 200

    drawn = [queue.enqueue("draw") for _ in range(14)]
    queue.wait_empty()
    assert len({number for each in drawn for number in queue.task(each)["result"]}) == 28
