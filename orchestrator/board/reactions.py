"""Signals of processes that only the supervisor may command: forkserver and children.

What reaches a whole process group or cgroup (a terminal's Ctrl-C, `pkill -HUP orchestratord`, systemd's SIGTERM) must
not end them. They get a handler that does nothing, not SIG_IGN: ignored signals and blocked masks would be inherited
by the programs that tasks run.
"""

import os
import signal
import threading
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


def let_forks_be_terminated() -> None:
    """SIGTERM ends what the app or a handler forks from now on: so multiprocessing ends its workers, and waits for it.

    It is held back across the fork: do_nothing would swallow one that comes at once.
    """
    os.register_at_fork(before=_hold_sigterm_back, after_in_parent=_restore_mask, after_in_child=_heed_sigterm)


_forking = threading.local()


def _hold_sigterm_back() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))


def _restore_mask() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _heed_sigterm() -> None:
    if signal.getsignal(signal.SIGTERM) is do_nothing:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _restore_mask()


def block_all() -> None:
    """Hold every signal back, across a fork: one that came before the handlers stand would be lost or deadly."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def unblock_all() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
