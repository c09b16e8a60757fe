"""`orchestratord periodic`: look at what is enqueued at regular times, have it forgotten."""

import click

from orchestrator.cli.database import ANSWER_SECONDS, database_flag, opened
from orchestrator.cli.failures import say
from orchestrator.cli.output import json_flag, print_json, print_table, read_json
from orchestrator.cron import cron_problem, next_due
from orchestrator.store import periodic as store

_COLUMNS = {
    "name": "NAME", "type": "TYPE", "cron": "CRON", "timezone": "TIME ZONE", "last_due_at": "ENQUEUED UP TO",
    "next_due_at": "NEXT", "app": "APP",
}  # fmt: skip


@click.group()
def periodic() -> None:
    """Look at periodic tasks, remove them."""


@periodic.command("list")
@database_flag
@json_flag
def list_(as_json: bool, **flags: object) -> None:
    """List the periodic tasks: when each was due last, and when it is due next."""
    with opened(flags) as connection:
        now, found = store.list_all(connection, within=ANSWER_SECONDS)
    listed, problems = [], []
    for task, app, last_due_at in found:
        problem = cron_problem(task.cron, task.timezone)
        following = next_due(task.cron, task.timezone, now) if problem is None else None
        facts = {**task._asdict(), "payload": read_json(task.payload)}
        listed.append({**facts, "app": app, "last_due_at": last_due_at, "next_due_at": following})
        problems += [problem] if problem is not None else []
    if as_json:
        print_json(listed)
        return
    rows = [[each[column] for column in _COLUMNS] for each in listed]
    print_table(list(_COLUMNS.values()), rows, empty="no app has registered any periodic tasks")
    for problem in dict.fromkeys(problems):
        say(f"when it is due next cannot be told: {problem}")


@periodic.command()
@click.argument("name")
@database_flag
def remove(name: str, **flags: object) -> None:
    """Remove a periodic task that no app has any more; one that has it registers it again when it starts."""
    with opened(flags) as connection:
        is_removed = store.remove(connection, name, within=ANSWER_SECONDS)
    if not is_removed:
        raise click.UsageError(f"there is no periodic task {name!r}")
    click.echo("removed")
