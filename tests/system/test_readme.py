"""The README's own app, through the real daemon: what it says one will see is what one sees."""

import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn

from orchestrator import Client
from tests.fixtures.command import Command, clean_environment
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.proc import is_alive
from tests.fixtures.waiting import eventually

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHOP = next(block for block in BLOCKS if "app = App()" in block)
ENQUEUE = next(block for block in BLOCKS if "from shop import" in block)
CLIENT = next(block for block in BLOCKS if "client = Client()" in block)


def shop(daemon: Start, queue: Queue, folder: Path) -> Daemon:
    (folder / "shop.py").write_text(SHOP)
    return daemon(None, "--app", "shop:app", "--pool-size", "2", DATABASE_URL=queue.url)


@pytest.fixture(scope="module")
def open_shop(lasting_daemon: Start, lasting_database: Queue, lasting_folder: Path) -> Daemon:
    """For the tests that leave it as it was."""
    return shop(lasting_daemon, lasting_database, lasting_folder)


def run_python(code: str, folder: Path, url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=clean_environment(DATABASE_URL=url, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("open_shop")
def test_the_first_task_runs_however_it_is_enqueued(
    lasting_queue: Queue, orchestratord: Command, lasting_folder: Path
) -> None:
    queue = lasting_queue
    enqueued = orchestratord("enqueue", "email:send", '{"to": "ann@example.org"}', DATABASE_URL=queue.url)
    run_python(ENQUEUE, lasting_folder, queue.url)
    by_sql = queue.one("""SELECT enqueue_task('email:send', '{"to": "ann@example.org"}', delay => '1 hour')""")

    task = queue.wait_status(enqueued.stdout.strip(), "completed")
    assert task["result"] == "sent 'Hello' to ann@example.org, attempt 1"
    assert queue.task(by_sql)["next_retry_at"] is not None
    assert queue.one("SELECT priority FROM tasks WHERE idempotency_key = 'welcome-42'") == 10
    listed = orchestratord("tasks", "list", DATABASE_URL=queue.url)
    assert "email:send" in listed.stdout


def test_the_client_enqueues_thousands_and_in_the_callers_transaction(queue: Queue, tmp_path: Path) -> None:
    own = "import os, psycopg2\nconnection = psycopg2.connect(os.environ['DATABASE_URL'])\n"
    run_python(own + CLIENT + "connection.close()\nclient.close()\n", tmp_path, queue.url)
    assert queue.one("SELECT count(*) FROM tasks WHERE type = 'email:send'") == 10_002


def test_a_task_that_segfaults_is_tried_again_and_its_error_names_signal_and_line(
    open_shop: Daemon, lasting_queue: Queue
) -> None:
    worker, queue = open_shop, lasting_queue
    task_id = queue.enqueue("crash")

    task = queue.wait_status(task_id, "dead_letter")

    assert task["attempts"] == 2
    assert "SIGSEGV" in task["last_error"]
    assert re.search(r'shop\.py", line \d+ in crash', task["last_error"])
    worker.wait_log(f"child_died.*SIGSEGV.*{task_id}.*attempt=1 then=pending")
    worker.wait_log(f"child_died.*SIGSEGV.*{task_id}.*attempt=2 then=dead_letter")
    eventually(lambda: len(worker.children()) == 2, within=15, why="a new child is there")


@pytest.mark.usefixtures("open_shop")
def test_a_task_that_hangs_is_killed_and_its_error_holds_the_stack(lasting_queue: Queue) -> None:
    queue = lasting_queue
    task = queue.wait_status(queue.enqueue("hang"), "dead_letter")
    assert task["attempts"] == 1
    assert 6.5 < (task["completed_at"] - task["started_at"]).total_seconds() < 12
    assert "time limit" in task["last_error"]
    assert re.search(r'shop\.py", line \d+ in hang', task["last_error"])


@pytest.mark.slow
def test_after_kill_9_the_next_start_takes_over_at_once(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    first = shop(daemon, queue, tmp_path)
    for _ in range(6):
        queue.enqueue("email:send", {"to": "ann"})
    running = "SELECT count(*) FROM tasks WHERE status = 'running'"
    eventually(lambda: queue.one(running) == 2, within=20, why="two tasks run, and have been for a moment")
    children = first.children().values()
    first.kill()
    eventually(lambda: not any(is_alive(pid) for pid in children), within=15, why="no child is left")

    second = shop(daemon, queue, tmp_path)
    queue.wait_empty()

    assert queue.rows("SELECT DISTINCT status::text FROM tasks") == [("completed",)]
    errors = [error for (error,) in queue.rows("SELECT last_error FROM tasks WHERE attempts = 2")]
    assert 1 <= len(errors) <= 2
    assert all(re.search("worker .* died while it ran this task", error) for error in errors)
    assert second.stop() == 0


@pytest.fixture
def make_role(queue: Queue) -> Iterator[Callable[[str], str]]:
    """Makes a role without rights; call it for its name."""
    made = []

    def make(name: str) -> str:
        made.append(f"{name}_{secrets.token_hex(4)}")
        queue.rows(f"CREATE ROLE {made[-1]} LOGIN PASSWORD 'p'")
        return made[-1]

    yield make
    for role in made:
        queue.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_rights_that_it_grants_are_enough(
    daemon: Start, queue: Queue, make_role: Callable[[str], str], tmp_path: Path
) -> None:
    (grants,) = re.findall(r"```sql\n(GRANT.*?)```", README, re.DOTALL)
    worker_role, web_role = make_role("worker"), make_role("web")
    queue.rows("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    queue.rows(grants.replace("worker_role", worker_role).replace("web_role", web_role))

    with Client(make_dsn(queue.url, user=web_role, password="p")) as client:
        ids = client.enqueue_many([("example:task", {}), {"type": "example:task", "idempotency_key": "k"}])
        assert client.enqueue("example:task", idempotency_key="k") == ids[1]
    worker = daemon(
        None, "--pool-size", "2", DATABASE_URL=make_dsn(queue.url, user=worker_role, password="p"),
        CLEANUP_INTERVAL="100ms", HEARTBEAT_INTERVAL="100ms", ENQUEUE_EXAMPLES="true",
    )  # fmt: skip
    for task_id in ids:
        queue.wait_status(task_id, "completed")
    queue.rows("INSERT INTO tasks (type, status, worker_id) VALUES ('example:task', 'running', 'gone')")
    queue.wait_empty(within=30)
    assert worker.stop() == 0
    assert "permission denied" not in worker.log()
