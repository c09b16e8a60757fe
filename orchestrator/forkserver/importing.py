"""The import of the app, and what comes of it that is not the app: programs, and copies of this process.

Whatever the app starts carries a mark by which the supervisor finds it once nobody needs it any more.
"""

import contextlib
import faulthandler
import mmap
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

from orchestrator.app import App
from orchestrator.app_loading import load_app
from orchestrator.board.birth import MARKER_VARIABLE, ForkserverOrders, app_marker
from orchestrator.board.kernel import end_as_python_would, take_signal_stack
from orchestrator.board.reactions import STACK_SIGNAL
from orchestrator.telemetry import logs


def import_app(orders: ForkserverOrders) -> App:
    """Errors as load_app's. Returns in the process that called it only, though the app may have forked: a copy would
    speak to the supervisor, and fork children, as well. Meanwhile STACK_SIGNAL has it print where it is."""
    origin = os.getpid()
    faulthandler.register(STACK_SIGNAL, file=2, all_threads=False)
    take_signal_stack()  # in place of faulthandler's
    try:
        with _marked(app_marker(orders.supervisor_pid, origin)):
            return load_app(orders.app, with_examples=orders.with_examples)
    finally:
        faulthandler.unregister(STACK_SIGNAL)
        if os.getpid() != origin:
            _end_copy()


@contextlib.contextmanager
def _marked(marker: str) -> Iterator[None]:
    """What is started meanwhile has the mark in its environment, what is only forked has it mapped. Our own children,
    which are forked later, get marks of their own."""
    os.environ[MARKER_VARIABLE] = marker
    descriptor = os.memfd_create(f"orchestrator {marker}", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, mmap.PAGESIZE)
    with mmap.mmap(descriptor, mmap.PAGESIZE):
        os.close(descriptor)
        yield


def _end_copy() -> NoReturn:
    """As Python ends a process; an exception is told in words."""
    raised = sys.exc_info()[1]
    if raised is not None and isinstance(raised.__cause__, SystemExit):
        end_as_python_would(raised.__cause__)
    log = logs.get("forkserver")
    if raised is not None:
        log.warning("copy_failed", error=str(raised))
    else:
        found = "the app forked at import, and the copy went on with the import: it was ended where that was over"
        log.warning("fork_safety", found=found)
    end_as_python_would(raised)
