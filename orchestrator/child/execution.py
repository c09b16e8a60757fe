"""Run one handler once, and say how it ended. Runs in a child; it never raises, whatever the handler does."""

import time
from collections.abc import Mapping
from types import AsyncGeneratorType, GeneratorType
from typing import Any, NamedTuple

from orchestrator.app import App, Handler, running_task
from orchestrator.child.contexts import Contexts
from orchestrator.child.coroutines import Coroutines
from orchestrator.child.forks import Origin
from orchestrator.child.time_limit import TimeLimit
from orchestrator.errors import MAX_SECONDS, Discard, HandlerError, PayloadError, Retry
from orchestrator.failure import describe_exception
from orchestrator.model import DEFAULT_MAX_RETRIES, MAX_ERROR_BYTES, Claim, Outcome, TaskStatus
from orchestrator.payload import decode_payload, encode_result, storable
from orchestrator.retry import RetryPolicy
from orchestrator.telemetry import logs

MAX_KNOWN_LIMITS = 1000
"""Who may enqueue decides how many there are."""

_DEFAULT_POLICY = RetryPolicy()
_GENERATORS = (GeneratorType, AsyncGeneratorType)


class _CannotRun(Exception):
    """This task can never run here; says why."""


class Limits(NamedTuple):
    """What holds for one claim: what enqueue said, else what the handler is registered with, else the worker's."""

    max_retries: int
    timeout_seconds: float | None
    policy: RetryPolicy


class Executor:
    """Runs claims with the handlers of one app."""

    def __init__(
        self,
        app: App,
        time_limit: TimeLimit,
        origin: Origin,
        *,
        default_timeout: float | None,
        max_result_size: int,
    ) -> None:
        self._app = app
        self._handlers: Mapping[str, Handler] = app.handlers
        self._time_limit = time_limit
        self._default_timeout = default_timeout
        self._max_result_size = max_result_size
        self._contexts = Contexts()
        self._origin = origin
        self._coroutines = Coroutines(origin)
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

    @property
    def lost_loop(self) -> str | None:
        """Why a coroutine has left no event loop that another could go on with, if so."""
        return self._coroutines.lost_loop

    def run(self, claim: Claim, limits: Limits, started_ns: int) -> Outcome:
        """Run the claim's handler to its end. `started_ns` is the moment the board tells."""
        status, error, result, delay = TaskStatus.COMPLETED, None, None, 0.0
        is_lost = False  # it has ended, and not because its handler gave it up
        try:
            handler, payload = self._prepare(claim)
            value = self._call(handler, payload, claim, limits, started_ns)
            if value is not None:
                result, note = encode_result(value, max_bytes=self._max_result_size)
                if note is not None:
                    self._log.warning("result_replaced", task_id=claim.task_id, type=claim.type, reason=note)
        except _CannotRun as refusal:
            error, status, is_lost = str(refusal), TaskStatus.FAILED, True
        except Discard as given_up:
            error, status = describe_exception(given_up), TaskStatus.FAILED
        except BaseException as raised:  # noqa: BLE001 a border: whatever a handler raises is its outcome
            error = describe_exception(raised)
            status, delay = _after_failure(raised, claim.attempt, limits)
            is_lost = status is TaskStatus.DEAD_LETTER
        if error is not None:
            # a driver quotes the DATABASE_URL that it cannot read; and the table is read by more than know that
            error = storable(logs.without_secrets(error), MAX_ERROR_BYTES)
            tell = self._log.warning if is_lost else self._log.info
            tell(
                "attempt_failed", task_id=claim.task_id, type=claim.type, attempt=claim.attempt, then=status.value,
                error=error.partition("\n")[0][:200],
            )  # fmt: skip
        task_id, type_name, token, _, attempt, *_ = claim
        return tuple.__new__(  # as Outcome(…), in a third of the time
            Outcome,
            (task_id, token, type_name, status, attempt, started_ns / 1e9, time.monotonic(), error, result, delay),
        )

    def _prepare(self, claim: Claim) -> tuple[Handler, dict[str, Any]]:
        """The handler and what it is called with. _CannotRun: there is none, or it takes no such payload.

        A PayloadError of the handler's own, who enqueues something, is a failure like any other.
        """
        handler = self._handlers.get(claim.type)
        if handler is None:
            raise _CannotRun(self._unknown_type(claim.type))
        try:
            payload = decode_payload(claim.payload)
            handler.bind(payload)
        except PayloadError as misfit:
            raise _CannotRun(describe_exception(misfit)) from None
        return handler, payload

    def _call(self, handler: Handler, payload: dict[str, Any], claim: Claim, limits: Limits, started_ns: int) -> Any:
        task_id, type_name, _, _, attempt, *_ = claim
        timeout = limits.timeout_seconds
        context = self._contexts.fresh()
        context.run(running_task.set, (task_id, type_name, attempt, limits.max_retries, timeout))
        try:
            if handler.is_async:
                coroutine = context.run(handler.function, **payload)
                return self._coroutines.run(coroutine, context, timeout, started_ns)
            if timeout is None:
                value = context.run(handler.function, **payload)
            else:
                try:
                    self._time_limit.arm(timeout)
                    value = context.run(handler.function, **payload)
                finally:
                    self._time_limit.disarm()
            if value is None:
                return None
            # of a plain function around an async def, such as a decorator makes, or of one that Cython compiled
            kind = type(value)
            if hasattr(kind, "__await__"):
                return self._coroutines.run(value, context, timeout, started_ns)
            if kind in _GENERATORS and value.__name__ != "<genexpr>":  # such an expression may come after real work
                raise HandlerError("the handler returned a generator, of which nothing has run")
            return value
        finally:
            self._origin.end_forks(started_ns)

    def _unknown_type(self, type_name: str) -> str:
        known = ", ".join(sorted(self._handlers)[:20]) or "none"
        return f"no handler is registered for the type {type_name!r} in this worker's app; it has: {known}"


def _after_failure(raised: BaseException, attempt: int, limits: Limits) -> tuple[TaskStatus, float]:
    """What follows a failed attempt: a retry after so many seconds, or the dead letters."""
    if attempt > limits.max_retries:
        return TaskStatus.DEAD_LETTER, 0.0
    # isinstance would ask the exception's own __class__, which may raise
    asked = _asked_seconds(raised) if issubclass(type(raised), Retry) else None
    return TaskStatus.PENDING, limits.policy.delay(attempt) if asked is None else asked


def _asked_seconds(retry: Any) -> float | None:
    """None: a class of the user's has lost them (an __init__ of its own), or made of them what is no time to wait."""
    try:
        seconds = float(retry.in_seconds)
    except BaseException:  # noqa: BLE001 even SystemExit, of a property of its own
        return None
    return seconds if 0 <= seconds <= MAX_SECONDS else None
