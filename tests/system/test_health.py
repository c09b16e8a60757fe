"""/health, /livez and /readyz of the real daemon: the guide's answer while it works, 503 with the reason otherwise."""

import json
import os
import signal
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.command import Command
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually

GATED = "import os, time\nwhile not os.path.exists('import.open'):\n    time.sleep(0.01)\n" + APP
DYING = APP + '\n\n@app.on_child_start\ndef boot():\n    if not os.path.exists("cured"):\n        os._exit(7)\n'


def wait_reason(worker: Daemon, beginning: str) -> None:
    """Until /health is 503 for this reason, and /readyz too, while /livez is content."""

    def is_so() -> bool:
        code, health = worker.health()
        assert (code, health["status"]) == (503, "unhealthy"), health
        assert health["reason"].startswith(beginning), health
        return True

    eventually(is_so, within=60)
    code, ready = worker.get("/readyz")
    assert code == 503
    assert json.loads(ready)["reason"].startswith(beginning)
    assert worker.get("/livez")[0] == 200


def test_a_worker_that_works_answers_as_the_guide_shows(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)

    code, health = worker.health()
    assert code == 200
    assert health == {
        "status": "healthy",
        "worker_id": queue.one("SELECT id FROM workers"),
        "version": __version__,
        "distributed": False,
    }
    assert f"-{worker.pid}-" in health["worker_id"]
    assert worker.get("/livez") == (200, '{\n  "status": "alive"\n}\n')
    assert worker.get("/readyz") == (200, '{\n  "status": "ready"\n}\n')
    assert worker.get("/nothing")[0] == 404


def test_while_it_starts_and_while_it_drains_it_says_so(
    daemon: Start, queue: Queue, gates: Gates, tmp_path: Path
) -> None:
    worker = daemon(GATED, "--pool-size", "1", is_awaited=False, DATABASE_URL=queue.url)
    wait_reason(worker, "starting")
    gates.open("import")
    worker.wait_ready()
    assert worker.health()[0] == 200

    queue.enqueue("hold")
    gates.wait_running("hold")
    worker.signal(signal.SIGTERM)
    wait_reason(worker, "draining: 1 tasks still run")
    gates.open("hold")
    assert worker.wait_exit(within=10) == 0


def test_while_the_database_is_away_it_says_since_when_and_the_pages_go_on(
    daemon: Start, private_postgres: PrivatePostgres
) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=private_postgres.url())
    private_postgres.stop()
    wait_reason(worker, "the database has been unreachable for")
    assert worker.metric("database_up") == 0
    assert worker.metric("worker_pool_capacity") == 1

    private_postgres.start()
    eventually(lambda: worker.health()[0] == 200, within=20)
    assert worker.metric("database_up") == 1


def test_while_the_database_lets_no_tasks_be_looked_for_it_says_so(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url, CLAIM_INTERVAL="200ms")
    queue.rows("ALTER TABLE tasks RENAME TO moved")
    wait_reason(worker, "the database has refused to look for tasks for")
    assert worker.metric("database_up") == 0
    assert worker.get("/readyz")[0] == 503

    queue.rows("ALTER TABLE moved RENAME TO tasks")
    eventually(lambda: worker.health()[0] == 200, within=20)

    before = worker.metric("database_errors_total", kind="refused") or 0.0
    queue.rows("ALTER TABLE tasks ADD CONSTRAINT full_disk CHECK (status <> 'claimed')")  # it lets them be looked for
    task_id = queue.enqueue("anything")
    eventually(lambda: (worker.metric("database_errors_total", kind="refused") or 0.0) >= before + 3, within=20)
    assert worker.log().count("sqlstate=23514") == 1, "it is told once"
    queue.rows("ALTER TABLE tasks DROP CONSTRAINT full_disk")
    queue.wait_status(task_id, "failed")

    queue.rows("ALTER TABLE tasks RENAME TO moved")
    wait_reason(worker, "the database has refused to look for tasks for")
    worker.signal(signal.SIGUSR2)
    eventually(lambda: worker.health()[1].get("state") == "paused", within=20, why="it is not asked for any")


def test_a_pool_whose_children_die_before_they_work_is_a_crash_loop_until_they_do_not(
    daemon: Start, queue: Queue, tmp_path: Path
) -> None:
    worker = daemon(DYING, "--pool-size", "1", is_awaited=False, DATABASE_URL=queue.url)
    wait_reason(worker, "crash loop: 1 of 1 children die before they work")
    assert "child exited with code 7" in worker.log()

    (tmp_path / "cured").touch()
    worker.signal(signal.SIGHUP)  # ends the backoff
    assert queue.wait_status(queue.enqueue("quick"), "completed")["attempts"] == 1
    eventually(lambda: worker.health()[0] == 200, within=20)


@pytest.mark.slow
def test_children_that_are_killed_while_they_idle_are_no_crash_loop_any_more_once_others_have_worked(
    daemon: Start, queue: Queue
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    killed: set[int] = set()

    def slots() -> dict[str, float]:
        return {dict(labels)["state"]: n for (name, labels), n in worker.metrics().items() if name == "worker_slots"}

    def kill_idle() -> None:
        """As soon as there is a pool of others: they have a title and were heard of."""
        eventually(lambda: len(worker.children()) == 2 and not killed & set(worker.children().values()), within=20)
        for pid in worker.children().values():
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)

    for _ in range(3):
        kill_idle()
    wait_reason(worker, "crash loop: 2 of 2 children die before they work")
    assert slots() == {"ready": 0, "backing_off": 2, "unconnected": 0}

    def is_healthy() -> bool:
        for _ in range(20):
            queue.enqueue("quick")
        queue.wait_empty(within=15)
        return worker.health()[0] == 200

    eventually(is_healthy, within=20)
    assert sum(slots().values()) == 2


def test_check_finds_the_port_taken_by_a_worker_that_runs_and_calls_that_no_problem(
    daemon: Start, queue: Queue, orchestratord_here: Command
) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    port = worker.address.rpartition(":")[2]
    done = orchestratord_here("check", DATABASE_URL=queue.url, METRICS_HOST="127.0.0.1", METRICS_PORT=port)
    assert f"warning  metrics: 127.0.0.1 port {port} is taken by an orchestratord that runs" in done.stdout
    assert done.returncode == 0

    elsewhere = {"METRICS_HOST": "127.0.0.1", "METRICS_PORT": port, "PROMETHEUS_MULTIPROC_DIR": "/dev/null"}
    done = orchestratord_here("check", DATABASE_URL=queue.url, **elsewhere)
    assert "problem  metrics: PROMETHEUS_MULTIPROC_DIR is '/dev/null'" in done.stdout
    assert done.returncode == 2
