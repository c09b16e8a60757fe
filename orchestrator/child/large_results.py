"""A result that the board has no room for goes to the database before anything else happens. Runs in a child."""

import time
from collections.abc import Callable

from orchestrator.board.layout import MAX_INLINE_BYTES
from orchestrator.child.database import Database
from orchestrator.child.ledger import Ledger
from orchestrator.child.statements import REFUSED_WAIT_SECONDS
from orchestrator.errors import DatabaseUnavailable, StatementRefused
from orchestrator.model import Outcome
from orchestrator.retry import chance
from orchestrator.telemetry import logs


def is_large(result: str) -> bool:
    """Whether the board has no room for it, in UTF-8."""
    return len(result) > MAX_INLINE_BYTES // 4 and len(result.encode()) > MAX_INLINE_BYTES


def write_at_once(outcome: Outcome, ledger: Ledger, database: Database, *, connected: Callable[[], None]) -> None:
    """Write it, and all that is unwritten, however long the database is away. `connected()` is called for each new
    connection."""
    while True:
        if database.connection is not None:
            try:
                ledger.exchange(0, extra=(outcome,))
            except DatabaseUnavailable:
                continue
            except StatementRefused as refusal:
                logs.get("child").error("write_refused", sqlstate=refusal.sqlstate, error=str(refusal))
                time.sleep(chance.uniform(0.5, 1.0) * REFUSED_WAIT_SECONDS)
                continue
            return
        wait = database.seconds_to_next_try()
        if wait > 0:
            time.sleep(wait)
        elif database.try_to_connect():
            connected()
