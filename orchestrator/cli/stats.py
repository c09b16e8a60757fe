"""`orchestratord stats`: how many tasks there are."""

import click

from orchestrator.cli.database import database_flag, opened
from orchestrator.cli.output import json_flag, print_json, print_table
from orchestrator.model import TaskStatus
from orchestrator.store import statistics

COUNT_SECONDS = 600.0
"""It reads all of the table: fifteen million tasks on a busy server took nine seconds."""


@click.command()
@database_flag
@json_flag
def stats(as_json: bool, **flags: object) -> None:
    """Count the tasks by type and status."""
    with opened(flags) as connection:
        totals = statistics.totals(connection, within=COUNT_SECONDS)
    counts: dict[str, dict[str, int]] = {}
    for type_name, status, count in totals:
        counts.setdefault(type_name, dict.fromkeys(TaskStatus, 0))[status] = count
    if as_json:
        print_json(counts)
        return
    titles = ("TYPE", *(status.replace("_", " ").upper() for status in TaskStatus))
    rows = [(type_name, *row.values()) for type_name, row in counts.items()]
    if len(rows) > 1:
        rows.append(("all", *(sum(row[status] for row in counts.values()) for status in TaskStatus)))
    print_table(titles, rows, empty="no tasks")
