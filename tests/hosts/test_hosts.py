"""Three hosts with addresses of their own; a firewall cuts one off from the database without a word."""

import time

import pytest

import tests.fixtures.daemon
from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.daemon import Daemon, Queue
from tests.fixtures.fleet import ELECTED, NOTICED, SLACK, Fleet, leads, worker_of
from tests.fixtures.gates import APP, Gates
from tests.fixtures.proxy import Proxy
from tests.fixtures.waiting import eventually
from tests.fixtures.working import queue_at
from tests.hosts.network import Network


def start(fleet: Fleet, network: Network, url: str, monkeypatch: pytest.MonkeyPatch) -> list[Daemon]:
    """A worker on each host, the first of them alone long enough to lead."""
    entry = tests.fixtures.daemon.ENTRY
    workers = []
    for host in network.hosts:
        monkeypatch.setattr(tests.fixtures.daemon, "ENTRY", host.command(*entry))
        workers.append(fleet.add(APP, DATABASE_URL=url, METRICS_HOST=host.address))
    monkeypatch.setattr(tests.fixtures.daemon, "ENTRY", entry)
    assert [leads(worker) for worker in workers] == [True, False, False]
    return workers


def leaders(workers: list[Daemon]) -> list[Daemon]:
    """Never more than one by its own account, scraped from all hosts; two scrapes settle a change in between."""
    found = [worker for worker in workers if leads(worker)]
    return found if len(found) < 2 else [worker for worker in workers if leads(worker)]


def hold(queue: Queue, gates: Gates, victim: Daemon, others: list[Daemon]) -> str:
    """A task that runs on the victim until its gate is opened; the others, who took those before, have room."""
    elsewhere: list[str] = []
    for n in range(len(others) * 2 + 1):
        task_id = queue.enqueue("hold", {"name": f"task{n}"})
        if f"-{victim.pid}-" in worker_of(queue, task_id):
            for number, other_id in enumerate(elsewhere):
                gates.open(f"task{number}")
                queue.wait_status(other_id, "completed")
            return task_id
        elsewhere.append(task_id)
    raise AssertionError("the victim took none")


@pytest.mark.slow
@pytest.mark.parametrize("victims_number", [0, 1], ids=["the leader", "a follower"])
def test_a_host_that_is_cut_off_loses_its_tasks_to_the_others_and_comes_back_under_a_new_name(
    victims_number: int,
    private_postgres_tcp: PrivatePostgres,
    network: Network,
    fleet: Fleet,
    gates: Gates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    way_in = Proxy(private_postgres_tcp.url(), host=network.gateway)
    queue = queue_at(private_postgres_tcp.url())
    try:
        workers = start(fleet, network, way_in.url, monkeypatch)
        host, victim = network.hosts[victims_number], workers[victims_number]
        others = [worker for worker in workers if worker is not victim]
        task_id = hold(queue, gates, victim, others)
        before = queue.task(task_id)["worker_id"]

        host.cut_off(way_in.port)
        cut_at = time.monotonic()
        limit = NOTICED + SLACK + (ELECTED if victims_number == 0 else 0.0)

        def runs_elsewhere() -> bool:
            if leaders(others) and leads(victim):  # in this order: the victim's term has ended before another's begins
                pytest.fail("two lead at once")
            return queue.task(task_id)["worker_id"] not in (None, before)

        eventually(runs_elsewhere, within=limit, why="the task runs on another host")
        assert time.monotonic() - cut_at < limit + SLACK
        eventually(lambda: len(leaders(others)) == 1, within=ELECTED + SLACK)
        assert not leads(victim)

        for n in range(5):
            gates.open(f"task{n}")
        task = queue.wait_status(task_id, "completed")
        assert (task["attempts"], task["worker_id"] == before) == (2, False)
        host.reconnect()
        victim.wait_log("worker_declared_dead", within=40)
        assert queue.task(task_id)["worker_id"] == task["worker_id"], "what the cut-off one finished changed nothing"
        assert len(leaders(workers)) == 1
        eventually(lambda: queue.one("SELECT count(*) FROM workers") == 3, within=20)
        for other in others:
            assert other.stop() == 0
        queue.wait_status(queue.enqueue("quick"), "completed")
        eventually(lambda: leads(victim), within=ELECTED + SLACK, why="it is as good as any other again")
    finally:
        queue.connection.close()
        way_in.close()
