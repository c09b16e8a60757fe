"""The dashboard, the alerts and the guide's queries in a real Prometheus that scrapes real workers with work to do."""

import math
from collections.abc import Callable

import pytest

from tests.fixtures.daemon import Queue
from tests.fixtures.fleet import Fleet, worker_of
from tests.fixtures.gates import APP, Gates
from tests.fixtures.prometheus import Prometheus
from tests.fixtures.waiting import eventually
from tests.guide.text import code
from tests.monitoring import queries

pytestmark = pytest.mark.slow

ALERTS = queries.ROOT / "monitoring" / "alerts.yml"
EVENTFUL = (
    APP
    + """

@app.task("flaky", max_retries=1, retry=SOON)
def flaky():
    raise ValueError("never")

@app.task("crash", max_retries=0)
def crash():
    os._exit(9)
"""
)
HAS_NO_VALUE_WHEN_ALL_IS_WELL = {"NoWorkerScraped": "absent() is empty while anything is there"}
"""Alerts of which nothing can be seen without a fault, which promtool makes (tests/monitoring/alerts_test.yml)."""

Start = Callable[..., Prometheus]


def targets(fleet: Fleet) -> list[str]:
    return [each.address.removeprefix("http://") for each in fleet.workers]


def has_data(server: Prometheus, expression: str) -> bool:
    """A query that finds numbers; NaN is what a rate of nothing divides into."""
    return any(math.isfinite(value) for _, value in server.query(expression))


def wait_counted(server: Prometheus, *metrics: str) -> None:
    """Until Prometheus has seen that each of these counts something."""
    for metric in metrics:
        ever = f"max_over_time({metric}[5m]) > 0"
        eventually(lambda ever=ever: has_data(server, ever), within=20, why=f"{metric} counts something")


def make_all_kinds_of_events(fleet: Fleet, queue: Queue, gates: Gates, server: Prometheus) -> None:
    """Success, retries, a dead letter, a crash, a lost connection, a stale outcome, a recovery, a new leader."""
    queue.rows("INSERT INTO tasks (type) SELECT unnest(ARRAY['flaky', 'crash', 'quick', 'quick'])")
    queue.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'orchestratord coordinator'"
    )
    wait_counted(server, "tasks_dead_letter_total", "task_retries_total", "database_errors_total")
    wait_counted(server, 'worker_child_restarts_total{reason="crash"}')
    twice = queue.enqueue("hold", {"name": "twice"})
    first = queue.wait_status(twice, "running")["claim_token"]
    queue.rows(code("Retry a specific dead-letter task").replace("task-uuid-here", twice))
    eventually(lambda: (queue.task(twice)["claim_token"] or first) != first, within=20, why="it runs a second time")
    gates.open("twice")
    wait_counted(server, "tasks_stale_completions_total")
    lost = queue.enqueue("hold", {"name": "lost"})
    fleet.of(worker_of(queue, lost)).kill()
    gates.open("lost")
    wait_counted(server, "tasks_recovered_total")
    queue.wait_empty()


def test_every_query_of_dashboard_alerts_and_guide_finds_data_in_a_prometheus_that_scrapes_workers(
    fleet: Fleet, queue: Queue, gates: Gates, prometheus: Start
) -> None:
    for _ in range(3):
        fleet.add(EVENTFUL, is_awaited=False, DATABASE_URL=queue.url)
    for each in fleet.workers:
        each.wait_ready()
    server = prometheus(targets(fleet), ALERTS)
    eventually(lambda: has_data(server, "up == 1"), within=20, why="the workers are scraped")
    make_all_kinds_of_events(fleet, queue, gates, server)

    def keep_busy() -> None:
        queue.rows("INSERT INTO tasks (type) SELECT 'quick' FROM generate_series(1, 20)")

    shown = queries.of_the_dashboard() | queries.of_its_variables() | queries.of_the_guide()
    shown |= queries.of_the_operations_page()
    shown |= {
        f"alert {name} {number}": part
        for name, expression in queries.of_the_alerts().items()
        if name not in HAS_NO_VALUE_WHEN_ALL_IS_WELL
        for number, part in enumerate(queries.compared_in(expression))
    }
    for name, expression in shown.items():

        def finds_data(expression: str = expression) -> bool:
            keep_busy()
            return has_data(server, expression)

        eventually(finds_data, within=20, why=f"{name}: {expression}")
    for expression in (*queries.of_the_alerts().values(), *queries.of_its_annotations().values()):
        server.query(expression)  # as it is written, whether or not it has a value now

    rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(queries.of_the_alerts())
    assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
    assert len(server.query("leader_status == 1")) == 1


def test_the_very_first_dead_letter_of_a_type_fires_its_alert(fleet: Fleet, queue: Queue, prometheus: Start) -> None:
    fleet.add(EVENTFUL, DATABASE_URL=queue.url)
    server = prometheus(targets(fleet), ALERTS)
    at_zero = 'tasks_dead_letter_total{type="crash"} == 0'
    eventually(lambda: has_data(server, at_zero), within=20, why="the series is there before the first dead letter")
    queue.wait_status(queue.enqueue("crash"), "dead_letter")

    firing = 'ALERTS{alertname="TasksDeadLettered", alertstate="firing"}'
    eventually(lambda: has_data(server, firing), within=20)
    assert [labels["type"] for labels, _ in server.query(firing)] == ["crash"]
