"""`orchestratord check`: would `start` work here, and what should be looked at first?"""

import json
import os
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple

import click

from orchestrator.cli.database import ANSWER_SECONDS, open_when_there
from orchestrator.cli.failures import exit_code, explanation
from orchestrator.cli.forkservers import TriedApp, try_app
from orchestrator.cli.output import json_flag, print_json
from orchestrator.cli.settings_flags import load_settings, settings_flags
from orchestrator.config import Settings, misspelt, without_password
from orchestrator.coordinator.starting import SUPERVISOR_CONNECTIONS
from orchestrator.errors import OrchestratorError
from orchestrator.exit_codes import ExitCode
from orchestrator.status.server import StatusServer
from orchestrator.status.snapshot import Snapshot
from orchestrator.store import schema, server, types
from orchestrator.store.connection import Connection
from orchestrator.telemetry.directory import MetricsDirectory

OLDEST_SERVER = 140000


class Finding(NamedTuple):
    """What one look found. `verdict`: ok, warning or problem; `code` is what a problem would end `start` with."""

    subject: str
    verdict: str
    message: str
    code: ExitCode = ExitCode.CLEAN


@click.command()
@settings_flags
@json_flag
def check(as_json: bool, **flags: object) -> ExitCode:
    """Look at settings, app, database and schema without starting or changing anything.

    The exit code is that of the first problem, the one `start` would have; warnings do not count.
    """
    findings = []
    for finding in _findings(flags):
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.verdict:<8} {finding.subject}: {finding.message}")
    if as_json:
        print_json([each._asdict() for each in findings])
    return next((finding.code for finding in findings if finding.code), ExitCode.CLEAN)


def _findings(flags: dict[str, object]) -> Iterator[Finding]:
    """Everything that can still be looked at after what was found before."""
    for name, meant in misspelt(os.environ):
        yield Finding("settings", "warning", f"{name} is not used: is {meant} meant?")
    try:
        settings = load_settings(os.environ, flags)
    except OrchestratorError as error:
        yield _problem("settings", error)
        return
    yield Finding("settings", "ok", f"pool of {settings.pool_size}, {_mode(settings)}")
    app = None
    try:
        app = try_app(settings)
        yield from _look_at_app(app, settings)
    except OrchestratorError as error:
        yield _problem("app", error)
    yield from _look_at_metrics(settings)
    try:
        connection = open_when_there(settings.database_url, 0)
    except OrchestratorError as error:
        yield _problem("database", error)
        return
    try:
        yield from _look_at_database(connection, settings, app)
    finally:
        connection.close()


def _look_at_app(app: TriedApp, settings: Settings) -> Iterator[Finding]:
    yield Finding("app", "ok", f"{settings.app or 'built-in examples'} serves {', '.join(sorted(app.types))}")
    if app.periodic:
        yield Finding("app", "ok", f"it enqueues periodically: {', '.join(sorted(each.name for each in app.periodic))}")
    for each in app.periodic:
        if each.type not in app.types:
            message = f"the periodic task {each.name!r} is of type {each.type!r}, which it does not serve"
            yield Finding("app", "warning", message)
    if settings.serves_no_app:
        yield Finding("app", "warning", "ORCHESTRATOR_APP is not set: tasks of other types than these would end failed")
    for doubt in app.doubts:
        yield Finding("app", "warning", doubt)


def _look_at_metrics(settings: Settings) -> Iterator[Finding]:
    """Whether `start` could keep its metrics and serve them. That an orchestratord does so already is no problem."""
    place = f"{settings.metrics_host} port {settings.metrics_port}"
    try:
        MetricsDirectory.open(settings.multiproc_dir, f"check-{os.getpid()}").close()
    except OrchestratorError as error:
        yield _problem("metrics", error)
        return
    try:
        pages = StatusServer(
            settings.metrics_host, settings.metrics_port, (), snapshot=_nothing_to_show, loop_age=lambda: 0.0
        )
        pages.bind(within=0.0)
        pages.stop()
    except OrchestratorError as error:
        if _is_served_by_us(settings):
            yield Finding("metrics", "warning", f"{place} is taken by an orchestratord that runs")
        else:
            yield _problem("metrics", error)
    else:
        yield Finding("metrics", "ok", f"{place} is free" if settings.metrics_port else "any free port will do")


def _nothing_to_show() -> Snapshot:
    raise AssertionError("BUG: nobody serves these pages")


def _is_served_by_us(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.metrics_host, settings.metrics_host)
    connection = HTTPConnection(host, settings.metrics_port, timeout=2.0)
    try:
        connection.request("GET", "/health")
        health = json.loads(connection.getresponse().read(1 << 16))
        return isinstance(health, dict) and health.keys() >= {"status", "worker_id", "distributed"}
    except (OSError, HTTPException, ValueError):
        return False
    finally:
        connection.close()


def _look_at_database(connection: Connection, settings: Settings, app: TriedApp | None) -> Iterator[Finding]:
    shown = f"{without_password(settings.database_url)}, PostgreSQL {server.version_text(connection)}"
    if connection.server_version < OLDEST_SERVER:
        yield Finding("database", "problem", f"{shown}: 14 or newer is needed", ExitCode.DATABASE)
        return
    yield Finding("database", "ok", shown)
    looks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("database", lambda: _look_whether_it_can_be_written(connection)),
        ("encoding", lambda: _look_at_encoding(connection)),
        ("connections", lambda: _look_at_room(connection, settings)),
        ("schema", lambda: _look_at_schema(connection)),
        ("types", lambda: _look_at_types(connection, app)),
    )
    for subject, look in looks:
        try:
            yield from look()
        except OrchestratorError as error:
            yield _problem(subject, error)
            return


def _look_whether_it_can_be_written(connection: Connection) -> Iterator[Finding]:
    problem = server.writing_problem(connection, within=ANSWER_SECONDS)
    if problem is not None:
        yield Finding("database", "problem", problem, ExitCode.DATABASE)


def _look_at_encoding(connection: Connection) -> Iterator[Finding]:
    problem = server.encoding_problem(connection)
    if problem is not None:
        yield Finding("encoding", "warning", problem)


def _look_at_room(connection: Connection, settings: Settings) -> Iterator[Finding]:
    capacity = server.capacity(connection, within=ANSWER_SECONDS)
    needed = settings.pool_size + SUPERVISOR_CONNECTIONS
    why = f"WORKER_POOL_SIZE + {SUPERVISOR_CONNECTIONS}"
    text = f"{needed} needed ({why}), {capacity.ceiling} allowed, {capacity.others} in use"
    yield Finding("connections", "ok" if capacity.suffices(needed) else "warning", text)


def _look_at_schema(connection: Connection) -> Iterator[Finding]:
    """Raises StatementRefused where there are no tables, which ends the look."""
    present = schema.version(connection, within=ANSWER_SECONDS)
    if present is None and (names := schema.strangers(connection, within=ANSWER_SECONDS)):
        message = f"{', '.join(names)} is somebody else's: {schema.OWN_SCHEMA_CURE}"
        yield Finding("schema", "problem", message, ExitCode.SCHEMA)
    elif (present or 0) < schema.SCHEMA_VERSION:
        found = "there are no tables yet" if present is None else f"version {present} is old"
        cure = schema.cure(connection, within=ANSWER_SECONDS)
        if cure is None:
            yield Finding("schema", "warning", f"{found}: `orchestratord migrate` or `start` makes it right")
        else:
            message = f"{found}, and this role may not change that: {cure}"
            yield Finding("schema", "problem", message, ExitCode.SCHEMA)
    elif present is not None and present > schema.SCHEMA_VERSION:
        message = f"version {present} is newer than the {schema.SCHEMA_VERSION} of this orchestratord"
        yield Finding("schema", "problem", message, ExitCode.SCHEMA)
    elif (lacking := schema.missing_rights(connection, within=ANSWER_SECONDS)) is not None:
        yield Finding("schema", "problem", lacking, ExitCode.SCHEMA)
    elif missing := schema.missing(connection, within=ANSWER_SECONDS):
        yield Finding("schema", "warning", f"missing: {', '.join(missing)}; `orchestratord migrate` makes them again")
    else:
        home = schema.home(connection, within=ANSWER_SECONDS)
        yield Finding("schema", "ok", f"version {present}, in {home}")


def _look_at_types(connection: Connection, app: TriedApp | None) -> Iterator[Finding]:
    if schema.version(connection, within=ANSWER_SECONDS) is None:
        return
    served = frozenset(app.types) if app is not None else frozenset()
    unserved = [
        (name, count) for name, count in types.unserved(connection, within=ANSWER_SECONDS) if name not in served
    ]
    for name, count in unserved:
        yield Finding("types", "warning", f"{count} pending tasks of type {name!r}, which no worker has ever served")
    if not unserved:
        yield Finding("types", "ok", "every pending task has a type that is served")


def _problem(subject: str, error: OrchestratorError) -> Finding:
    return Finding(subject, "problem", explanation(error), exit_code(error))


def _mode(settings: Settings) -> str:
    return "distributed" if settings.distributed else "single instance"
