"""`orchestratord start`: run this machine's worker until a signal ends it."""

import os
import sys

import click

from orchestrator.cli.daemon import Daemon
from orchestrator.cli.settings_flags import load_settings, settings_flags


@click.command()
@settings_flags
def start(**flags: object) -> None:
    """Run a worker: a supervisor and its pool of children.

    \b
    TERM, INT   drain: let running tasks finish for SHUTDOWN_TIMEOUT; a second one ends at once
    QUIT        end at once; what runs is pending again
    HUP         reload the app            USR1   log every slot's state and stack
    TTIN, TTOU  one child more, fewer     USR2   pause or resume claiming

    Each option is a variable too, named in brackets; the option wins. A DURATION is written 500ms, 1s, 1m or 1h30m, a
    SIZE 64KB, 512MB or 2GB.
    """
    code = Daemon(load_settings(os.environ, flags)).run()
    sys.exit(code)
