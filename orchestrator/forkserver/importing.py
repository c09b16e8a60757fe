"""The import of the app: whatever it starts carries a mark by which the supervisor finds it once nobody needs it."""

import contextlib
import mmap
import os
from collections.abc import Iterator

from orchestrator.app import App, load_app
from orchestrator.board.birth import MARKER_VARIABLE, ForkserverOrders, app_marker


def import_app(orders: ForkserverOrders) -> App:
    """Errors as load_app's."""
    with _marked(app_marker(orders.supervisor_pid, os.getpid())):
        return load_app(orders.app, with_examples=orders.with_examples)


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
