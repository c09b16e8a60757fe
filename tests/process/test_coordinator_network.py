"""The database threads behind a network that falls silent, breaks, or loses replies."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.mailbox import Audited, Finish, Written
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
    wire.loses_reply_to = outcome.task_id.encode()  # not to a duty's: then the outcome would not even be sent
    worker.coordination.post(Finish((outcome,)))
    eventually(lambda: database.value("SELECT status FROM tasks") == "completed")
    assert worker.coordination.outstanding == 1
    wire.loses_reply_to = None
    wire.cut()
    eventually(lambda: not worker.coordination.status().is_database_reachable)
    wire.loses_replies = False
    assert worker.reports.wait(Written).tokens == (outcome.token,)
    assert worker.count("tasks_completed_total", type="t", status="success") == 1
    assert worker.count("tasks_stale_completions_total", type="t") == 0


class ForgetfulWire(Wire):
    """Each connection is cut when the server answers its n-th request, n from `forgets`; when that is empty, none."""

    def __init__(self, host: str, port: int, forgets: list[int]) -> None:
        self.forgets = forgets
        self._deaf: set[socket.socket] = set()
        super().__init__(host, port)

    def _pump(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        last = self.forgets.pop(0) if is_request and self.forgets else 0
        with contextlib.suppress(OSError):
            for number in itertools.count(1):
                data = source.recv(65536)
                if not data or source in self._deaf:
                    break
                if is_request and number == last:
                    self._deaf.add(target)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_a_start_that_loses_the_reply_to_any_of_its_statements_ends_in_one_registered_worker(
    server: PrivatePostgres, database: Database
) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(server.url())
    wire = ForgetfulWire("127.0.0.1", int(parts["port"] or 0), [4, 5, 6, 7, 8, 9])
    url = f"postgresql://{parts['user']}:{parts['password']}@127.0.0.1:{wire.port}/{parts['dbname']}?sslmode=disable"
    try:
        with workers_of(url) as make:
            worker = make(heartbeat_interval=5.0, leader_term=20.0, database_wait=30.0)
            worker_id = worker.serve()
            assert wire.forgets == []
            assert worker.coordination.status().is_leader
            assert database.rows("SELECT id FROM workers") == [(worker_id,)]
            assert database.value("SELECT holder FROM leadership") == worker_id
    finally:
        wire.close()


def test_a_silent_network_is_noticed_survived_and_stopped_in_time(
    database: Database, wire: Wire, worker: Worker
) -> None:
    worker_id = worker.serve(has_sleepers=False)
    outcome = ended(*database.claim(worker_id))
    wire.is_silent = True
    worker.coordination.post(Finish((outcome,)))
    eventually(lambda: not worker.coordination.status().is_database_reachable)
    eventually(lambda: not worker.coordination.status().is_leader)
    assert not worker.coordination.overdue_seconds
    began = time.monotonic()
    worker.coordination.stop(within=1.0)
    assert time.monotonic() - began < 4.5, "a call of its threads takes longer"
    eventually(lambda: not {"pulse", "coordinator"} & {thread.name for thread in threading.enumerate()})
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
    assert (worker.coordination.status().term or 0) > (term or 0)
    assert database.value("SELECT status FROM tasks") == "completed"


def test_an_idle_worker_costs_one_statement_per_claim_interval_and_its_duties(url: str, wire: Wire) -> None:
    with workers_of(url) as make:
        worker = make(claim_interval=0.4, heartbeat_interval=10.0, leader_term=30.0, cleanup_interval=60.0)
        worker.serve()
        eventually(lambda: worker.coordination.status().counts is not None)
        worker.reports.wait(Audited)
        before, cpu, began = wire.requests, time.process_time(), time.monotonic()
        eventually(lambda: time.monotonic() - began > 2.0 and wire.requests - before >= 4)
        seconds, used = time.monotonic() - began, time.process_time() - cpu
        assert wire.requests - before <= seconds / (0.4 * 0.75) + 4
        assert used < seconds / 2, "waiting in this test costs some of it"
