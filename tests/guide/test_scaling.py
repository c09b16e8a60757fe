"""The guide's "Scaling Workers (Distributed Mode)", its health endpoint, and what leader_status tells."""

import json
import re
import urllib.request

import pytest

from orchestrator import __version__
from tests.fixtures.daemon import Queue, Start
from tests.fixtures.fleet import Fleet
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually
from tests.guide.text import code

HOLDING = """
INSERT INTO tasks (type, payload) SELECT 'hold', jsonb_build_object('name', %s) FROM generate_series(1, %s)
"""


@pytest.fixture(scope="module")
def pair(lasting_daemon: Start, lasting_database: Queue) -> Fleet:
    """Two workers, started at once, with two children each."""
    fleet = Fleet(lasting_daemon)
    for _ in range(2):
        fleet.add(APP, is_awaited=False, DATABASE_URL=lasting_database.url)
    for each in fleet.workers:
        each.wait_ready()
    return fleet


def worker_ids(fleet: Fleet) -> set[str]:
    return {each.health()[1]["worker_id"] for each in fleet.alive()}


def test_with_distributed_mode_on_all_instances_they_share_one_queue(
    pair: Fleet, lasting_queue: Queue, lasting_gates: Gates
) -> None:
    lasting_queue.rows(HOLDING, "shared", 4)
    owners = "SELECT DISTINCT worker_id FROM tasks WHERE status = 'running'"
    eventually(
        lambda: {row[0] for row in lasting_queue.rows(owners)} == worker_ids(pair), within=20, why="each runs some"
    )
    lasting_gates.open("shared")
    lasting_queue.wait_empty()
    assert lasting_queue.rows("SELECT DISTINCT attempts FROM tasks") == [(1,)], "none ran twice"


def test_exactly_one_is_elected_and_leader_status_tells_which(pair: Fleet, lasting_queue: Queue) -> None:
    leader = pair.leader()
    statuses = [
        (dict(labels)["worker_id"], value)
        for each in pair.alive()
        for (name, labels), value in each.metrics().items()
        if name == "leader_status"
    ]
    assert sorted(statuses) == sorted((name, leader.health()[1]["worker_id"] == name) for name in worker_ids(pair))
    assert lasting_queue.one("SELECT id FROM workers WHERE is_leader") == leader.health()[1]["worker_id"]


def wait_registered(fleet: Fleet, queue: Queue, count: int) -> None:
    """Until so many are, and each says so."""
    assert {row[0] for row in queue.rows("SELECT id FROM workers")} == worker_ids(fleet)
    for each in fleet.alive():
        eventually(lambda each=each: each.metric("workers_total") == count, within=20)  # type: ignore[misc]


def test_each_worker_registers_itself_takes_its_share_at_once_and_the_gauge_counts_them(
    pair: Fleet, lasting_queue: Queue, lasting_gates: Gates
) -> None:
    wait_registered(pair, lasting_queue, 2)
    lasting_queue.rows(HOLDING, "more", 6)
    running = "SELECT count(*) FROM tasks WHERE status = 'running' AND worker_id LIKE %s"
    eventually(lambda: lasting_queue.one(running, "%") == 4, within=20)
    added = pair.add(APP, DATABASE_URL=lasting_queue.url)
    eventually(lambda: lasting_queue.one(running, f"%-{added.pid}-%") == 2, within=20)
    wait_registered(pair, lasting_queue, 3)
    lasting_gates.open("more")
    lasting_queue.wait_empty()
    assert added.stop() == 0
    wait_registered(pair, lasting_queue, 2)


def test_health_answers_with_the_guides_keys(pair: Fleet, lasting_queue: Queue) -> None:
    worker = pair.workers[0]
    guide = json.loads(code("Response"))
    with urllib.request.urlopen(f"{worker.address}/health", timeout=5) as answer:
        assert (answer.status, answer.headers.get_content_type()) == (200, "application/json")
        health = json.loads(answer.read())
    assert {key: type(value) for key, value in health.items() if key in guide} == {
        key: type(value) for key, value in guide.items()
    }
    assert (health["status"], health["distributed"]) == (guide["status"], guide["distributed"])
    assert health["version"] == __version__
    (found,) = lasting_queue.rows("SELECT id, hostname FROM workers WHERE id LIKE %s", f"%-{worker.pid}-%")
    assert health["worker_id"] == found[0]
    hostname = re.escape(found[1])
    assert re.fullmatch(rf"{hostname}-{worker.pid}-[0-9a-f]+", health["worker_id"]), "hostname-pid-random"
