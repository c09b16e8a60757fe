"""The command line: `orchestratord COMMAND`. One file a command; `start` is the composition root of the daemon."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from click.shell_completion import shell_complete

from orchestrator._version import __version__
from orchestrator.cli.check import check
from orchestrator.cli.dev import dev
from orchestrator.cli.enqueue import enqueue
from orchestrator.cli.failures import report, say
from orchestrator.cli.migrate import migrate
from orchestrator.cli.periodic import periodic
from orchestrator.cli.start import start
from orchestrator.cli.stats import stats
from orchestrator.cli.streams import let_go_of, replace_closed, spell_out_the_unwritable
from orchestrator.cli.tasks import tasks
from orchestrator.cli.workers import workers
from orchestrator.exit_codes import ExitCode

_NAME = "orchestratord"
_COMPLETION = "_ORCHESTRATORD_COMPLETE"
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands=[start, dev, migrate, check, enqueue, tasks, periodic, workers, stats],
)
@click.version_option(__version__, prog_name=_NAME, message="%(prog)s %(version)s")
def orchestratord() -> None:
    """A task queue in PostgreSQL, and the daemon that runs it."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command (default: that of the process's arguments) and exit with its code (exit_codes.py)."""
    replace_closed()
    spell_out_the_unwritable()
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run a command; its exit code. Whatever goes wrong is told on standard error."""
    if instruction := os.environ.get(_COMPLETION):
        return shell_complete(orchestratord, {}, _NAME, _COMPLETION, instruction)
    try:
        with orchestratord.make_context(_NAME, arguments) as context:
            code = orchestratord.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        _show(error)
        return ExitCode.USAGE
    except BrokenPipeError:
        let_go_of(sys.stdout)
        return ExitCode.CLEAN
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 whatever it is: a code of ours, and never Python's bare 1
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            say(f"the answer could not be written: {error.strerror}")
            let_go_of(sys.stdout)
            return ExitCode.USAGE
        return report(error)
    return int(code or ExitCode.CLEAN)


def _show(error: click.ClickException) -> None:
    try:
        error.show()
    except OSError:  # the code says enough
        let_go_of(sys.stderr)
