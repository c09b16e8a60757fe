"""Signals of processes that only the supervisor may command: forkserver and children.

What reaches a whole process group or cgroup (a terminal's Ctrl-C, `pkill -HUP orchestratord`, systemd's SIGTERM) must
not end them. They get a handler that does nothing, not SIG_IGN: ignored signals and blocked masks would be inherited
by the programs that tasks run.
"""

import signal
from types import FrameType

DEAF_TO = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)

STACK_SIGNAL = signal.SIGRTMIN + 5
"""On this real-time signal a child writes its Python stacks to its memfd; the supervisor sends it."""

HUNG_STACK_SIGNAL = signal.SIGRTMIN + 6
"""The same for a child that is in C and so did not answer STACK_SIGNAL (see child/answering.py)."""


def do_nothing(signum: int, frame: FrameType | None) -> None:
    """A handler that is no SIG_IGN."""


def turn_deaf() -> None:
    """Let nothing of DEAF_TO, nor a question for stacks, end this process; no wake-up descriptor, SIGCHLD's default."""
    signal.set_wakeup_fd(-1)
    for each in (*DEAF_TO, STACK_SIGNAL, HUNG_STACK_SIGNAL):  # one may ask before anything can answer
        signal.signal(each, do_nothing)
        signal.siginterrupt(each, False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def block_all() -> None:
    """Hold every signal back, across a fork: one that came before the handlers stand would be lost or deadly."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def unblock_all() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
