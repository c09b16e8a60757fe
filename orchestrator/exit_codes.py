"""The exit codes of `orchestratord`: a contract with systemd units and scripts."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Why the process ended."""

    CLEAN = 0  # drained: nothing was left running
    REQUEUED = 1  # the drain ran out of time; what still ran was killed and is pending again
    USAGE = 2  # wrong usage or configuration, a port taken, a folder not writable, no room for our threads
    APP = 3  # the app could not be imported
    DATABASE = 4  # the database could not be reached at start within DATABASE_WAIT
    OTHER_INSTANCE = 5  # another single instance runs on this database
    SCHEMA = 6  # the schema is newer than this version, or the role may not create or upgrade it
    BUG = 70  # a bug of ours; never Python's bare 1
