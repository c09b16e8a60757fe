"""The metrics that the pool counts: the operations guide's names, labels and buckets, and a few named like them.

Definitions only. Gauges that say how things stand are status/gauges.py's; these here add up over all processes.
"""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Generic, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from orchestrator.errors import DatabaseUnavailable, DeadlineExceeded, StatementRefused, StoreError
from orchestrator.model import Outcome, Recovered, ReleaseReason, TaskStatus, TaskType

DURATION_BUCKETS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
EXPECTED_RETRIES: Final = 25
"""Retry numbers up to this one have a series from the start."""

MAX_RETRY_LABEL: Final = 100
MORE_RETRIES: Final = f"{MAX_RETRY_LABEL}+"
MAX_TYPES: Final = 1000
OTHER_TYPES: Final = "(other)"
"""Types that no app has count as one beyond MAX_TYPES: whoever may enqueue must not be able to fill our memory."""

RESTART_REASONS: Final = (
    "crash", "died_idle", "timeout", "memory", "boot", "stuck", "drain", "ordered", "max_tasks", "max_memory",
    "insane", "unregistered", "lifeline",
)  # fmt: skip
RELEASE_REASONS: Final[tuple[ReleaseReason, ...]] = get_args(ReleaseReason)
RELOAD_RESULTS: Final = ("success", "failed")
DATABASE_ERRORS: Final = ("unavailable", "deadline", "refused", "other")

Kind = TypeVar("Kind", Counter, Histogram)


class Series(dict[tuple[str, ...], Kind], Generic[Kind]):
    """A metric's series by label values, each looked up in prometheus_client once."""

    def __init__(self, metric: Kind) -> None:
        super().__init__()
        self._metric: Kind = metric

    def __missing__(self, labels: tuple[str, ...]) -> Kind:
        series: Kind = self._metric.labels(*labels)
        self[labels] = series
        return series


class TaskMetrics:
    """Counts what becomes of tasks. Made once a process, after multiprocess.use_files; any thread may use it.

    A no-op task of a batch costs about 0.2 µs of counting. Nothing here raises for what a task or a database did.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        own = registry if registry is not None else CollectorRegistry()
        count = partial(Counter, registry=own)
        self._enqueued = Series(count("tasks_enqueued_total", "Total tasks added to the queue", ["type"]))
        self._completed = Series(count("tasks_completed_total", "Total tasks finished", ["type", "status"]))
        self._retries = Series(
            count("task_retries_total", "Total retry attempts across all tasks", ["type", "attempt"])
        )
        self._dead = Series(count("tasks_dead_letter_total", "Tasks that exceeded max retries", ["type"]))
        self._stale = Series(count("tasks_stale_completions_total", "Outcomes refused: the claim was lost", ["type"]))
        self._recovered = Series(count("tasks_recovered_total", "Tasks taken back from dead workers", ["type"]))
        self._released = Series(count("tasks_released_total", "Claims handed back before they started", ["reason"]))
        self._pruned = count("tasks_pruned_total", "Completed tasks deleted after RETENTION")
        self._restarts = Series(count("worker_child_restarts_total", "Children that ended, by why", ["reason"]))
        self._reloads = Series(count("app_reloads_total", "Reloads of the app", ["result"]))
        self._errors = Series(count("database_errors_total", "Failed connections and statements", ["kind"]))
        duration = Histogram(
            "task_duration_seconds", "Task execution duration", ["type"], buckets=DURATION_BUCKETS, registry=own
        )
        self._duration = Series(duration)
        self._claim = Histogram("task_claim_duration_seconds", "Time to execute claim query", registry=own)
        self._types: dict[str, str] = {}

    def admit(self, types: Iterable[TaskType]) -> None:
        """Count these, which an app has registered, under their names, however many others were seen before them."""
        self._types.update((each.name, each.name) for each in types)

    def expect(self, types: Iterable[TaskType]) -> None:
        """Have every series of these types at 0: `increase()` does not see one that is born at 1.

        One process of a worker need do it: the supervisor.
        """
        types = tuple(types)
        self.admit(types)
        for each in types:
            name = each.name
            for series in (self._enqueued, self._dead, self._stale, self._recovered):
                series[name,]
            for status in ("success", "failed"):
                self._completed[name, status]
            for number in range(1, min(each.max_retries, EXPECTED_RETRIES) + 1):
                self._retries[name, str(number)]
            self._duration[name,]
        for series, values in (
            (self._restarts, RESTART_REASONS), (self._released, RELEASE_REASONS),
            (self._reloads, RELOAD_RESULTS), (self._errors, DATABASE_ERRORS),
        ):  # fmt: skip
            for value in values:
                series[value,]

    def claimed(self, seconds: float) -> None:
        """A claim query took that long, whatever it found."""
        self._claim.observe(seconds)

    def enqueued(self, type_name: str, count: int) -> None:
        """`count` tasks were added to the queue, by anyone."""
        self._enqueued[self._admitted(type_name),].inc(count)

    def ended(self, outcomes: Iterable[Outcome]) -> None:
        """The database accepted these outcomes: their attempts, and what these made of the tasks."""
        for add in self.additions(outcomes):
            add()

    def additions(self, outcomes: Iterable[Outcome]) -> list[Callable[[], None]]:
        """What `ended` does, worked out and not done yet: doing it is a matter of a few microseconds."""
        added: list[Callable[[], None]] = []
        by_type: dict[str, list[Outcome]] = {}
        for each in outcomes:
            if each.type in by_type:
                by_type[each.type].append(each)
            else:
                by_type[each.type] = [each]
        for type_name, ended in by_type.items():
            label = self._admitted(type_name)
            seconds = [each.ended_monotonic - each.started_monotonic for each in ended]
            added += _observations(self._duration[label,], seconds)
            failures = [each for each in ended if each.status is not TaskStatus.COMPLETED]
            counts = Tally(counter for each in failures for counter in self._failed(label, each.status, each.attempt))
            if len(failures) < len(ended):
                counts[self._completed[label, "success"]] = len(ended) - len(failures)
            added += [partial(counter.inc, count) for counter, count in counts.items()]
        return added

    def recovered(self, task: Recovered) -> None:
        """A task was taken back from a dead worker; if it had started, that was an attempt that failed."""
        label = self._admitted(task.type)
        self._recovered[label,].inc()
        if task.was_running:
            for counter in self._failed(label, task.status, task.attempt):
                counter.inc()

    def _failed(self, label: str, status: TaskStatus, attempt: int) -> Sequence[Counter]:
        """What counts an attempt that failed and left its task so; retry 1 follows the first attempt. The first time in
        a process it takes a tenth of a millisecond to find one."""
        if status is TaskStatus.PENDING:
            return (self._retries[label, str(attempt) if attempt <= MAX_RETRY_LABEL else MORE_RETRIES],)
        finished = self._completed[label, "failed"]
        return (finished,) if status is TaskStatus.FAILED else (self._dead[label,], finished)

    def stale(self, type_name: str) -> None:
        """An outcome was refused: its claim was no longer the task's."""
        self._stale[self._admitted(type_name),].inc()

    def released(self, reason: ReleaseReason, count: int = 1) -> None:
        """`count` claims were handed back."""
        self._released[reason,].inc(count)

    def pruned(self, count: int) -> None:
        """`count` completed tasks were old enough to be deleted."""
        self._pruned.inc(count)

    def child_restarted(self, reason: str) -> None:
        """A child ended; `reason` is one of RESTART_REASONS, or as constant a word."""
        self._restarts[reason,].inc()

    def reloaded(self, *, is_success: bool) -> None:
        """The app was loaded anew, or could not be."""
        self._reloads["success" if is_success else "failed",].inc()

    def database_failed(self, error: StoreError) -> None:
        """A connection or a statement failed."""
        self._errors[_kind_of(error),].inc()

    def _admitted(self, type_name: str) -> str:
        """The label of a type: its name, or OTHER_TYPES if nobody has registered it and there are too many, or nobody
        could: SQL takes what steers the terminal of whoever looks at the page."""
        label = self._types.get(type_name)
        if label is None:
            if len(self._types) >= MAX_TYPES or not type_name.isprintable():
                return OTHER_TYPES
            label = self._types[type_name] = type_name
        return label


def _observations(histogram: Histogram, values: Sequence[float]) -> list[Callable[[], None]]:
    """`histogram.observe` of each, those below 0 as 0: one addition a bucket, which the library has no call for."""
    bounds = histogram._upper_bounds
    if max(values) <= bounds[0]:
        counts = {0: len(values)}
    else:
        counts = Tally(bisect_left(bounds, value) for value in values)
    total = sum(values) if min(values) >= 0 else sum(value for value in values if value > 0)
    buckets = histogram._buckets
    return [
        partial(histogram._sum.inc, total),
        *[partial(buckets[index].inc, count) for index, count in counts.items()],
    ]


def _kind_of(error: StoreError) -> str:
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    if isinstance(error, DatabaseUnavailable):
        return "unavailable"
    return "refused" if isinstance(error, StatementRefused) else "other"
