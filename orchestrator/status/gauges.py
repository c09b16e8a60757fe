"""How things stand, as gauges: the operations guide's, and a few named like them. A scrape makes them of a snapshot."""

import operator
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily

from orchestrator.status.snapshot import STATES, Snapshot
from orchestrator.telemetry.metrics import MAX_TYPES, OTHER_TYPES


class SnapshotGauges:
    """A collector for prometheus_client's registries."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """The gauges of one moment."""
        now = self._snapshot()
        yield from _pool(now)
        yield from _coordination(now)
        # every instance sees the same queue and the guide's alerts sum over instances: one of them may tell
        if now.counts_age_seconds is not None and (now.is_leader or not now.distributed):
            yield _by_type("tasks_pending", "Current pending tasks by type", now.pending, now.types)
            yield _by_type("tasks_running", "Currently executing tasks by type", now.running, now.types)
            oldest = "Seconds since the pending task that waits for a child longest became due, by type"
            yield _by_type("tasks_oldest_due_seconds", oldest, now.due_seconds, now.types, combine=max)
            age = "Seconds since tasks_pending and tasks_running were counted"
            yield GaugeMetricFamily("task_counts_age_seconds", age, value=now.counts_age_seconds)


def _pool(now: Snapshot) -> Iterator[Metric]:
    active = "Number of children currently processing tasks"
    yield GaugeMetricFamily("worker_pool_active", active, value=now.pool_active)
    yield GaugeMetricFamily("worker_pool_capacity", "Total worker pool size", value=now.pool_capacity)
    slots = GaugeMetricFamily("worker_slots", "Slots of the pool by how their child does", labels=["state"])
    slots.add_metric(["ready"], now.slots_ready)
    slots.add_metric(["backing_off"], now.slots_backing_off)
    slots.add_metric(["unconnected"], now.slots_unconnected)
    yield slots
    yield GaugeMetricFamily("worker_paused", "1 while claiming is paused", value=now.is_paused)
    states = GaugeMetricFamily("worker_state", "1 for the state that the worker is in", labels=["state"])
    for state in STATES:
        states.add_metric([state], now.state == state)
    yield states
    info = GaugeMetricFamily("orchestrator_info", "Always 1; says which version runs", labels=["version", "worker_id"])
    info.add_metric([now.version, now.worker_id], 1)
    yield info


def _coordination(now: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily("workers_total", "Number of registered workers", value=now.workers_total)
    leader = GaugeMetricFamily("leader_status", "1 if this worker is leader, 0 otherwise", labels=["worker_id"])
    leader.add_metric([now.worker_id], now.is_leader)
    yield leader
    if now.term is not None:
        yield GaugeMetricFamily("leader_term", "Number of the latest leadership this worker knows of", value=now.term)
    yield GaugeMetricFamily("database_up", "1 while the database answers", value=now.is_database_reachable)
    down = "Seconds since the database last answered; 0 while it does"
    yield GaugeMetricFamily("database_down_seconds", down, value=now.database_down_seconds)


def _by_type(
    name: str,
    documentation: str,
    values: Mapping[str, float],
    types: tuple[str, ...],
    combine: Callable[[float, float], float] = operator.add,
) -> Metric:
    """One series a type: those of the app always, others while they have tasks, as one the least of too many and those
    that no app could have."""
    shown: dict[str, float] = dict.fromkeys(types, 0)
    rest: float = 0
    for type_name, value in sorted(values.items(), key=lambda each: -each[1]):
        if type_name in shown or (len(shown) < MAX_TYPES and type_name.isprintable()):
            shown[type_name] = value
        else:
            rest = combine(rest, value)
    if rest:
        shown[OTHER_TYPES] = rest
    metric = GaugeMetricFamily(name, documentation, labels=["type"])
    for type_name, value in shown.items():
        metric.add_metric([type_name], value)
    return metric
