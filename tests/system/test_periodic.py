"""Periodic tasks with real workers: each moment once, whoever leads, and what docs/periodic.md shows."""

import json
import os
import re
import signal
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from tests.fixtures.command import Command
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.fleet import Fleet
from tests.fixtures.waiting import eventually

PAGE = (Path(__file__).parents[2] / "docs" / "periodic.md").read_text()
(SHOWN,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

APP = """
from orchestrator import App

app = App()

@app.task("tick")
def tick(due_at: str) -> None:
    with open("ticks", "a") as ticks:
        ticks.write(due_at + "\\n")

@app.task("other")
def other() -> None:
    pass
"""
EACH_SECOND = 'app.periodic("* * * * * *", tick, due_as="due_at", timezone="Europe/Berlin")\n'


def ticks(worker: Daemon) -> Counter[datetime]:
    path = worker.log_path.parent / "ticks"
    return Counter(map(datetime.fromisoformat, path.read_text().split())) if path.exists() else Counter()


def test_each_moment_is_enqueued_once_whoever_leads(fleet: Fleet, queue: Queue) -> None:
    first, second = (fleet.add(APP + EACH_SECOND, DATABASE_URL=queue.url) for _ in range(2))
    del second
    seen = eventually(lambda: len(ticks(first)) >= 3 and ticks(first), within=30, why="it is due each second")
    leader = fleet.leader()
    os.kill(leader.pid, signal.SIGKILL)
    eventually(lambda: len(ticks(first)) >= len(seen) + 4, within=30, why="the next leader goes on")
    counted = ticks(first)
    assert set(counted.values()) == {1}
    moments = sorted(counted)
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert min(gaps) == timedelta(seconds=1) and moments[0].utcoffset() is not None
    keys = [key for (key,) in queue.rows("SELECT idempotency_key FROM tasks")]
    assert len(set(keys)) == len(keys)


def test_what_a_reloaded_app_has_no_more_is_enqueued_no_more(
    daemon: Start, queue: Queue, tmp_path: Path, orchestratord_here: Command
) -> None:
    worker = daemon(APP + EACH_SECOND, DATABASE_URL=queue.url)
    eventually(lambda: ticks(worker), within=30, why="it is due each second")
    (listed,) = json.loads(orchestratord_here("periodic", "list", "--json", DATABASE_URL=queue.url).stdout)
    assert (listed["name"], listed["cron"], listed["app"], listed["payload"]) == ("tick", "* * * * * *", "app:app", {})
    assert datetime.fromisoformat(listed["next_due_at"]) > datetime.fromisoformat(listed["last_due_at"])

    (tmp_path / "app.py").write_text(APP + 'app.periodic("0 0 1 1 *", "other", name="yearly")\n')
    worker.signal(signal.SIGHUP)
    worker.wait_log("app_reloaded")
    table = eventually(
        lambda: "yearly" in (out := orchestratord_here("periodic", "list", DATABASE_URL=queue.url).stdout) and out,
        within=20,
    )
    assert "tick" not in table and "-01-01 00:00:00Z" in table

    queue.rows("UPDATE periodic_tasks SET cron = 'each year' RETURNING name")
    unreadable = orchestratord_here("periodic", "list", DATABASE_URL=queue.url)
    assert "yearly" in unreadable.stdout and "the cron expression 'each year' cannot be read" in unreadable.stderr

    queue.rows(f"UPDATE periodic_tasks SET payload = '[{'9' * 5000}]' RETURNING name")
    (listed,) = json.loads(orchestratord_here("periodic", "list", "--json", DATABASE_URL=queue.url).stdout)
    assert (listed["next_due_at"], listed["payload"]) == (None, f"[{'9' * 5000}]")

    removed = orchestratord_here("periodic", "remove", "yearly", DATABASE_URL=queue.url)
    assert (removed.returncode, removed.stdout) == (0, "removed\n")
    again = orchestratord_here("periodic", "remove", "yearly", DATABASE_URL=queue.url)
    assert again.returncode == 2 and "there is no periodic task 'yearly'" in again.stderr
    empty = orchestratord_here("periodic", "list", DATABASE_URL=queue.url)
    assert empty.stdout == "no app has registered any periodic tasks\n"


def test_a_mistake_ends_the_start_with_a_line_that_says_what_to_do(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP + 'app.periodic("0 3 * *", other)\n', is_awaited=False, DATABASE_URL=queue.url)
    assert worker.process.wait(30) == 3
    assert "the cron expression '0 3 * *' cannot be read: Wrong number of fields" in worker.log()


def test_the_page_shows_an_app_that_can_be_started(daemon: Start, queue: Queue, orchestratord_here: Command) -> None:
    daemon(SHOWN, DATABASE_URL=queue.url)
    listed = json.loads(orchestratord_here("periodic", "list", "--json", DATABASE_URL=queue.url).stdout)
    assert {each["type"] for each in listed} == {"report:daily"}
    assert len(listed) == len(re.findall(r"app\.periodic\(", SHOWN))
