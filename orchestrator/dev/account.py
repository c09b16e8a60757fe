"""Who runs the private server: PostgreSQL refuses to be root, so root needs somebody else.

The account is a number without a name, so nobody has to be added to the machine, and no other program runs under it.
Nothing here changes the permissions of a folder that is not ours: what the account cannot reach, it does not get.
"""

import grp
import hashlib
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import PrivatePostgresError

_UNUSED_IDS = range(60578, 61184)
"""No distribution and no service of systemd gives these out ("Users, Groups, UIDs and GIDs on systemd systems")."""

_STATE_FOLDER = Path("/var/lib/task-orchestrator")


class Account(NamedTuple):
    """A user and its group, as numbers."""

    uid: int
    gid: int


def server_account() -> Account | None:
    """The account the server runs under; None: our own, for we are not root."""
    if os.geteuid() != 0:
        return None
    for number in _UNUSED_IDS:
        if not _is_taken(number):
            return Account(number, number)
    raise PrivatePostgresError(f"no free user id from {_UNUSED_IDS.start} to {_UNUSED_IDS.stop - 1} on this machine")


def initdb_account() -> Account:
    """For root: an account with a name, which initdb (alone) insists on; what it makes is given to `server_account`."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise PrivatePostgresError(
            "there is no account named nobody on this machine; run as an ordinary user"
        ) from error
    return Account(entry.pw_uid, entry.pw_gid)


def can_reach(account: Account | None, folder: Path) -> bool:
    """Whether the account may enter `folder` by its absolute path. True for our own account: it says so itself."""
    if account is None:
        return True
    return all(_may_enter(account, part) for part in (folder, *folder.parents) if part.exists())


def default_data_folder(name: str) -> Path:
    """`.orchestrator/NAME` in the working directory.

    Where root works in a folder that is closed to others (a home folder): one of this working directory's own in
    /var/lib, since PostgreSQL could not reach the former.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        raise PrivatePostgresError("the working directory is gone; go to one that is there") from error
    if can_reach(server_account(), here):
        return here / ".orchestrator" / name
    return state_folder() / f"{here.name}-{hashlib.sha256(bytes(here)).hexdigest()[:8]}" / name


def state_folder() -> Path:
    """Root's own folder for what an unprivileged account must reach: made if need be, refused if others could write."""
    try:
        make_folder(_STATE_FOLDER, 0o755)
    except OSError as error:
        raise PrivatePostgresError(f"cannot make {_STATE_FOLDER}: {error.strerror}") from error
    refuse_unless_ours(_STATE_FOLDER)
    return _STATE_FOLDER


def make_folder(folder: Path, mode: int) -> None:
    """Make it, and the folders above it that are missing, with this mode whatever the umask is. What is there stays."""
    if not folder.exists():
        make_folder(folder.parent, mode)
        try:
            folder.mkdir()
        except FileExistsError:
            return  # somebody was faster
        folder.chmod(mode)


def refuse_unless_ours(folder: Path) -> None:
    """Raise unless `folder` is a real folder that belongs to us and that nobody else can write to."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise PrivatePostgresError(f"{folder} is not a folder")
    if status.st_uid != os.geteuid():
        raise PrivatePostgresError(
            f"{folder} belongs to user id {status.st_uid}, not to {os.geteuid()}: "
            "run this as that user, or name another folder"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PrivatePostgresError(f"others may write to {folder}: chmod go-w it, or name another folder")


def make_temporary_folder(prefix: str) -> Path:
    """A new folder of ours that the server's account can reach, for a server that is thrown away.

    The caller removes it. For root it can be entered by others and not be listed; what lies in it protects itself.
    """
    account = server_account()
    for parent in _temporary_folders():
        if parent.is_dir() and os.access(parent, os.W_OK) and can_reach(account, parent):
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            if account is not None:
                folder.chmod(0o711)
            return folder
    raise PrivatePostgresError("no temporary folder that an unprivileged account can reach; set TMPDIR")


def _temporary_folders() -> Iterator[Path]:
    yield Path(tempfile.gettempdir()).resolve()
    yield Path("/tmp")
    yield Path("/var/tmp")


def _is_taken(number: int) -> bool:
    try:
        pwd.getpwuid(number)
    except KeyError:
        pass
    else:
        return True
    try:
        grp.getgrgid(number)
    except KeyError:
        return False
    return True


def _may_enter(account: Account, folder: Path) -> bool:
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
