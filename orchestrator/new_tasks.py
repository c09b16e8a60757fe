"""What a caller wants enqueued, looked at and made into NewTasks. Pure; any process of the user's."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from orchestrator.errors import EnqueueError, OptionError, PayloadError
from orchestrator.limits import (
    delay_problem,
    idempotency_key_problem,
    max_retries_problem,
    priority_problem,
    run_at_problem,
    timeout_problem,
    type_problem,
)
from orchestrator.model import NewTask
from orchestrator.payload import decode_payload, encode_payload

ToEnqueue = NewTask | Mapping[str, Any] | tuple[str, Mapping[str, Any]]

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""The payload of a task that has none."""


def new_task(
    type: str,
    payload: Mapping[str, Any] = NOTHING,
    *,
    priority: int = 0,
    delay: float | None = None,
    run_at: datetime | None = None,
    idempotency_key: str | None = None,
    max_retries: int | None = None,
    timeout: float | None = None,
) -> NewTask:
    """The task, checked. OptionError or PayloadError."""
    options = (priority, delay, run_at, idempotency_key, max_retries, timeout)
    are_defaults = _are_defaults(*options)
    problem = type_problem(type) or (None if are_defaults else _option_problem(*options))
    if problem is not None:
        raise OptionError(problem)
    if not are_defaults:  # a member of an enumeration of numbers is a number, but prints as a name
        priority, max_retries = int(priority), None if max_retries is None else int(max_retries)
        delay, timeout = (None if each is None else float(each) for each in (delay, timeout))
        run_at = None if run_at is None else run_at.astimezone(UTC)  # PostgreSQL knows offsets up to 16 h, in seconds
    return NewTask(type, encode_payload(payload), priority, delay, run_at, idempotency_key, max_retries, timeout)


def _are_defaults(
    priority: object, delay: object, run_at: object, idempotency_key: object, max_retries: object, timeout: object
) -> bool:
    """Whether there is nothing to look at, as mostly; bulk enqueueing spends a third of its time in those looks."""
    return (
        (type(priority) is int and priority == 0)
        and (delay is None and run_at is None)
        and (idempotency_key is None and max_retries is None and timeout is None)
    )


def _option_problem(
    priority: int,
    delay: float | None,
    run_at: datetime | None,
    idempotency_key: str | None,
    max_retries: int | None,
    timeout: float | None,
) -> str | None:
    """What is wrong with the first that is."""
    problems = (
        priority_problem(priority),
        delay_problem(delay),
        run_at_problem(run_at),
        "give delay or run_at, not both" if delay is not None and run_at is not None else None,
        idempotency_key_problem(idempotency_key),
        max_retries_problem(max_retries) if max_retries is not None else None,
        timeout_problem(timeout),
    )
    return next((problem for problem in problems if problem is not None), None)


def has_key(given: object) -> bool:
    """Whether one of enqueue_many's tasks has an idempotency key."""
    if isinstance(given, NewTask):
        return given.idempotency_key is not None
    return isinstance(given, Mapping) and given.get("idempotency_key") is not None


def checked_batch(given: Sequence[object], start: int, size: int) -> list[NewTask]:
    """`size` of them from `start` on, checked; errors name the task by its position among all."""
    return [_checked(index, task) for index, task in enumerate(given[start : start + size], start)]


def _checked(index: int, given: object) -> NewTask:
    """One of enqueue_many's tasks; its errors begin with the position."""
    try:
        if isinstance(given, NewTask):
            if not isinstance(given.payload, str):
                raise PayloadError("a NewTask has its payload as JSON text: write (type, payload), or a dict")
            return new_task(
                given.type,
                decode_payload(given.payload),
                priority=given.priority,
                delay=given.delay_seconds,
                run_at=given.run_at,
                idempotency_key=given.idempotency_key,
                max_retries=given.max_retries,
                timeout=given.timeout_seconds,
            )
        if isinstance(given, Mapping):
            unknown = sorted(str(key) for key in given.keys() - _ARGUMENTS)
            if unknown or "type" not in given:
                raise OptionError(f"write {', '.join(_ARGUMENTS)}, of which type is required; unknown: {unknown}")
            return new_task(**given)
        if isinstance(given, tuple) and len(given) == 2:
            return new_task(*given)
        raise OptionError("write (type, payload), a dict with the arguments of enqueue(), or a NewTask")
    except EnqueueError as error:
        raise error.__class__(f"task {index}: {error}") from None


_ARGUMENTS = (
    "type", "payload", "priority", "delay", "run_at", "idempotency_key", "max_retries", "timeout",
)  # fmt: skip
