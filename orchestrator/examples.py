"""The built-in app: what runs where no --app is named, and what ENQUEUE_EXAMPLES=true enqueues. Made to be read.

It is an app like any user's: `orchestratord start --app orchestrator.examples:app`.
"""

import time
from typing import Any

from orchestrator.app import App, current_task
from orchestrator.model import NewTask
from orchestrator.payload import encode_payload
from orchestrator.retry import RetryPolicy

app = App()


@app.task("example:task")
def task(message: str = "hello", seconds: float = 0.0) -> dict[str, Any]:
    """Waits a little; what it returns is stored as the task's result."""
    time.sleep(seconds)
    return {"message": message, "attempt": current_task().attempt}


@app.task("example:flaky", max_retries=5, retry=RetryPolicy(base=0.5, cap=10.0))
def flaky(failures: int = 2) -> str:
    """Fails so many times before it succeeds: watch `attempts`, `next_retry_at` and `last_error`."""
    attempt = current_task().attempt
    if attempt <= failures:
        raise RuntimeError(f"attempt {attempt} of {failures} that fail on purpose")
    return f"succeeded at attempt {attempt}"


@app.task("example:slow", max_retries=0, timeout=600.0)
def slow(seconds: float = 5.0) -> str:
    """Takes its time: long enough to be seen running."""
    time.sleep(seconds)
    return f"slept {seconds:g} s"


@app.task("example:crunch", timeout=120.0)
def crunch(limit: int = 200_000) -> int:
    """Keeps a core busy: how many primes there are below `limit`."""
    sieve = bytearray([1]) * max(limit, 2)
    sieve[0:2] = b"\0\0"
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return sum(sieve[:limit])


def example_tasks() -> list[NewTask]:
    """One set of tasks that shows what there is: priorities, a delay, retries, work for a core, and a slow one."""
    return [
        NewTask("example:task", encode_payload({"message": "hello from the queue"})),
        NewTask("example:task", encode_payload({"message": "I go first"}), priority=10),
        NewTask("example:task", encode_payload({"message": "I waited ten seconds"}), delay_seconds=10.0),
        NewTask("example:flaky", encode_payload({"failures": 2})),
        NewTask("example:crunch", encode_payload({"limit": 2_000_000})),
        NewTask("example:slow", encode_payload({"seconds": 5.0})),
    ]
