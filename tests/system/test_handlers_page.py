"""The app of docs/handlers.md, through the real daemon: what the page says of it is what one sees."""

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.fixtures.command import clean_environment
from tests.fixtures.daemon import Daemon, Queue, Start

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "handlers.md").read_text()
APP, SQLALCHEMY, DJANGO, DJANGOS_WORKER, SENTRY, TRACED = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def billing(daemon: Start, queue: Queue, pool_size: int = 2) -> Daemon:
    queue.rows("CREATE TABLE payments (task_id uuid PRIMARY KEY, invoice integer, cents integer)")
    return daemon(APP, "--pool-size", str(pool_size), DATABASE_URL=queue.url)


def end_connections_of_users(queue: Queue, count: int) -> None:
    """Those of handlers, which have no name; they are gone then."""
    ending = """
        SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND application_name = ''
          AND pid <> pg_backend_pid()
    """
    assert queue.rows(ending) == [(True,)] * count


def test_a_payment_is_stored_once_however_often_its_task_runs(daemon: Start, queue: Queue) -> None:
    worker = billing(daemon, queue)
    task_id = queue.enqueue("invoice:pay", {"invoice": 17, "cents": 100})

    task = queue.wait_status(task_id, "completed")
    assert task["result"] == {"invoice": 17, "currency": "EUR"}
    assert f"task_id={task_id}" in worker.wait_log("invoice 17 is paid")
    queue.rows("UPDATE tasks SET status = 'pending' WHERE id = %s", task_id)  # as the operations guide has it

    queue.wait_status(task_id, "completed")
    assert queue.rows("SELECT invoice, cents FROM payments") == [(17, 100)]


def test_a_lost_connection_fails_one_task_and_not_every_one_after_it(daemon: Start, queue: Queue) -> None:
    billing(daemon, queue, pool_size=1)
    queue.wait_status(queue.enqueue("invoice:pay", {"invoice": 1, "cents": 100}), "completed")
    end_connections_of_users(queue, 1)

    unlucky, next_one = (queue.enqueue("invoice:pay", {"invoice": n, "cents": 100}) for n in (2, 3))

    assert queue.wait_status(next_one, "completed")["attempts"] == 1
    assert queue.task(unlucky)["attempts"] >= 1


def test_it_ends_as_the_table_says(daemon: Start, queue: Queue) -> None:
    billing(daemon, queue)
    free, unknown = (
        queue.enqueue("invoice:pay", payload) for payload in ({"invoice": 1, "cents": 0}, {"invoice": 1, "euros": 1})
    )
    reminder = queue.enqueue("invoice:remind", {"invoice": 1})

    assert "invoice 1 has nothing to pay" in queue.wait_status(free, "failed")["last_error"]
    refused = queue.wait_status(unknown, "failed")["last_error"]
    assert "missing cents" in refused and "unknown euros" in refused
    assert queue.wait_status(reminder, "completed")["attempts"] == 2


@pytest.mark.slow
def test_an_engine_made_at_import_connects_in_each_child_and_anew_where_it_was_cut_off(
    daemon: Start, queue: Queue
) -> None:
    queue.rows("CREATE TABLE items AS SELECT n AS id, 1 AS shelf FROM generate_series(1, 7) AS n")
    worker = daemon(SQLALCHEMY, "--pool-size", "1", DATABASE_URL=queue.url.replace("postgres://", "postgresql://"))
    children = worker.children()
    assert queue.wait_status(queue.enqueue("shelf:count", {"shelf": 1}), "completed")["result"] == 7
    end_connections_of_users(queue, 1)

    again = queue.enqueue("shelf:count", {"shelf": 1}, max_retries=0)

    assert queue.wait_status(again, "completed")["result"] == 7
    assert worker.children() == children


SETTINGS = """
import os
from psycopg.conninfo import conninfo_to_dict
url = conninfo_to_dict(os.environ["DATABASE_URL"])
names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True,
                         **{name: url.get(key, "") for name, key in names.items()}}}
INSTALLED_APPS = ["stock.apps.Stock"]
"""

APPS = """
from django.apps import AppConfig

class Stock(AppConfig):
    name = "stock"
    def ready(self):
        from stock import tasks
"""

MODELS = """
from django.db import models

class Item(models.Model):
    shelf = models.IntegerField()
    class Meta:
        db_table = "items"
"""


@pytest.mark.slow
def test_djangos_connections_and_its_thread_stay_and_a_lost_one_is_made_anew(
    daemon: Start, queue: Queue, tmp_path: Path
) -> None:
    queue.rows("CREATE TABLE items AS SELECT n AS id, 1 AS shelf FROM generate_series(1, 7) AS n")
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / "models.py").write_text(MODELS)
    (tmp_path / "stock" / "apps.py").write_text(APPS)
    (tmp_path / "stock" / "tasks.py").write_text(DJANGO)
    (tmp_path / "settings.py").write_text(SETTINGS)
    site = {"DATABASE_URL": queue.url, "DJANGO_SETTINGS_MODULE": "settings"}
    checked = subprocess.run(
        [sys.executable, "-m", "django", "check"], cwd=tmp_path, env=clean_environment(PYTHONPATH=str(ROOT), **site)
    )
    assert checked.returncode == 0
    worker = daemon(DJANGOS_WORKER, "--pool-size", "1", **site)
    children = worker.children()
    for type_name in ("stock:count", "stock:count_async") * 2:
        assert queue.wait_status(queue.enqueue(type_name, {"shelf": 1}), "completed")["result"] == 7
    end_connections_of_users(queue, 2)

    for type_name in ("stock:count", "stock:count_async") * 2:
        queue.enqueue(type_name, {"shelf": 1}, max_retries=0)
    queue.wait_empty()

    assert queue.rows("SELECT DISTINCT status::text FROM tasks") == [("completed",)]
    assert worker.children() == children


class Sentry(ThreadingHTTPServer):
    """What errors a server of Sentry's is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Envelopes)
        self.errors: list[str] = []

    @property
    def dsn(self) -> str:
        return f"http://key@127.0.0.1:{self.server_address[1]}/1"


class _Envelopes(BaseHTTPRequestHandler):
    server: Sentry

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        parts = [json.loads(line) for line in body.splitlines() if line.startswith(b"{")]
        self.server.errors += [each["exception"]["values"][-1]["value"] for each in parts if "exception" in each]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    with Sentry() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_sentry_hears_of_every_error_from_a_child_that_stays(daemon: Start, queue: Queue, sentry: Sentry) -> None:
    worker = daemon(SENTRY, "--pool-size", "1", DATABASE_URL=queue.url, SENTRY_DSN=sentry.dsn)
    children = worker.children()
    for shelf in ([2, "b"], [3, 1], ["a", 1]):
        queue.enqueue("shelf:sort", {"shelf": shelf})
    queue.wait_empty()
    assert worker.children() == children

    assert worker.stop() == 0

    assert [error.partition("between ")[2] for error in sentry.errors] == [
        "instances of 'str' and 'int'",
        "instances of 'int' and 'str'",
    ]
    assert queue.rows("SELECT status::text, result FROM tasks ORDER BY id")[1] == ("completed", [1, 3])


@pytest.mark.slow
def test_spans_are_sent_before_a_child_leaves_which_stays_until_then(daemon: Start, queue: Queue) -> None:
    worker = daemon(TRACED, "--pool-size", "1", DATABASE_URL=queue.url)
    children = worker.children()
    for shelf in range(3):
        queue.enqueue("shelf:scan", {"shelf": shelf})
    queue.wait_empty()
    assert worker.children() == children

    assert worker.stop() == 0

    assert worker.log().count('"name": "shelf:scan"') == 3
    assert queue.rows("SELECT status::text, result FROM tasks ORDER BY id")[1] == ("completed", 1)
