"""The user's side of the system: an App is a table of task types and their handlers.

Imported by the user's modules, in the forkserver, its children and whatever process enqueues. Nothing here opens a
connection or starts a thread: a forkserver imports it.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from orchestrator.client import Client
from orchestrator.errors import DuplicateTypeError, HandlerError, SignatureMismatch
from orchestrator.handler import Handler, TaskFunction, is_async, is_generator, signature_of
from orchestrator.limits import max_retries_problem, timeout_problem, type_problem
from orchestrator.model import DEFAULT_MAX_RETRIES, PeriodicTask, TaskType
from orchestrator.new_tasks import NOTHING
from orchestrator.periodic import periodic_task
from orchestrator.retry import RetryPolicy

__all__ = [
    "App",
    "CurrentTask",
    "Handler",
    "SignatureMismatch",
    "TaskFunction",
    "current_task",
    "running_task",
]

P = ParamSpec("P")
R = TypeVar("R")
Hook = Callable[[], object]


@dataclass(frozen=True, slots=True)
class CurrentTask:
    """What a handler can know about its execution. `attempt` counts from 1; `timeout_seconds` None: no limit."""

    id: str
    type: str
    attempt: int
    max_retries: int
    timeout_seconds: float | None = None

    @property
    def is_last_attempt(self) -> bool:
        """No retry will follow if this execution fails."""
        return self.attempt > self.max_retries


running_task: ContextVar[tuple[str, str, int, int, float | None]] = ContextVar("running_task")
"""The fields of a CurrentTask, which is made for who asks. Set by the child around each handler.

Threads that a handler starts see it only if they are given its context.
"""


def current_task() -> CurrentTask:
    """The task that the calling handler runs. RuntimeError outside a handler."""
    task = running_task.get(None)
    if task is None:
        raise RuntimeError(
            "current_task() was called outside a handler (a thread of a handler's needs contextvars.copy_context())"
        )
    return CurrentTask(*task)


class App:
    """Task types and their handlers.

    `client` is what the handlers' enqueue() uses, by default one of DATABASE_URL. Another may be put in its place.
    """

    def __init__(self, *, client: Client | None = None) -> None:
        self.client = client if client is not None else Client()
        self.start_hooks: list[Hook] = []
        self.stop_hooks: list[Hook] = []
        self._handlers: dict[str, Handler] = {}
        self._periodic: dict[str, PeriodicTask] = {}

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The handler of each type; a live view."""
        return MappingProxyType(self._handlers)

    def types(self) -> tuple[TaskType, ...]:
        return tuple(handler.type for handler in self._handlers.values())

    @property
    def periodic_tasks(self) -> tuple[PeriodicTask, ...]:
        return tuple(self._periodic.values())

    def task(
        self,
        type: str,
        *,
        max_retries: int = DEFAULT_MAX_RETRIES,
        timeout: float | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 frozen
    ) -> Callable[[Callable[P, R]], TaskFunction[P, R]]:
        """Register the decorated function as the handler of `type`. It is called with the payload's keys as keywords.

        `max_retries` retries follow a failed first attempt; `timeout` seconds after its start an attempt is ended.
        HandlerError and DuplicateTypeError at once, where the mistake stands.
        """
        if callable(type):
            raise HandlerError('write @app.task("the:type") with the type in parentheses')
        for problem in (type_problem(type), max_retries_problem(max_retries), timeout_problem(timeout)):
            if problem is not None:
                raise HandlerError(problem)
        if not isinstance(retry, RetryPolicy):
            raise HandlerError(f"the handler of {type!r}: retry= takes a RetryPolicy")
        registered = TaskType(type, max_retries, timeout, retry.base, retry.cap)

        def register(function: Callable[P, R]) -> TaskFunction[P, R]:
            if isinstance(function, TaskFunction):  # one function for two types
                function = function.function
            handler = TaskFunction(self, registered, function)
            self._add(handler)
            return handler

        return register

    def periodic(
        self,
        cron: str,
        task: TaskFunction[..., Any] | str,
        payload: Mapping[str, Any] = NOTHING,
        *,
        timezone: str = "UTC",
        name: str | None = None,
        priority: int = 0,
        max_retries: int | None = None,
        timeout: float | None = None,
        due_as: str | None = None,
    ) -> None:
        """Have a task enqueued at each moment that `cron` names: "30 3 * * MON-FRI" in `timezone`.

        `task` is a handler or the type of one. Of one type there can be several, if each has a `name`. Under the key
        `due_as` the payload tells the moment, in ISO 8601. The other options are those of `enqueue`.

        The leader enqueues them, each moment once, however many workers there are; of those that passed while none ran,
        the newest. What an app has no more is forgotten when it starts or is reloaded. HandlerError if it cannot be.
        """
        type = task.type.name if isinstance(task, Handler) else task
        made = periodic_task(
            cron,
            type,
            payload,
            timezone=timezone,
            name=name,
            priority=priority,
            max_retries=max_retries,
            timeout=timeout,
            due_as=due_as,
        )
        if isinstance(task, Handler):
            try:
                task.bind(payload if due_as is None else {**payload, due_as: ""})
            except SignatureMismatch as mismatch:
                raise HandlerError(f"a periodic task of {type!r}: {mismatch.reason}") from None
        if made.name in self._periodic:
            raise _two_periodic(made.name)
        self._periodic[made.name] = made

    def include(self, other: "App") -> None:
        """Serve the other app's types, periodic tasks too, and run its hooks. DuplicateTypeError if both have one type,
        HandlerError if both have a periodic task of one name: nothing of it is included then."""
        if twice := other._handlers.keys() & self._handlers.keys():
            raise DuplicateTypeError(min(twice), _place(self._handlers[min(twice)]))
        if again := other._periodic.keys() & self._periodic.keys():
            raise _two_periodic(min(again))
        self._periodic.update(other._periodic)
        for handler in other._handlers.values():
            self._add(handler)
        self.start_hooks.extend(other.start_hooks)
        self.stop_hooks.extend(other.stop_hooks)

    def on_child_start(self, hook: Callable[[], R]) -> Callable[[], R]:
        """Run the decorated function in each child before its first task: open pools and start threads there.

        If it raises, the child is not used; another is tried with a backoff.
        """
        self.start_hooks.append(_checked_hook(hook))
        return hook

    def on_child_stop(self, hook: Callable[[], R]) -> Callable[[], R]:
        """Run the decorated function in each child that leaves in good order; not in one that is killed."""
        self.stop_hooks.append(_checked_hook(hook))
        return hook

    def _add(self, handler: Handler) -> None:
        if (registered := self._handlers.get(handler.type.name)) is not None:
            raise DuplicateTypeError(handler.type.name, _place(registered))
        self._handlers[handler.type.name] = handler


def _place(handler: Handler) -> str:
    """Where its function stands: `shop.tasks.send_email`."""
    name = getattr(handler.function, "__qualname__", None)
    return f"{handler.function.__module__}.{name}" if name is not None else repr(handler.function)


def _two_periodic(name: str) -> HandlerError:
    return HandlerError(f"there are two periodic tasks {name!r}: give each a name= of its own")


def _checked_hook(hook: Hook) -> Hook:
    if is_async(hook) or is_generator(hook):
        raise HandlerError("a hook is a plain function without arguments: write @app.on_child_start over a def")
    try:
        signature_of(hook).bind()
    except (TypeError, ValueError):
        raise HandlerError(f"the hook {hook!r} is not callable without arguments") from None
    return hook
