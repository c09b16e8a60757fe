"""/metrics as the operations guide has it, from the real daemon: names, labels, buckets, meaning."""

import os
import random
import signal
import statistics
import time
from pathlib import Path

import psycopg2
import pytest
from prometheus_client import Histogram
from prometheus_client.parser import text_string_to_metric_families

from orchestrator import Client
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.fleet import SLACK
from tests.fixtures.waiting import eventually
from tests.guide.text import rows

APP = """
import os, time
from prometheus_client import Counter, Gauge, Histogram
from orchestrator import App, Discard, RetryPolicy

app = App()
at_once = RetryPolicy(base=0.0, cap=0.0)
sold = Counter("shop_sold", "Things sold", ["thing"])
open_carts = Gauge("shop_open_carts", "Carts that are open now", multiprocess_mode="livesum")
prices = Histogram("shop_price", "What was paid", buckets=[1, 10])

@app.task("good", max_retries=50, retry=at_once)
def good():
    sold.labels("hat").inc()
    prices.observe(5)

@app.task("flaky", max_retries=2, retry=at_once)
def flaky():
    raise ValueError("never")

@app.task("given-up")
def given_up():
    raise Discard("no")

@app.task("crash", max_retries=1, retry=at_once)
def crash():
    os._exit(9)

@app.task("crash-late", max_retries=0)
def crash_late():
    time.sleep(0.5)
    os._exit(9)

@app.task("slow")
def slow(until: str):
    open_carts.inc()
    while not os.path.exists(until):
        time.sleep(0.01)
"""

TYPES = ("good", "flaky", "given-up", "crash", "crash-late", "slow")
QUICK = {"HEARTBEAT_INTERVAL": "200ms"}
"""Counts of the queue are at most this old."""

KINDS = {"counter": rows("Counter Metrics"), "gauge": rows("Gauge Metrics"), "histogram": rows("Histogram Metrics")}
GUIDE = {
    name.removesuffix("_total") if kind == "counter" else name: (kind, set(labels.split(", ")) - {"—"})
    for kind, table in KINDS.items()
    for name, labels, *_ in table.values()
}
"""The tables of the operations guide; a counter's samples have `_total` behind its name."""

BUCKETS = {
    name: Histogram.DEFAULT_BUCKETS if bounds == "Default" else (*map(float, bounds.split(", ")), float("inf"))
    for name, _, bounds, _ in KINDS["histogram"].values()
}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def expect(worker: Daemon, value: float | None, name: str, **labels: str) -> None:
    def is_so() -> bool:
        assert worker.metric(name, **labels) == value, f"{name} {labels} is {worker.metric(name, **labels)}"
        return True

    eventually(is_so, within=20)


def counts(samples: Samples) -> Samples:
    """Those that may only grow."""
    endings = ("_total", "_count", "_bucket", "_sum")
    return {key: value for key, value in samples.items() if key[0].endswith(endings) and key[0] != "workers_total"}


def test_the_first_scrape_has_the_guides_metrics_with_its_labels_and_every_counter_at_zero(
    daemon: Start, queue: Queue
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)

    families = {each.name: each for each in text_string_to_metric_families(worker.get("/metrics")[1])}
    for name, (kind, labels) in GUIDE.items():
        assert families[name].type == kind
        own = [set(sample.labels) - {"le"} for sample in families[name].samples]
        assert own and all(each == labels for each in own), name
        if kind == "counter":
            assert {sample.name for sample in families[name].samples} == {f"{name}_total"}
    for name, bounds in BUCKETS.items():
        found = {float(sample.labels["le"]) for sample in families[name].samples if "le" in sample.labels}
        assert found == set(bounds), name

    first = worker.metrics()

    def value(name: str, **labels: str) -> float | None:
        return first.get((name, frozenset(labels.items())))

    for each in TYPES:
        for name in ("tasks_enqueued_total", "tasks_dead_letter_total", "tasks_stale_completions_total"):
            assert value(name, type=each) == 0
        for status in ("success", "failed"):
            assert value("tasks_completed_total", type=each, status=status) == 0
        assert value("task_duration_seconds_count", type=each) == 0
    assert [value("task_retries_total", type="flaky", attempt=str(n)) for n in (1, 2, 3)] == [0, 0, None]
    assert value("worker_pool_active") == 0
    assert value("worker_pool_capacity") == 2
    assert value("workers_total") == 1
    assert value("leader_status", worker_id=worker.health()[1]["worker_id"]) == 1
    for name in ("tasks_pending", "tasks_running"):  # once they were counted
        expect(worker, 0, name, type=TYPES[0])
        found = {dict(labels)["type"]: count for (each, labels), count in worker.metrics(name).items() if each == name}
        assert found.keys() >= set(TYPES) and set(found.values()) == {0}


def test_each_metric_counts_what_the_guide_says(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url, **QUICK)
    for each in ("good", "good", "good", "flaky", "given-up", "crash", "unknown"):
        queue.enqueue(each)
    queue.wait_empty()

    for each, success, failed in (
        ("good", 3, 0),
        ("flaky", 0, 1),
        ("given-up", 0, 1),
        ("crash", 0, 1),
        ("unknown", None, 1),
    ):
        expect(worker, failed, "tasks_completed_total", type=each, status="failed")
        expect(worker, success, "tasks_completed_total", type=each, status="success")
    for each, retries in (("flaky", (1, 1)), ("crash", (1, None)), ("good", (0, 0))):
        for number, count in enumerate(retries, 1):  # `attempt` is the number of the retry
            expect(worker, count, "task_retries_total", type=each, attempt=str(number))
    for each, dead in (("flaky", 1), ("crash", 1), ("given-up", 0), ("good", 0)):
        expect(worker, dead, "tasks_dead_letter_total", type=each)
    for each, attempts in (("good", 3), ("flaky", 3), ("crash", 2), ("given-up", 1)):
        expect(worker, attempts, "task_duration_seconds_count", type=each)
        assert worker.metric("task_duration_seconds_bucket", type=each, le="60.0") == attempts
    assert (worker.metric("task_claim_duration_seconds_count") or 0) >= 1

    queue.enqueue("slow", {"until": "opened"})
    queue.enqueue("good", delay="1 hour")
    expect(worker, 1, "worker_pool_active")
    expect(worker, 1, "tasks_running", type="slow")
    expect(worker, 1, "tasks_pending", type="good")
    (tmp_path / "opened").touch()
    expect(worker, 0, "worker_pool_active")
    expect(worker, 0, "tasks_running", type="slow")


def test_enqueued_counts_what_anybody_adds_however_and_nothing_that_is_rolled_back(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url, **QUICK)
    open_one = psycopg2.connect(queue.url)
    with open_one.cursor() as cursor:
        cursor.execute("INSERT INTO tasks (type) VALUES ('slow')")
    undone = psycopg2.connect(queue.url)
    with undone.cursor() as cursor:
        cursor.execute("INSERT INTO tasks (type) SELECT 'crash' FROM generate_series(1, 7)")
    undone.rollback()
    undone.close()
    queue.enqueue("good", idempotency_key="once")
    queue.enqueue("good", idempotency_key="once")
    queue.rows("INSERT INTO tasks (type, priority) VALUES ('good', 3), ('given-up', 0)")
    with Client(queue.url) as client:
        client.enqueue("good", {})
        client.enqueue_many([("flaky", {})] * 1234)
    open_one.commit()
    open_one.close()

    expect(worker, 1234, "tasks_enqueued_total", type="flaky")
    expect(worker, 3, "tasks_enqueued_total", type="good")
    expect(worker, 1, "tasks_enqueued_total", type="given-up")
    expect(worker, 1, "tasks_enqueued_total", type="slow")
    assert worker.metric("tasks_enqueued_total", type="crash") == 0


@pytest.mark.slow
def test_with_the_guides_own_intervals_the_count_of_the_enqueued_is_there_within_15_seconds(
    daemon: Start, queue: Queue
) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    queue.enqueue("good")
    eventually(lambda: worker.metric("tasks_enqueued_total", type="good") == 1, within=15 + SLACK)


def test_no_count_ever_goes_back_or_is_made_twice_while_children_and_forkservers_are_killed_and_code_is_reloaded(
    daemon: Start, queue: Queue
) -> None:
    worker = daemon(APP, "--pool-size", "4", DATABASE_URL=queue.url, **QUICK)
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    before: Samples = {}

    def look() -> None:
        nonlocal before
        now = counts(worker.metrics())
        fallen = {key: (value, now.get(key)) for key, value in before.items() if now.get(key, -1.0) < value}
        assert not fallen, f"seed {seed}"
        before = now

    killed, tasks = 8, 8 * 500
    for number in range(killed):
        queue.rows("INSERT INTO tasks (type) SELECT 'good' FROM generate_series(1, 500)")
        _strike(chance.choice(eventually(lambda: list(worker.children().values()), within=20)))
        if number % 4 == 1:
            _strike(worker.forkserver())
        if number % 4 == 3:
            worker.signal(signal.SIGHUP)
        look()
    while queue.one("SELECT count(*) FROM tasks WHERE status <> 'completed'"):
        look()
    expect(worker, tasks, "tasks_enqueued_total", type="good")

    attempts = queue.one("SELECT sum(attempts) FROM tasks")
    now = worker.metrics()
    print(f"seed {seed}: {killed} killed, {attempts} attempts")  # noqa: T201 pytest shows it if the test failed
    # what a child was counting in the very microseconds in which it was killed is lost: a batch, and hardly ever
    largest = 10 * 4
    assert tasks - largest <= (worker.metric("tasks_completed_total", type="good", status="success") or 0) <= tasks
    assert attempts - largest <= (worker.metric("task_duration_seconds_count", type="good") or 0) <= attempts
    retries = sum(value for (name, _), value in now.items() if name == "task_retries_total")
    assert retries == attempts - tasks, "what the supervisor counts is exact"
    assert worker.metric("worker_child_restarts_total", reason="crash") == retries
    assert attempts >= (worker.metric("shop_sold_total", thing="hat") or 0) >= tasks
    assert worker.metric("tasks_stale_completions_total", type="good") == 0


def test_what_a_child_sent_before_a_task_that_killed_it_is_counted_though_it_never_heard_what_became_of_it(
    daemon: Start, queue: Queue
) -> None:
    queue.rows("INSERT INTO tasks (type) SELECT 'good' FROM generate_series(1, 400)")
    queue.enqueue("crash-late", priority=-1)
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url, **QUICK)
    queue.wait_empty()
    expect(worker, 1, "tasks_completed_total", type="crash-late", status="failed")
    expect(worker, 400, "tasks_completed_total", type="good", status="success")
    expect(worker, 400, "task_duration_seconds_count", type="good")


def _strike(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has just been replaced


def test_the_apps_own_metrics_come_along_and_a_dead_childs_gauges_do_not_stay(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    for _ in range(4):
        queue.enqueue("good")
    task_id = queue.enqueue("slow", {"until": "never"}, max_retries=0)
    expect(worker, 1, "shop_open_carts")
    expect(worker, 4, "shop_price_bucket", le="10.0")  # the last that each of these tasks does
    assert worker.metric("shop_sold_total", thing="hat") == 4
    assert worker.metric("shop_price_bucket", le="1.0") == 0

    pid = next(pid for pid, title in worker.descendants().items() if task_id in title)
    os.kill(pid, signal.SIGKILL)
    expect(worker, 0, "shop_open_carts")
    assert worker.metric("shop_sold_total", thing="hat") == 4


@pytest.mark.slow
def test_a_thousand_types_that_nobody_has_do_not_hide_those_of_the_app(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    queue.rows("INSERT INTO tasks (type) SELECT 'typo:' || n FROM generate_series(1, 1100) AS n")
    queue.wait_empty(within=20)
    queue.wait_status(queue.enqueue("good"), "completed")
    expect(worker, 1, "tasks_completed_total", type="good", status="success")
    expect(worker, 1, "task_duration_seconds_count", type="good")


def test_torn_and_foreign_files_fail_no_scrape(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url, PROMETHEUS_MULTIPROC_DIR=str(folder))
    for _ in range(3):
        queue.enqueue("good")
    expect(worker, 3, "tasks_completed_total", type="good", status="success")
    (own,) = (each for each in folder.iterdir() if each.is_dir())
    whole = next(own.glob("counter_*.db")).read_bytes()
    (own / "counter_90.db").write_bytes(b"")
    (own / "counter_91.db").write_bytes(whole[:20])  # in the midst of its first entry
    (own / "histogram_92.db").write_bytes(os.urandom(5000))
    (own / "gauge_livesum_93.db").write_bytes(b"\xff" * 100)
    (own / "notes.txt").write_text("mine")

    code, text = worker.get("/metrics")
    assert code == 200
    assert worker.metric("tasks_completed_total", type="good", status="success") == 3
    assert worker.metric("leader_status", worker_id=worker.health()[1]["worker_id"]) == 1
    assert (worker.metric("metrics_file_failures_total") or 0) >= 3
    assert text.count("# TYPE tasks_completed_total counter") == 1
    assert worker.health()[0] == 200


@pytest.mark.slow
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
