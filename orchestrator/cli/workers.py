"""`orchestratord workers`: who works on this database."""

import click

from orchestrator.cli.database import ANSWER_SECONDS, database_flag, opened
from orchestrator.cli.output import json_flag, print_json, print_table
from orchestrator.store import workers as store


@click.command()
@database_flag
@json_flag
def workers(as_json: bool, **flags: object) -> None:
    """List the workers of this database."""
    with opened(flags) as connection:
        found = store.list_all(connection, within=ANSWER_SECONDS)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            worker.id,
            worker.hostname,
            worker.version,
            worker.pool_size,
            worker.started_at,
            f"{worker.heartbeat_age_seconds:.1f} s ago",
            "dead" if worker.is_dead else "leader" if worker.is_leader else "",
        )
        for worker in found
    ]
    print_table(
        ("ID", "HOST", "VERSION", "POOL", "STARTED", "HEARTBEAT", "STATE"), rows, empty="no workers are registered"
    )
