"""The flags of a command that takes settings, made from the table in config.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from orchestrator.config import FIELDS, Field, Settings, without_password
from orchestrator.errors import ConfigurationError, Problem
from orchestrator.setting_kinds import Boolean, Choice, Duration, Kind, Size, Whole
from orchestrator.store.addresses import url_problem
from orchestrator.telemetry import logs

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


def load_settings(environ: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """The settings; also looks whether DATABASE_URL can be used at all: waiting for the database would not help.

    From here on no line shows its password. Raises ConfigurationError with every problem there is.
    """
    url = str(flags.get("database_url") or environ.get("DATABASE_URL") or "").strip()
    reason = url_problem(url) if url else None
    problems = [Problem("DATABASE_URL", without_password(url), reason)] if reason is not None else []
    logs.hide_password_of(url)
    try:
        settings = Settings.load(environ, flags)
    except ConfigurationError as error:
        problems = [*error.problems, *(each for each in problems if not _is_told(each, error.problems))]
        raise ConfigurationError(problems) from None
    if problems:
        raise ConfigurationError(problems)
    return settings


def _is_told(problem: Problem, problems: Sequence[Problem]) -> bool:
    return any(each.variable.startswith(problem.variable) for each in problems)


def _flag(field: Field) -> Callable[[Command], Command]:
    default = (
        f"  [{field.variable}; default: {field.default}]" if field.default is not None else f"  [{field.variable}]"
    )
    if isinstance(field.kind, Boolean):
        names = f"{field.flag}/--no-{field.flag[2:]}"
        return click.option(names, field.name, default=None, help=field.help + default)
    return click.option(field.flag, field.name, metavar=_metavar(field.kind), default=None, help=field.help + default)


def _metavar(kind: Kind) -> str:
    """What `--help` shows after the flag: which kind of value it takes."""
    match kind:
        case Choice():
            return f"[{'|'.join(kind.words)}]"
        case Duration():
            return "DURATION"
        case Size():
            return "SIZE"
        case Whole():
            return "INTEGER"
    return "VALUE"
