"""What a command that failed says, and the code it ends with. A foreseeable error is told without a traceback."""

import sys
import traceback

from orchestrator.cli.streams import let_go_of
from orchestrator.errors import (
    AppError,
    ConfigurationError,
    DatabaseUnavailable,
    EnqueueError,
    InstanceRunningError,
    NoProcError,
    NoRoomError,
    OrchestratorError,
    PrivatePostgresError,
    SchemaError,
    StatementRefused,
)
from orchestrator.exit_codes import ExitCode
from orchestrator.store.failures import missing_tables
from orchestrator.telemetry import logs
from orchestrator.telemetry.lines import visible

CODES: tuple[tuple[type[OrchestratorError], ExitCode], ...] = (
    (ConfigurationError, ExitCode.USAGE),
    (EnqueueError, ExitCode.USAGE),
    (PrivatePostgresError, ExitCode.USAGE),
    (NoProcError, ExitCode.USAGE),
    (NoRoomError, ExitCode.USAGE),
    (AppError, ExitCode.APP),
    (SchemaError, ExitCode.SCHEMA),
    (DatabaseUnavailable, ExitCode.DATABASE),
    (StatementRefused, ExitCode.DATABASE),
    (InstanceRunningError, ExitCode.OTHER_INSTANCE),
)
"""The first that fits decides."""

_NO_RIGHTS = "42501"


def report(error: Exception) -> ExitCode:
    """Say on standard error what went wrong, in one line if it is one thing; the code to end with."""
    if isinstance(error, OrchestratorError) and (code := exit_code(error)) is not ExitCode.BUG:
        said = explanation(error)
        say(f"the database is not available: {said}" if isinstance(error, DatabaseUnavailable) else said)
        return code
    _write("".join(traceback.format_exception(error)))
    say("this is a bug of orchestratord's; please report it with the lines above")
    return ExitCode.BUG


def exit_code(error: OrchestratorError) -> ExitCode:
    """What the process ends with for this error."""
    error = _explained(error)
    return next((code for kind, code in CODES if isinstance(error, kind)), ExitCode.BUG)


def explanation(error: OrchestratorError) -> str:
    """What went wrong and what to do about it; never with a password, or with what steers a terminal."""
    error = _explained(error)
    if isinstance(error, ConfigurationError) and len(error.problems) > 1:
        lines = "".join(f"\n  {problem}" for problem in error.problems)
        return _shown(f"{len(error.problems)} settings cannot be used:{lines}")
    return _shown(str(error))


def _explained(refusal: OrchestratorError) -> OrchestratorError:
    """The refusals that have a cure of their own; any other error as it is."""
    if not isinstance(refusal, StatementRefused):
        return refusal
    if (cure := missing_tables(refusal)) is not None:
        return cure
    if refusal.sqlstate == _NO_RIGHTS:
        return SchemaError(f"the role of DATABASE_URL may not do that: {refusal}")
    return refusal


def say(text: str) -> None:
    """One line on standard error. Where nobody can read it the exit code must do."""
    _write(f"orchestratord: {text}\n")


def _write(text: str) -> None:
    try:
        sys.stderr.write(_shown(text))
        sys.stderr.flush()
    except OSError:
        let_go_of(sys.stderr)


def _shown(text: str) -> str:
    return visible(logs.without_secrets(text))
