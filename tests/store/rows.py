"""Rows to begin with, and a look at them afterwards."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.model import Claim, ClaimRef, Outcome, Process, TaskStatus
from orchestrator.store import claims, workers
from orchestrator.store.connection import Connection

PROCESS = Process(boot_id="boot", pid_namespace="4026531836", hostname="host", pid=100, start_ticks=5)


def add_worker(connection: Connection, worker_id: str = "w") -> str:
    assert workers.register(connection, worker_id=worker_id, hostname="host", pool_size=2, version="1.0.0", within=5.0)
    return worker_id


def add_task(connection: Connection, **columns: Any) -> str:
    """One row of `tasks` with these columns, written as an operator might; its id."""
    given = {"type": "t", **columns}
    names = ", ".join(given)
    values = ", ".join(f"%({name})s" for name in given)
    rows = connection.execute(f"INSERT INTO tasks ({names}) VALUES ({values}) RETURNING id::text", given, within=5.0)
    return str(rows[0][0])


def add_tasks(connection: Connection, count: int) -> None:
    connection.execute("INSERT INTO tasks (type) SELECT 't' FROM generate_series(1, %(n)s)", {"n": count}, within=60.0)


def add_many(connection: Connection, count: int, **columns: str) -> None:
    """Rows by the thousand; the columns are SQL in which `i` counts them. Random ids would take half of the time."""
    given = {"type": "'t'", **columns}
    connection.execute(
        f"""
        INSERT INTO tasks (id, {", ".join(given)})
        SELECT overlay(first.id PLACING lpad(to_hex(i), 12, '0') FROM 25)::uuid, {", ".join(given.values())}
        FROM generate_series(1, %(n)s) AS i, (SELECT orchestrator_new_id()::text AS id OFFSET 0) AS first
        """,
        {"n": count},
        within=60.0,
    )


def value(connection: Connection, column: str, task_id: str) -> Any:
    """One column of a task."""
    rows = connection.execute(f"SELECT {column} FROM tasks WHERE id = %(id)s", {"id": task_id}, within=5.0)
    return rows[0][0]


def values(connection: Connection, columns: str, task_id: str) -> tuple[Any, ...]:
    """Several columns of a task."""
    return connection.execute(f"SELECT {columns} FROM tasks WHERE id = %(id)s", {"id": task_id}, within=5.0)[0]


def claim(connection: Connection, limit: int = 1, *, worker_id: str = "w", slot: int = 0) -> tuple[Claim, ...]:
    """Claims and does nothing else."""
    return claims.finish_and_claim(connection, [], worker_id=worker_id, slot=slot, limit=limit, within=10.0).claims


def finish(connection: Connection, outcomes: Sequence[Outcome]) -> claims.Batch:
    """Writes outcomes and does nothing else."""
    return claims.finish_and_claim(connection, outcomes, worker_id="w", slot=0, limit=0, within=10.0)


def ending(of: Claim, status: TaskStatus = TaskStatus.COMPLETED, **more: Any) -> Outcome:
    """An outcome of this claim: an execution that took from 2 s to 1 s ago."""
    now = time.monotonic()
    given = {"attempt": of.attempt, "started_monotonic": now - 2.0, "ended_monotonic": now - 1.0, **more}
    return Outcome(of.task_id, of.token, of.type, status, **given)


def reference(of: Claim) -> ClaimRef:
    return ClaimRef(of.task_id, of.token)


def declare_dead(connection: Connection, worker_id: str) -> None:
    connection.execute(
        "UPDATE workers SET declared_dead_at = clock_timestamp() WHERE id = %(id)s", {"id": worker_id}, within=5.0
    )


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Runs these in threads that start together; their results in order. Each needs a connection of its own."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        barrier.wait(10)
        try:
            results[index] = calls[index]()
        except Exception as error:  # noqa: BLE001 - it is the caller's result
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def in_background(call: Callable[[], Any]) -> Callable[[], Any]:
    """Starts it in a thread; the returned function waits for its result, or raises what it raised."""
    results: list[Any] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - it is the caller's result
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def result() -> Any:
        thread.join(60)
        assert not thread.is_alive()
        if errors:
            raise errors[0]
        return results[0]

    return result


def wait_until(is_so: Callable[[], bool], within: float = 30.0) -> None:
    """Waits for a fact by asking for it; fails when it doesn't come true in time."""
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true in time"


def is_waiting_for_a_lock(observer: Connection, backend_pid: int) -> bool:
    rows = observer.execute(
        "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %(pid)s", {"pid": backend_pid}, within=5.0
    )
    return bool(rows) and rows[0][0] == "Lock"


def pid_of(connection: Connection) -> int:
    return int(connection.execute("SELECT pg_backend_pid()", within=5.0)[0][0])
