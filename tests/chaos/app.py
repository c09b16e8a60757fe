"""The tasks of the chaos test: each notes that it runs, then does what its kind promises. Runs in children."""

import os
import select
import signal
import time

from orchestrator import App, Discard, RetryPolicy, current_task

app = App()
SOON = RetryPolicy(base=0.05, cap=0.3)
MANY = 1000
"""Retries of what must be done in the end, however often its child or worker is killed."""

_record = -1


@app.on_child_start
def open_record() -> None:
    global _record
    _record = os.open("record", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def note(what: str) -> None:
    """One whole line: it survives the kill of whoever wrote it."""
    task = current_task()
    os.write(_record, f"{what} {task.id} {task.attempt} {os.getpid()} {time.monotonic_ns()}\n".encode())


def rest(seconds: float) -> None:
    """libfaketime makes time.sleep() fail."""
    select.select([], [], [], seconds)


@app.task("work", max_retries=MANY, retry=SOON)
def work(n: int, ms: int = 0) -> int:
    note("start")
    rest(ms / 1000)
    note("end")
    return n


@app.task("flaky", max_retries=MANY, retry=SOON)
def flaky(n: int, ms: int = 0) -> int:
    note("start")
    if n % 3 != current_task().attempt % 3:
        raise ValueError("not this time")
    note("end")
    return n


@app.task("broken", max_retries=2, retry=SOON)
def broken(n: int, ms: int = 0) -> None:
    note("start")
    raise ValueError("never")


@app.task("refused", max_retries=MANY, retry=SOON)
def refused(n: int, ms: int = 0) -> None:
    note("start")
    raise Discard("for good")


@app.task("crash", max_retries=1, retry=SOON)
def crash(n: int, ms: int = 0) -> None:
    note("start")
    if n % 2:
        os._exit(3)
    os.kill(os.getpid(), signal.SIGSEGV)


@app.task("hang", max_retries=0, retry=SOON, timeout=0.2)
def hang(n: int, ms: int = 0) -> None:
    note("start")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        rest(60)


@app.task("tick", max_retries=MANY, retry=SOON)
def tick(due_at: str) -> None:
    note("start")
    note("end")


app.periodic("* * * * * *", tick, due_as="due_at")
