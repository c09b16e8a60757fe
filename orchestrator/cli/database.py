"""The database of a command that asks something and ends."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from orchestrator.cli.failures import say
from orchestrator.cli.settings_flags import Command, load_settings, settings_flags_of
from orchestrator.config import FIELDS, Settings
from orchestrator.errors import DatabaseUnavailable
from orchestrator.store.connection import Connection

ANSWER_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_NAMES = ("database_url",)
database_flag: Callable[[Command], Command] = settings_flags_of(*_NAMES)
"""Gives a command `--database-url`."""


@contextmanager
def opened(flags: Mapping[str, object]) -> Iterator[Connection]:
    """A connection to the database of the flags or DATABASE_URL; the other variables may say what they like."""
    url = some_settings(_NAMES, flags).database_url
    connection = Connection.open(url, within=_CONNECT_SECONDS, application_name="orchestratord-command")
    try:
        yield connection
    finally:
        connection.close()


def open_when_there(url: str, wait_seconds: float) -> Connection:
    """A connection as soon as the database answers; says on standard error that it waits, and for what.

    0 seconds are one try, with the patience that a distant or busy server needs.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        left = deadline - time.monotonic()
        try:
            within = max(1.0, min(_CONNECT_SECONDS, left)) if wait_seconds else _CONNECT_SECONDS
            return Connection.open(url, within=within, application_name="orchestratord-command")
        except DatabaseUnavailable as error:
            if left <= 1.0:
                raise
            say(f"waiting for the database, {left:.0f} s more: {error}")
            time.sleep(1.0)


def some_settings(names: tuple[str, ...], flags: Mapping[str, object]) -> Settings:
    """Settings of which only these are read: a command is not refused for what it does not use."""
    variables = {field.variable for field in FIELDS if field.name in names}
    environ = {name: value for name, value in os.environ.items() if name in variables}
    return load_settings(environ, {name: flags.get(name) for name in names})
