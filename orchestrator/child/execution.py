"""Run one handler once, and say how it ended. Runs in a child; it never raises, whatever the handler does."""

import asyncio
import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

from orchestrator.app import App, Handler, running_task
from orchestrator.child.time_limit import TimeLimit
from orchestrator.errors import Discard, PayloadError, Retry, TaskTimeout
from orchestrator.failure import describe_exception
from orchestrator.model import DEFAULT_MAX_RETRIES, Claim, Outcome, TaskStatus
from orchestrator.payload import decode_payload, encode_result
from orchestrator.retry import RetryPolicy
from orchestrator.telemetry import logs

MAX_KNOWN_LIMITS = 1000
"""Who may enqueue decides how many there are."""

_DEFAULT_POLICY = RetryPolicy()
_THREADS = "task-asyncio"
_THREAD_SECONDS = 0.1
"""A thread of the event loop's that is idle has ended long before; one that isn't keeps the child from going on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for one claim: what enqueue said, else what the handler is registered with, else the worker's."""

    max_retries: int
    timeout_seconds: float | None
    policy: RetryPolicy


class Executor:
    """Runs claims with the handlers of one app."""

    def __init__(self, app: App, time_limit: TimeLimit, *, default_timeout: float | None, max_result_size: int) -> None:
        self._app = app
        self._handlers: Mapping[str, Handler] = app.handlers
        self._time_limit = time_limit
        self._default_timeout = default_timeout
        self._max_result_size = max_result_size
        self._runner: asyncio.Runner | None = None
        self._threads: ThreadPoolExecutor | None = None  # of its event loop: to_thread() and name look-ups use them
        self._pid = os.getpid()
        self._limits: dict[tuple[str, int | None, float | None], Limits] = {}
        self._policies = {
            each.name: RetryPolicy(base=each.retry_base_seconds, cap=each.retry_cap_seconds) for each in app.types()
        }
        self._log = logs.get("child")

    def limits(self, claim: Claim) -> Limits:
        """What holds for this claim."""
        asked = claim.type, claim.max_retries, claim.timeout_seconds
        known = self._limits.get(asked)
        if known is None:
            if len(self._limits) >= MAX_KNOWN_LIMITS:
                self._limits.clear()
            known = self._limits[asked] = self._find_limits(claim)
        return known

    def _find_limits(self, claim: Claim) -> Limits:
        handler = self._handlers.get(claim.type)
        registered = handler.type if handler is not None else None
        timeout = claim.timeout_seconds
        if timeout is None:
            timeout = registered.timeout_seconds if registered is not None else None
        if timeout is None:
            timeout = self._default_timeout
        max_retries = claim.max_retries
        if max_retries is None:
            max_retries = registered.max_retries if registered is not None else DEFAULT_MAX_RETRIES
        return Limits(max_retries, timeout, self._policies.get(claim.type, _DEFAULT_POLICY))

    def run(self, claim: Claim, limits: Limits, started_ns: int) -> Outcome:
        """Run the claim's handler to its end. `started_ns` is the moment the board tells."""
        status, error, result, delay = TaskStatus.COMPLETED, None, None, 0.0
        try:
            handler, payload, refusal = self._prepare(claim)
            if handler is None:
                error, status = refusal, TaskStatus.FAILED
            else:
                value = self._call(handler, payload, claim, limits)
                if value is not None:
                    result, note = encode_result(value, max_bytes=self._max_result_size)
                    if note is not None:
                        self._log.warning("result_replaced", task_id=claim.task_id, type=claim.type, reason=note)
        except Discard as given_up:
            error, status = describe_exception(given_up), TaskStatus.FAILED
        except BaseException as raised:  # noqa: BLE001 a border: whatever a handler raises is its outcome
            error = describe_exception(raised)
            status, delay = _after_failure(raised, claim.attempt, limits)
        if error is not None:
            self._log.info(
                "attempt_failed", task_id=claim.task_id, type=claim.type, attempt=claim.attempt, then=status.value,
                error=error.partition("\n")[0][:200],
            )  # fmt: skip
        task_id, type_name, token, _, attempt, *_ = claim
        return Outcome(
            task_id, token, type_name, status, attempt, started_ns / 1e9, time.monotonic(), error, result, delay
        )

    def _prepare(self, claim: Claim) -> tuple[Handler | None, dict[str, Any], str]:
        """The handler and what it is called with, or None and why this task can never run.

        A PayloadError of the handler's own, who enqueues something, is a failure like any other.
        """
        handler = self._handlers.get(claim.type)
        if handler is None:
            return None, {}, self._unknown_type(claim.type)
        try:
            payload = decode_payload(claim.payload)
            handler.bind(payload)
        except PayloadError as misfit:
            return None, {}, describe_exception(misfit)
        return handler, payload, ""

    def _call(self, handler: Handler, payload: dict[str, Any], claim: Claim, limits: Limits) -> Any:
        context = copy_context()  # what a handler sets in it (tracing, decimal …) is no business of the next task's
        context.run(
            running_task.set, (claim.task_id, claim.type, claim.attempt, limits.max_retries, limits.timeout_seconds)
        )
        try:
            if handler.is_async:
                return self._call_async(context.run(handler.function, **payload), limits.timeout_seconds, context)
            if limits.timeout_seconds is None:
                return context.run(handler.function, **payload)
            try:
                self._time_limit.arm(limits.timeout_seconds)
                return context.run(handler.function, **payload)
            finally:
                self._time_limit.disarm()
        finally:
            _end_if_forked(self._pid)

    def _call_async(self, coroutine: Coroutine[Any, Any, Any], timeout_seconds: float | None, context: Context) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
            self._give_threads(self._runner)
        threads_before, is_sound = threading.active_count(), False
        try:
            # without a context of ours the runner goes on with that of its first coroutine
            value = self._runner.run(_limited(coroutine, timeout_seconds, self._pid), context=context)
            is_sound = True
            return value
        finally:
            if threading.active_count() > threads_before:
                self._end_threads(self._runner)
            if not is_sound:
                self._drop_loop()  # whatever state it is in, the next task gets a new one

    def _give_threads(self, runner: asyncio.Runner) -> None:
        """A pool for the loop's default executor; it has no thread before one is needed."""
        self._threads = ThreadPoolExecutor(thread_name_prefix=_THREADS)
        runner.get_loop().set_default_executor(self._threads)

    def _end_threads(self, runner: asyncio.Runner) -> None:
        """End those that are idle: else each task that looks up a name would cost a child. A busy one is left alone."""
        ending = self._threads
        self._give_threads(runner)
        if ending is not None:
            ending.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + _THREAD_SECONDS
        for thread in threading.enumerate():
            if thread.name.startswith(_THREADS):
                thread.join(max(0.0, until - time.monotonic()))

    def _drop_loop(self) -> None:
        runner, self._runner = self._runner, None
        try:
            if runner is not None:
                runner.close()
        except BaseException as error:  # noqa: BLE001 user code runs while a loop closes
            self._log.warning("event_loop_not_closed", error=describe_exception(error).partition("\n")[0])

    def _unknown_type(self, type_name: str) -> str:
        known = ", ".join(sorted(self._handlers)[:20]) or "none"
        return f"no handler is registered for the type {type_name!r} in this worker's app; it has: {known}"


async def _limited(coroutine: Coroutine[Any, Any, Any], timeout_seconds: float | None, pid: int) -> Any:
    """Await the handler; its time limit cancels it, and what it left on the loop is cancelled after it."""
    limit = asyncio.timeout(timeout_seconds)
    try:
        async with limit:
            try:
                return await coroutine
            finally:
                _end_if_forked(pid)  # here, while it is known how the handler ended: this loop is its parent's
    except TimeoutError:
        if limit.expired():
            raise TaskTimeout(f"the task's time limit of {timeout_seconds:g} s is up") from None
        raise
    finally:
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.gather(*left, return_exceptions=True)


def _end_if_forked(pid: int) -> None:
    """End a process that the handler forked and let run out of the handler, with the exit code that Python gives one.

    Else it would go on as a second child of this slot: on the same connection and board, taking the same claims, while
    the handler perhaps waits for its end. Called where a handler's exception, if any, is being handled.
    """
    if os.getpid() == pid:
        return
    raised = sys.exc_info()[1]
    code = 0
    if isinstance(raised, SystemExit):
        code = raised.code if isinstance(raised.code, int) else int(raised.code is not None)
    elif raised is not None:
        traceback.print_exception(raised)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


def _after_failure(raised: BaseException, attempt: int, limits: Limits) -> tuple[TaskStatus, float]:
    """What follows a failed attempt: a retry after so many seconds, or the dead letters."""
    if attempt > limits.max_retries:
        return TaskStatus.DEAD_LETTER, 0.0
    if isinstance(raised, Retry):
        return TaskStatus.PENDING, raised.in_seconds
    return TaskStatus.PENDING, limits.policy.delay(attempt)
