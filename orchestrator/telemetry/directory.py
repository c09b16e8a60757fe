"""The folder of one worker's metrics files: made, marked, locked and cleared by its supervisor.

It must never touch what is not ours: only folders that carry our mark, belong to our user and are locked by nobody are
cleared, and of these only files that we make.
"""

import errno
import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from orchestrator.errors import ConfigurationError, Problem
from orchestrator.telemetry import logs
from orchestrator.telemetry.files import zero_values

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "orchestratord-"
NEW_PREFIX = ".orchestratord-new-"
"""Of one that is being made."""

TRIES = 5
"""To make a folder, which whoever starts at the same moment may take for a dead daemon's until it is locked."""

MARK = ".orchestratord"
MARK_TEXT = (
    b"orchestratord keeps metrics here while it runs, under a lock on this file; without one, the next clears it\n"
)
ROOM_BYTES = 1 << 20
"""So much must fit at start."""

LOGIND = "/run/systemd/seats"
HIGHEST_SYSTEM_UID = 999
"""Where logind runs and its RemoveIPC is not switched off, it spares users up to this one."""

_OURS = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_[^_/]+\.db(\.\d+)?")
_ZEROED = ("sum", "livesum", "all")
_REMOVED = ("liveall", "livemin", "livemax", "livemostrecent")


class MetricsDirectory:
    """A folder of our own, locked as long as this process lives. Use it in the supervisor's main thread."""

    def __init__(self, path: str, locks: tuple[int, ...]) -> None:
        self.path = path
        self._locks = locks

    @classmethod
    def open(cls, path: str | None, worker_id: str) -> "MetricsDirectory":
        """A new folder in `path`, or in a private place (memory if possible) if that is None.

        Folders of killed daemons are cleared there first. Raises ConfigurationError where none can be made.
        """
        problems: list[str] = []
        for parent in [path] if path is not None else private_places():
            try:
                clear_stale(parent)
                return _made(parent, worker_id)
            except OSError as error:
                problems.append(f"{parent}: {error.strerror or error}")
        accepted = "a folder that orchestratord may write to, with 1 MB free; unset it for a private one"
        raise ConfigurationError([Problem(VARIABLE, path, f"{'; '.join(problems)}. Accepted: {accepted}")])

    def zero_gauges(self, slot: int | str) -> None:
        """Forget the gauges of a child that was reaped, before the next one of its slot is forked.

        Those that say what is now are removed or 0; `min`, `max` and `mostrecent` are meant to outlive processes.
        """
        for mode in (*_ZEROED, *_REMOVED):
            path = os.path.join(self.path, f"gauge_{mode}_{slot}.db")
            try:
                if mode in _ZEROED:
                    zero_values(path)
                else:
                    os.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                logs.get("telemetry").warning("gauges_not_zeroed", path=path, error=str(error))

    def close(self) -> None:
        """Remove the folder and what we put there; once."""
        if self._locks:
            _clear(self.path)
            _close(self._locks)
            self._locks = ()


def clear_stale(parent: str) -> None:
    """Remove the folders in `parent` that killed daemons of this user left. OSError: `parent` cannot be read."""
    with os.scandir(parent) as found:
        names = [each.name for each in found if each.name.startswith((PREFIX, NEW_PREFIX))]
    for name in names:
        path = os.path.join(parent, name)
        try:
            with _left_by_the_dead(path):
                _clear(path)
                logs.get("telemetry").info("stale_metrics_cleared", path=path)
        except FileNotFoundError:  # killed before it was marked, or being made
            if name.startswith(NEW_PREFIX):
                with suppress(OSError):
                    os.rmdir(path)
        except OSError:
            continue  # not ours, in use, or gone by now


@contextmanager
def _left_by_the_dead(path: str) -> Iterator[None]:
    """Holds the lock of a folder that is ours and nobody's any more; OSError if it isn't."""
    found = os.lstat(path)
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "another user's")
    lock = os.open(os.path.join(path, MARK), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        mark = os.read(lock, len(MARK_TEXT) + 1)
        is_new = os.path.basename(path).startswith(NEW_PREFIX)
        if mark != MARK_TEXT and not (is_new and MARK_TEXT.startswith(mark)):  # killed before all of it was written
            raise PermissionError(errno.EPERM, "not our mark")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def _clear(path: str) -> None:
    """Remove our files from a folder, and the folder if nothing else is in it. Never follows a link."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        names = [name for name in os.listdir(folder) if _OURS.fullmatch(name)]
        for name in [*names, MARK]:
            os.unlink(name, dir_fd=folder)
        os.rmdir(path)
    except OSError:
        pass  # somebody else's file is in it, or it is gone: theirs to keep
    finally:
        os.close(folder)


def _made(parent: str, worker_id: str) -> MetricsDirectory:
    for _ in range(TRIES - 1):
        with suppress(FileNotFoundError, BlockingIOError):
            return _made_at_once(parent, worker_id)
    return _made_at_once(parent, worker_id)


def _made_at_once(parent: str, worker_id: str) -> MetricsDirectory:
    """Made, marked and locked under another name first: under its own nobody sees it unlocked. FileNotFoundError or
    BlockingIOError: somebody cleared it before it was locked."""
    new = tempfile.mkdtemp(prefix=NEW_PREFIX, dir=parent)
    locks: list[int] = []
    try:
        locks.append(os.open(os.path.join(new, MARK), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.write(locks[0], MARK_TEXT)
        fcntl.flock(locks[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(os.path.join(new, MARK))  # from here on it stays
        locks.append(os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        with suppress(OSError):  # not every file system locks folders
            fcntl.flock(locks[1], fcntl.LOCK_SH | fcntl.LOCK_NB)  # systemd-tmpfiles leaves alone what is old in it
        _require_room(new)
        name = PREFIX + re.sub(r"[^\w.-]", "-", worker_id)[:150]
        if os.path.lexists(os.path.join(parent, name)):
            name += "-" + secrets.token_hex(4)
        path = os.path.join(os.path.abspath(parent), name)
        os.rename(new, path)
    except BaseException:
        _clear(new)
        _close(locks)
        raise
    return MetricsDirectory(path, tuple(locks))


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _require_room(folder: str) -> None:
    """OSError if ROOM_BYTES don't fit."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        os.posix_fallocate(probe.fileno(), 0, ROOM_BYTES)


def private_places() -> list[str]:
    """Where a private folder may be, the best first: in memory, else where temporary files go, which may be nowhere.

    But what somebody who logs in has in memory is removed when he logs out, though his daemons go on.
    """
    in_memory, on_disk = ["/dev/shm"], []
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        in_memory.append(runtime)
    with suppress(FileNotFoundError):
        on_disk.append(tempfile.gettempdir())
    is_swept = os.geteuid() > HIGHEST_SYSTEM_UID and os.path.exists(LOGIND)
    return [*on_disk, *in_memory] if is_swept else [*in_memory, *on_disk]
