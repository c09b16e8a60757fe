"""The words of the system: what may follow what in a task's life."""

import re
from pathlib import Path

from orchestrator.model import END_STATES, TRANSITIONS, TaskStatus

CLAIMED, RUNNING, PENDING = TaskStatus.CLAIMED, TaskStatus.RUNNING, TaskStatus.PENDING


def test_every_status_has_its_row() -> None:
    assert set(TRANSITIONS) == set(TaskStatus)
    assert all(followers <= set(TaskStatus) for followers in TRANSITIONS.values())


def test_the_table_is_the_one_of_the_design() -> None:
    assert TRANSITIONS[PENDING] == {CLAIMED, RUNNING, TaskStatus.FAILED}
    assert TRANSITIONS[CLAIMED] == {PENDING, RUNNING, *END_STATES}
    assert TRANSITIONS[RUNNING] == {PENDING, *END_STATES}
    assert all(TRANSITIONS[end] == {PENDING} for end in END_STATES)


def test_an_end_state_is_left_by_an_operators_retry_only() -> None:
    assert {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.DEAD_LETTER} == END_STATES
    assert all(PENDING in TRANSITIONS[status] for status in TaskStatus if status is not PENDING)


def test_nothing_ends_well_that_was_not_claimed() -> None:
    assert {before for before, after in TRANSITIONS.items() if TaskStatus.COMPLETED in after} == {CLAIMED, RUNNING}
    assert {before for before, after in TRANSITIONS.items() if TaskStatus.DEAD_LETTER in after} == {CLAIMED, RUNNING}


def test_no_status_follows_itself_and_all_can_be_reached() -> None:
    assert all(status not in followers for status, followers in TRANSITIONS.items())
    assert set().union(*TRANSITIONS.values()) == set(TaskStatus)


def test_the_statuses_are_those_of_the_schema_in_its_order() -> None:
    schema = (Path(__file__).parents[2] / "schema.sql").read_text()
    found = re.search(r"CREATE TYPE task_status AS ENUM \(([^)]*)\)", schema)
    assert found is not None
    assert re.findall(r"'(\w+)'", found.group(1)) == [status.value for status in TaskStatus]
