"""What the supervisor is doing, and what each signal does to it then: one table, pure."""

import signal
from enum import StrEnum


class State(StrEnum):
    """The supervisor's states, in the order of a life."""

    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPING = "stopping"


class Action(StrEnum):
    """What a signal asks for."""

    LEAVE = "leave"  # nothing runs yet: end at once
    DRAIN = "drain"  # let running tasks finish, for SHUTDOWN_TIMEOUT
    STOP = "stop"  # kill, requeue, end
    RELOAD = "reload"
    REMEMBER_RELOAD = "remember_reload"  # as soon as what goes on is done; once
    GROW = "grow"
    SHRINK = "shrink"
    REPORT = "report"  # log every slot's state and stack
    PAUSE_OR_RESUME = "pause_or_resume"
    IGNORE = "ignore"


TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT
HUP, TTIN, TTOU = signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU
USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2

SIGNALS = (TERM, INT, QUIT, HUP, TTIN, TTOU, USR1, USR2)
ENDING = (TERM, INT, QUIT)

_A = Action
REACTIONS: dict[State, dict[signal.Signals, Action]] = {
    State.STARTING: {
        TERM: _A.LEAVE, INT: _A.LEAVE, QUIT: _A.LEAVE, HUP: _A.REMEMBER_RELOAD,
        TTIN: _A.GROW, TTOU: _A.SHRINK, USR1: _A.REPORT, USR2: _A.PAUSE_OR_RESUME,
    },
    State.RUNNING: {
        TERM: _A.DRAIN, INT: _A.DRAIN, QUIT: _A.STOP, HUP: _A.RELOAD,
        TTIN: _A.GROW, TTOU: _A.SHRINK, USR1: _A.REPORT, USR2: _A.PAUSE_OR_RESUME,
    },
    State.RELOADING: {
        TERM: _A.DRAIN, INT: _A.DRAIN, QUIT: _A.STOP, HUP: _A.REMEMBER_RELOAD,
        TTIN: _A.GROW, TTOU: _A.SHRINK, USR1: _A.REPORT, USR2: _A.PAUSE_OR_RESUME,
    },
    State.PAUSED: {
        TERM: _A.DRAIN, INT: _A.DRAIN, QUIT: _A.STOP, HUP: _A.RELOAD,
        TTIN: _A.GROW, TTOU: _A.SHRINK, USR1: _A.REPORT, USR2: _A.PAUSE_OR_RESUME,
    },
    State.DRAINING: {
        TERM: _A.STOP, INT: _A.STOP, QUIT: _A.STOP, HUP: _A.IGNORE,
        TTIN: _A.IGNORE, TTOU: _A.IGNORE, USR1: _A.REPORT, USR2: _A.IGNORE,
    },
    State.STOPPING: {
        TERM: _A.IGNORE, INT: _A.IGNORE, QUIT: _A.IGNORE, HUP: _A.IGNORE,
        TTIN: _A.IGNORE, TTOU: _A.IGNORE, USR1: _A.REPORT, USR2: _A.IGNORE,
    },
}  # fmt: skip
"""What the README's table of signals says, for every state."""

NEXT: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.RUNNING, State.PAUSED, State.STOPPING}),
    State.RUNNING: frozenset({State.RELOADING, State.PAUSED, State.DRAINING, State.STOPPING}),
    State.RELOADING: frozenset({State.RUNNING, State.PAUSED, State.DRAINING, State.STOPPING}),
    State.PAUSED: frozenset({State.RUNNING, State.RELOADING, State.DRAINING, State.STOPPING}),
    State.DRAINING: frozenset({State.STOPPING}),
    State.STOPPING: frozenset(),
}

SERVING = (State.RUNNING, State.RELOADING, State.PAUSED)
"""The states in which children shall be there."""

LEAVING = (State.DRAINING, State.STOPPING)
"""The states from which there is no way back."""


class Machine:
    """The current state; only the steps of NEXT are possible. `is_paused` outlives a reload."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self.is_paused = False
        self.wants_reload = False

    def reaction(self, received: signal.Signals) -> Action:
        return REACTIONS[self.state][received]

    def step(self, state: State) -> None:
        if state not in NEXT[self.state]:
            raise AssertionError(f"BUG: {self.state} cannot become {state}")
        self.state = state

    def settle(self) -> None:
        """Back to running, or to paused if that was asked for meanwhile."""
        wanted = State.PAUSED if self.is_paused else State.RUNNING
        if self.state is not wanted:
            self.step(wanted)

    @property
    def is_serving(self) -> bool:
        """Whether children shall be there."""
        return self.state in SERVING
