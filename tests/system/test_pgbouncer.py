"""Behind PgBouncer in transaction mode nothing may lean on a session: all works, and polling replaces LISTEN."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.store.connection import Connection
from orchestrator.store.prepared import settle
from tests.fixtures.debian import install
from tests.fixtures.fleet import CLAIM, ELECTED, NOTICED, SLACK, Fleet, leads
from tests.fixtures.gates import APP, Gates
from tests.fixtures.ports import unused_port
from tests.fixtures.waiting import eventually
from tests.fixtures.working import queue_at

SESSIONS = 6
TOLD_BY_POOLER = {"application_name", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings"}
CONFIGURATION = """
[databases]
postgres = host={server.hostname} port={server.port} user={server.username} password={server.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 100
logfile = {folder}/log
pidfile = {folder}/pid
"""


@pytest.fixture
def pooled_url(private_postgres_tcp: PrivatePostgres) -> Iterator[str]:
    """The database postgres of the private server, by way of six pooled sessions."""
    (program,) = install("pgbouncer", "pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    port = unused_port()
    server = urlsplit(private_postgres_tcp.url())
    (folder / "ini").write_text(CONFIGURATION.format(server=server, port=port, folder=folder, sessions=SESSIONS))
    command = [program, str(folder / "ini")]
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "nobody")
        shutil.chown(folder / "ini", "nobody")
        command[1:1] = ["-u", "nobody"]
    pooler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: socket.create_connection(("127.0.0.1", port)).close() is None, within=20)
        yield f"postgres://anybody@127.0.0.1:{port}/postgres"
    finally:
        pooler.terminate()
        pooler.wait(10)
        shutil.rmtree(folder)


def left_in_sessions(url: str) -> list[tuple[bool, list[str]]]:
    """Of each session that the pooler has: whether it passes for ours alone, and what settings were left in it."""
    left = []
    with ExitStack() as held:
        for _ in range(SESSIONS):
            connection = Connection.open(url, within=10.0, application_name="test")
            held.callback(connection.close)
            settle(connection, limit=18.0, lock_limit=5.0, within=5.0)
            connection.execute("BEGIN", within=5.0)
            names = connection.execute("SELECT name FROM pg_settings WHERE source = 'session'", within=5.0)
            left.append((connection.is_settled, [name for (name,) in names if name not in TOLD_BY_POOLER]))
    return left


@pytest.mark.slow
def test_workers_behind_a_transaction_pooler_do_all_that_they_do_without(
    private_postgres_tcp: PrivatePostgres, pooled_url: str, fleet: Fleet, gates: Gates
) -> None:
    first, second = (fleet.add(APP, DATABASE_URL=pooled_url) for _ in range(2))
    queue = queue_at(private_postgres_tcp.url())
    queue.rows("INSERT INTO tasks (type) SELECT 'quick' FROM generate_series(1, 3000)")
    queue.rows("SELECT enqueue_task('quick', delay => interval '300 ms') FROM generate_series(1, 20)")
    queue.wait_empty()
    assert queue.rows("SELECT status::text, attempts, count(*) FROM tasks GROUP BY 1, 2") == [("completed", 1, 3020)]

    assert queue.wait_status(queue.enqueue("quick"), "completed", within=CLAIM + SLACK)["attempts"] == 1, "by polling"
    held = queue.enqueue("hold")
    gates.wait_running("hold")
    owner = fleet.of(queue.wait_status(held, "running")["worker_id"])
    other = second if owner is first else first
    owner.kill()
    gates.open("hold")
    task = queue.wait_status(held, "completed", within=NOTICED + ELECTED + SLACK)
    assert (task["attempts"], fleet.of(task["worker_id"])) == (2, other)
    eventually(lambda: leads(other), within=ELECTED + SLACK)
    log = other.log()
    assert "ERROR" not in log and "refused" not in log, log
    assert other.stop() == 0
    assert queue.one("SELECT count(*) FROM workers WHERE declared_dead_at IS NULL") == 0
    queue.connection.close()
    assert left_in_sessions(pooled_url) == [(False, [])] * SESSIONS
