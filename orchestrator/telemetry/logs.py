"""Logging: past-tense events and facts, one line each, on standard error. Every process configures it for itself.

A log call never raises, never blocks for long and never shows a registered secret. Lines that user code logs with the
standard library in a child carry the id, type and attempt of the task that runs.
"""

import logging
import os
import sys

from orchestrator.config import without_password
from orchestrator.errors import TaskTimeout
from orchestrator.store.addresses import passwords
from orchestrator.telemetry.lines import LineFormatter, LogFormat, Secrets
from orchestrator.telemetry.stderr import Stderr

ROOT = "orchestrator"

_secrets = Secrets()
_handler: "StderrHandler | None" = None


class StderrHandler(logging.Handler):
    """Writes each record as one line; where that fails, the line is lost and counted, never raised."""

    def __init__(self, formatter: LineFormatter) -> None:
        super().__init__()
        self.lines = formatter
        self.stderr = Stderr()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.lines.format(record)
        except TaskTimeout:
            raise  # the task's time was up in the middle of this call: that is the handler's to know
        except Exception as error:  # noqa: BLE001 - a log call must not fail the work that it tells of
            line = self.lines.format(_record(logging.ERROR, "log_line_failed", {"error": type(error).__name__}))
        lost = self.stderr.lost
        if self.stderr.write(line) and lost:
            self.stderr.lost = 0
            self.stderr.write(self.lines.format(_record(logging.WARNING, "log_lines_lost", {"count": lost})))

    def emit_unfiltered(self, record: logging.LogRecord) -> None:
        """What `handle` does, but for the filters that the user's app may have put here."""
        self.acquire()
        try:
            self.emit(record)
        finally:
            self.release()


class EventLog:
    """Logs events of one part of the program: a past-tense name and the facts, as keywords. Any thread may use it."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{ROOT}.{name}")

    def debug(self, event: str, /, **facts: object) -> None:
        self._log(logging.DEBUG, event, facts)

    def info(self, event: str, /, **facts: object) -> None:
        self._log(logging.INFO, event, facts)

    def warning(self, event: str, /, **facts: object) -> None:
        self._log(logging.WARNING, event, facts)

    def error(self, event: str, /, **facts: object) -> None:
        self._log(logging.ERROR, event, facts)

    def exception(self, event: str, /, **facts: object) -> None:
        """An error with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, event, facts, with_traceback=True)

    def _log(self, level: int, event: str, facts: dict[str, object], *, with_traceback: bool = False) -> None:
        # a dictConfig of the user's app disables the loggers that it does not name
        self._logger.disabled = False
        if not self._logger.isEnabledFor(level):
            return
        thrown = sys.exc_info() if with_traceback else None
        try:
            self._logger.log(level, "%s", event, exc_info=thrown, extra={"facts": facts})
        except TaskTimeout:
            raise
        except Exception as error:  # noqa: BLE001 a record factory or a filter of the user's, who asks for current_task()
            record = _record(level, event, {**facts, "logging_failed": error})
            record.exc_info = thrown
            if _handler is not None:
                _handler.emit_unfiltered(record)


def get(name: str) -> EventLog:
    """The log of the part called `name`."""
    return EventLog(name)


def configure(*, debug: bool, format: LogFormat, process: str) -> None:
    """Log to standard error from now on, as `process` ("supervisor", "child 3"). Call it again in a child.

    Our own lines always go there. So do the user code's, through the root logger, unless the app has put handlers of
    its own there.
    """
    global _handler
    formatter = LineFormatter(format, process, _secrets)
    root = logging.getLogger()
    own = logging.getLogger(ROOT)
    level = logging.DEBUG if debug else logging.INFO
    if _handler is None:
        _handler = StderrHandler(formatter)
        if not root.handlers:
            root.addHandler(_handler)
            root.setLevel(level)
    else:
        _handler.stderr.detach()
        _handler.stderr = Stderr()
        _handler.lines = formatter
    own.handlers = [_handler]
    own.propagate = False
    own.disabled = False
    own.setLevel(level)


def task_begins(task_id: str, type: str, attempt: int) -> None:
    """From now on every line of this process carries the task: a process runs one at a time, on any threads."""
    if _handler is not None:
        _handler.lines.task = task_id, type, attempt


def task_ended() -> None:
    """Lines carry no task any more."""
    if _handler is not None:
        _handler.lines.task = None


def without_secrets(text: str) -> str:
    """`text` as a line of the log would show it, for what is told in other ways."""
    return _secrets.removed_from(text)


def hide_password_of(database_url: str) -> None:
    """Hide the passwords of a connection string, and that of PGPASSWORD, which goes with one that has none.

    One that the rest of the string tells anyhow (postgres:postgres@…) is hidden only where it stands as a password:
    elsewhere the word is the user's name, or the database's, and the line would not be worth reading without it.
    """
    told = without_password(database_url)
    beside = os.environ.get("PGPASSWORD")
    for password in (*passwords(database_url), *([beside] if beside else [])):
        _secrets.add(f":{password}@", ":***@")
        _secrets.add(f"password={password}", "password=***")
        if password not in told:
            _secrets.add(password)


def _record(level: int, event: str, facts: dict[str, object]) -> logging.LogRecord:
    record = logging.LogRecord(ROOT, level, "", 0, event, None, None)
    record.facts = facts
    return record
