"""What the kernel keeps of a process, seen from an ordinary user's: that one may do less than root, who runs tests."""

import json
import os
import resource
import signal
import time
import timeit
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.child.process_attributes import ProcessAttributes

NOBODY = 65534


def as_nobody(act: Callable[[], Any]) -> Any:
    """What it returns in a forked process that has no rights, and so may not have it back what it gave away."""
    reading, writing = os.pipe()
    forked = os.fork()
    if forked == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writing, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        told = answer.read()
    os.waitpid(forked, 0)
    return json.loads(told)


@pytest.mark.parametrize("name", ["AS", "DATA", "STACK", "CPU", "NOFILE", "FSIZE", "NPROC"])
def test_an_ordinary_user_gets_a_soft_limit_back_and_loses_the_child_to_a_hard_one(name: str) -> None:
    limit = getattr(resource, f"RLIMIT_{name}")

    def lower() -> tuple[list[str], bool, list[str]]:
        hard = resource.getrlimit(limit)[1]
        low = 1 << 40 if name in ("AS", "DATA", "STACK") else 100
        healthy = ProcessAttributes()
        before = resource.getrlimit(limit)
        resource.setrlimit(limit, (low // 2, hard))
        of_soft, is_back = healthy.restore(), resource.getrlimit(limit) == before
        resource.setrlimit(limit, (low // 2, low))
        return of_soft, is_back, healthy.restore()

    of_soft, is_back, of_hard = as_nobody(lower)
    assert (of_soft, is_back) == ([], True)
    assert len(of_hard) == 1 and f"RLIMIT_{name} " in of_hard[0]


def test_an_ordinary_user_who_was_nice_loses_the_child() -> None:
    def be_nice() -> list[str]:
        resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
        healthy = ProcessAttributes()
        os.nice(1)
        return healthy.restore()

    (why,) = as_nobody(be_nice)
    assert "nice value" in why


def test_a_timer_that_a_start_hook_has_started_goes_on() -> None:
    def start_timers() -> tuple[bool, bool]:
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_PROF, 60, 60)
        healthy = ProcessAttributes()
        signal.setitimer(signal.ITIMER_VIRTUAL, 60, 60)
        healthy.restore()
        return any(signal.getitimer(signal.ITIMER_PROF)), any(signal.getitimer(signal.ITIMER_VIRTUAL))

    assert as_nobody(start_timers) == [True, False]


def test_it_costs_a_few_microseconds() -> None:
    def restoring() -> float:
        times = timeit.repeat(ProcessAttributes().restore, timer=time.thread_time, number=2000, repeat=7)
        return min(times) / 2000

    healthy = as_nobody(restoring)
    assert healthy < 30e-6, "about 6 µs on a machine with nothing else to do"
