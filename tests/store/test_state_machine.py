"""The store's operations in any order, against a model; and that the machine finds bugs that are there on purpose."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from orchestrator.store import claims, upkeep
from orchestrator.store.connection import Connection
from tests.store.machine import Machine

QUICK = settings(
    max_examples=30, stateful_step_count=30, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), print_blob=True,
)  # fmt: skip
LONG = settings(QUICK, max_examples=600, stateful_step_count=50, derandomize=False)
HUNT = settings(QUICK, max_examples=2000, phases=[Phase.generate])

FENCE = "AND t.claim_token = o.token AND t.status BETWEEN 'claimed' AND 'running'"
LEASE = "term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp()"

OUTCOME_BUGS = {
    "outcomes are not fenced": "",
    "outcomes are fenced by the status only": "AND t.status BETWEEN 'claimed' AND 'running'",
    "outcomes are fenced by the attempt only": "AND t.status BETWEEN 'claimed' AND 'running'"
    " AND t.attempts + (t.status = 'claimed')::integer = o.attempt",
}
LEADER_BUGS = {
    "a leader's writes are not fenced": ("_RECOVER", LEASE, "true"),
    "the dead are declared by anybody": ("_DECLARE_SILENT_DEAD", LEASE, "true"),
    "a recovery gives the attempt back": (
        "_RECOVER",
        "    recoveries = least(t.rec",
        "    attempts = 0, recoveries = least(t.rec",
    ),
    "the living are recovered from": ("_FIND_ORPHANS _RECOVER", "AND w.declared_dead_at IS NULL", "AND false"),
    "the recovered are claimed with others": ("_RECOVER", "(NOT f.was_running)::integer", "0"),
}


def test_any_order_of_operations_leaves_what_the_model_says(connection: Connection) -> None:
    run_state_machine_as_test(lambda: Machine(connection), settings=QUICK)


@pytest.mark.slow
def test_many_orders_of_operations_leave_what_the_model_says(connection: Connection) -> None:
    run_state_machine_as_test(lambda: Machine(connection), settings=LONG)


@pytest.mark.slow
@pytest.mark.parametrize("bug", OUTCOME_BUGS)
def test_it_finds_a_bug_in_the_fence_of_outcomes(
    bug: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = claims.FINISH
    assert FENCE in right.definition, "the statement no longer has what this bug replaces"
    wrong = right._replace(
        name="wrong_finish",
        definition=right.definition.replace(FENCE, OUTCOME_BUGS[bug]).replace(right.name, "wrong_finish"),
        call=right.call.replace(right.name, "wrong_finish"),
        plain=right.plain.replace(FENCE, OUTCOME_BUGS[bug]),
    )
    monkeypatch.setattr(claims, "FINISH", wrong)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(lambda: Machine(connection), settings=HUNT)


@pytest.mark.slow
@pytest.mark.parametrize("bug", LEADER_BUGS)
def test_it_finds_a_bug_in_what_leaders_do(bug: str, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    names, right, wrong = LEADER_BUGS[bug]
    for name in names.split():
        text = getattr(upkeep, name)
        assert right in text, "the statement no longer has what this bug replaces"
        monkeypatch.setattr(upkeep, name, text.replace(right, wrong))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(lambda: Machine(connection), settings=HUNT)
