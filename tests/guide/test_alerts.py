"""The guide's alerts are in monitoring/alerts.yml, in the syntax of today. That they fire: tests/monitoring."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.guide.text import statements

RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((Path(__file__).parents[2] / "monitoring" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
OF_THE_GUIDE = {each.key: each.text for each in statements() if re.search(r"^ALERT ", each.text, re.MULTILINE)}
GROUPED = {
    "sum(leader_status)": "sum by (job) (leader_status)",
    "sum(tasks_pending)": "sum by (job) (tasks_pending)",
    "increase(tasks_dead_letter_total[5m])": "sum by (job, type) (increase(tasks_dead_letter_total[5m]))",
}
"""What differs from the guide: two queues under one Prometheus must not disturb each other."""


def test_the_guide_has_five_alerts() -> None:
    assert len(OF_THE_GUIDE) == 5


@pytest.mark.parametrize("name", OF_THE_GUIDE)
def test_an_alert_of_the_guide_is_among_the_rules_as_it_is_written_there(name: str) -> None:
    text, rule = OF_THE_GUIDE[name], RULES[name]
    (expression,) = re.findall(r"^ +IF (.*)$", text, re.MULTILINE)
    for plain, grouped in GROUPED.items():
        expression = expression.replace(plain, grouped)
    assert rule["expr"] == expression
    assert rule.get("for") == next(iter(re.findall(r"^ +FOR (\w+)$", text, re.MULTILINE)), None)
    assert rule["labels"] == dict(re.findall(r'LABELS \{ (\w+) = "(\w+)" \}', text))
    assert set(rule["annotations"]) == {"summary", "description"}
    (summary,) = re.findall(r'summary = "(.*)"', text)
    assert rule["annotations"]["summary"] == summary
