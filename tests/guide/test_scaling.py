"""The guide's "Scaling Workers (Distributed Mode)", its health endpoint, and what leader_status tells."""

import json
import re
import urllib.request

from orchestrator import __version__
from tests.fixtures.daemon import Queue
from tests.fixtures.fleet import Fleet
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually
from tests.guide.text import code


def start(fleet: Fleet, queue: Queue, count: int) -> None:
    """So many workers, all at once."""
    for _ in range(count):
        fleet.add(APP, is_awaited=False, DATABASE_URL=queue.url)
    for each in fleet.workers:
        each.wait_ready()


def worker_ids(fleet: Fleet) -> set[str]:
    return {each.health()[1]["worker_id"] for each in fleet.alive()}


def test_with_distributed_mode_on_all_instances_they_share_one_queue(fleet: Fleet, queue: Queue, gates: Gates) -> None:
    start(fleet, queue, 3)
    queue.rows("INSERT INTO tasks (type) SELECT 'hold' FROM generate_series(1, 6)")
    owners = "SELECT DISTINCT worker_id FROM tasks WHERE status = 'running'"
    eventually(lambda: {row[0] for row in queue.rows(owners)} == worker_ids(fleet), within=20, why="each runs some")
    gates.open("hold")
    queue.wait_empty()
    assert queue.rows("SELECT DISTINCT attempts FROM tasks") == [(1,)], "none ran twice"


def test_each_worker_registers_itself_and_the_gauge_counts_them(fleet: Fleet, queue: Queue) -> None:
    for count in (1, 2):
        fleet.add(APP, DATABASE_URL=queue.url)
        assert {row[0] for row in queue.rows("SELECT id FROM workers")} == worker_ids(fleet)
        for each in fleet.alive():
            eventually(lambda each=each, count=count: each.metric("workers_total") == count, within=10)


def test_exactly_one_is_elected_and_leader_status_tells_which(fleet: Fleet, queue: Queue) -> None:
    start(fleet, queue, 2)
    leader = fleet.leader()
    statuses = [
        (dict(labels)["worker_id"], value)
        for each in fleet.alive()
        for (name, labels), value in each.metrics().items()
        if name == "leader_status"
    ]
    assert sorted(statuses) == sorted((name, leader.health()[1]["worker_id"] == name) for name in worker_ids(fleet))
    assert queue.one("SELECT id FROM workers WHERE is_leader") == leader.health()[1]["worker_id"]


def test_a_replica_that_is_added_takes_its_share_at_once(fleet: Fleet, queue: Queue, gates: Gates) -> None:
    first = fleet.add(APP, DATABASE_URL=queue.url)
    queue.rows("INSERT INTO tasks (type) SELECT 'hold' FROM generate_series(1, 4)")
    running = "SELECT count(*) FROM tasks WHERE status = 'running' AND worker_id LIKE %s"
    eventually(lambda: queue.one(running, f"%-{first.pid}-%") == 2, within=20)
    added = fleet.add(APP, DATABASE_URL=queue.url)
    eventually(lambda: queue.one(running, f"%-{added.pid}-%") == 2, within=20)
    gates.open("hold")
    queue.wait_empty()


def test_health_answers_with_the_guides_keys(fleet: Fleet, queue: Queue) -> None:
    worker = fleet.add(APP, DATABASE_URL=queue.url)
    guide = json.loads(code("Response"))
    with urllib.request.urlopen(f"{worker.address}/health", timeout=5) as answer:
        assert (answer.status, answer.headers.get_content_type()) == (200, "application/json")
        health = json.loads(answer.read())
    assert {key: type(value) for key, value in health.items() if key in guide} == {
        key: type(value) for key, value in guide.items()
    }
    assert (health["status"], health["distributed"]) == (guide["status"], guide["distributed"])
    assert health["version"] == __version__
    assert health["worker_id"] == queue.one("SELECT id FROM workers")
    hostname = re.escape(queue.one("SELECT hostname FROM workers"))
    assert re.fullmatch(rf"{hostname}-{worker.pid}-[0-9a-f]+", health["worker_id"]), "hostname-pid-random"
