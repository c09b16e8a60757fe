"""/metrics as the operations guide has it, from the real daemon: names, labels, buckets, meaning."""

import os
import signal
import statistics
import time
from pathlib import Path

from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.waiting import eventually

APP = """
import os, time
from prometheus_client import Counter
from orchestrator import App, Discard, RetryPolicy

app = App()
at_once = RetryPolicy(base=0.0, cap=0.0)
sold = Counter("shop_sold", "Things sold", ["thing"])

@app.task("good")
def good():
    sold.labels("hat").inc()

@app.task("flaky", max_retries=2, retry=at_once)
def flaky():
    raise ValueError("never")

@app.task("given-up")
def given_up():
    raise Discard("no")

@app.task("crash", max_retries=0)
def crash():
    os._exit(9)

@app.task("slow")
def slow(until: str):
    while not os.path.exists(until):
        time.sleep(0.01)
"""

TYPES = ("good", "flaky", "given-up", "crash", "slow")
DURATION_BUCKETS = ("0.1", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "300.0", "600.0", "+Inf")


def expect(worker: Daemon, value: float, name: str, **labels: str) -> None:
    eventually(lambda: worker.metric(name, **labels) == value, within=20, why=f"{name} {labels} is {value}")


def test_every_counter_is_there_at_zero_for_every_type(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)

    for each in TYPES:
        assert worker.metric("tasks_enqueued_total", type=each) == 0
        assert worker.metric("tasks_completed_total", type=each, status="success") == 0
        assert worker.metric("tasks_completed_total", type=each, status="failed") == 0
        assert worker.metric("tasks_dead_letter_total", type=each) == 0
        assert worker.metric("tasks_stale_completions_total", type=each) == 0
        expect(worker, 0, "tasks_pending", type=each)
        expect(worker, 0, "tasks_running", type=each)
    assert worker.metric("task_retries_total", type="flaky", attempt="2") == 0
    assert worker.metric("worker_pool_active") == 0
    assert worker.metric("worker_pool_capacity") == 2
    assert worker.metric("workers_total") == 1
    assert worker.metric("leader_status", worker_id=worker.health()[1]["worker_id"]) == 1


def test_each_metric_counts_what_the_guide_says(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    for each in ("good", "good", "flaky", "given-up", "crash"):
        queue.enqueue(each)
    queue.rows("INSERT INTO tasks (type) VALUES ('good')")  # by anyone, in any way
    queue.wait_empty()

    expect(worker, 3, "tasks_completed_total", type="good", status="success")
    expect(worker, 1, "tasks_completed_total", type="flaky", status="failed")
    expect(worker, 1, "tasks_completed_total", type="given-up", status="failed")
    expect(worker, 1, "tasks_completed_total", type="crash", status="failed")
    expect(worker, 1, "task_retries_total", type="flaky", attempt="1")
    expect(worker, 1, "task_retries_total", type="flaky", attempt="2")
    expect(worker, 1, "tasks_dead_letter_total", type="flaky")
    expect(worker, 1, "tasks_dead_letter_total", type="crash")
    assert worker.metric("tasks_dead_letter_total", type="given-up") == 0
    expect(worker, 3, "task_duration_seconds_count", type="flaky")
    assert worker.metric("tasks_completed_total", type="flaky", status="success") == 0
    found = {dict(labels)["le"] for name, labels in worker.metrics() if name == "task_duration_seconds_bucket"}
    assert found == set(DURATION_BUCKETS)
    assert (worker.metric("task_claim_duration_seconds_count") or 0) >= 1
    expect(worker, 3, "shop_sold_total", thing="hat")

    queue.enqueue("slow", {"until": "opened"})
    queue.enqueue("good", delay="1 hour")
    expect(worker, 1, "worker_pool_active")
    expect(worker, 1, "tasks_running", type="slow")
    expect(worker, 1, "tasks_pending", type="good")
    (tmp_path / "opened").touch()
    queue.wait_status(queue.enqueue("good"), "completed")
    expect(worker, 0, "worker_pool_active")
    expect(worker, 5, "tasks_enqueued_total", type="good")
    expect(worker, 1, "tasks_enqueued_total", type="slow")


def test_counters_never_go_back_when_children_are_killed(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    last = 0.0
    for _ in range(4):
        for each in [queue.enqueue("good") for _ in range(5)]:
            queue.wait_status(each, "completed")
        before = worker.children()
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        eventually(
            lambda before=before: (
                len(worker.children()) == 2  # type: ignore[misc]
                and not set(before.values()) & set(worker.children().values())
            ),
            within=15,
        )
        now = worker.metric("tasks_completed_total", type="good", status="success") or 0.0
        assert now >= last
        last = now

    expect(worker, 20, "tasks_completed_total", type="good", status="success")
    assert (worker.metric("worker_child_restarts_total", reason="died_idle") or 0) >= 1


def test_a_scrape_of_twenty_children_takes_less_than_a_tenth_of_a_second(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "20", DATABASE_URL=queue.url)
    queue.rows("INSERT INTO tasks (type) SELECT 'good' FROM generate_series(1, 2000)")
    queue.wait_empty()
    seconds = []
    for _ in range(9):
        began = time.monotonic()
        code, _ = worker.get("/metrics")
        seconds.append(time.monotonic() - began)
        assert code == 200

    assert statistics.median(seconds) < 0.1


def test_health_tells_what_the_guide_shows_and_why_not(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)

    code, health = worker.health()
    assert code == 200
    assert health["status"] == "healthy"
    assert health["version"] == "1.0.0"
    assert health["distributed"] is False
    assert f"-{worker.pid}-" in health["worker_id"]
    assert worker.get("/livez")[0] == 200
    assert worker.get("/readyz")[0] == 200
    assert worker.get("/nothing")[0] == 404


def test_children_that_die_at_boot_are_a_crash_loop(daemon: Start, queue: Queue) -> None:
    broken = APP + '\n\n@app.on_child_start\ndef boot():\n    raise RuntimeError("no pool")\n'
    worker = daemon(broken, "--pool-size", "2", is_awaited=False, DATABASE_URL=queue.url)

    def reason() -> str | None:
        code, health = worker.health()
        return health["reason"] if code == 503 and "crash" in str(health) else None

    assert eventually(reason, within=20)
    assert "no pool" in worker.log()
