"""How long the server lets a statement run, and wait for a lock. Pure.

What a client abandons would otherwise go on and commit, however late.
"""

from functools import lru_cache
from math import inf

SERVERS_SHARE = 0.9
"""So much of a statement's time has the server, if it shall end it too: its refusal arrives before the time is over."""


@lru_cache(maxsize=64)
def limits(statement_timeout: float, lock_timeout: float) -> str:
    """A prefix for a statement: the server itself gives up after so many seconds (sqlstate 57014, or 55P03 for a lock).

    SET LOCAL in the same string as the statement ends with it, so nothing leaks into a pooler's session. Each is a
    statement for the server, 2 % of what one small insert takes with its commit, so a limit that the other implies is
    not sent.
    """
    limit = f"SET LOCAL statement_timeout={max(1, round(statement_timeout * 1000))};"
    if lock_timeout < statement_timeout:
        limit += f"SET LOCAL lock_timeout={max(1, round(lock_timeout * 1000))};"
    return limit


class SessionLimits:
    """What a session's own settings say, in seconds, and what a statement of it has to say besides."""

    __slots__ = ("_lock_timeout", "_statement_timeout")

    def __init__(self, statement_timeout: float = inf, lock_timeout: float = inf) -> None:
        """Infinite: none is set."""
        self._statement_timeout = statement_timeout
        self._lock_timeout = lock_timeout

    @property
    def are_set(self) -> bool:
        return self._statement_timeout < inf

    @property
    def settings(self) -> str:
        """What sets them in a session of ours alone."""
        return (
            f"SET statement_timeout={round(self._statement_timeout * 1000)};"
            f"SET lock_timeout={round(self._lock_timeout * 1000)};"
        )

    def prefix(self, within: float, lock_within: float) -> str:
        """The server shall give up a little before a client does that waits so long; '' if it would anyway."""
        if lock_within >= self._lock_timeout and 0.8 * within <= self._statement_timeout <= 0.95 * within:
            return ""
        return limits(within * SERVERS_SHARE, lock_within)
