"""The supervisor's states: what each signal does in each, and which steps there are. The table is tested whole."""

import signal
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2

import pytest

from orchestrator.board.reactions import DEAF_TO
from orchestrator.supervisor.states import NEXT, REACTIONS, SIGNALS, Action, Machine, State

EVERY_STATE = tuple(State)
SERVING = (State.RUNNING, State.RELOADING, State.PAUSED)

# The README's table of signals, a row each: what it does in starting, running, reloading, paused, draining
# and stopping.
TABLE = {
    SIGTERM: "leave drain drain drain stop ignore",
    SIGINT: "leave drain drain drain stop ignore",
    SIGQUIT: "leave stop stop stop stop ignore",
    SIGHUP: "remember_reload reload remember_reload reload ignore ignore",
    SIGTTIN: "grow grow grow grow ignore ignore",
    SIGTTOU: "shrink shrink shrink shrink ignore ignore",
    SIGUSR1: "report report report report report report",
    SIGUSR2: "pause_or_resume pause_or_resume pause_or_resume pause_or_resume ignore ignore",
}


def machine_in(state: State) -> Machine:
    machine = Machine()
    machine.state = state
    return machine


def test_the_table_has_every_state_and_every_signal_and_nothing_else() -> None:
    assert set(REACTIONS) == set(EVERY_STATE)
    assert all(set(row) == set(SIGNALS) for row in REACTIONS.values())
    assert set(SIGNALS) == set(TABLE)


@pytest.mark.parametrize("received", TABLE, ids=lambda each: signal.Signals(each).name)
def test_each_signal_does_what_the_design_says_in_each_state(received: signal.Signals) -> None:
    assert [machine_in(state).reaction(received) for state in EVERY_STATE] == TABLE[received].split()


def test_every_action_is_asked_for_by_some_signal() -> None:
    assert {action for row in REACTIONS.values() for action in row.values()} == set(Action)


def test_children_are_deaf_to_whatever_the_supervisor_reacts_to() -> None:
    assert set(DEAF_TO) == set(SIGNALS)


def test_a_worker_starts_serves_drains_and_stops_in_that_order() -> None:
    assert set(NEXT) == set(EVERY_STATE)
    assert NEXT[State.STARTING] == {State.RUNNING, State.PAUSED, State.STOPPING}
    for state in SERVING:
        assert NEXT[state] == {*SERVING, State.DRAINING, State.STOPPING} - {state}
    assert NEXT[State.DRAINING] == {State.STOPPING}
    assert NEXT[State.STOPPING] == set()


@pytest.mark.parametrize("state", EVERY_STATE)
@pytest.mark.parametrize("wanted", EVERY_STATE)
def test_only_the_steps_of_the_table_can_be_taken(state: State, wanted: State) -> None:
    machine = machine_in(state)
    if wanted in NEXT[state]:
        machine.step(wanted)
        assert machine.state is wanted
    else:
        with pytest.raises(AssertionError, match=f"BUG: {state} cannot become {wanted}"):
            machine.step(wanted)
        assert machine.state is state


@pytest.mark.parametrize("state", SERVING)
def test_every_reaction_leads_to_a_step_that_exists(state: State) -> None:
    leads_to = {
        Action.DRAIN: State.DRAINING,
        Action.STOP: State.DRAINING,  # of no seconds
        Action.RELOAD: State.RELOADING,
        Action.LEAVE: State.STOPPING,
    }
    for action in REACTIONS[state].values():
        assert leads_to.get(action) is None or leads_to[action] in NEXT[state]


@pytest.mark.parametrize("state", EVERY_STATE)
def test_children_are_there_while_it_runs_reloads_or_is_paused(state: State) -> None:
    assert machine_in(state).is_serving is (state in SERVING)


def test_a_pause_survives_a_reload() -> None:
    machine = machine_in(State.PAUSED)
    machine.is_paused = True
    machine.step(State.RELOADING)
    machine.settle()
    assert machine.state is State.PAUSED


def test_a_pause_asked_for_while_reloading_or_starting_is_kept() -> None:
    for state in (State.RELOADING, State.STARTING):
        machine = machine_in(state)
        states = []
        for is_paused in (True, False):
            machine.is_paused = is_paused
            machine.settle()
            states.append(machine.state)
        assert states == [State.PAUSED, State.RUNNING]


def test_settling_where_it_is_already_changes_nothing() -> None:
    machine = machine_in(State.RUNNING)
    machine.settle()
    assert machine.state is State.RUNNING
