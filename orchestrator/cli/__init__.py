"""The command line: `orchestratord COMMAND`."""

import click

from orchestrator._version import __version__
from orchestrator.cli.start import start


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="orchestratord", message="%(prog)s %(version)s")
def main() -> None:
    """A task queue in PostgreSQL, and the daemon that runs it."""


main.add_command(start)
