"""A toy of the database: one SQLite file that supervisor, children and test share, with claims fenced by token."""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.model import Claim, Outcome, OwnedClaim, TaskStatus

_SCHEMA = """
CREATE TABLE tasks (
    number INTEGER PRIMARY KEY, type TEXT, payload TEXT, status TEXT DEFAULT 'pending', attempts INTEGER DEFAULT 0,
    max_retries INTEGER, timeout REAL, token INTEGER, slot INTEGER, error TEXT, result TEXT, writer TEXT
);
CREATE TABLE tokens (token INTEGER PRIMARY KEY AUTOINCREMENT);
CREATE TABLE births (slot INTEGER, incarnation INTEGER, pid INTEGER, parent INTEGER, at REAL, code TEXT);
CREATE TABLE orders (kind TEXT, facts TEXT, at REAL);
CREATE TABLE notes (name TEXT, value TEXT);
"""


class ToyStore:
    """One process's connection. Open it after the fork; a SIGKILL at any moment leaves whole transactions."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._connection = sqlite3.connect(self._path, timeout=20.0, isolation_level=None)
        self._connection.execute("PRAGMA synchronous = OFF")

    @staticmethod
    def create(path: str | Path) -> "ToyStore":
        store = ToyStore(path)
        store._connection.execute("PRAGMA journal_mode = WAL")
        store._connection.executescript(_SCHEMA)
        return store

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, params).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written in it is seen by others at once, at its end."""
        self._connection.execute("BEGIN IMMEDIATE")
        yield
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def add(self, type: str, *, max_retries: int | None, timeout: float | None, payload: dict[str, Any]) -> int:
        sql = "INSERT INTO tasks (type, payload, max_retries, timeout) VALUES (?, ?, ?, ?) RETURNING number"
        return int(self.rows(sql, type, json.dumps(payload), max_retries, timeout)[0][0])

    def claim(self, limit: int, slot: int) -> list[Claim]:
        self._connection.execute("BEGIN IMMEDIATE")
        pending = self.rows(
            "SELECT number, type, payload, attempts, max_retries, timeout FROM tasks"
            " WHERE status = 'pending' ORDER BY number LIMIT ?",
            limit,
        )
        claims = []
        for number, type_name, payload, attempts, max_retries, timeout in pending:
            token = self.take(number, slot)
            task_id = f"{number:036d}"
            claims.append(Claim(task_id, type_name, token, payload, attempts + 1, max_retries, timeout, False))
        self._connection.execute("COMMIT")
        return claims

    def take(self, number: int, slot: int) -> int:
        """The token by which this task is the slot's from now on."""
        token = int(self.rows("INSERT INTO tokens DEFAULT VALUES RETURNING token")[0][0])
        self.rows("UPDATE tasks SET status = 'claimed', token = ?, slot = ? WHERE number = ?", token, slot, number)
        return token

    def finish(self, outcomes: Sequence[Outcome], writer: str) -> None:
        """Write outcomes; one whose claim is not the task's any more changes nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        for each in outcomes:
            self.rows(
                "UPDATE tasks SET status = ?, attempts = ?, error = ?, result = ?, writer = ?, token = NULL"
                " WHERE token = ?",
                each.status.value, each.attempt, each.error, each.result, writer, each.token,
            )  # fmt: skip
        self._connection.execute("COMMIT")

    def mark_running(self, token: int) -> None:
        self.rows("UPDATE tasks SET status = 'running' WHERE token = ?", token)

    def release(self, token: int) -> None:
        self.rows("UPDATE tasks SET status = 'pending', token = NULL, slot = NULL WHERE token = ?", token)

    def owned(self, slot: int | None) -> tuple[OwnedClaim, ...]:
        sql = "SELECT number, token, slot FROM tasks WHERE token IS NOT NULL AND slot = coalesce(?, slot)"
        return tuple(OwnedClaim(f"{number:036d}", token, its_slot) for number, token, its_slot in self.rows(sql, slot))

    def record_birth(self, slot: int, incarnation: int, pid: int, parent: int, code: str) -> None:
        sql = "INSERT INTO births VALUES (?, ?, ?, ?, ?, ?)"
        self.rows(sql, slot, incarnation, pid, parent, time.monotonic(), code)

    def record_order(self, kind: str, facts: object) -> None:
        self.rows("INSERT INTO orders VALUES (?, ?, ?)", kind, json.dumps(facts), time.monotonic())

    def note(self, name: str, value: object) -> None:
        """Something that a handler tells the test."""
        self.rows("INSERT INTO notes VALUES (?, ?)", name, json.dumps(value))

    def notes(self, name: str) -> list[Any]:
        return [json.loads(value) for (value,) in self.rows("SELECT value FROM notes WHERE name = ?", name)]

    def statuses(self) -> dict[str, int]:
        return dict(self.rows("SELECT status, count(*) FROM tasks GROUP BY status"))

    def status(self, number: int) -> TaskStatus:
        return TaskStatus(self.rows("SELECT status FROM tasks WHERE number = ?", number)[0][0])
