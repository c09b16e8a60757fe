"""Audit: what the database thinks this worker owns, for the supervisor to compare with what its children hold.

It finds ghost claims: committed by a claim whose reply was lost, known to nobody, and their worker lives.
"""

import time

from orchestrator.coordinator.standing import Standing
from orchestrator.mailbox import Audited, Mailbox, Report
from orchestrator.store import holdings
from orchestrator.store.connection import Connection

AUDIT_SECONDS = 5.0
EMPTY_AUDITS_TO_REST = 2

CLAIM_SECONDS = 20.0
"""A claim that has waited for a lock may be committed so late (child/statements.py), though its child died long ago."""


class Audit:
    """Wanted while something is owned, or may be: somebody was sent to look for work, or died, since it last found
    nothing.

    It rests after two empty audits, and looks once more when a claim of that time must have ended.
    """

    name = "audit"

    def __init__(
        self,
        standing: Standing,
        reports: Mailbox[Report],
        *,
        every_seconds: float,
        claim_seconds: float = CLAIM_SECONDS,
    ) -> None:
        self._standing = standing
        self._reports = reports
        self._claim_seconds = claim_seconds
        self._seen = -1
        self._seen_at = 0.0
        self._looked_at = 0.0
        self._empty = 0
        self.every_seconds = every_seconds

    def is_wanted(self) -> bool:
        return self._standing.worker_id is not None and not self._has_rest()

    def _has_rest(self) -> bool:
        if self._empty < EMPTY_AUDITS_TO_REST or self._seen != self._standing.stirs:
            return False
        ended_at = self._seen_at + self._claim_seconds
        return self._looked_at > ended_at or time.monotonic() < ended_at

    def run_once(self, connection: Connection) -> float | None:
        stirs = self._standing.stirs
        if stirs != self._seen:
            self._seen, self._seen_at, self._empty = stirs, time.monotonic(), 0
        self._looked_at = time.monotonic()
        owned = holdings.owned(connection, self._standing.worker_id or "", None, within=AUDIT_SECONDS)
        self._empty = 0 if owned else self._empty + 1
        self._reports.post(Audited(None, tuple(owned)))
        return None
