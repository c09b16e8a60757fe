"""What a task may ask for (order, time, retries, limits …) and what its handler may answer, through the real daemon."""

import re
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psycopg
import psycopg2
import pytest

from orchestrator import Client
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.fleet import SLACK
from tests.fixtures.waiting import eventually

ANSWERING = """
import asyncio, decimal, os, time
from contextvars import ContextVar
from dataclasses import asdict
from orchestrator import App, Discard, Retry, RetryPolicy, current_task

app = App()
at_once = RetryPolicy(base=0.0, cap=0.0)
TAX = decimal.Decimal("1.19") - 1  # arithmetic at import, so that there is a context for it

def note(*words: object) -> None:
    with open("notes", "a") as notes:
        notes.write(" ".join(map(str, words)) + "\\n")

@app.task("discard")
def discard() -> None:
    raise Discard("the order was cancelled")

@app.task("again", max_retries=2)
def again() -> str:
    note("again", time.time())
    if current_task().attempt < 3:
        raise Retry("not yet", in_=0.3)
    return "the third time"

@app.task("again:for ever", max_retries=1)
def again_for_ever() -> None:
    raise Retry(in_=0.05)

@app.task("now", max_retries=4, retry=at_once)
def fail_now() -> None:
    raise ValueError("now")

@app.task("later", max_retries=4, retry=RetryPolicy(base=1000.0, cap=5000.0))
def fail_later() -> None:
    raise ValueError("later")

@app.task("never", max_retries=0)
def fail_once() -> None:
    raise ValueError("never again")

@app.task("usual", retry=at_once)
def fail_as_usual() -> None:
    raise ValueError("as usual")

@app.task("describe", max_retries=2, timeout=5.0, retry=at_once)
def describe() -> dict:
    task = current_task()
    if not task.is_last_attempt:
        raise ValueError("the last one tells")
    return asdict(task)

@app.task("nap")
def nap() -> None:
    time.sleep(0.026)

@app.task("async")
async def asynchronous(n: int) -> list:
    await asyncio.sleep(0.01)
    return [n, current_task().id, await asyncio.gather(*(double(i) for i in range(3)))]

async def double(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n

tenant = ContextVar("tenant", default="nobody")

@app.task("tenant")
def of_tenant(name: str) -> list:
    before = tenant.get(), decimal.getcontext().prec
    tenant.set(name)
    decimal.getcontext().prec = 5
    return before

@app.task("tenant:async")
async def of_tenant_async(name: str) -> list:
    return of_tenant(name)

@app.task("async:inside")
def run_a_loop() -> int:
    return asyncio.run(double(21))

@app.task("async:careless")
async def careless() -> None:
    asyncio.ensure_future(asyncio.sleep(600))

@app.task("note")
def note_it(what: str) -> None:
    note(what, time.time())
"""


@pytest.fixture(scope="module")
def worker(lasting_daemon: Start, lasting_database: Queue) -> Daemon:
    return lasting_daemon(ANSWERING, "--pool-size", "2", "--claim-interval", "200ms", DATABASE_URL=lasting_database.url)


@pytest.fixture
def queue(worker: Daemon, lasting_queue: Queue) -> Queue:
    """That of the worker, which looks at it every 0.2 s."""
    return lasting_queue


def notes(folder: Path) -> list[list[str]]:
    path = folder / "notes"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_a_handler_gives_up_asks_again_or_fails_by_its_types_policy(queue: Queue, lasting_folder: Path) -> None:
    discard, again, for_ever, now, later, never, usual = (
        queue.enqueue(name) for name in ("discard", "again", "again:for ever", "now", "later", "never", "usual")
    )
    overruled = {n: queue.enqueue(name, max_retries=n) for name, n in (("now", 1), ("never", 2))}

    task = queue.wait_status(discard, "failed")
    assert (task["attempts"], task["last_error"].partition("\n")[0]) == (
        1, "orchestrator.errors.Discard: the order was cancelled",
    )  # fmt: skip
    task = queue.wait_status(again, "completed")
    assert (task["attempts"], task["result"]) == (3, "the third time")
    moments = [float(moment) for what, moment in notes(lasting_folder) if what == "again"]
    waits = [after - before for before, after in pairwise(moments)]
    assert all(0.3 <= wait < 0.8 + SLACK for wait in waits) and min(waits) < 0.8, waits
    assert queue.wait_status(for_ever, "dead_letter")["attempts"] == 2
    assert queue.wait_status(now, "dead_letter")["attempts"] == 5
    assert queue.wait_status(never, "dead_letter")["attempts"] == 1
    assert queue.wait_status(usual, "dead_letter")["attempts"] == 4
    for n, task_id in overruled.items():
        assert queue.wait_status(task_id, "dead_letter")["attempts"] == n + 1, "enqueue wins over the handler"

    task = queue.wait_status(later, "pending")
    assert task["attempts"] == 1
    assert task["worker_id"] is None and task["claimed_at"] is None and task["started_at"] is None
    assert timedelta(0) < task["next_retry_at"] - task["updated_at"] <= timedelta(seconds=1000)


def test_the_log_warns_of_a_task_that_is_lost_and_of_no_attempt_that_another_follows(
    worker: Daemon, queue: Queue
) -> None:
    expected = {
        (queue.enqueue("now", max_retries=1), 1): ("INFO", "pending"),
        (queue.enqueue("discard"), 1): ("INFO", "failed"),
        (queue.enqueue("never"), 1): ("WARNING", "dead_letter"),
        (queue.enqueue("unheard of"), 1): ("WARNING", "failed"),
        (queue.enqueue("never", {"unknown": 1}), 1): ("WARNING", "failed"),
    }
    expected[next(iter(expected))[0], 2] = ("WARNING", "dead_letter")
    queue.wait_empty()

    line = re.compile(r"\S+ (\w+) +attempt_failed task_id=(\S+) .*attempt=(\d) then=(\w+)")
    ids = {task_id for task_id, _ in expected}
    told = {(found[2], int(found[3])): (found[1], found[4]) for found in line.finditer(worker.log()) if found[2] in ids}
    assert told == expected


def test_current_task_knows_the_execution_and_coroutines_run(queue: Queue) -> None:
    described = queue.enqueue("describe", max_retries=1, timeout="2.5 seconds")
    coroutines = {n: queue.enqueue("async", {"n": n}) for n in range(20)}
    inside = [queue.enqueue(name) for name in ("async:inside", "async:careless", "async:inside")]
    tenants = [queue.enqueue(name, {"name": "Ann"}) for name in ("tenant", "tenant:async") * 2]

    assert queue.wait_status(described, "completed")["result"] == {
        "id": described, "type": "describe", "attempt": 2, "max_retries": 1, "timeout_seconds": 2.5,
    }  # fmt: skip
    for n, task_id in coroutines.items():
        assert queue.wait_status(task_id, "completed")["result"] == [n, task_id, [0, 2, 4]]
    assert [queue.wait_status(each, "completed")["result"] for each in inside] == [42, None, 42]
    for task_id in tenants:
        assert queue.wait_status(task_id, "completed")["result"] == ["nobody", 28], "each has a context of its own"


def test_the_higher_priority_runs_first_then_the_older(daemon: Start, database_url: str, tmp_path: Path) -> None:
    queue = Queue(database_url)
    with Client(queue.url) as client:
        priorities = [0, 5, -3, 5, 0, 100, -3, 7] * 5
        client.enqueue_many(
            [
                {"type": "note", "payload": {"what": f"{n}"}, "priority": priority}
                for n, priority in enumerate(priorities)
            ]
        )
    daemon(ANSWERING, "--pool-size", "1", DATABASE_URL=queue.url)

    queue.wait_empty()

    ran = [int(what) for what, _ in notes(tmp_path)]
    assert ran == sorted(range(len(priorities)), key=lambda n: (-priorities[n], n))
    queue.connection.close()


def test_no_task_runs_before_its_time_and_none_much_later(queue: Queue, lasting_folder: Path) -> None:
    """On a busy machine one time or the other some may be late, but not each time."""
    interval = 0.2
    for _ in range(4):
        late = lateness(queue, lasting_folder)
        assert min(late.values()) >= 0.0, late
        is_soon = max(late.values()) < interval + 0.3  # that there is a sooner one is seen an interval later
        if is_soon and max(late["delay-4"], late["run_at-4"]) < 0.3:  # what was known before is run on time
            return
        (lasting_folder / "notes").unlink()
    raise AssertionError(late)


def lateness(queue: Queue, folder: Path) -> dict[str, float]:
    """Seconds between when each of some tasks was due and when it ran. One that is due in a day stays pending."""
    due: dict[str, float] = {}
    with Client(queue.url) as client:
        for n in range(5):
            due[f"delay-{n}"] = time.time() + 0.1 + 0.2 * n
            client.enqueue("note", {"what": f"delay-{n}"}, delay=0.1 + 0.2 * n)
            moment = datetime.now(UTC) + timedelta(seconds=0.15 + 0.2 * n)
            client.enqueue("note", {"what": f"run_at-{n}"}, run_at=moment)
            due[f"run_at-{n}"] = moment.timestamp()
        due["sql"] = time.time() + 0.3
        queue.enqueue("note", {"what": "sql"}, delay="300 milliseconds")
        far = client.enqueue("note", {"what": "far"}, delay=86400.0)
        due["past"] = time.time()
        client.enqueue("note", {"what": "past"}, run_at=datetime(2001, 1, 1, tzinfo=UTC))

    eventually(lambda: len(notes(folder)) == len(due), within=20, why="all ran")

    ran = {what: float(moment) for what, moment in notes(folder)}
    assert queue.task(far)["status"] == "pending"
    return {what: ran[what] - moment for what, moment in due.items()}


def test_a_task_with_a_key_is_stored_and_run_once(queue: Queue, lasting_folder: Path) -> None:
    with Client(queue.url) as client:
        ids = [client.enqueue("note", {"what": f"{n}"}, idempotency_key="welcome") for n in range(3)]
        ids += client.enqueue_many([{"type": "note", "payload": {"what": "m"}, "idempotency_key": "welcome"}] * 2)
        ids.append(queue.enqueue("note", {"what": "sql"}, idempotency_key="welcome"))
        queue.wait_status(ids[0], "completed")
        ids.append(client.enqueue("note", {"what": "afterwards"}, idempotency_key="welcome"))
        other = client.enqueue("async:inside", idempotency_key="welcome")
    assert set(ids) == {ids[0]} and other != ids[0]
    queue.wait_empty()
    assert [what for what, _ in notes(lasting_folder)] == ["0"]


@pytest.mark.parametrize("driver", [psycopg2, psycopg], ids=["psycopg2", "psycopg3"])
def test_what_a_transaction_enqueues_runs_once_it_is_committed(
    queue: Queue, lasting_folder: Path, driver: object
) -> None:
    queue.rows("CREATE TABLE orders (id text)")
    connection = driver.connect(queue.url)  # type: ignore[attr-defined]
    try:
        with Client("postgresql://nobody@nowhere.invalid/none") as client:
            for what, is_kept in (("undone", False), ("done", True)):
                cursor = connection.cursor()
                cursor.execute("INSERT INTO orders VALUES (%s)", (what,))
                client.enqueue("note", {"what": what}, connection=connection)
                client.enqueue_many([("note", {"what": f"{what}-{n}"}) for n in range(3)], connection=connection)
                outside = queue.enqueue("note", {"what": f"outside-of-{what}"})
                queue.wait_status(outside, "completed")
                assert what not in [note[0] for note in notes(lasting_folder)], "nothing runs before the commit"
                if is_kept:
                    connection.commit()
                else:
                    connection.rollback()
    finally:
        connection.close()
    eventually(lambda: len(notes(lasting_folder)) == 6, within=15, why="two outside and four inside")
    queue.wait_empty()
    ran = sorted(note[0] for note in notes(lasting_folder))
    assert ran == ["done", "done-0", "done-1", "done-2", "outside-of-done", "outside-of-undone"]
    assert queue.rows("SELECT id FROM orders") == [("done",)]
    queue.rows("DROP TABLE orders")


def test_no_outcome_waits_for_longer_than_50_ms_before_it_is_sent(daemon: Start, database_url: str) -> None:
    queue = Queue(database_url)
    daemon(ANSWERING, "--pool-size", "1", DATABASE_URL=queue.url)

    def late() -> int:
        """Of sixty. Some may be, where the machine is busy; of three in a row it would be the first."""
        queue.rows("DELETE FROM tasks")
        queue.rows("INSERT INTO tasks (type) SELECT 'nap' FROM generate_series(1, 60)")
        queue.wait_empty()
        return int(queue.one("SELECT count(*) FROM tasks WHERE updated_at - completed_at > interval '50 ms'"))

    eventually(lambda: late() < 6, within=20, why="hardly any is late")
    queue.connection.close()
