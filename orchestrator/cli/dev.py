"""`orchestratord dev`: everything on this machine, nothing to set up: a private PostgreSQL and `start` beside it."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from orchestrator.cli.database import ANSWER_SECONDS, open_when_there
from orchestrator.cli.settings_flags import settings_flags_of
from orchestrator.config import FIELDS, Settings
from orchestrator.dev import tether
from orchestrator.dev.account import default_data_folder
from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.store import schema
from orchestrator.supervisor.signals import SignalInbox

DATABASE = "orchestrator"
_OTHER_CONNECTIONS = 100  # the supervisor's, and whoever enqueues or looks
_ENTRY = Path(__file__).resolve().parent.parent / "__main__.py"
_NAMES = tuple(field.name for field in FIELDS if field.name != "database_url")


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where PostgreSQL keeps its data.  [default: .orchestrator/postgres here]",
)
@settings_flags_of(*_NAMES)
def dev(data_dir: Path | None, **flags: object) -> int:
    """Run a worker with a private PostgreSQL: no database to set up, and example tasks to look at.

    The data stay in a folder that is named at start. DATABASE_URL is not used; all other settings, flags and signals
    are those of `start`. Ctrl-C drains the pool and stops PostgreSQL.
    """
    # the examples, unless somebody says otherwise; and what is wrong with the settings before anything is started
    environ = {"ENQUEUE_EXAMPLES": "true", **os.environ, "DATABASE_URL": f"postgresql:///{DATABASE}"}
    settings = Settings.load(environ, flags)
    folder = data_dir if data_dir is not None else default_data_folder("postgres")
    signals = SignalInbox()
    signals.open()
    server = PrivatePostgres(folder, settings={"max_connections": str(settings.pool_size + _OTHER_CONNECTIONS)})
    try:
        server.start()
        environ["DATABASE_URL"] = _prepare(server)
        click.echo(f"PostgreSQL runs, its data are in {server.data_folder}")
        click.echo(f'DATABASE_URL="{environ["DATABASE_URL"]}"')
        sys.stdout.flush()
        return _run_worker(server, _arguments(flags), environ, signals)
    finally:
        server.stop()
        signals.close()


def _prepare(server: PrivatePostgres) -> str:
    """The URL of a database with our schema in it."""
    server.create_database(DATABASE)
    url = server.url(DATABASE)
    connection = open_when_there(url, 0)
    try:
        schema.migrate(connection, within=ANSWER_SECONDS)
    finally:
        connection.close()
    return url


def _run_worker(server: PrivatePostgres, arguments: list[str], environ: Mapping[str, str], signals: SignalInbox) -> int:
    """`orchestratord start`, to which our signals go on; its exit code.

    It has a session of its own, so that a terminal's Ctrl-C reaches it once, through us. If we are killed it ends at
    once: PostgreSQL ends with us, too.
    """
    start = [sys.executable, str(_ENTRY), "start", *arguments]
    tethered = [sys.executable, "-I", "-S", tether.__file__, str(int(signal.SIGQUIT)), str(os.getpid()), *start]
    had_terminal = _has_terminal()
    worker = subprocess.Popen(tethered, env=environ, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while worker.poll() is None:
            select.select([signals], [], [])
            for number in signals.take():
                if number is signal.SIGHUP and had_terminal and not _has_terminal():
                    number = signal.SIGTERM  # the window was closed: that is no wish to reload
                if number is not signal.SIGCHLD:
                    worker.send_signal(number)
            if not server.is_running:
                click.echo("PostgreSQL ended; it is started again", err=True)
                server.start()
    finally:
        if worker.poll() is None:
            worker.kill()
        worker.wait()
    return worker.returncode if worker.returncode >= 0 else 128 - worker.returncode


def _arguments(flags: Mapping[str, object]) -> list[str]:
    """The flags as they were given."""
    arguments = []
    for field in FIELDS:
        value = flags.get(field.name)
        if isinstance(value, bool):
            arguments.append(field.flag if value else f"--no-{field.flag[2:]}")
        elif value is not None:
            arguments.append(f"{field.flag}={value}")
    return arguments


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
