"""examples/logs through the real daemon: real files, real work, children killed on the way, totals that are known."""

import os
import random
import signal
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from examples.logs import enqueue, generate, report
from examples.logs.parsing import count_lines
from orchestrator import Client
from tests.fixtures.command import clean_environment
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.waiting import eventually

ROOT = str(Path(__file__).parents[2])
APP = "examples.logs.app:app"
FILES = 120
KILLS = 6
SURE_KILLS = 3
POOL = 4
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def run(module: str, folder: Path, url: str) -> str:
    """One of the example's programs, as its README runs it; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"examples.logs.{module}", str(folder)],
        env=clean_environment(DATABASE_URL=url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def busy_children(daemon: Daemon) -> list[int]:
    return [pid for pid, title in daemon.descendants().items() if "logs:file" in title]


def counted_files(queue: Queue) -> int:
    return int(queue.one("SELECT count(*) FROM log_files"))


def wait_counted(queue: Queue, enough: int) -> None:
    eventually(lambda: counted_files(queue) >= enough, within=60, why=f"{enough} files are counted")


def kill_children_that_wait(daemon: Daemon, queue: Queue) -> None:
    """While somebody has locked the table that they count in: those are at work for sure."""
    dice = random.Random(7)
    for killed in range(SURE_KILLS):
        waiting = POOL + killed  # the server does not notice yet that whom it lets wait is gone
        eventually(lambda waiting=waiting: queue.one(WAITING) == waiting, within=20, why="all wait")  # type: ignore[misc]
        os.kill(dice.choice(list(daemon.children().values())), signal.SIGKILL)


def kill_children_on_the_way(daemon: Daemon, queue: Queue) -> None:
    """Kill a child that is at work, if one is, each time some more files are counted."""
    dice = random.Random(7)
    for kill in range(KILLS):
        wait_counted(queue, kill * FILES // (KILLS + 2))
        if at_work := busy_children(daemon):
            with suppress(ProcessLookupError):  # another was quicker
                os.kill(dice.choice(at_work), signal.SIGKILL)


def test_every_file_counts_once_though_children_are_killed(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    known = generate.generate(folder, files=FILES, lines=200, seed=3).as_json()
    assert known["files"] == FILES
    assert run("enqueue", folder, queue.url) == f"{FILES} files are in the queue\n"

    with closing(psycopg2.connect(queue.url)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE log_files IN EXCLUSIVE MODE")
        worker = daemon(None, "--app", APP, "--pool-size", str(POOL), DATABASE_URL=queue.url, PYTHONPATH=ROOT)
        kill_children_that_wait(worker, queue)
    kill_children_on_the_way(worker, queue)
    queue.wait_empty()

    assert queue.rows("SELECT status::text, count(*) FROM tasks GROUP BY 1") == [("completed", FILES)]
    assert queue.one("SELECT sum(attempts - 1) FROM tasks") >= SURE_KILLS
    assert report.totals(queue.connection) == known
    assert "all as generated" in run("report", folder, queue.url)

    # once more, all of them: what is done twice counts once
    with Client(queue.url) as client:
        client.enqueue_many(enqueue.tasks(folder))
    assert queue.one("SELECT count(*) FROM tasks") == FILES
    queue.rows("UPDATE tasks SET status = 'pending', attempts = 0, next_retry_at = NULL")
    queue.wait_empty()
    assert queue.rows("SELECT result->'was_added', count(*) FROM tasks GROUP BY 1") == [(False, FILES)]
    assert report.totals(queue.connection) == known

    # a file that is not there is given up at once
    task = queue.wait_status(queue.enqueue("logs:file", {"path": "/nowhere/access.log"}), "failed")
    assert task["attempts"] == 1
    assert "there is no file /nowhere/access.log" in task["last_error"]


LINE = '203.0.113.7 - - [10/Oct/2025:23:55:36 -0130] "{}" 200 2326 "-" "curl/8"\n'


@pytest.mark.parametrize(
    ("line", "counted"),
    [
        (LINE.format("GET /a/1/b/22?x=/3 HTTP/1.1"), ("2025-10-11T01", "/a/:id/b/:id", 2326)),
        (LINE.format("GET /v2/x1 HTTP/2"), ("2025-10-11T01", "/v2/x1", 2326)),
        (LINE.format(r"GET /\"quoted\" HTTP/1.0"), ("2025-10-11T01", r"/\"quoted\"", 2326)),
        (LINE.format(r"\x16\x03\x01"), ("2025-10-11T01", "(no request)", 2326)),
        (LINE.format("GET / HTTP/1.1").replace(" 2326 ", " - "), ("2025-10-11T01", "/", 0)),
        (LINE.format("GET / HTTP/1.1")[:-1], ("2025-10-11T01", "/", 2326)),
        (LINE.format("GET / HTTP/1.1")[:40], None),
        ("\n", None),
        ("\x00" * 100, None),
    ],
)
def test_a_line_is_read_or_counted_as_malformed(line: str, counted: tuple[Any, ...] | None) -> None:
    totals = count_lines([line])
    assert totals.lines == 1
    assert totals.malformed == (counted is None)
    assert [(f"{key.hour:%Y-%m-%dT%H}", key.path, totals.bytes[key]) for key in totals.hits] == (
        [counted] if counted else []
    )
