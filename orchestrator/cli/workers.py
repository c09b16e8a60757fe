"""`orchestratord workers`: who works on this database."""

import click

from orchestrator.cli.database import ANSWER_SECONDS, database_flag, opened
from orchestrator.cli.output import json_flag, print_json, print_table
from orchestrator.model import Worker
from orchestrator.store import workers as store


@click.command()
@database_flag
@json_flag
def workers(as_json: bool, **flags: object) -> None:
    """List the workers of this database: who leads, and how many slots of each pool are busy."""
    with opened(flags) as connection:
        found = store.list_all(connection, within=ANSWER_SECONDS)
    if as_json:
        print_json([each._asdict() for each in found])
        return
    rows = [
        (
            worker.id,
            worker.hostname,
            worker.version,
            f"{worker.tasks_running}/{worker.pool_size}",
            worker.tasks_claimed,
            worker.started_at,
            f"{worker.heartbeat_age_seconds:.1f} s ago",
            _state(worker),
        )
        for worker in found
    ]
    print_table(
        ("ID", "HOST", "VERSION", "RUNNING", "CLAIMED", "STARTED", "HEARTBEAT", "STATE"),
        rows,
        empty="no workers are registered",
    )


def _state(worker: Worker) -> str:
    if worker.is_dead:
        return "dead"
    if not worker.is_leader:
        return ""
    return "leader" if worker.term is None else f"leader, term {worker.term}"
