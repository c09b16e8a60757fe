"""A leader of the store's tests, and who looks at plans."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from orchestrator.store import leadership
from orchestrator.store.connection import Connection
from tests.store.plans import Recorder
from tests.store.rows import PROCESS, add_worker


@pytest.fixture
def term(connection: Connection) -> int:
    """The term in which the worker `leader` leads, since this moment."""
    add_worker(connection, "leader")
    term = leadership.acquire(connection, holder="leader", process=PROCESS, lease_seconds=60.0, within=5.0)
    assert term is not None
    return term


@pytest.fixture
def make_recorder(database_url: str) -> Iterator[Callable[[], Recorder]]:
    """Call it for a session that has planned nothing yet."""
    with contextlib.ExitStack() as stack:

        def make() -> Recorder:
            recorder = Recorder.open(database_url, within=10.0, application_name="test")
            stack.callback(recorder.close)
            return recorder

        yield make


@pytest.fixture
def recorder(make_recorder: Callable[[], Recorder]) -> Recorder:
    return make_recorder()
