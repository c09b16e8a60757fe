"""Every exception of the package.

OrchestratorError
├── ConfigurationError        settings that cannot be used: all of them, listed at once        exit 2
├── AppError                  the user's app cannot serve, or could not be forked              exit 3
│   ├── AppLoadError          module missing, raising, or not an App
│   ├── HandlerError          a function or an option that cannot be registered
│   └── DuplicateTypeError    two handlers for one type
├── EnqueueError              refused before anything was stored
│   ├── PayloadError          not a JSON object, too large, too deep, NUL, NaN
│   │   └── SignatureMismatch its keys are not what the handler takes
│   └── OptionError           a priority, delay, key … out of range
├── StoreError
│   ├── DatabaseUnavailable   no connection, or it was lost; the statement's fate may be unknown
│   │   └── DeadlineExceeded  the database did not answer in time
│   ├── StatementRefused      the server refused a statement; the connection still works
│   └── SchemaError           newer than this version, or the role may not create it           exit 6
├── PrivatePostgresError      the server of `orchestratord dev` and the tests cannot be made         exit 2
├── InstanceRunningError      another single instance holds the database                       exit 5
├── NoRoomError               no further thread or process is allowed here                     exit 2
├── NoProcError               /proc is not mounted, or shows other processes                  exit 2
├── TaskTimeout               raised inside a handler whose time is up
├── Discard                   raised by a handler: give up, never retry
└── Retry                     raised by a handler: again, at a time of its choosing
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MAX_SECONDS = 366 * 86400.0
"""The longest wait or time limit that a task can have; schema.sql says so too."""


class OrchestratorError(Exception):
    """Root of all errors this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as it is. Exception's own way calls the class with the message, which not every one takes:
        a caller's process pool would break over it."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[OrchestratorError], args: tuple[object, ...], facts: Mapping[str, Any]) -> OrchestratorError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class Problem(NamedTuple):
    """One unusable setting: its variable, the value given, and what is accepted."""

    variable: str
    value: str | None
    accepted: str

    def __str__(self) -> str:
        given = "is not set" if self.value is None else f"is {self.value!r}"
        return f"{self.variable} {given}: {self.accepted}"


class ConfigurationError(OrchestratorError):
    """Settings that cannot be used; `problems` has every one of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class AppError(OrchestratorError):
    """The user's app cannot serve tasks."""


class AppLoadError(AppError):
    """The app named by `spec` could not be imported, or is no App."""

    def __init__(self, spec: str, reason: str) -> None:
        self.spec = spec
        self.reason = reason
        super().__init__(f"the app {spec!r} could not be loaded: {reason}")


class HandlerError(AppError):
    """A function that cannot be a handler or hook, or an option out of range, where it is registered; or what one
    returned shows that nothing of it has run."""


class DuplicateTypeError(AppError):
    """Two handlers were registered for one task type."""

    def __init__(self, type_name: str, registered: str) -> None:
        self.type_name = type_name
        super().__init__(f"a handler for {type_name!r} is registered already: {registered}")


class EnqueueError(OrchestratorError):
    """The task was refused; nothing was stored."""


class PayloadError(EnqueueError):
    """The payload is no JSON object that PostgreSQL can store and a handler can take."""


class SignatureMismatch(PayloadError):
    """The payload's keys are not what the handler of `type_name` takes. Trying again cannot help."""

    def __init__(self, type_name: str, reason: str) -> None:
        self.type_name = type_name
        self.reason = reason
        super().__init__(f"the payload does not fit the handler of {type_name!r}: {reason}")


class OptionError(EnqueueError):
    """An option of the task (priority, delay, key …) is out of range."""


class StoreError(OrchestratorError):
    """Something between us and the database failed."""


class DatabaseUnavailable(StoreError):
    """No connection could be made, or it was lost.

    `sent` says whether a statement was under way: then it may have been committed all the same.
    """

    def __init__(self, message: str, *, sent: bool = False) -> None:
        self.sent = sent
        super().__init__(message)


class DeadlineExceeded(DatabaseUnavailable):
    """The database did not answer within the caller's deadline; the connection was given up."""


_TIMEOUT_STATE = "57014"
_LOCK_STATES = ("55P03", _TIMEOUT_STATE)
"""The wait for a lock was over, or the statement's time was, which locks mostly use up."""

_PASSING_CLASSES = ("25", "40", "42", "53", "55", "57", "58", "XX")
"""Of sqlstates; PostgreSQL's manual, appendix A."""


class StatementRefused(StoreError):
    """The server refused a statement (`sqlstate`); the connection can be used again."""

    def __init__(self, message: str, *, sqlstate: str | None) -> None:
        self.sqlstate = sqlstate
        super().__init__(message)

    @property
    def blames_data(self) -> bool:
        """Whether what was sent is at fault; else the server's state, its locks or its schema, which may pass."""
        return self.sqlstate is None or not self.sqlstate.startswith(_PASSING_CLASSES)

    @property
    def blames_lock(self) -> bool:
        """Whether it waited too long for a lock that somebody holds, as far as one can tell."""
        return self.sqlstate in _LOCK_STATES

    @property
    def took_too_long(self) -> bool:
        """Whether the statement's time was over."""
        return self.sqlstate == _TIMEOUT_STATE


class SchemaError(StoreError):
    """The schema is newer than this version knows, or this role may not create or upgrade it."""


class PrivatePostgresError(OrchestratorError):
    """The private PostgreSQL of `orchestratord dev` and the tests could not be made or started."""


class InstanceRunningError(OrchestratorError):
    """Another single instance, `holder`, is at work on this database."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(
            f"another instance runs on this database: {holder}. Stop it first, or set DISTRIBUTED_MODE=true on both."
        )


NO_ROOM = (
    "no further process or thread is allowed here: raise what limits them (ulimit -u, TasksMax= of systemd, a"
    " container's pids limit; threads also ulimit -v)"
)


class NoRoomError(OrchestratorError):
    """A thread that we cannot do without could not be started."""


NO_PROC = (
    "/proc is not mounted here, or is another PID namespace's: mount it (mount -t proc proc /proc, --mount-proc of"
    " unshare, MountAPIVFS=yes of systemd)"
)


class NoProcError(OrchestratorError):
    """/proc does not show this process to itself: what tasks leave could not be found there."""


class TaskTimeout(OrchestratorError):
    """The task's time is up. Raised inside the handler; the child is killed a grace later."""


class Discard(OrchestratorError):
    """Raise it in a handler to give the task up: it ends in `failed` and is never retried."""


class Retry(OrchestratorError):
    """Raise it in a handler to run again in `in_` seconds instead of after the backoff.

    It uses an attempt like any other failure, so it cannot go on for ever.
    """

    def __init__(self, message: str = "", *, in_: float = 0.0) -> None:
        if isinstance(message, (int, float)):  # type: ignore[unreachable]  # at once, until the attempts are used up
            raise TypeError(f"Retry({message!r}): write Retry(in_={message!r})")
        try:
            fits = 0 <= in_ <= MAX_SECONDS
        except TypeError:  # "60s", a timedelta
            fits = False
        if not fits:
            raise ValueError(f"Retry(in_={in_!r}): write 0 to {MAX_SECONDS:.0f} seconds, as a number")
        self.in_seconds = float(in_)
        super().__init__(message or f"the handler asked to run again in {in_:g} s")
