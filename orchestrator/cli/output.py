"""How commands answer: tables for people, JSON for programs. What tasks contain cannot play tricks on a terminal."""

import json
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from orchestrator.model import Task

MAX_CELL = 60
_PLAIN_LENGTH = 300
"""PostgreSQL writes 309 digits for what is infinite to Python, and so many brackets are no depth."""


def json_flag(command: Any) -> Any:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")(command)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Columns as wide as what is in them; numbers to the right. Without rows it says `empty`."""
    if not rows:
        click.echo(empty)
        return
    lines = [[cell(value) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(titles, *lines, strict=True)]
    is_number = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(titles))]
    for line in (titles, *lines):
        padded = (
            " " * (width - _width(text)) + text if right else text + " " * (width - _width(text))
            for text, width, right in zip(line, widths, is_number, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def print_json(value: object) -> None:
    """One document, in plain ASCII: times in ISO 8601."""
    click.echo(json.dumps(value, default=_plain, indent=2))


def cell(value: object, most: int | None = MAX_CELL) -> str:
    """A value on one line of at most `most` characters (None: any number), without control characters."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, float):
        return f"{value:.1f}"
    text = "".join(character if character.isprintable() else " " for character in str(value).rstrip())
    return text if most is None or len(text) <= most else text[: most - 1] + "…"


def task_as_json(task: Task) -> dict[str, Any]:
    """A task for a program: payload and result as the JSON they are."""
    values = task._asdict()
    for name in ("payload", "result"):
        if values[name] is not None:
            values[name] = read_json(values[name])
    return values


def read_json(text: str) -> Any:
    """The value; if Python cannot read it and write it again, the text: the other tasks are to be seen all the same.

    Raw SQL may have stored a number of 5,000 digits, one that is infinite here, or a thousand lists in each other.
    """
    try:
        value = json.loads(text)
        if len(text) > _PLAIN_LENGTH:
            json.dumps([[value]], allow_nan=False, indent=2)  # as deep in an answer as it will be
    except (ValueError, RecursionError):
        return text
    return value


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    raise AssertionError(f"BUG: {type(value).__name__} cannot be shown as JSON")


def _width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
