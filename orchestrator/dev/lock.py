"""The lock of a data folder: one owner at a time, whoever dies how."""

import fcntl
import os
import select
import time
from pathlib import Path

from orchestrator.errors import PrivatePostgresError

_PATIENCE_WITH_THE_LIVING = 0.5
_PATIENCE_WITH_THE_DEAD = 10.0


def take_lock(path: Path) -> int:
    """Lock the data folder; the descriptor is the lock.

    This waits for an owner that is about to end, and longer for one that is gone: its guard stops the server then.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode()
            patience = _PATIENCE_WITH_THE_LIVING if _is_alive(holder) else _PATIENCE_WITH_THE_DEAD
            if time.monotonic() - began > patience:
                os.close(lock)
                raise PrivatePostgresError(f"process {holder} uses the data folder {path.parent} already") from error
            time.sleep(0.02)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _is_alive(pid: str) -> bool:
    """A dead process whose parent has not reaped it yet is not."""
    try:
        process = os.pidfd_open(int(pid))
    except (ValueError, OSError):
        return False
    try:
        return not select.select([process], [], [], 0)[0]
    finally:
        os.close(process)
