"""The guide's environment variables: names, needs, defaults, and what each one does."""

import json
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from urllib.parse import urlsplit

import pytest

from orchestrator.config import FIELDS, Settings
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.errors import ConfigurationError
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.fleet import SLACK
from tests.fixtures.gates import APP, Gates
from tests.fixtures.ports import kept_port
from tests.fixtures.waiting import eventually
from tests.fixtures.working import queue_at
from tests.guide.text import rows

OF_THE_DAEMON = {
    **rows("Database Configuration"),
    **rows("Worker Configuration"),
    **rows("Distributed Mode"),
    **rows("Application Settings"),
}
del OF_THE_DAEMON["POSTGRES_PASSWORD"]  # docker-compose.yml's


@pytest.mark.parametrize("variable", OF_THE_DAEMON)
def test_a_variable_has_the_guides_name_and_default(variable: str) -> None:
    _, _, default, _ = OF_THE_DAEMON[variable]
    (field,) = (each for each in FIELDS if each.variable == variable)
    assert (field.default or "—") == default


def test_only_what_the_guide_says_is_required_is() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({}, {})
    required = [variable for variable, (_, need, _, _) in OF_THE_DAEMON.items() if need == "Yes"]
    assert [problem.variable for problem in caught.value.problems] == required


def test_a_database_url_in_the_guides_form_is_worked_on(daemon: Start, private_postgres_tcp: PrivatePostgres) -> None:
    parts = urlsplit(private_postgres_tcp.url())
    url = f"postgres://{parts.username}:{parts.password}@{parts.hostname}:{parts.port}/postgres?sslmode=disable"
    daemon(APP, "--pool-size", "1", DATABASE_URL=url)
    queue = queue_at(url)
    queue.wait_status(queue.enqueue("quick"), "completed")
    queue.connection.close()


def test_without_a_worker_pool_size_ten_tasks_run_at_once_and_no_more(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    worker = daemon(APP, DATABASE_URL=queue.url)
    queue.rows("INSERT INTO tasks (type) SELECT 'hold' FROM generate_series(1, 13)")
    eventually(lambda: worker.metric("worker_pool_active") == 10, within=20)
    running = "SELECT count(*) FROM tasks WHERE status = 'running'"
    eventually(lambda: queue.one(running) == 10, within=20)
    assert len(worker.children()) == worker.metric("worker_pool_capacity") == 10
    gates.open("hold")
    queue.wait_empty()


def test_a_task_of_which_nobody_is_told_is_found_within_a_claim_interval(daemon: Start, queue: Queue) -> None:
    queue.rows("ALTER TABLE tasks DISABLE TRIGGER wake_on_insert")
    daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    waited = "SELECT date_part('epoch', claimed_at - created_at) FROM tasks WHERE id = %s"
    for _ in range(3):
        task_id = queue.enqueue("quick")
        queue.wait_status(task_id, "completed")
        assert queue.one(waited, task_id) < 1.0 + SLACK, "the default of 1 s, and what a busy machine may add"


@pytest.fixture(scope="module")
def metrics_port() -> Iterator[int]:
    with kept_port() as port:
        yield port


@pytest.fixture(scope="module")
def set_up(lasting_daemon: Start, lasting_database: Queue, metrics_port: int) -> Daemon:
    """A worker to which much is said by variables."""
    return lasting_daemon(
        None, DATABASE_URL=lasting_database.url, WORKER_POOL_SIZE="1", DISTRIBUTED_MODE="true",
        HEARTBEAT_INTERVAL="500ms", WORKER_TIMEOUT="10s", LEADER_TERM="40s", METRICS_PORT=str(metrics_port),
        METRICS_HOST="0.0.0.0", DEBUG="true", LOG_FORMAT="json", ENQUEUE_EXAMPLES="true",
    )  # fmt: skip


@pytest.mark.usefixtures("set_up")
def test_a_worker_beats_every_heartbeat_interval(lasting_database: Queue) -> None:
    queue = lasting_database
    latest = "SELECT date_part('epoch', last_heartbeat) FROM workers"
    beats = [queue.one(latest)]
    while len(beats) < 6:
        eventually(lambda: queue.one(latest) > beats[-1], within=20)
        beats.append(queue.one(latest))
    gaps = [after - before for before, after in pairwise(beats[1:])]
    assert 0.4 < median(gaps) < 0.7, gaps


@pytest.mark.usefixtures("set_up")
def test_a_lease_lasts_for_the_leader_term(lasting_database: Queue) -> None:
    eventually(lambda: lasting_database.one("SELECT holder IS NOT NULL FROM leadership"), within=20)
    assert lasting_database.one("SELECT date_part('epoch', expires_at - renewed_at) FROM leadership") == pytest.approx(
        40, abs=0.1
    )


@pytest.mark.usefixtures("set_up")
def test_metrics_and_health_are_on_the_metrics_port(metrics_port: int) -> None:
    for page, told in (("metrics", "worker_pool_capacity 1.0"), ("health", '"status": "healthy"')):
        with urllib.request.urlopen(f"http://localhost:{metrics_port}/{page}", timeout=5) as answer:
            assert told in answer.read().decode()


def test_debug_logs_in_detail_and_structured(set_up: Daemon) -> None:
    lines = [json.loads(line) for line in set_up.log().splitlines()]
    assert {"DEBUG", "INFO"} <= {line["level"].upper() for line in lines}


def test_examples_are_enqueued_at_start_if_that_is_asked_for(set_up: Daemon, lasting_database: Queue) -> None:
    done = "SELECT count(*) FROM tasks WHERE type = 'example:task' AND status = 'completed'"
    eventually(lambda: lasting_database.one(done) >= 2, within=20)
    assert "no_app" not in set_up.log(), "it is meant to have no other"
