"""`orchestratord migrate`: make the database's schema ours."""

import click

from orchestrator.cli.database import open_when_there, some_settings
from orchestrator.cli.settings_flags import settings_flags_of
from orchestrator.store import schema

_MIGRATE_SECONDS = 60.0
_NAMES = ("database_url", "database_wait")


@click.command()
@settings_flags_of(*_NAMES)
def migrate(**flags: object) -> None:
    """Create or upgrade the tables.

    It may be run at any time, also while workers run, and does nothing where nothing is to be done. An index or a
    trigger that was dropped is made again. `start` creates and upgrades as well, if its role may create tables.
    """
    settings = some_settings(_NAMES, flags)
    connection = open_when_there(settings.database_url, settings.database_wait)
    try:
        is_changed = schema.migrate(connection, within=_MIGRATE_SECONDS, repairs=True)
    finally:
        connection.close()
    click.echo(f"the schema {'is now' if is_changed else 'was already'} at version {schema.SCHEMA_VERSION}")
