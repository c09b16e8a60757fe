"""`orchestratord enqueue`: add a task from a shell."""

import json
import sys
from datetime import datetime
from typing import Any

import click

from orchestrator.cli.database import database_flag, some_settings
from orchestrator.cli.output import json_flag, print_json
from orchestrator.client import Client
from orchestrator.errors import MAX_SECONDS, PayloadError
from orchestrator.setting_kinds import Duration


def _duration(text: str) -> float | None:
    """A flag's value, as the settings have durations."""
    kind = Duration(0, MAX_SECONDS)
    try:
        return kind.read(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {str(error) or kind.accepted}") from error


def _moment(text: str) -> datetime:
    """A flag's value in ISO 8601, with its offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: write a time such as 2030-01-31T18:00+01:00") from error
    if moment.tzinfo is None:
        whole = moment.isoformat()  # `text` may be a date alone, which takes no offset
        raise click.BadParameter(f"{text!r}: add the offset, such as {whole}+01:00 or {whole}Z")
    return moment


@click.command()
@click.argument("type")
@click.argument("payload", default="{}", metavar="[JSON]")
@click.option("--priority", type=int, default=0, show_default=True, help="The higher goes first.")
@click.option("--delay", type=_duration, metavar="DURATION", help="Not before so long from now: 500ms, 30s, 1h30m.")
@click.option("--run-at", type=_moment, metavar="TIME", help="Not before this time: 2030-01-31T18:00+01:00.")
@click.option("--key", help="Idempotency key: a second task of this type with it is not added.")
@click.option("--max-retries", type=int, help="Retries after the first attempt; default: the handler's.")
@click.option(
    "--timeout", type=_duration, metavar="DURATION", help="Time limit of each attempt; default: the handler's."
)
@database_flag
@json_flag
def enqueue(
    type: str,
    payload: str,
    priority: int,
    delay: float | None,
    run_at: datetime | None,
    key: str | None,
    max_retries: int | None,
    timeout: float | None,
    as_json: bool,
    **flags: object,
) -> None:
    """Add a task of TYPE and print its id.

    JSON is the payload, an object whose keys are the handler's arguments; - reads it from standard input.
    """
    with Client(some_settings(("database_url",), flags).database_url) as client:
        task_id = client.enqueue(
            type,
            _read(payload),
            priority=priority,
            delay=delay,
            run_at=run_at,
            idempotency_key=key,
            max_retries=max_retries,
            timeout=timeout,
        )
    if as_json:
        print_json({"id": task_id})
    else:
        click.echo(task_id)


def _read(payload: str) -> Any:
    """The payload as Python has it; what JSON allows and a task does not is the client's to refuse."""
    if payload == "-" and sys.stdin is None:
        raise PayloadError("the payload cannot be read: standard input is closed")
    try:
        return json.loads(sys.stdin.read() if payload == "-" else payload)
    except RecursionError as error:
        raise PayloadError("the payload is nested too deeply") from error
    except OSError as error:
        raise PayloadError(f"the payload cannot be read: {error.strerror}") from error
    except ValueError as error:
        hint = "" if payload == "-" else """; write '{"key": "value"}', with all these quotes"""
        raise PayloadError(f"the payload is not JSON: {error}{hint}") from error
