"""docs/operations.md is the operations guide for this system: its sections, and nothing that the code hasn't."""

import re
from pathlib import Path

import yaml
from prometheus_client import Histogram

from orchestrator.config import FIELDS
from orchestrator.exit_codes import ExitCode
from orchestrator.status.snapshot import STATES
from orchestrator.telemetry.metrics import (
    DATABASE_ERRORS,
    DURATION_BUCKETS,
    MORE_RETRIES,
    OTHER_TYPES,
    RELEASE_REASONS,
    RELOAD_RESULTS,
    RESTART_REASONS,
)
from tests.fixtures.metric_names import exported_name, label_names, metrics
from tests.guide.text import GUIDE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()


def section(heading: str) -> str:
    """The text from this heading to the next one."""
    return PAGE.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a section's table, without backticks."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")] for line in lines]


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_it_has_the_sections_of_the_guide_in_their_order() -> None:
    of_the_guide = re.findall(r"^(#+ .*)$", re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL), re.MULTILINE)
    here = iter(re.findall(r"^(#+ .*)$", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL), re.MULTILINE))
    assert all(heading in here for heading in of_the_guide)  # `in` an iterator goes on from the last one found


def test_its_settings_are_those_of_the_code() -> None:
    groups = ("Database Configuration", "Worker Configuration", "Distributed Mode", "Application Settings")
    told = [row for group in groups for row in rows(section(group)) if row[0] != "POSTGRES_PASSWORD"]
    assert sorted(told) == sorted(
        [
            field.variable,
            "**Yes**" if field.name == "database_url" else "No",
            field.default or "—",
            field.help,
        ]
        for field in FIELDS
    )


def test_its_metrics_are_those_of_the_code() -> None:
    for kind in ("counter", "gauge", "histogram"):
        told = {row[0]: row[-1] for row in rows(section(f"{kind.title()} Metrics"))}
        assert told == {exported_name(each): each.documentation for each in metrics() if each.type == kind}


def test_its_labels_are_those_of_the_code() -> None:
    told = {
        row[0]: set(row[1].split(", ")) - {"—"}
        for kind in ("Counter", "Gauge", "Histogram")
        for row in rows(section(f"{kind} Metrics"))
    }
    assert told == {exported_name(each): label_names(each) for each in metrics()}


def test_its_buckets_reasons_and_kinds_are_those_of_the_code() -> None:
    bounds = {name: told for name, _, told, _ in rows(section("Histogram Metrics"))}
    assert tuple(map(float, bounds["task_duration_seconds"].split(", "))) == DURATION_BUCKETS
    assert bounds["task_claim_duration_seconds"] == "Default" and Histogram.DEFAULT_BUCKETS
    for word in (*RESTART_REASONS, *RELEASE_REASONS, *RELOAD_RESULTS, *DATABASE_ERRORS, MORE_RETRIES, OTHER_TYPES):
        assert f"`{word}`" in section("Counter Metrics"), word
    for word in ("ready", "backing_off", "unconnected", *STATES):
        assert f"`{word}`" in section("Gauge Metrics"), word


def test_its_alerts_are_those_that_are_shipped() -> None:
    shipped = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())
    rules = [rule for group in shipped["groups"] for rule in group["rules"]]
    told = [rule for block in blocks("yaml") for rule in yaml.safe_load(block)]
    assert [rule["alert"] for rule in told] == re.findall(r"ALERT (\w+)", GUIDE)
    assert all(rule in rules for rule in told)


def test_its_sql_is_the_guides() -> None:
    assert blocks("sql") == blocks("sql", GUIDE)


def test_its_exit_codes_are_those_of_the_code() -> None:
    told = {int(code) for code, *_ in rows(section("The Worker Does Not Start"))}
    assert told == {int(code) for code in ExitCode} - {0, 1}


def test_its_events_are_logged_under_these_names() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "orchestrator").rglob("*.py"))
    troubleshooting = PAGE.split("\n## Troubleshooting\n")[1]
    for event in (
        "recover_stale_tasks", "registration_failed", "database_unreachable", "waiting_for_instance", "child_died",
        "stale_outcome", "too_few_connections", "start_hook_failed", "app_import_slow", "attempt_failed",
    ):  # fmt: skip
        assert f"`{event}`" in troubleshooting, event
        assert f'"{event}"' in sources, event
