"""A cluster, PostgreSQL's word for its data: made once by initdb, whole or not at all."""

import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from orchestrator.dev.account import Account, initdb_account, server_account
from orchestrator.dev.binaries import Binaries
from orchestrator.errors import PrivatePostgresError

SUPERUSER = "postgres"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""All that PostgreSQL's programs see of ours: no PG* variable and no locale of the user's may change it."""


def make_cluster(data_folder: Path, binaries: Binaries) -> None:
    """Make `data_folder`/cluster if there is none, and the password that its superuser has over TCP.

    The caller holds the data folder's lock. Raises PrivatePostgresError, also for data of another major version.
    """
    cluster = data_folder / "cluster"
    for unfinished in data_folder.glob("cluster.new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    if cluster.exists():
        _refuse_other_version(cluster, binaries)
        return
    password = secrets.token_urlsafe(24)
    with open(data_folder / "password", "w", opener=open_private) as file:
        file.write(password)
    new = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=data_folder))
    _run_initdb(binaries, new, password, initdb_account() if server_account() else None)
    _give_to(server_account(), new)
    (new / "data").rename(cluster)
    shutil.rmtree(new)


def open_private(path: str, flags: int) -> int:
    """An opener: what it creates only we can read, and it follows no link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _refuse_other_version(cluster: Path, binaries: Binaries) -> None:
    version = (cluster / "PG_VERSION").read_text().strip()
    if version != binaries.major:
        raise PrivatePostgresError(
            f"{cluster.parent} has data of PostgreSQL {version}, and this is {binaries.major}: "
            "move it away, or remove it to start afresh"
        )


def _run_initdb(binaries: Binaries, new: Path, password: str, account: Account | None) -> None:
    """`new` is an empty folder; afterwards it is a cluster of the account that initdb ran under."""
    folder = new / "data"
    password_file = new / "password"
    with open(password_file, "w", opener=open_private) as file:
        file.write(password)
    _give_to(account, new)
    arguments = ["-D", str(folder), "-U", SUPERUSER, "--pwfile", str(password_file), "--auth-local=trust"]
    arguments += ["--auth-host=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions", "--no-sync"]
    result = subprocess.run(
        [binaries.program("initdb"), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        start_new_session=True,  # a Ctrl-C meanwhile waits until the cluster is whole
        env=ENVIRONMENT,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    if result.returncode != 0:
        raise PrivatePostgresError(f"initdb failed in {new.parent}: {result.stderr.strip()}")


def _give_to(account: Account | None, folder: Path) -> None:
    """Make everything in `folder`, and itself, the account's (None: it is ours and stays so)."""
    if account is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
