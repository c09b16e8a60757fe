"""Enqueues tasks of every kind for as long as a run lasts, and cancels some; notes each try with its answer."""

import json
import random
import threading
import time
from collections.abc import Callable

import psycopg2

from orchestrator import Client
from orchestrator.errors import OrchestratorError
from orchestrator.model import TaskStatus
from orchestrator.store import tasks
from orchestrator.store.connection import Connection
from tests.chaos.history import Cancel, Enqueue

KINDS = (("work", 60), ("flaky", 12), ("broken", 4), ("refused", 4), ("crash", 5), ("hang", 1), ("unknown", 2))
KEYS = 40
"""So few keys that the same one is used again and again, from two threads at once."""

BURST, BURST_EVERY = 400, 100
"""So many brief tasks come at once, with one of so many calls of the Client: then batches are large. Or tasks of some
milliseconds: then the supervisors collect their outcomes."""

BURST_MS = (0, 5)

CANCELS_A_SECOND = 3.0


class Workload:
    """Two threads enqueue: one with psycopg2 and the SQL function, one with the Client.

    `rate` is tasks a second in all. `is_varied`: bursts come besides, and a third thread cancels.
    """

    def __init__(self, url: str, *, seed: int, rate: float, longest_ms: int, is_varied: bool) -> None:
        self._url = url
        self._longest_ms = longest_ms
        self._is_varied = is_varied
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._number = 0
        self.enqueues: list[Enqueue] = []
        self.cancels: list[Cancel] = []
        acts = [(self._by_sql, rate / 2), (self._by_client, rate / 2), (self._cancel, CANCELS_A_SECOND)]
        self._threads = [
            threading.Thread(target=self._run, args=(act, often, random.Random(seed + number)))
            for number, (act, often) in enumerate(acts if is_varied else acts[:2])
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, act: Callable[[random.Random], None], often: float, chance: random.Random) -> None:
        while not self._is_over.wait(chance.expovariate(often)):
            act(chance)

    def _draw(self, chance: random.Random) -> tuple[int, str, dict[str, int], int, str | None, float | None]:
        with self._lock:
            self._number += 1
            number = self._number
        (kind,) = chance.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])
        is_long = kind == "work" and chance.random() < 0.3
        payload = {"n": number, "ms": chance.randrange(self._longest_ms) if is_long else 0}
        key = f"key-{chance.randrange(KEYS)}" if chance.random() < 0.1 else None
        delay = chance.uniform(0.1, 2.0) if chance.random() < 0.15 else None
        return number, kind, payload, chance.randrange(3), key, delay

    def _note(self, number: int, kind: str, key: str | None, delay: float | None, asked: float, answer: object) -> None:
        run_at = None if delay is None or key is not None else asked + delay  # a key's first task may be due earlier
        with self._lock:
            self.enqueues.append(Enqueue(number, kind, key, run_at, str(answer) if answer else None))

    def _by_sql(self, chance: random.Random) -> None:
        number, kind, payload, priority, key, delay = self._draw(chance)
        asked, answer = time.monotonic(), None
        try:
            connection = psycopg2.connect(self._url, connect_timeout=2)
            try:
                with connection, connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT enqueue_task(%s, %s::jsonb, priority => %s, idempotency_key => %s,"
                        " delay => %s * interval '1 second')",
                        (kind, json.dumps(payload), priority, key, delay),
                    )
                    (row,) = cursor.fetchall()
                answer = row[0]
            finally:
                connection.close()
        except psycopg2.Error:
            pass
        self._note(number, kind, key, delay, asked, answer)

    def _by_client(self, chance: random.Random) -> None:
        if self._is_varied and chance.randrange(BURST_EVERY) == 0:
            self._burst(chance.choice(BURST_MS))
        number, kind, payload, priority, key, delay = self._draw(chance)
        asked, answer = time.monotonic(), None
        try:
            with Client(self._url) as client:
                answer = client.enqueue(kind, payload, priority=priority, idempotency_key=key, delay=delay)
        except OrchestratorError:
            pass
        self._note(number, kind, key, delay, asked, answer)

    def _burst(self, ms: int) -> None:
        with self._lock:
            numbers = range(self._number + 1, self._number + BURST + 1)
            self._number += BURST
        answers: list[str | None] = [None] * BURST
        asked = time.monotonic()
        try:
            with Client(self._url) as client:
                answers = [*client.enqueue_many([("work", {"n": number, "ms": ms}) for number in numbers])]
        except OrchestratorError:
            pass
        for number, answer in zip(numbers, answers, strict=True):
            self._note(number, "work", None, None, asked, answer)

    def _cancel(self, chance: random.Random) -> None:
        """One that waits, as the command line does it."""
        try:
            connection = Connection.open(self._url, within=2.0, application_name="operator")
        except OrchestratorError:
            return
        try:
            waiting = tasks.list_tasks(connection, status=TaskStatus.PENDING, type=None, limit=50, within=2.0)
            if waiting:
                self._cancel_one(connection, chance.choice(waiting).id)
        except OrchestratorError:
            pass
        finally:
            connection.close()

    def _cancel_one(self, connection: Connection, task_id: str) -> None:
        try:
            done = tasks.cancel(connection, [task_id], within=2.0)
        except OrchestratorError:
            self.cancels.append(Cancel(task_id, None))
            raise
        if done:
            self.cancels.append(Cancel(task_id, time.monotonic()))
