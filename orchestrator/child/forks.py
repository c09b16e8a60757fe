"""Processes that a handler or hook forks and lets run out of it: they end there. Runs in a child.

Else such a one would go on as a second child of this slot: on the same connection and board, taking the same claims,
while the handler perhaps waits for its end.
"""

import os
import sys
import time
import traceback
from typing import NoReturn

from orchestrator.board.kernel import end_as_python_would

BRIEF_NANOSECONDS = 50_000
"""No fork takes so little: with the page tables of a bare interpreter to copy, 150 us (tried)."""


class Origin:
    """The process that handlers and hooks are called in. Made in it; a fork of it has a copy, and knows."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._is_fork = False
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._is_fork = True

    def end_forks(self, began_ns: int) -> None:
        """End this process if what began then (CLOCK_MONOTONIC) has forked it, with the exit code that Python gives
        one. Called where its exception, if any, is being handled.

        A fork that Python does not know of, of C code's, shows by its pid.
        """
        if self._is_fork or (time.monotonic_ns() - began_ns > BRIEF_NANOSECONDS and os.getpid() != self._pid):
            _end(sys.exc_info()[1])


def _end(raised: BaseException | None) -> NoReturn:
    if raised is not None and not isinstance(raised, SystemExit):
        traceback.print_exception(raised)
    end_as_python_would(raised)
