"""What the pool counts: the operations guide's metrics under its names, and what each event adds to."""

import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry, Counter, values

from orchestrator.board.layout import LeaveReason
from orchestrator.errors import (
    DatabaseUnavailable,
    DeadlineExceeded,
    SchemaError,
    StatementRefused,
    StoreError,
)
from orchestrator.model import Outcome, Recovered, ReleaseReason, TaskStatus, TaskType
from orchestrator.supervisor.children import Doom
from orchestrator.telemetry import multiprocess
from orchestrator.telemetry.metrics import EXPECTED_RETRIES, MAX_TYPES, OTHER_TYPES, RESTART_REASONS, TaskMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> TaskMetrics:
    return TaskMetrics(registry)


@pytest.fixture
def in_files(tmp_path: Path) -> Iterator[None]:
    before = values.ValueClass
    multiprocess.use_files(str(tmp_path), lambda: "3")
    yield
    values.ValueClass = before


def counted(registry: CollectorRegistry) -> dict[str, float]:
    """Every series that is not 0, as Prometheus writes it; no times."""
    return {
        name: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.value
        and not sample.name.endswith(("_created", "_sum", "_bucket"))
        and (name := sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())))
    }


def outcome(status: TaskStatus, *, attempt: int = 1, seconds: float = 0.2) -> Outcome:
    return Outcome("8f3c", 7, "email:send", status, attempt, 100.0, 100.0 + seconds)


def test_every_metric_of_the_guide_has_its_name_labels_and_buckets(
    registry: CollectorRegistry, metrics: TaskMetrics
) -> None:
    metrics.expect([TaskType("email:send", max_retries=1)])
    metrics.claimed(0.01)
    labels = {sample.name: set(sample.labels) - {"le"} for family in registry.collect() for sample in family.samples}
    guide = {
        "tasks_enqueued_total": {"type"},
        "tasks_completed_total": {"type", "status"},
        "task_retries_total": {"type", "attempt"},
        "tasks_dead_letter_total": {"type"},
        "task_duration_seconds_bucket": {"type"},
        "task_claim_duration_seconds_bucket": set(),
    }
    assert {name: labels[name] for name in guide} == guide
    buckets = {
        sample.labels["le"]
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "task_duration_seconds_bucket"
    }
    assert {float(bound) for bound in buckets} == {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600, float("inf")}


def test_every_expected_series_is_there_at_0_before_anything_happens(
    registry: CollectorRegistry, metrics: TaskMetrics
) -> None:
    metrics.expect([TaskType("email:send", max_retries=2), TaskType("once", max_retries=0)])
    assert counted(registry) == {}
    for name, labels in [
        ("tasks_enqueued_total", {"type": "email:send"}),
        ("tasks_completed_total", {"type": "email:send", "status": "success"}),
        ("tasks_completed_total", {"type": "once", "status": "failed"}),
        ("task_retries_total", {"type": "email:send", "attempt": "1"}),
        ("task_retries_total", {"type": "email:send", "attempt": "2"}),
        ("tasks_dead_letter_total", {"type": "once"}),
        ("tasks_stale_completions_total", {"type": "once"}),
        ("tasks_recovered_total", {"type": "once"}),
        ("task_duration_seconds_count", {"type": "once"}),
        ("worker_child_restarts_total", {"reason": "crash"}),
        ("tasks_released_total", {"reason": "drain"}),
        ("app_reloads_total", {"result": "failed"}),
        ("database_errors_total", {"kind": "unavailable"}),
    ]:
        assert registry.get_sample_value(name, labels) == 0.0, (name, labels)
    assert registry.get_sample_value("task_retries_total", {"type": "once", "attempt": "1"}) is None


def test_every_way_a_child_can_end_and_claims_are_handed_back_is_there_at_0(
    registry: CollectorRegistry, metrics: TaskMetrics
) -> None:
    ways = {each.value for each in Doom} | {each.name.lower() for each in LeaveReason} - {"none"}
    assert set(RESTART_REASONS) == ways | {"crash", "died_idle"}
    metrics.expect([])
    for reason in RESTART_REASONS:
        assert registry.get_sample_value("worker_child_restarts_total", {"reason": reason}) == 0.0
    for reason in get_args(ReleaseReason):  # mypy sees to it that there is no other
        assert registry.get_sample_value("tasks_released_total", {"reason": reason}) == 0.0


def test_a_type_with_many_retries_gets_a_bounded_number_of_series(
    registry: CollectorRegistry, metrics: TaskMetrics
) -> None:
    metrics.expect([TaskType("stubborn", max_retries=1_000_000)])
    retries = [
        sample.labels["attempt"]
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "task_retries_total"
    ]
    assert retries == [str(number) for number in range(1, EXPECTED_RETRIES + 1)]
    for number in range(1, 1000):
        metrics.ended([outcome(TaskStatus.PENDING, attempt=number)._replace(type="stubborn")])
    assert len([name for name in counted(registry) if name.startswith("task_retries_total")]) == 101
    assert registry.get_sample_value("task_retries_total", {"type": "stubborn", "attempt": "100+"}) == 899


@pytest.mark.parametrize(
    ("ended", "adds"),
    [
        (outcome(TaskStatus.COMPLETED), {"tasks_completed_total status=success type=email:send"}),
        (outcome(TaskStatus.FAILED), {"tasks_completed_total status=failed type=email:send"}),
        (outcome(TaskStatus.PENDING, attempt=2), {"task_retries_total attempt=2 type=email:send"}),
        (
            outcome(TaskStatus.DEAD_LETTER),
            {"tasks_completed_total status=failed type=email:send", "tasks_dead_letter_total type=email:send"},
        ),
    ],
)
def test_an_accepted_outcome_counts_its_attempt_and_what_that_made_of_the_task(
    registry: CollectorRegistry, metrics: TaskMetrics, ended: Outcome, adds: set[str]
) -> None:
    metrics.ended([ended])
    assert counted(registry) == dict.fromkeys({*adds, "task_duration_seconds_count type=email:send"}, 1.0)


def test_a_duration_lands_in_its_bucket(registry: CollectorRegistry, metrics: TaskMetrics) -> None:
    metrics.ended([outcome(TaskStatus.COMPLETED, seconds=0.3), outcome(TaskStatus.COMPLETED, seconds=-0.1)])
    for bound, count in (("0.1", 1.0), ("0.5", 2.0), ("+Inf", 2.0)):
        value = registry.get_sample_value("task_duration_seconds_bucket", {"type": "email:send", "le": bound})
        assert value == count


@pytest.mark.parametrize(
    ("status", "was_running", "adds"),
    [
        (TaskStatus.PENDING, False, set()),
        (TaskStatus.PENDING, True, {"task_retries_total attempt=2 type=a"}),
        (
            TaskStatus.DEAD_LETTER,
            True,
            {"tasks_dead_letter_total type=a", "tasks_completed_total status=failed type=a"},
        ),
    ],
)
def test_a_recovered_task_counts_as_the_failed_attempt_it_was(
    registry: CollectorRegistry, metrics: TaskMetrics, status: TaskStatus, was_running: bool, adds: set[str]
) -> None:
    metrics.recovered(Recovered("8f3c", "a", status, 2, was_running, "host-1-abc"))
    assert counted(registry) == dict.fromkeys({*adds, "tasks_recovered_total type=a"}, 1.0)


def test_the_other_events_each_count_under_their_own_label(registry: CollectorRegistry, metrics: TaskMetrics) -> None:
    metrics.enqueued("a", 20)
    metrics.stale("a")
    metrics.released("drain", 3)
    metrics.child_restarted("crash")
    metrics.reloaded(is_success=True)
    metrics.reloaded(is_success=False)
    metrics.claimed(0.2)
    assert counted(registry) == {
        "tasks_enqueued_total type=a": 20,
        "tasks_stale_completions_total type=a": 1,
        "tasks_released_total reason=drain": 3,
        "worker_child_restarts_total reason=crash": 1,
        "app_reloads_total result=success": 1,
        "app_reloads_total result=failed": 1,
        "task_claim_duration_seconds_count": 1,
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DatabaseUnavailable("gone"), "unavailable"),
        (DeadlineExceeded("slow"), "deadline"),
        (StatementRefused("no", sqlstate="42601"), "refused"),
        (SchemaError("newer"), "other"),
    ],
)
def test_database_errors_are_counted_by_a_few_kinds(
    registry: CollectorRegistry, metrics: TaskMetrics, error: StoreError, kind: str
) -> None:
    metrics.database_failed(error)
    assert counted(registry) == {f"database_errors_total kind={kind}": 1.0}


def test_what_counts_outcomes_has_found_its_series_before(registry: CollectorRegistry, metrics: TaskMetrics) -> None:
    """A child that is killed while it counts has counted a part, and to find one takes ten times as long as to add."""
    ended = [outcome(status) for status in (TaskStatus.PENDING, TaskStatus.DEAD_LETTER, TaskStatus.DEAD_LETTER)]
    additions = metrics.additions(ended)
    series = {"task_retries_total": {"attempt": "1"}, "tasks_dead_letter_total": {}}

    def counts() -> list[float | None]:
        return [registry.get_sample_value(name, {"type": "email:send", **labels}) for name, labels in series.items()]

    assert counts() == [0, 0]
    for add in additions:
        add()
    assert counts() == [1, 2]


def test_types_that_anybody_may_invent_cannot_fill_the_memory(
    registry: CollectorRegistry, metrics: TaskMetrics
) -> None:
    metrics.expect([TaskType("mine")])
    for number in range(MAX_TYPES + 50):
        metrics.ended([outcome(TaskStatus.FAILED)._replace(type=f"invented:{number}")])
    metrics.ended([outcome(TaskStatus.COMPLETED)._replace(type="mine")])
    series = [name for name in counted(registry) if name.startswith("tasks_completed_total")]
    assert len(series) == MAX_TYPES + 1
    assert registry.get_sample_value("tasks_completed_total", {"type": OTHER_TYPES, "status": "failed"}) == 51
    assert registry.get_sample_value("tasks_completed_total", {"type": "mine", "status": "success"}) == 1


def test_a_type_that_would_steer_a_terminal_is_no_label(registry: CollectorRegistry, metrics: TaskMetrics) -> None:
    metrics.ended([outcome(TaskStatus.FAILED)._replace(type="a\x1b[31m")])
    assert registry.get_sample_value("tasks_completed_total", {"type": OTHER_TYPES, "status": "failed"}) == 1


def test_types_that_the_app_has_are_counted_by_name_whatever_was_invented_before(
    registry: CollectorRegistry, metrics: TaskMetrics
) -> None:
    metrics.admit([TaskType("known")])
    for number in range(MAX_TYPES + 50):
        metrics.ended([outcome(TaskStatus.FAILED)._replace(type=f"invented:{number}")])
    metrics.expect([TaskType("reloaded")])
    metrics.admit([TaskType("after")])
    for name in ("known", "reloaded", "after"):
        metrics.ended([outcome(TaskStatus.COMPLETED)._replace(type=name)])
        assert registry.get_sample_value("tasks_completed_total", {"type": name, "status": "success"}) == 1
    metrics.ended([outcome(TaskStatus.FAILED)._replace(type="invented:at-last")])
    assert registry.get_sample_value("tasks_completed_total", {"type": OTHER_TYPES, "status": "failed"}) == 52


@pytest.mark.usefixtures("in_files")
@pytest.mark.parametrize(("batch", "limit"), [(1, 30), (100, 3)])
def test_counting_a_task_in_files_costs_microseconds_and_in_a_batch_hardly_any(batch: int, limit: int) -> None:
    """Beside what adding one to one counter costs on the same machine, half a microsecond or one."""
    metrics = TaskMetrics()
    done = [outcome(TaskStatus.COMPLETED)] * batch
    metrics.ended(done)
    one = Counter("yardstick_total", "-", ["type"], registry=None).labels("t").inc

    def seconds(work: Callable[[], object]) -> float:
        return min(timeit.repeat(work, number=200, repeat=80, timer=time.process_time))

    assert seconds(lambda: metrics.ended(done)) / batch < limit * seconds(one)
