"""The app: one task counts one log file. `orchestratord start --app examples.logs.app:app`

Every task may run twice: its child is killed after the commit, before the queue knows of it. So what a file adds up to
and the fact that it is counted are committed together; the second time that fact is there, and nothing is added.
"""

import os
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection as Connection

from examples.logs.parsing import Totals
from examples.logs.parsing import count_file as count
from orchestrator import App, Discard, RetryPolicy

app = App()
_database: Connection | None = None


def database() -> Connection:
    """This process's connection; a new one if there is none, or the old one was lost."""
    global _database
    if _database is None or _database.closed:
        _database = psycopg2.connect(os.environ["DATABASE_URL"])
    return _database


@app.on_child_start
def connect() -> None:
    """Here, not at import: children must not share the connection of the process that they are forked from."""
    database()


@app.on_child_stop
def disconnect() -> None:
    if _database is not None:
        _database.close()


@app.task("logs:file", max_retries=5, timeout=120.0, retry=RetryPolicy(base=0.2, cap=30.0))
def count_file(path: str) -> dict[str, int | bool]:
    """Add the file's requests to log_hits, unless they are there."""
    try:
        totals = count(Path(path))
    except FileNotFoundError as error:
        raise Discard(f"there is no file {path}") from error  # and there will be none: no use in trying again
    is_new = add(Path(path).name, totals)
    return {"lines": totals.lines, "malformed": totals.malformed, "was_added": is_new}


def add(name: str, totals: Totals) -> bool:
    """Add the totals of a file, in one transaction, unless the file has been added; whether it was added now."""
    with database() as transaction, transaction.cursor() as cursor:  # commits, or rolls back if anything raises
        cursor.execute(
            "INSERT INTO log_files (name, lines, malformed) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (name, totals.lines, totals.malformed),
        )
        if cursor.rowcount == 0:
            return False
        keys = sorted(totals.hits)  # all lock the rows in one order, so no two can wait for each other
        cursor.execute(
            """
            INSERT INTO log_hits AS known (hour, path, status, hits, bytes)
            SELECT * FROM unnest(%s::timestamptz[], %s::text[], %s::smallint[], %s::bigint[], %s::bigint[])
            ON CONFLICT (hour, path, status) DO UPDATE
            SET hits = known.hits + excluded.hits, bytes = known.bytes + excluded.bytes
            """,
            (
                [key.hour for key in keys],
                [key.path for key in keys],
                [key.status for key in keys],
                [totals.hits[key] for key in keys],
                [totals.bytes[key] for key in keys],
            ),
        )
        return True
