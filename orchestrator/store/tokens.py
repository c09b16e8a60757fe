"""Where the claim tokens come from: whoever claims draws an epoch, and numbers its claims within it.

A claim whose commit waits for no disk is forgotten if the database server crashes, and a sequence that gave its token
gives it again afterwards, while the first execution may still run: the fence would let both through. So what the
sequence gives is an epoch, on the disk before its first use, and the claimer counts on in its own memory.
"""

from orchestrator.store.connection import Connection

EPOCH_BITS = 20
"""Of a token, for the number within its epoch. Leaves 43 for epochs, of which a session takes a hundred (CACHE)."""


WAITS_FOR_DISK = (
    "SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off';"
)
"""Before a statement: its commit waits for the disk also where the user has turned that off for his role. What he says
about standbys stays."""


class Tokens:
    """One claimer's tokens. They outlive its connections, and crashes of the server."""

    def __init__(self) -> None:
        self._next = 0
        self._end = 0

    def take(self, connection: Connection, count: int, *, within: float) -> int:
        """The first of `count` consecutive tokens (fewer than an epoch has); at times that takes a statement."""
        if self._next + count > self._end:
            self._next = _draw_epoch(connection, within=within) << EPOCH_BITS
            self._end = self._next + (1 << EPOCH_BITS)
        first = self._next
        self._next += count
        return first


def _draw_epoch(connection: Connection, *, within: float) -> int:
    """A number that nobody has drawn before or will; what the sequence remembers of it is on the server's disk.

    The transaction's message (to nobody) is what makes the commit wait for the disk, and so for all that any session
    wrote before it.
    """
    ((epoch, _),) = connection.execute(
        WAITS_FOR_DISK + "SELECT nextval('claim_tokens'), pg_logical_emit_message(true, 'orchestrator', '')",
        within=within,
        lock_within=within,
    )
    return int(epoch)
