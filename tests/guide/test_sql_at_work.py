"""The guide's SQL statements while workers run: the views show what goes on, the manual retries are just done."""

from collections import Counter
from pathlib import Path

import pytest

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.fleet import Fleet
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually
from tests.fixtures.working import notes
from tests.guide.text import code

BROKEN = (
    APP
    + """

def attempt(name):
    with open("notes", "a") as notes:
        notes.write(f"{name}\\\\n")
    if not os.path.exists("cured"):
        raise ValueError("the mail server is away")

@app.task("example:task", max_retries=0)
def example(name):
    attempt(name)

@app.task("example:other", max_retries=0)
def other(name):
    attempt(name)
"""
).replace("\\\\n", "\\n")

NUMBERED = """
INSERT INTO tasks (type, payload) SELECT %s, jsonb_build_object('name', %s || n) FROM generate_series(1, %s) AS n
"""
NUMBERED_HOLD = """
INSERT INTO tasks (type, payload) SELECT 'hold', jsonb_build_object('name', %s) FROM generate_series(1, %s)
"""
DEAD = 40


@pytest.fixture(scope="module")
def two_workers(lasting_daemon: Start, lasting_database: Queue) -> Fleet:
    """Two workers with two children each."""
    fleet = Fleet(lasting_daemon)
    for _ in range(2):
        fleet.add(BROKEN, DATABASE_URL=lasting_database.url)
    return fleet


@pytest.fixture
def queue(two_workers: Fleet, lasting_queue: Queue, lasting_folder: Path) -> Queue:
    """40 dead letters of one type beside 5 of another."""
    (lasting_folder / "cured").unlink(missing_ok=True)
    lasting_queue.rows(NUMBERED, "example:task", "task ", DEAD)
    lasting_queue.rows(NUMBERED, "example:other", "other ", 5)
    lasting_queue.wait_empty()
    return lasting_queue


def test_the_views_of_the_queue_show_what_two_workers_are_doing(
    two_workers: Fleet, queue: Queue, lasting_gates: Gates
) -> None:
    ids = {each.health()[1]["worker_id"] for each in two_workers.alive()}
    queue.rows(NUMBERED_HOLD, "views", 7)
    eventually(lambda: len(queue.rows(code("Currently running tasks"))) == 4, within=20)

    running = queue.rows(code("Currently running tasks"))
    assert {(type_name, worker_id) for _, type_name, worker_id, _ in running} == {("hold", each) for each in ids}
    assert all(started_at is not None for *_, started_at in running)
    eventually(lambda: queue.rows(code("Pending tasks by type")) == [("hold", 3)], within=15)
    dead = queue.rows(code("Dead letter tasks"))
    assert Counter(row[1] for row in dead) == {"example:task": DEAD, "example:other": 5}
    assert all("the mail server is away" in last_error and attempts == 1 for *_, last_error, attempts in dead)
    assert queue.rows(code("Orphaned tasks (assigned to non-existent workers)")) == []
    lasting_gates.open("views")
    queue.wait_empty()


def test_all_dead_letters_of_a_type_are_retried_by_hand_while_workers_run(queue: Queue, lasting_folder: Path) -> None:
    queue.rows("INSERT INTO tasks (type) SELECT 'quick' FROM generate_series(1, 2000)")
    (lasting_folder / "cured").touch()
    queue.rows(code("Retry all dead-letter tasks of a type"))

    queue.wait_empty()
    retried = "SELECT status::text, attempts, count(*) FROM tasks WHERE type = %s GROUP BY 1, 2"
    assert queue.rows(retried, "example:task") == [("completed", 1, DEAD)]
    assert queue.rows(retried, "example:other") == [("dead_letter", 1, 5)], "others stay where they are"
    assert queue.rows(retried, "quick") == [("completed", 1, 2000)]
    assert notes(lasting_folder) == {
        **{f"task {n}": 2 for n in range(1, DEAD + 1)},
        **{f"other {n}": 1 for n in range(1, 6)},
    }, "each ran once more"


def test_one_dead_letter_is_retried_by_hand_while_workers_run(queue: Queue, lasting_folder: Path) -> None:
    (dead, *_), *others = queue.rows(code("Dead letter tasks"))
    (lasting_folder / "cured").touch()
    queue.rows(code("Retry a specific dead-letter task").replace("task-uuid-here", str(dead)))

    task = queue.wait_status(str(dead), "completed")
    assert (task["attempts"], task["next_retry_at"]) == (1, None)
    # sorted: those that were written together are equally old
    assert sorted(queue.rows(code("Dead letter tasks"))) == sorted(others)


def test_a_task_that_is_retried_by_hand_while_it_runs_ends_once_with_the_later_outcome(
    two_workers: Fleet, queue: Queue, lasting_gates: Gates
) -> None:
    def stale() -> float:
        return sum(each.metric("tasks_stale_completions_total", type="hold") or 0 for each in two_workers.alive())

    stale_before = stale()
    task_id = queue.enqueue("hold", {"name": "twice"})
    before = queue.wait_status(task_id, "running")
    queue.rows(code("Retry a specific dead-letter task").replace("task-uuid-here", task_id))
    after = eventually(
        lambda: (task := queue.task(task_id))["status"] == "running" and task["claim_token"] != before["claim_token"],
        within=20,
        why="it runs a second time",
    )
    assert after
    lasting_gates.open("twice")
    task = queue.wait_status(task_id, "completed")
    assert (task["attempts"], task["result"]["attempt"]) == (1, 1)
    assert task["claim_token"] != before["claim_token"]
    eventually(
        lambda: stale() == stale_before + 1, within=20, why="the first execution's outcome was refused and counted"
    )
