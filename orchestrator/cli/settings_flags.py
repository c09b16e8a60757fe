"""The flags of a command that takes settings, made from the table in config.py."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from orchestrator.config import FIELDS, Field
from orchestrator.setting_kinds import Boolean

Command = TypeVar("Command", bound=Callable[..., Any])


def settings_flags(command: Command) -> Command:
    """Give a command every setting as a flag, by field name; None where a flag is not given.

    What a flag accepts is checked with the variables, so that all problems are told at once.
    """
    return settings_flags_of(*(field.name for field in FIELDS))(command)


def settings_flags_of(*names: str) -> Callable[[Command], Command]:
    """Give a command these settings alone, likewise."""

    def decorate(command: Command) -> Command:
        for field in reversed(FIELDS):
            if field.name in names:
                command = _flag(field)(command)
        return command

    return decorate


def _flag(field: Field) -> Callable[[Command], Command]:
    default = (
        f"  [{field.variable}; default: {field.default}]" if field.default is not None else f"  [{field.variable}]"
    )
    if isinstance(field.kind, Boolean):
        names = f"{field.flag}/--no-{field.flag[2:]}"
        return click.option(names, field.name, default=None, help=field.help + default)
    return click.option(field.flag, field.name, metavar="VALUE", default=None, help=field.help + default)
