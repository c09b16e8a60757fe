"""A look that meets a table which an operator has locked ends on the server too: one that its client has given up would
wait there on, with a connection for each that is made again later, until the server has none left."""

import time
from collections.abc import Callable

import pytest

from orchestrator.errors import StatementRefused
from orchestrator.model import Claim, Outcome, TaskStatus
from orchestrator.store import holdings, leadership, schema, types, workers
from orchestrator.store.connection import Connection
from orchestrator.store.tokens import Tokens
from tests.store.rows import ending, is_waiting_for_a_lock, pid_of

SECONDS = 5.0
CLAIM = Claim("00000000-0000-7000-8000-000000000000", "t", 1, "{}", 1, None, None, False)


def outcome() -> Outcome:
    return ending(CLAIM, TaskStatus.COMPLETED)


LOOKS: dict[str, tuple[str, Callable[[Connection], object]]] = {
    "verdicts": ("LOCK TABLE tasks", lambda own: holdings.verdicts(own, [outcome()], within=SECONDS)),
    "stale": ("LOCK TABLE tasks", lambda own: holdings.stale(own, [outcome()], within=SECONDS)),
    "locked": ("LOCK TABLE tasks", lambda own: holdings.locked(own, [CLAIM.task_id], within=SECONDS)),
    "lease": ("LOCK TABLE leadership", lambda own: leadership.read(own, within=SECONDS)),
    "version": ("LOCK TABLE orchestrator_schema", lambda own: schema.version(own, within=SECONDS)),
    "types": ("LOCK TABLE task_types", lambda own: types.list_all(own, within=SECONDS)),
    "workers": ("LOCK TABLE workers", lambda own: workers.list_all(own, within=SECONDS)),
    "living": ("LOCK TABLE workers", lambda own: workers.count_living(own, within=SECONDS)),
    "tokens": ("ALTER SEQUENCE claim_tokens CACHE 100", lambda own: Tokens().take(own, 1, within=SECONDS)),
}


@pytest.mark.usefixtures("hears_refusals")
@pytest.mark.parametrize("name", LOOKS)
def test_it_is_refused_in_time_and_waits_no_longer(
    connection: Connection, other: Connection, connect: Callable[[], Connection], name: str
) -> None:
    lock, look = LOOKS[name]
    own = connect()
    pid = pid_of(own)
    other.execute(f"BEGIN; {lock}", within=5.0)
    began = time.monotonic()
    with pytest.raises(StatementRefused) as refusal:
        look(own)
    assert refusal.value.sqlstate in {"55P03", "57014"}
    assert time.monotonic() - began < SECONDS
    assert own.is_open
    assert not is_waiting_for_a_lock(connection, pid)
    other.execute("ROLLBACK", within=5.0)
