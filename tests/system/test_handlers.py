"""Handlers that die or raise, in the real daemon: who pays, what is recorded, and that nobody else notices."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.fleet import SLACK
from tests.fixtures.waiting import eventually
from tests.fixtures.working import wait_counted

DEADLY = """
import ctypes, os, signal, time
from orchestrator import App, RetryPolicy

app = App()
at_once = RetryPolicy(base=0.0, cap=0.0)

def note(text: str) -> None:
    with open("notes", "a") as notes:
        notes.write(text + "\\n")

@app.task("die", max_retries=1, retry=at_once)
def die(how: str) -> None:
    note(how)
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    elif how == "exit":
        os._exit(3)
    elif how == "exec":
        os.execlp("true", "true")
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "memory":
        hoard = []
        while True:
            hoard.append(bytearray(16 << 20))
            time.sleep(0.01)

@app.task("quick", max_retries=0)
def quick(n: int) -> int:
    note(f"quick-{n}")
    return n

@app.task("hold", max_retries=1, retry=at_once)
def hold(until: str) -> None:
    while not os.path.exists(until):
        time.sleep(0.01)
"""


def notes(folder: Path) -> list[str]:
    return (folder / "notes").read_text().split()


def test_a_task_that_kills_its_child_pays_each_time_and_nobody_else_does(
    queue: Queue, daemon: Start, tmp_path: Path
) -> None:
    worker = daemon(DEADLY, "--pool-size", "3", "--task-memory-limit", "400MB", DATABASE_URL=queue.url)
    deaths = {
        "segfault": "the child was killed by SIGSEGV",
        "abort": "the child was killed by SIGABRT",
        "exit": "the child exited with code 3",
        "exec": "the child exited with code 0",
        "kill": "the child was killed by SIGKILL",
        "memory": "over TASK_MEMORY_LIMIT of 400 MiB",
    }
    dying = {how: queue.enqueue("die", {"how": how}) for how in deaths}
    quick = [queue.enqueue("quick", {"n": n}) for n in range(30)]

    queue.wait_empty()

    for how, task_id in dying.items():
        task = queue.task(task_id)
        assert (task["status"], task["attempts"]) == ("dead_letter", 2), how
        assert deaths[how] in task["last_error"].partition("\n")[0]
        assert notes(tmp_path).count(how) == 2
    assert "Segmentation fault" in queue.task(dying["segfault"])["last_error"]
    stack = re.findall(r'File "(.*)", line \d+ in (.*)', queue.task(dying["segfault"])["last_error"])
    assert stack[-1] == (str(tmp_path / "app.py"), "die"), (
        "the Python stack of a crash in C is told, down to the handler"
    )
    for n, task_id in enumerate(quick):
        task = queue.task(task_id)
        assert (task["status"], task["attempts"], task["result"]) == ("completed", 1, n)
        assert notes(tmp_path).count(f"quick-{n}") == 1

    def is_counted() -> bool:
        metrics = worker.metrics()
        failed = metrics["tasks_completed_total", frozenset({("type", "die"), ("status", "failed")})]
        retried = metrics["task_retries_total", frozenset({("type", "die"), ("attempt", "1")})]
        crashed = metrics["worker_child_restarts_total", frozenset({("reason", "crash")})]
        fat = metrics["worker_child_restarts_total", frozenset({("reason", "memory")})]
        return (failed, retried, crashed, fat) == (6, 6, 10, 2)

    eventually(is_counted, within=20)
    wait_counted(worker, 30, "tasks_completed_total", type="quick", status="success")
    assert worker.health()[0] == 200


@pytest.mark.slow
def test_a_slot_whose_child_is_killed_has_another_within_a_second(queue: Queue, daemon: Start, tmp_path: Path) -> None:
    worker = daemon(DEADLY, "--pool-size", "2", DATABASE_URL=queue.url)
    victim, neighbour = (queue.enqueue("hold", {"until": "go"}) for _ in range(2))
    slots = {each: queue.wait_status(each, "running")["slot"] for each in (victim, neighbour)}
    before = worker.children()

    os.kill(before[slots[victim]], signal.SIGKILL)

    slot = slots[victim]
    eventually(lambda: worker.children().get(slot, before[slot]) != before[slot], within=1.0 + SLACK, why="a new child")
    (tmp_path / "go").touch()
    killed = queue.wait_status(victim, "completed")
    assert killed["attempts"] == 2
    assert killed["last_error"].startswith("the child was killed by SIGKILL")
    assert queue.wait_status(neighbour, "completed")["attempts"] == 1
    assert worker.children()[slots[neighbour]] == before[slots[neighbour]]


def test_of_a_batch_with_a_deadly_task_in_it_only_that_one_pays(queue: Queue, daemon: Start, tmp_path: Path) -> None:
    # the size of a batch is learnt from the ones before, and one of these may be the last of its batch
    queue.rows(
        """
        INSERT INTO tasks (type, payload, max_retries)
        SELECT CASE WHEN n IN (250, 300, 350) THEN 'die' ELSE 'quick' END,
            CASE WHEN n IN (250, 300, 350) THEN '{"how": "kill"}' ELSE jsonb_build_object('n', n) END, 0
        FROM generate_series(1, 400) AS n ORDER BY n
        """
    )
    worker = daemon(DEADLY, "--pool-size", "5", DATABASE_URL=queue.url)

    queue.wait_empty()

    assert queue.rows("SELECT status, attempts FROM tasks WHERE type = 'die'") == [("dead_letter", 1)] * 3
    # those of its batch that it ran before are completed, those that had not begun were handed back
    worker.wait_log(r"claims_released reason=child_gone released=[1-9]")  # it died amid a batch
    assert queue.rows("SELECT DISTINCT status, attempts FROM tasks WHERE type = 'quick'") == [("completed", 1)]
    ran = [note for note in notes(tmp_path) if note.startswith("quick-")]
    assert len(ran) == len(set(ran)) == 397, "each ran exactly once"


RAISING = """
import asyncio, functools, os
from orchestrator import App, Retry, RetryPolicy, current_task

app = App()

class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("not even this")

class Fundamental(BaseException):
    pass

def deeper(n: int) -> int:
    return deeper(n + 1)

def group() -> None:
    try:
        raise KeyError("first")
    except KeyError as first:
        raise BaseExceptionGroup("several", [first, Unspeakable(), SystemExit(9)])

KINDS = {
    "base": lambda: throw(Fundamental("deep")),
    "exit": lambda: throw(SystemExit(7)),
    "interrupt": lambda: throw(KeyboardInterrupt()),
    "generator": lambda: throw(GeneratorExit()),
    "iteration": lambda: throw(StopIteration(1)),
    "recursion": lambda: deeper(0),
    "memory": lambda: throw(MemoryError()),
    "unspeakable": lambda: throw(Unspeakable()),
    "long": lambda: throw(ValueError("x" * (10 << 20))),
    "nul": lambda: throw(ValueError("a\\0b")),
    "surrogate": lambda: throw(ValueError("lone \\udcff here")),
    "group": group,
    "cancelled": lambda: throw(asyncio.CancelledError()),
    "secret": lambda: throw(OSError("no server at " + os.environ["DATABASE_URL"])),
}

def throw(error: BaseException) -> None:
    raise error

@app.task("raise", max_retries=0)
def raising(kind: str) -> None:
    KINDS[kind]()

@app.task("raise:async", max_retries=0)
async def raising_async(kind: str) -> None:
    await asyncio.sleep(0)
    KINDS[kind]()

@app.task("fine")
def fine() -> str:
    return "fine"

@app.task("order", max_retries=1, retry=RetryPolicy(base=0.0, cap=0.0))
def order() -> None:
    order.enqueue(what=float("nan"))

def watched(function):
    @functools.wraps(function)
    def call(**keywords):
        return function(**keywords)
    return call

@app.task("nap", max_retries=0)
@watched
async def nap(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return current_task().attempt

class Promise:
    def __init__(self, function, keywords) -> None:
        self.coroutine = function(**keywords)

    def __await__(self):
        return self.coroutine.__await__()

def promised(function):
    @functools.wraps(function)
    def call(**keywords):
        return Promise(function, keywords)
    return call

@app.task("promise", max_retries=0)
@promised
async def promise(is_kept: bool) -> str:
    await asyncio.sleep(0)
    if not is_kept:
        raise ValueError("broken")
    return "kept"

@app.task("pages", max_retries=0)
@watched
def pages():
    yield 1

@app.task("lines", max_retries=0)
def lines():
    return (line.upper() for line in "ab")

@app.task("pages:async", max_retries=0)
@watched
async def pages_async():
    yield 1

class Lost(Retry):
    def __init__(self, service: str) -> None:
        Exception.__init__(self, f"{service} is down")

class Changed(Retry):
    def __init__(self, in_seconds: object) -> None:
        super().__init__("ask again")
        self.in_seconds = in_seconds

class Reluctant(Retry):
    @property
    def in_seconds(self):
        raise SystemExit("not even this")

    @in_seconds.setter
    def in_seconds(self, seconds) -> None:
        pass

class Disguised(Exception):
    @property
    def __class__(self):
        raise RuntimeError("not even this")

@app.task("again", max_retries=1, retry=RetryPolicy(base=0.0, cap=0.0))
def again(how: str) -> None:
    raise {"lost": Lost("mail"), "soon": Changed(0.2), "never": Changed(None), "in aeons": Changed(1e300),
           "reluctant": Reluctant("ask again"), "disguised": Disguised()}[how]
"""

SAID = {
    "base": "Fundamental: deep",
    "exit": "SystemExit: 7",
    "interrupt": "KeyboardInterrupt",
    "generator": "GeneratorExit",
    "recursion": "RecursionError: maximum recursion depth exceeded",
    "memory": "MemoryError",
    "unspeakable": "Unspeakable: <str() of it raised SystemExit>",
    "long": "ValueError: xxxxx",
    "nul": "ValueError: a\\x00b",
    "surrogate": "ValueError: lone \\udcff here",
    "group": "BaseExceptionGroup: several (3 sub-exceptions)",
    "cancelled": "CancelledError",
    "secret": "OSError: no server at postgres",
}
PASSWORD = "s3cretword"


@pytest.fixture(scope="module")
def worker(lasting_daemon: Start, lasting_database: Queue) -> Daemon:
    """One child, which nothing of RAISING ends."""
    url = f"{lasting_database.url}{'&' if '?' in lasting_database.url else '?'}password={PASSWORD}"
    return lasting_daemon(RAISING, "--pool-size", "1", DATABASE_URL=url)


@pytest.mark.parametrize("type_name", ["raise", "raise:async"])
def test_whatever_a_handler_raises_is_recorded_and_the_child_lives(
    worker: Daemon, lasting_queue: Queue, type_name: str
) -> None:
    queue = lasting_queue
    before = worker.children()
    raising = {kind: queue.enqueue(type_name, {"kind": kind}) for kind in [*SAID, "iteration"]}
    fine = queue.enqueue("fine")

    queue.wait_empty()

    for kind, task_id in raising.items():
        task = queue.task(task_id)
        assert (task["status"], task["attempts"]) == ("dead_letter", 1), kind
        assert SAID.get(kind, "StopIteration") in task["last_error"].partition("\n")[0]
        assert len(task["last_error"].encode()) <= 16 << 10
        assert PASSWORD not in task["last_error"]
    assert queue.task(fine)["status"] == "completed"
    assert worker.children() == before


TALKATIVE = """
import os
from orchestrator import App

app = App()
print("imported")

@app.task("say", max_retries=0)
def say(what: str) -> None:
    print("said", what)
    if what == "farewell":
        os._exit(3)

async def flush() -> None:
    print("flushed")

app.on_child_stop(lambda: flush())
"""


def test_what_a_handler_prints_is_seen_at_once_though_it_goes_into_a_file(queue: Queue, daemon: Start) -> None:
    worker = daemon(TALKATIVE, "--pool-size", "1", DATABASE_URL=queue.url, PYTHONUNBUFFERED="")
    queue.wait_status(queue.enqueue("say", {"what": "hello"}), "completed")
    assert "said hello" in worker.log()
    queue.wait_status(queue.enqueue("say", {"what": "farewell"}), "dead_letter")
    assert "said farewell" in worker.log()
    assert worker.log().count("imported") == 1


def test_a_hook_that_returns_a_coroutine_is_told_to_have_done_nothing(queue: Queue, daemon: Start) -> None:
    worker = daemon(TALKATIVE, "--pool-size", "1", DATABASE_URL=queue.url)
    assert worker.stop() == 0
    assert re.search("stop_hook_failed hook=<lambda> .*it returned a coroutine, of which nothing has run", worker.log())
    assert "flushed" not in worker.log()


@pytest.mark.usefixtures("worker")
def test_a_handler_that_enqueues_a_bad_payload_fails_like_any_other_and_is_tried_again(lasting_queue: Queue) -> None:
    task = lasting_queue.wait_status(lasting_queue.enqueue("order"), "dead_letter", "failed")
    assert task["status"] == "dead_letter"
    assert task["attempts"] == 2


@pytest.mark.usefixtures("worker")
def test_what_a_plain_decorator_makes_of_a_handler_is_run_or_fails_and_is_not_completed_unrun(
    lasting_queue: Queue,
) -> None:
    queue = lasting_queue
    kept, broken = (queue.enqueue("promise", {"is_kept": each}) for each in (True, False))
    generators = [queue.enqueue(each) for each in ("pages", "pages:async")]
    expression = queue.enqueue("lines")

    queue.wait_empty()

    assert queue.task(kept)["result"] == "kept"
    assert queue.task(broken)["last_error"].startswith("ValueError: broken")
    assert queue.task(expression)["status"] == "completed", "what it could not return it may have prepared"
    for each in generators:
        task = queue.task(each)
        assert task["status"] == "dead_letter"
        assert "returned a generator, of which nothing has run" in task["last_error"]


@pytest.mark.usefixtures("worker")
def test_a_coroutine_beneath_a_plain_decorator_is_run_and_has_its_time_limit(lasting_queue: Queue) -> None:
    queue = lasting_queue
    brief = queue.enqueue("nap", {"seconds": 0.0})
    limited = queue.enqueue("nap", {"seconds": 60.0}, timeout="300ms")

    queue.wait_empty()

    assert queue.task(brief)["result"] == 1
    assert queue.task(limited)["last_error"].startswith(
        "orchestrator.errors.TaskTimeout: the task's time limit of 0.3 s"
    )


def test_a_retry_of_the_users_own_class_is_recorded_whatever_it_made_of_its_time(
    worker: Daemon, lasting_queue: Queue
) -> None:
    queue = lasting_queue
    before = worker.children()
    said = {"lost": "app.Lost: mail is down", **dict.fromkeys(("soon", "never", "in aeons"), "app.Changed: ask again")}
    said |= {"reluctant": "app.Reluctant: ask again", "disguised": "Disguised: it could not be described"}
    tasks = {how: queue.enqueue("again", {"how": how}) for how in said}

    queue.wait_empty()

    for how, task_id in tasks.items():
        task = queue.task(task_id)
        assert (task["status"], task["attempts"]) == ("dead_letter", 2), how
        assert task["last_error"].startswith(said[how]), how
    assert worker.children() == before


WITH_A_FILTER = """
import logging
from orchestrator import App, current_task

app = App()

def add_task(record: logging.LogRecord) -> bool:
    record.task = current_task().id
    return True

for handler in logging.getLogger().handlers:
    handler.addFilter(add_task)

@app.task("fail", max_retries=0)
def fail() -> None:
    logging.warning("about to fail")
    raise ValueError("the true reason")
"""


def test_a_log_filter_that_asks_for_the_current_task_costs_no_task_its_error(queue: Queue, daemon: Start) -> None:
    worker = daemon(WITH_A_FILTER, "--pool-size", "1", DATABASE_URL=queue.url)
    before = worker.children()
    failed = queue.wait_status(queue.enqueue("fail"), "dead_letter")
    assert failed["last_error"].startswith("ValueError: the true reason")
    assert "about to fail" in worker.log()
    assert "current_task() was called outside a handler" in worker.wait_log("attempt_failed")
    assert worker.children() == before
