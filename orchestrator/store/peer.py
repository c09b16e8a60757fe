"""What the server does about a host of ours that is gone: the other side of `addresses.TCP_LIMITS`."""

import time

from orchestrator.store.connection import Connection

LEAST_SECONDS = 0.5
"""For what is asked of a new session, if connecting has used up the time."""

# By default it keeps such sessions for two hours, and may have no connection left once that host is back. What its
# owner has set stays.
LIMITS = """
SELECT set_config(s.name, wanted.setting, false) FROM pg_settings AS s
JOIN (VALUES ('tcp_keepalives_idle', '15'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'),
             ('tcp_user_timeout', '15000')) AS wanted (name, setting) ON wanted.name = s.name
WHERE s.source = 'default'
"""

# They would end a session that has nothing to do but listen, or one that waits for a locked row or counts for long: its
# owner would take that for an outage, and try the same again. (The second is there since version 17.)
PATIENCE = """
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('idle_session_timeout', 'transaction_timeout') AND setting <> '0'
"""


def limit(connection: Connection, *, until: float, only: bool = False) -> None:
    """Has the server end this session half a minute after our host has fallen silent. `until` is in CLOCK_MONOTONIC
    seconds: by then it was to be connected and so limited. `only` then: none of its role's own limits ends it.

    Not where a pooler may hand it to others: that makes up the process id which it tells its clients.
    """
    is_ours = " AND pg_backend_pid() = %(pid)s"
    sql = LIMITS + is_ours + (";" + PATIENCE + is_ours if only else "")
    within = max(LEAST_SECONDS, until - time.monotonic())
    connection.execute(sql, {"pid": connection.server_process}, within=within)
