"""What the supervisor's loop is joined to, and what it shows of itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from orchestrator.mailbox import Order
from orchestrator.model import Outcome, TaskType


class DatabaseSide(Protocol):
    """The database threads, as the loop sees them."""

    def start(self) -> None: ...

    def post(self, order: Order) -> None: ...

    @property
    def outstanding(self) -> int:
        """Orders that the database has not taken yet."""
        ...

    @property
    def has_time(self) -> bool:
        """Whether an order would be carried out at once."""
        ...

    @property
    def overdue_seconds(self) -> Mapping[str, float]:
        """By thread, if it does not get on: for how long it should have come back from a call."""
        ...

    def stop(self, *, within: float) -> None:
        """Sign off and end, in so many seconds at most."""
        ...


@dataclass(slots=True)
class PoolSettings:
    """What the pool needs to know. Seconds."""

    worker_id: str
    board_capacity: int
    boot_seconds: float


class SupervisorSettings(NamedTuple):
    """What the loop needs to know. Durations in seconds, sizes in bytes (0: no limit)."""

    app: str
    pool_size: int
    shutdown_timeout: float
    task_kill_grace: float
    task_memory_limit: int
    pool: PoolSettings


class PoolStatus(NamedTuple):
    """How the pool is, for /health, /metrics and the service manager; made by the loop, read by other threads.

    `is_ready`: every seat has had its child. `ready` have one now; those of them that don't back off and have got a
    connection are `settled`, `unconnected` get none.
    `types` are known once the app is loaded. `is_app_lost`: it cannot be loaded again, so no child is replaced.
    """

    state: str
    is_paused: bool
    is_ready: bool
    capacity: int
    ready: int
    settled: int
    unconnected: int
    active: int
    backing_off: int
    types: tuple[str, ...]
    is_app_lost: bool
    turned_at: float


class Listeners(NamedTuple):
    """Who is told what: metrics, mostly."""

    on_types: Callable[[tuple[TaskType, ...]], None]
    on_restart: Callable[[int, str], None]
    on_ended: Callable[[Sequence[Outcome]], None]
    on_stale: Callable[[str], None]
    on_reload: Callable[[bool], None]
    on_ready: Callable[[], None]
