"""What an app wants done at regular times, looked at and made into PeriodicTasks. Pure; where the app is imported."""

from collections.abc import Mapping
from typing import Any

from orchestrator.cron import cron_problem
from orchestrator.errors import EnqueueError, HandlerError
from orchestrator.limits import (
    due_as_problem,
    max_retries_problem,
    name_problem,
    priority_problem,
    timeout_problem,
    type_problem,
)
from orchestrator.model import PeriodicTask
from orchestrator.payload import encode_payload

MAX_PAYLOAD_BYTES = 8 << 10
"""It travels from process to process in one message, and into each of the tasks."""


def periodic_task(
    cron: str,
    type: str,
    payload: Mapping[str, Any],
    *,
    timezone: str,
    name: str | None,
    priority: int,
    max_retries: int | None,
    timeout: float | None,
    due_as: str | None,
) -> PeriodicTask:
    """The periodic task, checked; HandlerError says what is wrong with it."""
    problems = (
        type_problem(type),
        None if name is None else name_problem(name),
        cron_problem(cron, timezone),
        priority_problem(priority),
        None if max_retries is None else max_retries_problem(max_retries),
        timeout_problem(timeout),
        due_as_problem(due_as),
    )
    for problem in problems:
        if problem is not None:
            raise HandlerError(f"a periodic task of {type!r}: {problem}")
    try:
        encoded = encode_payload(payload, MAX_PAYLOAD_BYTES)
        if due_as is not None:
            encode_payload({due_as: ""})
    except EnqueueError as error:
        raise HandlerError(f"a periodic task of {type!r}: {error}") from error
    if due_as is not None and due_as in payload:
        raise HandlerError(f"a periodic task of {type!r}: due_as={due_as!r} stands in its payload already")
    return PeriodicTask(
        type if name is None else name,
        type,
        cron,
        timezone,
        encoded,
        int(priority),
        None if max_retries is None else int(max_retries),
        None if timeout is None else float(timeout),
        due_as,
    )
