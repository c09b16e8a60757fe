"""What happened in a run, as the checker reads it: tried enqueues, executions, every change of a row, every deed.

Times are CLOCK_MONOTONIC seconds of the one machine that everything ran on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Enqueue:
    """One try to add the task number `n`; `task_id` None: no reply, so the task may exist or not."""

    n: int
    type: str
    key: str | None
    run_at: float | None
    task_id: str | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """One try to cancel a task; `at` None: no reply, so it may be cancelled or not."""

    task_id: str
    at: float | None


@dataclass(frozen=True, slots=True)
class Execution:
    """A handler's run; `ended` None: it raised, crashed, hung or was killed."""

    task_id: str
    attempt: int
    pid: int
    started: float
    ended: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a row of `tasks`, written by the same transaction. `role`: whose connection, `holder_role`: who
    led at that moment (None: nobody did)."""

    at: float
    transaction: int
    role: str
    holder_role: str | None
    task_id: str
    old_status: str | None
    new_status: str | None
    old_attempts: int
    new_attempts: int
    old_token: int | None
    new_token: int | None
    old_ended_token: int | None
    new_ended_token: int | None
    old_worker: str | None
    new_worker: str | None
    is_recovery: bool


@dataclass(frozen=True, slots=True)
class Death:
    """A worker was declared dead, by `role`, when it had not beaten for `silence` seconds."""

    at: float
    role: str
    holder_role: str | None
    worker_id: str
    silence: float


@dataclass(frozen=True, slots=True)
class Leadership:
    """The lease changed hands or was renewed: `left` seconds of it were left before."""

    at: float
    old_term: int
    new_term: int
    old_holder: str | None
    new_holder: str | None
    left: float


@dataclass(frozen=True, slots=True)
class Row:
    """A task at the end."""

    task_id: str
    n: int | None
    type: str
    key: str | None
    status: str
    attempts: int
    priority: int
    created: float
    max_retries: int | None
    due: float | None = None  # of a periodic one


@dataclass(frozen=True, slots=True)
class Deed:
    """What the nemesis did. `target` names a worker, and the process if it was one of its pool."""

    at: float
    what: str
    target: str


@dataclass(slots=True)
class History:
    """A whole run."""

    is_distributed: bool
    worker_timeout: float
    enqueues: list[Enqueue] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    leaderships: list[Leadership] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)

    def of(self, task_id: str) -> list[str]:
        """All that happened to one task, in the order of time, for people."""
        events: list[tuple[float, str]] = []
        for each in self.executions:
            if each.task_id == task_id:
                ended = "never" if each.ended is None else f"{each.ended:.3f}"
                events.append((each.started, f"attempt {each.attempt} began in {each.pid}, ended {ended}"))
        events += [(each.at, str(each)) for each in self.changes if each.task_id == task_id]
        events += [(each.at, "cancelled") for each in self.cancels if each.task_id == task_id and each.at]
        events += [(each.at, f"{each.what} {each.target}") for each in self.deeds]
        return [f"{at:.3f} {text}" for at, text in sorted(events)]


def executions(lines: Iterable[str]) -> list[Execution]:
    """From the lines that the handlers noted."""
    open_ones: dict[tuple[str, int, int], int] = {}
    found: list[Execution] = []
    for line in lines:
        what, task_id, attempt, pid, when = line.split()
        at = int(when) / 1e9
        key = (task_id, int(attempt), int(pid))
        if what == "start":
            open_ones[key] = len(found)
            found.append(Execution(task_id, int(attempt), int(pid), at, None))
        else:
            index = open_ones.pop(key)
            found[index] = Execution(task_id, int(attempt), int(pid), found[index].started, at)
    return found
