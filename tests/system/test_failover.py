"""The primary goes away: under load for some seconds, or for good, and a standby is promoted in its place."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orchestrator import Client
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.errors import StoreError
from orchestrator.store import schema
from orchestrator.store.connection import Connection
from tests.fixtures.daemon import Queue
from tests.fixtures.database import private_server
from tests.fixtures.fleet import Fleet
from tests.fixtures.waiting import eventually
from tests.fixtures.working import queue_at

APP = """
import os
from orchestrator import App

app = App()
out = None

@app.on_child_start
def open_record():
    global out
    out = os.open("record", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.task("recorded", max_retries=0)
def recorded(n: int):
    os.write(out, f"{n}\\n".encode())
"""

OUTAGE_SECONDS = 5.0
PER_SECOND = 1000


class Load:
    """Enqueues PER_SECOND tasks a second in batches, for as long as it is let; a batch that fails is forgotten."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.acknowledged: set[int] = set()
        self.tried = 0

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(60)

    def _run(self) -> None:
        size, number = PER_SECOND // 20, 0
        with Client(self._url) as client:
            while not self._is_over.wait(0.05):
                batch = range(number, number + size)
                number = self.tried = number + size
                try:
                    client.enqueue_many([("recorded", {"n": n}) for n in batch])
                except StoreError:
                    continue
                self.acknowledged.update(batch)


@pytest.mark.slow
def test_five_seconds_without_a_primary_at_a_thousand_tasks_a_second_lose_nothing(
    private_postgres_tcp: PrivatePostgres, fleet: Fleet, tmp_path: Path
) -> None:
    url = private_postgres_tcp.url()
    for _ in range(3):
        fleet.add(APP, DATABASE_URL=url, WORKER_TIMEOUT="3s", LEADER_TERM="3s")  # the outage is longer
    with Load(url) as load:
        eventually(lambda: len(load.acknowledged) > 2 * PER_SECOND, within=20)
        private_postgres_tcp.crash()
        down_at = time.monotonic()
        eventually(lambda: time.monotonic() - down_at > OUTAGE_SECONDS, within=OUTAGE_SECONDS + 1)
        private_postgres_tcp.start()
        before = len(load.acknowledged)
        eventually(lambda: len(load.acknowledged) > before + 2 * PER_SECOND, within=30)

    queue = queue_at(url)
    queue.wait_empty()
    present = {row[0] for row in queue.rows("SELECT (payload ->> 'n')::integer FROM tasks")}
    assert load.acknowledged <= present <= set(range(load.tried))
    assert queue.rows("SELECT status::text, attempts, count(*) FROM tasks GROUP BY 1, 2") == [
        ("completed", 1, len(present))
    ]
    ran = [int(line) for line in (tmp_path / "record").read_text().split()]
    assert set(ran) == present
    again = len(ran) - len(present)  # nobody died, so these are claims that the server forgot in its crash
    stale = "tasks_stale_completions_total"
    # each is told of, by its child or by its supervisor; by both if both asked at once
    eventually(
        lambda: again <= sum(each.metric(stale, type="recorded") for each in fleet.workers) <= 2 * again,
        within=20,
        why=f"{again} ran again",
    )
    assert queue.one("SELECT count(*) FROM workers WHERE declared_dead_at IS NULL") == 3, (
        "and nobody was taken for dead"
    )
    queue.connection.close()


@pytest.fixture
def standby(private_postgres_tcp: PrivatePostgres) -> Iterator[PrivatePostgres]:
    """A hot standby: a copy of the primary's files, in recovery, so read-only until it is promoted."""
    connection = Connection.open(private_postgres_tcp.url(), within=10, application_name="test")
    schema.migrate(connection, within=20)
    connection.close()

    def copy(folder: Path) -> None:
        private_postgres_tcp.stop()
        subprocess.run(["cp", "-a", str(private_postgres_tcp.data_folder), str(folder)], check=True)
        for name in ("lock", "socket"):
            subprocess.run(["rm", "-rf", str(folder / name)], check=True)
        mark, owner = folder / "cluster" / "standby.signal", (folder / "cluster" / "PG_VERSION").stat()
        mark.touch()
        os.chown(mark, owner.st_uid, owner.st_gid)
        private_postgres_tcp.start()

    with private_server(copy, listens_tcp=True) as server:
        yield server


def test_a_standby_is_passed_over_until_it_is_promoted(
    private_postgres_tcp: PrivatePostgres, standby: PrivatePostgres, fleet: Fleet
) -> None:
    hosts = [urlsplit(server.url()) for server in (standby, private_postgres_tcp)]
    addresses = ",".join(f"{each.hostname}:{each.port}" for each in hosts)
    url = f"postgresql://{hosts[0].username}:{hosts[0].password}@{addresses}/postgres"
    primary, promoted = queue_at(private_postgres_tcp.url()), Queue(standby.url())
    assert promoted.one("SELECT pg_is_in_recovery()")

    worker = fleet.add(APP, DATABASE_URL=url)
    primary.wait_status(primary.enqueue("recorded", {"n": 1}), "completed")
    primary.connection.close()
    private_postgres_tcp.crash()
    assert promoted.one("SELECT pg_promote()")
    task = promoted.wait_status(promoted.enqueue("recorded", {"n": 2}), "completed")
    assert task["attempts"] == 1
    eventually(lambda: worker.health()[0] == 200, within=20, why="each of its connections is back, not a child's alone")
    promoted.connection.close()
