"""What is asked of the server itself: notifications, its version, and whether it has room for the pool."""

from typing import NamedTuple

from orchestrator.store.connection import Connection
from orchestrator.store.failures import READ_ONLY

LEASE_IS_FREE = "lease"
"""The message of a leader that leaves; an empty one tells of tasks."""


def version_text(connection: Connection) -> str:
    """As 15.18."""
    version = connection.server_version
    return f"{version // 10000}.{version % 10000}"


def encoding_problem(connection: Connection) -> str | None:
    """What the database's encoding may spoil, and what to do; None: it is UTF8."""
    encoding = connection.server_encoding
    if encoding == "UTF8":
        return None
    harm = "not every text can be stored"
    if encoding == "SQL_ASCII":
        harm = "a task whose texts are no UTF-8 would stop all claims"
    return f"the database's encoding is {encoding}: {harm}; use one that was made with ENCODING 'UTF8'"


def writing_problem(connection: Connection, *, within: float) -> str | None:
    """Why nothing can be written by this session, and what to do; None: it can."""
    ((setting,),) = connection.execute("SELECT current_setting('transaction_read_only')", within=within)
    return READ_ONLY if setting == "on" else None


class Capacity(NamedTuple):
    """How many connections the server has, keeps for superusers and has in use (ours among them).

    `role_limit` and `database_limit` are None where there is no limit.
    """

    max_connections: int
    reserved: int
    in_use: int
    role_limit: int | None
    database_limit: int | None

    @property
    def free(self) -> int:
        """How many more connections this role can make now, going by the server's own limits."""
        return self.max_connections - self.reserved - self.in_use

    @property
    def ceiling(self) -> int:
        """How many this role could have if nobody else had any."""
        limits = [self.max_connections - self.reserved, self.role_limit, self.database_limit]
        return min(limit for limit in limits if limit is not None)

    @property
    def others(self) -> int:
        """How many are in use, less the one that asked."""
        return self.in_use - 1

    def suffices(self, needed: int) -> bool:
        """Whether this role can have so many now, the one that asked among them."""
        return needed <= self.ceiling and needed <= self.free + 1


def listen(connection: Connection, *, within: float) -> None:
    """From now on this session hears of new tasks and of a lease that was given up.

    A pooler may swallow that: then polling finds them.
    """
    connection.execute("LISTEN orchestrator_tasks", within=within)


def capacity(connection: Connection, *, within: float) -> Capacity:
    """The server's limits on connections and their use.

    pg_stat_activity would not do: it shows an ordinary role no more than its own sessions' kind.
    """
    rows = connection.execute(
        """
        SELECT current_setting('max_connections')::integer,
            current_setting('superuser_reserved_connections')::integer
                + coalesce(current_setting('reserved_connections', true)::integer, 0),
            (SELECT sum(numbackends)::integer FROM pg_stat_database),
            (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
            (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
        """,
        within=within,
        lock_within=within,
    )
    return Capacity(*rows[0])
