"""Handlers that are coroutines: one event loop for all of a child's, with the threads that belong to it."""

import asyncio
import threading
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

from orchestrator.child.forks import Origin
from orchestrator.errors import TaskTimeout
from orchestrator.failure import describe_exception
from orchestrator.telemetry import logs

_THREADS = "task-asyncio"

LEAVING_SECONDS = 3.0
"""What a coroutine left on the loop may take to end once it is cancelled. Less than what TASK_KILL_GRACE is by default:
a handler that has returned is not killed for it."""


class Coroutines:
    """Runs one at a time, all on one loop, which is made for the first: what one of them keeps connected, a later one
    finds connected, whether it returned or raised."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._runner: asyncio.Runner | None = None
        self._threads: ThreadPoolExecutor | None = None  # of its event loop: to_thread() and name look-ups use them
        self._has_ended = False
        self._outliving: list[str] = []  # coroutines that do not end though they were cancelled
        self.lost_loop: str | None = None
        """Why the loop was lost, in words, if it was. The next coroutine would get another; but what was kept connected
        is lost, and whoever uses it would fail."""
        self._log = logs.get("child")

    def run(self, coroutine: Awaitable[Any], context: Context, timeout_seconds: float | None, began_ns: int) -> Any:
        """What it returns or raises; TaskTimeout once its time is up."""
        if self._runner is None:
            # told how to make it, the runner keeps it to itself: a plain function that asks for the current loop (and
            # perhaps closes that, or leaves a task on it) does not get this one
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            self._give_threads(self._runner)
        runner, threads_before, is_sound = self._runner, threading.active_count(), False
        self._has_ended, self._outliving = False, []
        try:
            try:
                # without a context of ours the runner goes on with that of its first coroutine
                return runner.run(self._limited(coroutine, timeout_seconds, began_ns), context=context)
            finally:
                if self._has_ended:
                    self._outliving = self._outliving or self._clear(runner)
                    is_sound = not self._outliving
        finally:
            if threading.active_count() > threads_before:
                self._end_threads(runner)
            if not is_sound:
                self._lose_loop()

    async def _limited(self, coroutine: Awaitable[Any], timeout_seconds: float | None, began_ns: int) -> Any:
        """Await the handler; its time limit cancels it, and what it left on the loop is cancelled after it."""
        limit = asyncio.timeout(timeout_seconds)
        try:
            async with limit:
                try:
                    return await coroutine
                finally:
                    # here, while it is known how the handler ended: this loop is its parent's
                    self._origin.end_forks(began_ns)
        except TimeoutError as error:
            if limit.expired():
                where = (error.__cause__ or error).__traceback__  # of the cancellation: what it waited for
                late = TaskTimeout(f"the task's time limit of {timeout_seconds:g} s is up")
                raise late.with_traceback(where) from None
            raise
        finally:
            self._outliving = await _cancel_others()
            self._has_ended = True

    @staticmethod
    def _clear(runner: asyncio.Runner) -> list[str]:
        """Let no callback that a coroutine left run in the next one, which might pay for what it raises (SystemExit).
        Returns what one of them began and does not end.

        No new loop: what a handler keeps connected from task to task belongs to this one. No public call lists its
        callbacks; another implementation of the loop, which lacks these attributes, goes without.
        """
        loop = runner.get_loop()
        ready = getattr(loop, "_ready", ())
        outliving: list[str] = []
        if ready:
            outliving = runner.run(_turn())  # a connection that ends says so in two or three steps
            for each in ready:
                each.cancel()
        timers = getattr(loop, "_scheduled", ())
        if len(timers) > getattr(loop, "_timer_cancelled_count", 0):
            for each in timers:
                each.cancel()
        return outliving

    def _give_threads(self, runner: asyncio.Runner) -> None:
        """A pool for the loop's default executor; it has no thread before one is needed."""
        self._threads = ThreadPoolExecutor(thread_name_prefix=_THREADS)
        runner.get_loop().set_default_executor(self._threads)

    def _end_threads(self, runner: asyncio.Runner) -> None:
        """Have those end that are idle: else each task that looks up a name would cost a child. A busy one goes on."""
        ending = self._threads
        self._give_threads(runner)
        if ending is not None:
            ending.shutdown(wait=False, cancel_futures=True)

    def _lose_loop(self) -> None:
        self.lost_loop = "the event loop was stopped"
        if self._outliving:
            names = ", ".join(sorted(set(self._outliving)))
            self.lost_loop = f"asyncio tasks go on though they were cancelled ({names})"
        runner, self._runner = self._runner, None
        if runner is None or self._outliving:  # to close it is to wait for them
            return
        try:
            loop = runner.get_loop()
            loop.call_later(LEAVING_SECONDS, loop.stop)
            runner.close()
        except BaseException as error:  # noqa: BLE001 user code runs while a loop closes
            self._log.warning("event_loop_not_closed", error=describe_exception(error).partition("\n")[0])


async def _turn() -> list[str]:
    for _ in range(3):
        await asyncio.sleep(0)
    return await _cancel_others()  # an async generator that was given up is closed by a task that the loop makes now


async def _cancel_others() -> list[str]:
    """Have all that others have left here end; the names of the coroutines that do not."""
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait([asyncio.gather(*left, return_exceptions=True)], timeout=LEAVING_SECONDS)
    return [getattr(task.get_coro(), "__qualname__", task.get_name()) for task in left if not task.done()]
