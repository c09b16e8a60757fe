"""A leader of the store's tests, and who looks at plans."""

from collections.abc import Iterator

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
def recorder(database_url: str) -> Iterator[Recorder]:
    recorder = Recorder.open(database_url, within=10.0, application_name="test")
    yield recorder
    recorder.close()
