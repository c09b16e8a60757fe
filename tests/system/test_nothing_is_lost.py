"""Random kills under load: each of many tasks that record their runs ends as it should, none runs twice at once."""

import collections
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.daemon import Daemon, Queue, Start

APP = """
import os, time
from orchestrator import App, RetryPolicy, current_task

app = App()
out = None

@app.on_child_start
def open_record():
    global out
    out = os.open("record", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(what):
    task = current_task()
    os.write(out, f"{what} {task.id} {task.attempt} {os.getpid()} {time.monotonic_ns()}\\n".encode())

@app.task("recorded", max_retries=60, retry=RetryPolicy(base=0.05, cap=0.3))
def recorded(milliseconds: int = 0):
    note("start")
    time.sleep(milliseconds / 1000)
    note("end")
"""

ENQUEUE = """
INSERT INTO tasks (type, payload)
SELECT 'recorded', CASE WHEN random() < 0.3 THEN '{}' ELSE jsonb_build_object('milliseconds', (random() * 8)::int) END
FROM generate_series(1, %s)
"""
LEFT = "SELECT count(*) FROM tasks WHERE status IN ('pending', 'claimed', 'running')"


@dataclass
class Nemesis:
    """Kills and stops what it finds, as its seed says."""

    seed: int
    start_again: Callable[[], Daemon]
    worker: Daemon

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.kills: collections.Counter[str] = collections.Counter()
        self.next_supervisor = time.monotonic() + self.random.uniform(1, 2)

    @property
    def is_content(self) -> bool:
        """Whether it has killed enough for a test."""
        return self.kills["child"] > 5 and self.kills["supervisor"] > 0

    def strike(self) -> None:
        children = list(self.worker.children().values())
        draw = self.random.random()
        with contextlib.suppress(ProcessLookupError):
            if time.monotonic() > self.next_supervisor:
                self.worker.kill()
                self.worker = self.start_again()
                self.kills["supervisor"] += 1
                self.next_supervisor = time.monotonic() + self.random.uniform(3, 5)  # a start takes some of it
            elif children and draw < 0.85:
                os.kill(self.random.choice(children), signal.SIGKILL)
                self.kills["child"] += 1
            elif children and draw < 0.95:
                stopped = self.random.choice(children)
                os.kill(stopped, signal.SIGSTOP)
                self.worker.signal(signal.SIGUSR1)  # its stack cannot come; the loop goes on
                os.kill(stopped, signal.SIGCONT)
                self.kills["stop"] += 1
            elif children:
                os.kill(self.worker.forkserver(), signal.SIGKILL)
                self.kills["forkserver"] += 1


def executions(record: Path) -> dict[str, list[tuple[int, str, int, int]]]:
    """By task: (when, start or end, attempt, pid), in the order of time."""
    found: dict[str, list[tuple[int, str, int, int]]] = collections.defaultdict(list)
    for line in record.read_text().splitlines():
        what, task, attempt, pid, when = line.split()
        found[task].append((int(when), what, int(attempt), int(pid)))
    return {task: sorted(events) for task, events in found.items()}


def overlaps(events: list[tuple[int, str, int, int]]) -> bool:
    """Whether another execution began within one that came to its end."""
    begun: dict[tuple[int, int], int] = {}
    for when, what, attempt, pid in events:
        if what == "start":
            begun[attempt, pid] = when
        else:
            began = begun.pop((attempt, pid))
            if any(began < other < when and kind == "start" for other, kind, _, _ in events):
                return True
    return False


def check(daemon: Start, queue: Queue, folder: Path, count: int, seed: int) -> None:
    queue.rows("SELECT setseed(%s)", seed / 1000)
    queue.rows(ENQUEUE, count)

    def start() -> Daemon:
        return daemon(APP, "--pool-size", "8", is_awaited=False, DATABASE_URL=queue.url)

    nemesis = Nemesis(seed, start, start().wait_ready())
    deadline = time.monotonic() + 120 + count / 200
    pause = queue.connection.cursor()
    while (left := queue.one(LEFT)) or not nemesis.is_content:
        assert time.monotonic() < deadline, f"seed {seed}: {left} tasks are left"
        if not left:  # they were too quick for it
            queue.rows(ENQUEUE, 500)
            count += 500
        nemesis.strike()
        pause.execute("SELECT pg_sleep(%s)", (nemesis.random.uniform(0.02, 0.12),))
    assert nemesis.worker.wait_ready().stop() == 0

    found = executions(folder / "record")
    facts = f"seed {seed}, kills {dict(nemesis.kills)}"
    assert queue.rows("SELECT status, count(*) FROM tasks GROUP BY 1") == [("completed", count)], facts
    assert len(found) == count, facts
    assert [task for task, events in found.items() if overlaps(events)] == [], facts
    # a child may die between the board's note of a start and the handler's first line; no attempt is missing
    wrong = [
        (task, attempts)
        for task, attempts in queue.rows("SELECT id::text, attempts FROM tasks")
        if attempts != max(event[2] for event in found[task])
    ]
    assert wrong == [], facts


def test_thousands_of_tasks_survive_random_kills(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    check(daemon, queue, tmp_path, 4_000, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_twenty_thousand_tasks_survive_random_kills(daemon: Start, queue: Queue, tmp_path: Path, seed: int) -> None:
    check(daemon, queue, tmp_path, 20_000, seed=seed)
