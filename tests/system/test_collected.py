"""Outcomes of tasks of some milliseconds, which the supervisor writes for many children at once: whatever is killed or
stops in the midst of that, each is written once and counted once, and what has ended is not run again."""

import contextlib
import os
import signal

from orchestrator.board.layout import HEADER_BYTES, WORD, Word
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.waiting import eventually
from tests.fixtures.working import notes, wait_counted

APP = """
import time
from orchestrator import App, RetryPolicy

app = App()

@app.task("nap", max_retries=20, retry=RetryPolicy(base=0.0, cap=0.0))
def nap(n: int) -> int:
    time.sleep(0.005)
    with open("notes", "a") as notes:
        notes.write(f"{n}\\n")
    return n
"""
POOL = 6
ADD = "INSERT INTO tasks (type, payload) SELECT 'nap', jsonb_build_object('n', n) FROM generate_series(1, %s) AS n"
AT_WORK = "SELECT count(*) FROM tasks WHERE status IN ('claimed', 'running')"
BOARD = "/memfd:orchestrator "
COMPLETED = "SELECT count(*) FROM tasks WHERE status = 'completed'"
BY_CHILDREN = COMPLETED + " AND ended_token > 0"
TOGETHER = COMPLETED + " AND ended_token < 0"


def start(daemon: Start, queue: Queue, count: int) -> Daemon:
    """It works on so many, and its supervisor collects by now."""
    queue.rows(ADD, count)
    worker = daemon(APP, "--pool-size", str(POOL), DATABASE_URL=queue.url)
    eventually(lambda: queue.one(TOGETHER) > 100, within=30, why="outcomes are written together")
    return worker


def all_is_done(worker: Daemon, queue: Queue, count: int, *, repeated: int) -> None:
    """Each once, but for so many at most whose executions were killed."""
    queue.wait_empty()
    assert queue.one(COMPLETED + " AND result = payload -> 'n'") == count
    wait_counted(worker, count, "tasks_completed_total", type="nap", status="success")
    assert worker.metric("tasks_stale_completions_total", type="nap") in (None, 0)
    ran = notes(worker.log_path.parent)
    assert len(ran) == count
    assert ran.total() - count <= repeated


def test_a_child_that_is_killed_repeats_nothing_that_it_has_finished(daemon: Start, queue: Queue) -> None:
    count, kills = 4000, 5
    worker = start(daemon, queue, count)
    for _ in range(kills):
        goal = min(queue.one(COMPLETED) + 200, count)  # all of them, if this test stood still meanwhile
        os.kill(eventually(lambda: worker.children().get(0), within=20, why="it is there again"), signal.SIGKILL)
        eventually(lambda: queue.one(COMPLETED) >= goal, within=30, why="the others go on")  # noqa: B023
    all_is_done(worker, queue, count, repeated=kills)
    assert queue.one(TOGETHER) > count // 5, "a statement for many is the rule, while the supervisor has a processor"


def offering(worker: Daemon) -> int:
    """How many children's boards say so."""
    count = 0
    for name in os.listdir(f"/proc/{worker.pid}/fd"):
        with contextlib.suppress(OSError):
            path = f"/proc/{worker.pid}/fd/{name}"
            if os.readlink(path).startswith(BOARD):
                with open(path, "rb") as memory:
                    header = memory.read(HEADER_BYTES)
                count += int.from_bytes(header[Word.OFFERED * WORD :][:WORD], "little")
    return count


def test_while_claiming_is_paused_nobody_offers_anything_and_the_supervisor_rests(daemon: Start, queue: Queue) -> None:
    worker = start(daemon, queue, 6000)
    for _ in range(2):
        eventually(lambda: offering(worker) > POOL // 2, within=30, why="they are at work")
        worker.signal(signal.SIGUSR2)
        eventually(lambda: queue.one(AT_WORK) == 0, within=30, why="what was claimed has ended, or was handed back")
        eventually(lambda: offering(worker) == 0, within=10, why="all sleep")
        worker.signal(signal.SIGUSR2)
    queue.rows("DELETE FROM tasks WHERE status = 'pending'")
    queue.wait_empty()


def test_children_write_what_a_supervisor_that_stands_still_does_not(daemon: Start, queue: Queue) -> None:
    count = 6000
    worker = start(daemon, queue, count)
    worker.signal(signal.SIGSTOP)
    try:
        alone = queue.one(BY_CHILDREN)
        eventually(lambda: queue.one(BY_CHILDREN) > alone + 200, within=30, why="its children write them")
    finally:
        worker.signal(signal.SIGCONT)
    together = queue.one(TOGETHER)
    eventually(lambda: queue.one(TOGETHER) > together + 200, within=30, why="it collects again")
    all_is_done(worker, queue, count, repeated=0)


def test_what_was_collected_is_written_once_its_rows_are_free_again(daemon: Start, queue: Queue) -> None:
    count = 3000
    worker = start(daemon, queue, count)
    lock = "SELECT FROM tasks WHERE status = 'claimed' LIMIT 5 FOR UPDATE"  # looked at again when the lock is had
    with queue.connection.cursor() as cursor:
        cursor.execute("BEGIN")
        eventually(lambda: cursor.execute(lock) or cursor.rowcount, within=30, why="some of them have not ended")
        eventually(lambda: worker.log().count("rows_are_locked") > 0, within=30, why="somebody waits for them")
        cursor.execute("COMMIT")
    all_is_done(worker, queue, count, repeated=0)
