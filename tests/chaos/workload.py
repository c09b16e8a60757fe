"""Enqueues tasks of every kind for as long as a run lasts, and notes each try with its answer."""

import json
import random
import threading
import time

import psycopg2

from orchestrator import Client
from orchestrator.errors import OrchestratorError
from tests.chaos.history import Enqueue

KINDS = (("work", 60), ("flaky", 12), ("broken", 4), ("refused", 4), ("crash", 5), ("hang", 1), ("unknown", 2))
KEYS = 40
"""So few keys that the same one is used again and again, from two threads at once."""


class Workload:
    """Two threads: one with psycopg2 and the SQL function, one with the Client. `rate` is tasks a second in all."""

    def __init__(self, url: str, *, seed: int, rate: float, longest_ms: int) -> None:
        self._url = url
        self._rate = rate
        self._longest_ms = longest_ms
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._number = 0
        self.enqueues: list[Enqueue] = []
        self._threads = [
            threading.Thread(target=self._run, args=(self._by_sql, random.Random(seed))),
            threading.Thread(target=self._run, args=(self._by_client, random.Random(seed + 1))),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, enqueue: object, chance: random.Random) -> None:
        while not self._is_over.wait(chance.expovariate(self._rate / 2)):
            enqueue(chance)  # type: ignore[operator]

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
        number, kind, payload, priority, key, delay = self._draw(chance)
        asked, answer = time.monotonic(), None
        try:
            with Client(self._url) as client:
                answer = client.enqueue(kind, payload, priority=priority, idempotency_key=key, delay=delay)
        except OrchestratorError:
            pass
        self._note(number, kind, key, delay, asked, answer)
