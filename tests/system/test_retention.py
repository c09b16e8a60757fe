"""Completed tasks go when they are old enough; what failed stays; and all that was enqueued has been counted."""

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.waiting import eventually
from tests.fixtures.working import wait_counted

APP = """
from orchestrator import App, Discard

app = App()

@app.task("good")
def good():
    pass

@app.task("given-up")
def given_up():
    raise Discard("no")

@app.task("bad", max_retries=0)
def bad():
    raise ValueError("no")
"""


def test_completed_tasks_go_after_a_while_and_what_failed_stays(daemon: Start, queue: Queue) -> None:
    worker = daemon(
        APP, "--retention", "1s", DATABASE_URL=queue.url, CLEANUP_INTERVAL="100ms", HEARTBEAT_INTERVAL="200ms"
    )
    queue.rows("INSERT INTO tasks (type) SELECT 'good' FROM generate_series(1, 2500)")
    queue.rows("INSERT INTO tasks (id, type) VALUES ('c0ffee00-0000-4000-8000-000000000000', 'good')")
    kept = {queue.enqueue("given-up"): "failed", queue.enqueue("bad"): "dead_letter"}
    waiting = queue.enqueue("good", delay="1 hour")

    for task_id, status in kept.items():
        queue.wait_status(task_id, status)
    eventually(lambda: queue.one("SELECT count(*) FROM tasks") == 3, within=20, why="the completed are gone")
    assert dict(queue.rows("SELECT id::text, status::text FROM tasks")) == {**kept, waiting: "pending"}
    eventually(lambda: worker.metric("tasks_pruned_total") == 2501, within=20)
    wait_counted(worker, 2501, "tasks_completed_total", type="good", status="success")
    assert worker.metric("tasks_enqueued_total", type="good") in (2500, 2501)
