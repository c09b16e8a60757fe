"""How many descriptors the supervisor may have open. Each child costs it some, and the usual 1024 are soon used up.

Only this process's own limit is raised: programs that tasks run may use select(), which knows no descriptor above 1023.
"""

import resource

from orchestrator.errors import ConfigurationError, Problem

PER_CHILD = 6
"""Board (and its mapping), stacks, permissions, both ends of the channel: two of them only while it is born."""

OTHERS = 100
"""Connections, HTTP, metrics files, two forkservers, the log."""

Limits = tuple[int, int]


def make_room(pool_size: int) -> Limits:
    """Raise the soft limit if the pool needs it; the limits as they were.

    ConfigurationError: the hard one is too low.
    """
    soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OTHERS + PER_CHILD * pool_size
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return before
    if hard != resource.RLIM_INFINITY and hard < needed:
        most = (hard - OTHERS) // PER_CHILD
        accepted = (
            f"this pool needs {needed} open files, and {hard} are allowed (ulimit -n, LimitNOFILE= of systemd): allow "
            f"more{f', or write {most} at most' if most > 0 else ''}"
        )
        raise ConfigurationError([Problem("WORKER_POOL_SIZE", str(pool_size), accepted)])
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return before


def limit(pid: int, limits: Limits) -> None:
    """Give a process that we started these limits instead of ours; what it starts inherits them."""
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    except (ProcessLookupError, PermissionError):
        pass  # it has died already; it may do with ours
