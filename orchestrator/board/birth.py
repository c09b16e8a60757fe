"""What a forkserver and a newborn child are told. It crosses exec as JSON, with the descriptors beside it."""

import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from orchestrator.board.roster import Roster
from orchestrator.model import PeriodicTask, TaskType

BOARD, PERMITS, CHANNEL, STACKS = range(4)
"""The order of the descriptors that come with a ForkRequest."""

MESSAGE_BYTES = 64 << 10
TYPES_PER_MESSAGE = 50
"""The longest names, escaped, and their limits fit."""


class ChildSettings(NamedTuple):
    """What every child of a worker needs to know. Durations in seconds, sizes in bytes; 0: no limit."""

    database_url: str
    pool_size: int
    claim_limit: int
    task_timeout: float | None
    task_kill_grace: float
    max_tasks_per_child: int
    max_child_memory: int
    max_result_size: int
    debug: bool
    log_format: Literal["text", "json"]


class ForkserverOrders(NamedTuple):
    """What a forkserver is told once, right after exec."""

    supervisor_pid: int
    app: str | None
    with_examples: bool
    child_main: str  # module:function, called in each child with its ChildContext
    may_have_threads: bool
    metrics_path: str
    child: ChildSettings


class ForkRequest(NamedTuple):
    """One child, please. The descriptors of board, permits, channel and stacks file travel with it."""

    worker_id: str
    slot: int
    incarnation: int

    @property
    def marker(self) -> str:
        """Names this very child, in the environment of all that its tasks start and in its board's memfd."""
        return f"{self.worker_id}/{self.slot}/{self.incarnation}"


MARKER_VARIABLE = "ORCHESTRATOR_CHILD"


def app_marker(supervisor_pid: int, forkserver_pid: int) -> str:
    """Names a forkserver, in the environment of all that its app starts at import, and in memory which that shares."""
    return f"app-{supervisor_pid}-{forkserver_pid}"


class ChildContext(NamedTuple):
    """All a child's main function gets. Descriptors are its own, close-on-exec."""

    request: ForkRequest
    settings: ChildSettings
    supervisor_pid: int
    board: int
    permits: int
    channel: socket.socket
    stacks: int
    roster: Roster
    become: Callable[[str], None]  # whose metrics files this process writes from now on


def encode(kind: str, told: ForkserverOrders | ForkRequest | PeriodicTask | None = None, **more: Any) -> bytes:
    """A message of `kind`, with the facts of a tuple or of keywords."""
    facts = {} if told is None else told._asdict()
    if isinstance(told, ForkserverOrders):
        facts["child"] = told.child._asdict()
    return json.dumps({"kind": kind, **facts, **more}).encode()


def decode(message: bytes) -> tuple[str, dict[str, Any]]:
    facts: dict[str, Any] = json.loads(message)
    return facts.pop("kind"), facts


def told_orders(facts: Mapping[str, Any]) -> ForkserverOrders:
    return ForkserverOrders(**{**facts, "child": ChildSettings(**facts["child"])})


def told_types(facts: Mapping[str, Any]) -> tuple[TaskType, ...]:
    return tuple(TaskType(**each) for each in facts["types"])


def told_periodic(facts: Mapping[str, Any]) -> PeriodicTask:
    return PeriodicTask(**facts)
