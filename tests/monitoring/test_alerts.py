"""monitoring/alerts.yml: each alert fires when it should and is quiet when it should be, by Prometheus' own word."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.metric_names import exported_name, metrics

MONITORING = Path(__file__).parents[2] / "monitoring"
RULES = (MONITORING / "alerts.yml").read_text()
NOT_OURS = {"up"}
"""Metrics of Prometheus itself."""


@pytest.mark.slow
def test_promtool_fires_every_alert_and_sees_it_quiet(prometheus_programs: Callable[[str], Path]) -> None:
    promtool = prometheus_programs("promtool")
    for arguments in (
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "prometheus.yml"],
    ):
        result = subprocess.run(
            [promtool, *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr


def test_each_alert_is_fired_by_a_test() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES)
    fired = set(re.findall(r'alertname="(\w+)"', (MONITORING / "alerts_test.yml").read_text()))
    assert len(alerts) == len(set(alerts)) >= 15
    assert fired == set(alerts)


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    names = {exported_name(each) for each in metrics()}
    expressions = re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n        (?:for|labels):", RULES)
    asked = {
        word for each in expressions for word in re.findall(r"\b([a-z]+(?:_[a-z]+)+|up)\b(?=[\[{) ])", each)
    } - NOT_OURS
    assert len(asked) >= 12
    assert {name.removesuffix("_count") for name in asked} <= names
