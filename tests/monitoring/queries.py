"""Every PromQL expression that the project ships: of the dashboard, the alerts, the guide and its page."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.guide.text import code

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "monitoring" / "grafana" / "task-orchestrator.json").read_text())
VARIABLES = {"$__rate_interval": "30s", "$job": "task-orchestrator", "$type": ".*"}
"""What Grafana would put there, for a Prometheus that scrapes every two seconds."""


def of_the_dashboard() -> dict[str, str]:
    """By panel and letter."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    }
    return {name: _filled_in(expression) for name, expression in found.items()}


def of_its_annotations() -> dict[str, str]:
    return {each["name"]: _filled_in(each["expr"]) for each in DASHBOARD["annotations"]["list"]}


def of_its_variables() -> dict[str, str]:
    """The metric whose label's values a variable offers."""
    queries = {each["name"]: each["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"}
    return {
        name: _filled_in(re.fullmatch(r"label_values\((.*), \w+\)", query["query"])[1])  # type: ignore[index]
        for name, query in queries.items()
    }


def of_the_alerts() -> dict[str, str]:
    shipped = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())
    return {rule["alert"]: rule["expr"] for group in shipped["groups"] for rule in group["rules"]}


def of_the_guide() -> dict[str, str]:
    return {"leader": code("Which worker is currently leader?").split("\n", 1)[1].strip()}


def of_the_operations_page() -> dict[str, str]:
    page = (ROOT / "docs" / "operations.md").read_text()
    (block,) = re.findall(r"^```promql\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return dict(part.strip().removeprefix("# ").split("\n", 1) for part in block.split("\n\n"))


def compared_in(expression: str) -> list[str]:
    """The sides of an alert's comparisons that are no plain numbers: these have values at all times."""
    sides = re.split(r"\s+(?:and|unless)(?: on \([^)]*\))?\s+|\s+(?:==|>|<)\s+", expression)
    return [side for side in sides if re.search("[a-z]", side)]


def _filled_in(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression
