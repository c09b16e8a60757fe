"""A function of the user's as a task's handler: how it is called with a payload, and how it is enqueued.

Used at import in the user's modules and in children; nothing here opens a connection before a task is enqueued.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from orchestrator.callers_connection import CallersConnection
from orchestrator.client import Client
from orchestrator.errors import HandlerError, SignatureMismatch
from orchestrator.model import TaskType
from orchestrator.payload import shown_key

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

if sys.version_info >= (3, 14):
    import annotationlib

    _UNREAD: Mapping[str, Any] = {"annotation_format": annotationlib.Format.FORWARDREF}
else:
    _UNREAD: Mapping[str, Any] = {}

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class HasClient(Protocol):
    """The App that a function was registered with. It may be given another client later."""

    client: Client


class Handler:
    """A registered function. What a child needs of it: `type`, `function`, `is_async` and `bind`."""

    def __init__(self, type: TaskType, function: Callable[..., Any]) -> None:
        signature = _signature(function)
        self.type = type
        self.function = function
        self.is_async = is_async(function)
        named = [each for each in signature.parameters.values() if each.kind in _NAMED]
        self._known = frozenset(each.name for each in named)
        self._required = frozenset(each.name for each in named if each.default is inspect.Parameter.empty)
        self._takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.parameters.values())

    def bind(self, payload: Mapping[str, Any]) -> None:
        """SignatureMismatch unless `function(**payload)` is a call that Python accepts."""
        keys = payload.keys()
        if self._required <= keys and (self._takes_any or keys <= self._known):
            return
        missing = ", ".join(sorted(self._required - keys))
        unknown = "" if self._takes_any else ", ".join(map(shown_key, sorted(keys - self._known)[:20]))
        reasons = [f"missing {missing}"] if missing else []
        reasons += [f"unknown {unknown[:500]}"] if unknown else []
        raise SignatureMismatch(self.type.name, f"{'; '.join(reasons)} (it takes {self._takes()})")

    def _takes(self) -> str:
        names = [f"{name}" if name in self._required else f"[{name}]" for name in sorted(self._known)]
        return ", ".join([*names, *(["any other"] if self._takes_any else [])]) or "nothing"


class TaskFunction(Handler, Generic[P, R]):
    """What `@app.task` makes of a function: it can still be called, and it can be enqueued."""

    def __init__(self, app: HasClient, type: TaskType, function: Callable[P, R]) -> None:
        super().__init__(type, function)
        self._app = app
        functools.update_wrapper(self, function, updated=())
        for name, value in getattr(function, "__dict__", {}).items():
            if not hasattr(self, name):  # a callable object may have a `type` or an `_app` of its own
                setattr(self, name, value)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now; no task is involved."""
        result: R = self.function(*args, **kwargs)
        return result

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Enqueue a task with these arguments; its id. The arguments must be JSON values."""
        return self.options().enqueue(*args, **kwargs)

    def options(
        self,
        *,
        priority: int = 0,
        delay: float | None = None,
        run_at: datetime | None = None,
        idempotency_key: str | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,
        connection: CallersConnection | None = None,
    ) -> "Enqueuing[P]":
        """Options for one task, as Client.enqueue takes them: `f.options(delay=60.0).enqueue(…)`."""
        send = functools.partial(
            self._app.client.enqueue,
            self.type.name,
            priority=priority,
            delay=delay,
            run_at=run_at,
            idempotency_key=idempotency_key,
            max_retries=max_retries,
            timeout=timeout,
            connection=connection,
        )
        return Enqueuing(self, send)

    def __reduce__(self) -> str:
        """Pickled by name, as functions are: `Pool.map(f, …)` goes on when f becomes a task."""
        return str(getattr(self, "__qualname__", self))

    def __repr__(self) -> str:
        return f"<task {self.type.name!r}>"


class Enqueuing(Generic[P]):
    """A handler with options for its next task."""

    def __init__(self, handler: TaskFunction[P, Any], send: Callable[[Mapping[str, Any]], str]) -> None:
        self._handler = handler
        self._send = send

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Enqueue a task with these arguments; its id. SignatureMismatch if the function could not be called so."""
        payload: Mapping[str, Any] = kwargs
        if args:
            payload = _by_name(self._handler, args, kwargs)
        self._handler.bind(payload)
        return self._send(payload)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function that can be a handler; HandlerError says why it cannot."""
    if not callable(function):
        raise HandlerError(f"a handler is a function, not {type(function).__name__}")
    name = getattr(function, "__qualname__", repr(function))
    if is_generator(function):
        raise HandlerError(f"{name} is a generator: calling it would run nothing. Write a function that returns")
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):
        raise HandlerError(f"{name} has no signature that Python can read: wrap it in a function of your own") from None
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise HandlerError(
                f"{name} takes {parameter.name!r} by position only, but a payload's keys arrive as keyword arguments"
            )
    return signature


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """As `inspect.signature`, which from Python 3.14 on reads the annotations, and fails over a name that is imported
    for type checkers only. Nobody asks for them here."""
    return inspect.signature(function, **_UNREAD)


def is_async(function: Callable[..., Any]) -> bool:
    """Calling it gives a coroutine: an `async def`, or an object whose __call__ is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def is_generator(function: Callable[..., Any]) -> bool:
    """Calling it gives a generator and runs nothing: it has a yield, or is an object whose __call__ has one."""
    called = (function, type(function).__call__)
    return any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in called)


def _by_name(handler: Handler, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the payload has them: all by name."""
    signature = signature_of(handler.function)
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise SignatureMismatch(handler.type.name, str(error)) from None
    payload: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise SignatureMismatch(handler.type.name, f"a payload has no place for *{name}: pass keywords")
        if kind is inspect.Parameter.VAR_KEYWORD:
            payload.update(value)
        else:
            payload[name] = value
    return payload
