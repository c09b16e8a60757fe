"""Claim tokens that are never used twice, not even by claims that a crash of the server made it forget.

A claim's commit need not wait for the disk. Should the server crash, the claim is forgotten, and so may be what it drew
from a sequence: the same number could fence another claim of the same task, while the first still runs. So whoever
claims draws a number for itself once, has that on the disk, and counts on from it in its own memory.
"""

from orchestrator.store.connection import Connection

TOKENS_PER_NUMBER = 1 << 20
"""A token is the number times this, plus a count. Older versions took the sequence's numbers themselves: those are
smaller than what any of these begins with, as long as the sequence has not grown a millionfold meanwhile."""


class Tokens:
    """One claimer's. A number holds beyond its connection, and beyond a crash of the server."""

    def __init__(self) -> None:
        self._next = 0
        self._end = 0

    def take(self, connection: Connection, count: int, *, within: float) -> int:
        """The first of `count` consecutive tokens; now and then a statement of its own, whose commit is durable."""
        if self._next + count > self._end:
            # a commit waits for the disk only if its transaction has written something: a message to nobody
            ((number, _),) = connection.execute(
                "SELECT nextval('claim_tokens'), pg_logical_emit_message(true, 'orchestrator', '')", within=within
            )
            self._next = number * TOKENS_PER_NUMBER
            self._end = self._next + TOKENS_PER_NUMBER
        first = self._next
        self._next += count
        return first
