"""What the system talks about: tasks, claims, outcomes, workers, terms. Frozen data, no I/O; any process uses it.

They are tuples with names, as is all frozen data of ours but the settings and what a user meets: to define a frozen
dataclass takes six times as long, at each start of each process, and to make one four times.

pending → claimed → running → completed
                       ├────→ pending       failed, retries left
                       ├────→ dead_letter   failed, no retries left
                       └────→ failed        can never run, or was given up
claimed, running → pending                  handed back, or recovered from a dead worker
any end state    → pending                  an operator's retry
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

DEFAULT_MAX_RETRIES = 3
MAX_PAYLOAD_BYTES = 1 << 20
MAX_RESULT_BYTES = 1 << 20
MAX_ERROR_BYTES = 16 << 10
MAX_TYPE_LENGTH = 200
"""Longest task type, in characters and in UTF-8 bytes: the board has room for that."""


class TaskStatus(StrEnum):
    """The `task_status` enum of the schema."""

    PENDING = "pending"
    CLAIMED = "claimed"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    DEAD_LETTER = "dead_letter"


ReleaseReason = Literal["drain", "halted", "slow_task", "child_gone", "unknown_claim"]
"""Why claims are handed back before they start; labels `tasks_released_total`."""

END_STATES = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.DEAD_LETTER})

TRANSITIONS: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset({TaskStatus.CLAIMED, TaskStatus.RUNNING, TaskStatus.FAILED}),
    TaskStatus.CLAIMED: frozenset({TaskStatus.PENDING, TaskStatus.RUNNING, *END_STATES}),
    TaskStatus.RUNNING: frozenset({TaskStatus.PENDING, *END_STATES}),
    TaskStatus.COMPLETED: frozenset({TaskStatus.PENDING}),
    TaskStatus.FAILED: frozenset({TaskStatus.PENDING}),
    TaskStatus.DEAD_LETTER: frozenset({TaskStatus.PENDING}),
}
"""What may follow what. pending → running: a task that was recovered before is marked running by its very claim.
pending → failed: cancelled. End state → pending: an operator's retry."""


class TaskType(NamedTuple):
    """A registered type and the limits its handler was registered with (seconds; None: no limit)."""

    name: str
    max_retries: int = DEFAULT_MAX_RETRIES
    timeout_seconds: float | None = None
    retry_base_seconds: float = 1.0
    retry_cap_seconds: float = 3600.0


class NewTask(NamedTuple):
    """A task to enqueue. `payload` is JSON text of an object, checked already; the id is the database's.

    `delay_seconds` counts from the database's now; `run_at` is an aware moment; at most one of them is given.
    """

    type: str
    payload: str
    priority: int = 0
    delay_seconds: float | None = None
    run_at: datetime | None = None
    idempotency_key: str | None = None
    max_retries: int | None = None
    timeout_seconds: float | None = None


class PeriodicTask(NamedTuple):
    """A task that is enqueued at each moment that a cron expression names in a time zone.

    `name` is its own among all of the database's. `payload` is JSON text of an object; under the key `due_as`, if there
    is one, the moment is put into it. `max_retries` and `timeout_seconds` None: what the handler is registered with.
    """

    name: str
    type: str
    cron: str
    timezone: str
    payload: str
    priority: int = 0
    max_retries: int | None = None
    timeout_seconds: float | None = None
    due_as: str | None = None


class Claim(NamedTuple):
    """A child's exclusive right to run a task once, as the claim statement returns it.

    `payload` is JSON text, undecoded: a payload that cannot be decoded must fail its task, not the claim. None: it is
    larger than MAX_PAYLOAD_BYTES. `attempt` is the number this execution has (1 is the first). `max_retries` and
    `timeout_seconds` None: what the handler is registered with. `is_running`: the claim has marked the task running.
    """

    task_id: str
    type: str
    token: int
    payload: str | None
    attempt: int
    max_retries: int | None
    timeout_seconds: float | None
    is_running: bool


class ClaimRef(NamedTuple):
    """A claim by name: enough to hand it back."""

    task_id: str
    token: int


class OwnedClaim(NamedTuple):
    """A claimed or running row of this worker, as the database has it."""

    task_id: str
    token: int
    slot: int


class Start(NamedTuple):
    """An execution that began at `started_monotonic` (CLOCK_MONOTONIC seconds), to be marked running."""

    task_id: str
    token: int
    attempt: int
    started_monotonic: float


class Outcome(NamedTuple):
    """How an execution ended, ready to be written under its token.

    `status` is completed, failed, dead_letter, or pending for a retry that waits `delay_seconds`. `attempt` becomes
    the row's `attempts`. Times are CLOCK_MONOTONIC seconds, which all processes of a host share. `result` is JSON text.
    """

    task_id: str
    token: int
    type: str
    status: TaskStatus
    attempt: int
    started_monotonic: float
    ended_monotonic: float
    error: str | None = None
    result: str | None = None
    delay_seconds: float = 0.0

    def without_texts(self, error: str) -> "Outcome":
        """The same where the database cannot store its error (this is told instead) or its result."""
        return self._replace(
            error=None if self.error is None else error,
            result=None if self.result is None else '{"note": "the result could not be stored"}',
        )


class Verdict(StrEnum):
    """What became of a written outcome."""

    ACCEPTED = "accepted"  # this write ended the execution
    BY_CHILD = "by child"  # the claim's own child had written it before, though the reply may have been lost
    BY_SUPERVISOR = "by supervisor"  # the child's supervisor had
    STALE = "stale"  # the claim is no longer the task's: nothing was changed


class Stale(NamedTuple):
    """An outcome that was refused: its claim is no longer the task's. `now`: what has become of the task, for the log;
    empty if it was deleted."""

    outcome: Outcome
    now: Mapping[str, object]

    @property
    def facts(self) -> dict[str, object]:
        """Both claims, for the log: the one that came too late, and who has the task now, or had it last."""
        outcome = self.outcome
        return {
            "task_id": outcome.task_id,
            "type": outcome.type,
            "token": outcome.token,
            "attempt": outcome.attempt,
            "status": outcome.status.value,
            **self.now,
        }


class Recovered(NamedTuple):
    """A task taken back from a dead worker: to pending, or to dead_letter when its attempts were used up."""

    task_id: str
    type: str
    status: TaskStatus
    attempt: int
    was_running: bool
    worker_id: str


class Process(NamedTuple):
    """Where a worker's supervisor lives, so that another on the same machine can tell whether it is gone."""

    boot_id: str
    pid_namespace: str
    hostname: str
    pid: int
    start_ticks: int


class Worker(NamedTuple):
    """A row of `workers`; `term` if it leads; `tasks_claimed` and `tasks_running` are what the tables say it has."""

    id: str
    hostname: str
    started_at: datetime
    last_heartbeat: datetime
    heartbeat_age_seconds: float
    pool_size: int
    version: str
    is_leader: bool
    leader_until: datetime | None
    is_dead: bool
    term: int | None
    tasks_claimed: int
    tasks_running: int


class Term(NamedTuple):
    """One leadership. `trusted_until` (local CLOCK_MONOTONIC) is reckoned from before the query that won it."""

    number: int
    trusted_until: float


class LeaseHolder(NamedTuple):
    """The lease row as read: who leads, in which term, for how many more seconds by the database's clock.

    `renewed_at` changes with each renewal, and with nothing else; None: there was no row.
    """

    holder: str | None
    term: int
    renewed_at: datetime | None
    remaining_seconds: float
    process: Process | None


class Task(NamedTuple):
    """A row of `tasks`, for people and programs that look. `payload` None: it was not asked for."""

    id: str
    type: str
    status: TaskStatus
    payload: str | None
    priority: int
    idempotency_key: str | None
    attempts: int
    max_retries: int | None
    timeout_seconds: float | None
    recoveries: int
    worker_id: str | None
    slot: int | None
    created_at: datetime
    claimed_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    next_retry_at: datetime | None
    last_error: str | None
    result: str | None
