"""`orchestratord tasks`: look at tasks, run them again, call them off."""

from collections.abc import Collection, Sequence

import click

from orchestrator.cli.database import ANSWER_SECONDS, database_flag, opened
from orchestrator.cli.failures import say
from orchestrator.cli.output import cell, json_flag, print_json, print_table, task_as_json
from orchestrator.errors import OptionError
from orchestrator.exit_codes import ExitCode
from orchestrator.limits import type_problem
from orchestrator.model import END_STATES, TaskStatus
from orchestrator.store import tasks as store
from orchestrator.store.connection import Connection
from orchestrator.store.retention import START

_BATCH = 1000
_STRETCH = 10_000
_STATUSES = click.Choice([status.value for status in TaskStatus])
_ENDED = click.Choice([status.value for status in TaskStatus if status in END_STATES])


@click.group()
def tasks() -> None:
    """Look at tasks, retry them, cancel them."""


@tasks.command("list")
@click.option("--status", type=_STATUSES, help="Only these.")
@click.option("--type", help="Only of this type.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@database_flag
@json_flag
def list_(status: str | None, type: str | None, limit: int, as_json: bool, **flags: object) -> None:
    """List tasks, the newest first."""
    wanted = TaskStatus(status) if status else None
    _check_type(type)
    with opened(flags) as connection:
        found = store.list_tasks(
            connection, status=wanted, type=type, limit=limit + 1, within=ANSWER_SECONDS, are_whole=as_json
        )
    if as_json:
        print_json([task_as_json(task) for task in found[:limit]])
        return
    rows = [
        (t.id, t.type, t.status, t.priority, t.attempts, t.created_at, t.next_retry_at, t.worker_id, t.last_error)
        for t in found[:limit]
    ]
    titles = ("ID", "TYPE", "STATUS", "PRIORITY", "ATTEMPTS", "CREATED", "NOT BEFORE", "WORKER", "LAST ERROR")
    print_table(titles, rows, empty="no such tasks")
    if len(found) > limit:
        say(f"these are the newest {limit}; there are more (--limit)")


@tasks.command()
@click.argument("task_id", metavar="ID")
@database_flag
@json_flag
def show(task_id: str, as_json: bool, **flags: object) -> ExitCode:
    """Show everything about a task."""
    with opened(flags) as connection:
        task = store.show(connection, task_id, within=ANSWER_SECONDS)
    if task is None:
        why = "that is no id" if store.plain_id(task_id) is None else "completed ones are deleted after RETENTION"
        say(f"there is no task {task_id!r}: {why}")
        return ExitCode.USAGE
    if as_json:
        print_json(task_as_json(task))
        return ExitCode.CLEAN
    for name, value in task._asdict().items():
        first, *more = str(value).splitlines() if isinstance(value, str) and value else [value]
        click.echo(f"{name:<16} {cell(first, None)}")
        for line in more:  # an error's traceback
            click.echo(f"{'':<16} {cell(line, None)}")
    return ExitCode.CLEAN


@tasks.command()
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--status", type=_ENDED, help="All that ended so, instead of single ones.")
@click.option("--type", help="With --status: only of this type.")
@database_flag
@json_flag
def retry(task_ids: tuple[str, ...], status: str | None, type: str | None, as_json: bool, **flags: object) -> ExitCode:
    """Run tasks again that have ended; their attempts count from 0.

    \b
    orchestratord tasks retry 0190…
    orchestratord tasks retry --status dead_letter --type email:send
    """
    if bool(task_ids) == bool(status) or (type and not status):
        raise click.UsageError("name tasks by id, or all that ended alike by --status (and --type)")
    _check_type(type)
    with opened(flags) as connection:
        if status is not None:
            _say_done("retried", _retry_all(connection, TaskStatus(status), type), as_json)
            return ExitCode.CLEAN
        done = store.retry(connection, task_ids, within=ANSWER_SECONDS)
        _say_done("retried", len(done), as_json)
        return _say_left(connection, task_ids, done, "retried", "only tasks that have ended are retried")


@tasks.command()
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@database_flag
@json_flag
def cancel(task_ids: tuple[str, ...], as_json: bool, **flags: object) -> ExitCode:
    """End pending tasks as failed. A task that runs already is not stopped."""
    with opened(flags) as connection:
        done = store.cancel(connection, task_ids, within=ANSWER_SECONDS)
        _say_done("cancelled", len(done), as_json)
        return _say_left(connection, task_ids, done, "cancelled", "only pending tasks are cancelled")


def _check_type(type: str | None) -> None:
    """OptionError for what no task can have as its type, such as bytes that are no UTF-8."""
    if type is not None and (problem := type_problem(type)) is not None:
        raise OptionError(problem)


def _retry_all(connection: Connection, ended: TaskStatus, type: str | None) -> int:
    """In batches, and each task once: those that fail again meanwhile are not retried for ever."""
    return _retry_dead_letters(connection, type) if ended is TaskStatus.DEAD_LETTER else _walk(connection, ended, type)


def _retry_dead_letters(connection: Connection, type: str | None) -> int:
    """No more than there are now."""
    left = store.count_dead_letters(connection, type=type, within=ANSWER_SECONDS)
    count = 0
    while left > 0:
        limit = min(left, _BATCH)
        done = store.retry_dead_letters(connection, type=type, limit=limit, within=ANSWER_SECONDS)
        count, left = count + done, left - limit
        if done < limit:
            break
    return count


def _walk(connection: Connection, ended: TaskStatus, type: str | None) -> int:
    """Along the ids of all tasks, a stretch at a time."""
    count, after = 0, START
    while True:
        done, position = store.retry_stretch(
            connection, status=ended, type=type, after=after, size=_STRETCH, limit=_BATCH, within=ANSWER_SECONDS
        )
        count += done
        if position is None:
            return count
        after = position


def _say_done(verb: str, count: int, as_json: bool) -> None:
    if as_json:
        print_json({verb: count})
    else:
        click.echo(f"{verb} {count} {'task' if count == 1 else 'tasks'}")


def _say_left(connection: Connection, given: Sequence[str], done: Collection[str], verb: str, rule: str) -> ExitCode:
    """A line for each task that was named and could not be done, and why; then exit code 2. One named twice is one."""
    named = {store.plain_id(text) or text: text for text in given}
    left = {task_id: text for task_id, text in named.items() if task_id not in done}
    if not left:
        return ExitCode.CLEAN
    found = store.statuses(connection, list(left), within=ANSWER_SECONDS)
    for task_id, text in left.items():
        reason = f"it is {found[task_id]}; {rule}" if task_id in found else "there is no such task"
        say(f"{text!r} was not {verb}: {reason}")
    return ExitCode.USAGE
