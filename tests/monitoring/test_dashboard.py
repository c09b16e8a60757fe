"""The dashboard for Grafana: it can be imported anywhere, and asks for metrics that there are. What it finds: slow."""

import re
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from tests.fixtures.metric_names import exported_name, label_names, metrics
from tests.monitoring.queries import DASHBOARD, of_its_annotations, of_its_variables, of_the_dashboard

PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
SHOWS = [panel for panel in PANELS if panel["type"] != "row"]
SUFFIXES = r"_(bucket|count|sum)$"
NOT_SHOWN = {
    "app_reloads_total": "an alert tells that one failed",
    "metrics_collect_failures_total": "a bug, and the log has it",
    "metrics_file_failures_total": "the log says which file, and why",
    "task_counts_age_seconds": "how old the counts are matters only if they stop",
    "tasks_pruned_total": "nothing depends on it",
    "worker_state": "/health says it",
}
COLUMNS = 24


def test_it_can_be_imported_and_asks_for_its_data_source() -> None:
    assert DASHBOARD["uid"] == "task-orchestrator" and DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD and "__inputs" not in DASHBOARD, "ids are made by the Grafana that imports it"
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "job", "type"]
    source = {"type": "prometheus", "uid": "${datasource}"}
    asking = [*SHOWS, *(target for panel in SHOWS for target in panel["targets"]), *DASHBOARD["annotations"]["list"]]
    assert all(each["datasource"] == source for each in asking)
    assert set(Counter(panel["id"] for panel in PANELS).values()) == {1}


def test_its_panels_do_not_overlap_and_fill_their_lines() -> None:
    lines: dict[int, list[tuple[int, int]]] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        lines.setdefault(place["y"], []).append((place["x"], place["w"]))
    for places in lines.values():
        assert all(x + width == following for (x, width), (following, _) in pairwise(places))
        assert sum(width for _, width in places) == COLUMNS
    heights = {panel["gridPos"]["y"]: panel["gridPos"]["h"] for panel in PANELS}
    assert all(y + height == following for (y, height), (following, _) in pairwise(sorted(heights.items())))


@pytest.mark.parametrize("panel", SHOWS, ids=lambda panel: str(panel["title"]))
def test_a_panel_says_its_unit_and_names_its_series_by_labels_that_there_are(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    known = {"instance"} | {label for each in metrics() for label in label_names(each)}
    for target in panel["targets"]:
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known


def test_it_shows_every_metric_but_a_few_and_none_that_there_is_not() -> None:
    asked = " ".join([*of_the_dashboard().values(), *of_its_annotations().values(), *of_its_variables().values()])
    words = {re.sub(SUFFIXES, "", word) for word in re.findall(r"\b([a-z]+(?:_[a-z]+)+|up)(?=[{\[])", asked)}
    assert words - {"up"} == {exported_name(each) for each in metrics()} - set(NOT_SHOWN)
