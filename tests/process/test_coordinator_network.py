"""The database threads behind a network that falls silent, breaks, or loses replies."""

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.mailbox import Audited, Finish, Registered, Written
from orchestrator.model import Outcome, TaskStatus
from tests.fixtures.coordination import Database, Worker, eventually, workers_of
from tests.store.wire import Wire


@pytest.fixture
def server(private_postgres_tcp: PrivatePostgres) -> PrivatePostgres:
    return private_postgres_tcp


@pytest.fixture
def wire(server: PrivatePostgres) -> Iterator[Wire]:
    """A proxy before the test's server."""
    port = psycopg.conninfo.conninfo_to_dict(server.url())["port"]
    wire = Wire("127.0.0.1", int(port or 0))
    yield wire
    wire.close()


@pytest.fixture
def database(server: PrivatePostgres) -> Iterator[Database]:
    """SQL beside the proxy."""
    found = Database(server.url())
    yield found
    found.connection.close()


@pytest.fixture
def url(server: PrivatePostgres, wire: Wire) -> str:
    """A DATABASE_URL that leads through the proxy."""
    parts = psycopg.conninfo.conninfo_to_dict(server.url())
    return f"postgresql://{parts['user']}:{parts['password']}@127.0.0.1:{wire.port}/{parts['dbname']}"


@pytest.fixture
def worker(url: str) -> Iterator[Worker]:
    """A worker behind the proxy, not started, with a short lease."""
    with workers_of(url) as make:
        yield make(heartbeat_interval=0.5, leader_term=2.0, database_wait=30.0)


def ended(task_id: str, token: int) -> Outcome:
    now = time.monotonic()
    return Outcome(task_id, token, "t", TaskStatus.COMPLETED, 1, now - 1, now)


def test_an_outcome_whose_reply_was_lost_is_written_and_counted_once(
    database: Database, wire: Wire, worker: Worker
) -> None:
    worker_id = worker.serve(has_sleepers=False)
    outcome = ended(*database.claim(worker_id))
    wire.loses_replies = True
    worker.coordination.post(Finish((outcome,)))
    eventually(lambda: database.value("SELECT status FROM tasks") == "completed")
    assert worker.coordination.outstanding == 1
    wire.cut()
    eventually(lambda: not worker.coordination.status().is_database_reachable)
    wire.loses_replies = False
    assert worker.reports.wait(Written).tokens == (outcome.token,)
    assert worker.count("tasks_completed_total", type="t", status="success") == 1
    assert worker.count("tasks_stale_completions_total", type="t") == 0


def test_a_start_whose_replies_are_lost_at_any_step_ends_in_one_registered_worker(
    database: Database, wire: Wire, worker: Worker
) -> None:
    is_over = threading.Event()
    cuts: list[int] = []

    def disturb() -> None:
        """Lets a few replies through, ever more of them, before it cuts."""
        allowed = 5
        while not is_over.wait(0.0005):
            if wire.requests >= allowed:
                wire.loses_replies = True
                is_over.wait(0.02)
                wire.cut()
                cuts.append(wire.requests)
                wire.requests, allowed = 0, allowed + 2
                wire.loses_replies = False

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        worker.start()
        worker_id = worker.reports.wait(Registered).worker_id
    finally:
        is_over.set()
        disturber.join()
    assert len(cuts) >= 3, cuts
    eventually(lambda: worker.coordination.status().is_leader)
    assert database.rows("SELECT id FROM workers") == [(worker_id,)]
    assert database.value("SELECT holder FROM leadership") == worker_id


def test_a_silent_network_is_noticed_survived_and_stopped_in_time(
    database: Database, wire: Wire, worker: Worker
) -> None:
    worker_id = worker.serve(has_sleepers=False)
    outcome = ended(*database.claim(worker_id))
    wire.is_silent = True
    worker.coordination.post(Finish((outcome,)))
    eventually(lambda: not worker.coordination.status().is_database_reachable)
    eventually(lambda: not worker.coordination.status().is_leader)
    assert time.monotonic() - worker.coordination.status().last_progress < 12.0
    began = time.monotonic()
    worker.coordination.stop(within=1.0)
    assert time.monotonic() - began < 1.1
    assert not {"pulse", "coordinator"} & {thread.name for thread in threading.enumerate()}
    assert worker.coordination.outstanding == 1


def test_a_network_that_was_silent_for_longer_than_the_lease_finds_the_same_worker_at_work(
    database: Database, wire: Wire, worker: Worker
) -> None:
    worker_id = worker.serve(has_sleepers=False)
    term = worker.coordination.status().term
    outcome = ended(*database.claim(worker_id))
    wire.is_silent = True
    worker.coordination.post(Finish((outcome,)))
    eventually(lambda: database.value("SELECT expires_at < clock_timestamp() FROM leadership"))
    wire.cut()
    wire.is_silent = False
    worker.settle()
    eventually(lambda: worker.coordination.status().is_leader)
    assert worker.coordination.status().worker_id == worker_id
    assert worker.coordination.status().term == (term or 0) + 1
    assert database.value("SELECT status FROM tasks") == "completed"


def test_an_idle_worker_costs_one_statement_per_claim_interval_and_its_duties(url: str, wire: Wire) -> None:
    with workers_of(url) as make:
        worker = make(claim_interval=0.4, heartbeat_interval=10.0, leader_term=30.0, cleanup_interval=60.0)
        worker.serve()
        eventually(lambda: worker.coordination.status().counts is not None)
        worker.reports.wait(Audited)
        before, cpu, began = wire.requests, time.process_time(), time.monotonic()
        eventually(lambda: time.monotonic() - began > 2.0)
        seconds, used = time.monotonic() - began, time.process_time() - cpu
        polls = seconds / (0.4 * 0.75)
        assert polls / 2 < wire.requests - before <= polls + 4
        assert used < seconds / 2, "waiting in this test costs some of it"
