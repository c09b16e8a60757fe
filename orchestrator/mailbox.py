"""What crosses the supervisor's threads: its main loop orders, the database threads report. No I/O but an eventfd."""

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from orchestrator.model import ClaimRef, Outcome, OwnedClaim, PeriodicTask, ReleaseReason, Stale, Start, TaskType

Message = TypeVar("Message")


class Mailbox(Generic[Message]):
    """A queue between two threads whose reader can wait on a file descriptor.

    `post` never blocks and may be called from any thread; `take` is for the one reader.
    """

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Readable while something may be waiting."""
        return self._bell

    def post(self, message: Message) -> None:
        self._messages.append(message)
        os.eventfd_write(self._bell, 1)

    def take(self) -> list[Message]:
        """All that has been posted, in order; never blocks."""
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass
        taken = []
        while self._messages:
            taken.append(self._messages.popleft())
        return taken

    def close(self) -> None:
        os.close(self._bell)


class Sleeper:
    """The idle child that a notification wakes, straight from the thread that hears it. Thread-safe.

    By way of the supervisor's loop, which has to wake up first, it would begin a fifth of a millisecond later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake: Callable[[], bool] | None = None

    def offer(self, wake: Callable[[], bool] | None) -> None:
        """The loop says how to wake the next, which may refuse; None: nobody sleeps."""
        with self._lock:
            self._wake = wake

    def wake(self) -> bool:
        """Whether a child was woken. Each is offered anew before it is woken again."""
        with self._lock:
            wake, self._wake = self._wake, None
            return wake is not None and wake()


# Orders: the supervisor's loop → the coordinator. Each is kept until the database has taken it.


class Begin(NamedTuple):
    """The app is loaded: register its types and periodic tasks, recover what an earlier run left, then report
    `Serving`."""

    types: tuple[TaskType, ...]
    app: str
    periodic: tuple[PeriodicTask, ...] = ()


class Types(NamedTuple):
    """The app was reloaded: register its types and periodic tasks.

    `only_missing`: it was not, but the database may have lost those that were registered.
    """

    types: tuple[TaskType, ...]
    app: str
    periodic: tuple[PeriodicTask, ...] = ()
    only_missing: bool = False


class Finish(NamedTuple):
    """Write these outcomes; report them as `Written`.

    `is_estate`: the child that made them is dead and had counted none of them. So if it turns out that it wrote them,
    whoever finds that out counts them.
    """

    outcomes: tuple[Outcome, ...]
    is_estate: bool = False


class Release(NamedTuple):
    """Make these claims pending again; they use no attempt."""

    claims: tuple[ClaimRef, ...]
    reason: ReleaseReason


class MarkRunning(NamedTuple):
    """Mark these executions running: they have run for a while."""

    starts: tuple[Start, ...]


class Audit(NamedTuple):
    """Report, as `Audited`, what the database thinks this worker owns (in one slot, or in all)."""

    slot: int | None = None


class Activity(NamedTuple):
    """How the pool is: whether any child sleeps (then inserts should notify), and whether claiming is allowed."""

    has_sleepers: bool
    is_claiming: bool


Order = Begin | Types | Finish | Release | MarkRunning | Audit | Activity

# Reports: the database threads → the supervisor's loop.


class Registered(NamedTuple):
    """The schema is there, the guard let us pass, the worker row stands."""

    worker_id: str
    server_version: str


class Serving(NamedTuple):
    """`Begin` is done: children may claim."""

    recovered: int


class StartFailed(NamedTuple):
    """The database side cannot start: say `message` and leave with `exit_code`."""

    exit_code: int
    message: str


class WorkIsDue(NamedTuple):
    """Something can be claimed: wake an idle child. `has_woken`: who says so has woken one itself (Sleeper)."""

    has_woken: bool = False


class Written(NamedTuple):
    """These claims' outcomes stand in the database (or are no longer ours to write).

    `by_child`: those of them that stood there already, so that their children are the ones to count them. `stale`:
    those that were refused, for all that the database still knows.
    """

    tokens: tuple[int, ...]
    by_child: tuple[int, ...] = ()
    stale: tuple[Stale, ...] = ()


class Released(NamedTuple):
    """Claims that were taken back for this reason can be claimed again."""

    reason: ReleaseReason


class Audited(NamedTuple):
    """What the database thinks this worker owns."""

    slot: int | None
    claims: tuple[OwnedClaim, ...]


class LeaseLost(NamedTuple):
    """Single-instance mode: another instance took the lease; stop claiming, drain, exit 5."""

    holder: str


class DeclaredDead(NamedTuple):
    """This worker was declared dead: kill what runs, then go on under `worker_id`."""

    worker_id: str


Report = Registered | Serving | StartFailed | WorkIsDue | Written | Released | Audited | LeaseLost | DeclaredDead
