"""The handlers that are measured."""

import os
import time

from orchestrator import App

app = App()
_stamps = os.environ.get("BENCH_STAMPS")


@app.task("noop")
def noop(**_: object) -> None:
    pass


@app.task("echo")
def echo(**payload: object) -> dict[str, object]:
    """Its payload is its result."""
    return payload


@app.task("stamp")
def stamp(sent_ns: int) -> None:
    """Writes down when its first line ran, and when it was enqueued (CLOCK_MONOTONIC)."""
    now = time.monotonic_ns()
    assert _stamps is not None
    descriptor = os.open(_stamps, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{sent_ns} {now}\n".encode())
    os.close(descriptor)


@app.task("burn")
def burn(rounds: int) -> None:
    compute(rounds)


@app.task("nap")
def nap(seconds: float) -> None:
    time.sleep(seconds)


def compute(rounds: int) -> int:
    """Work for one core, of a length that only `rounds` decides."""
    total = 0
    for each in range(rounds):
        total += each * each & 7
    return total
