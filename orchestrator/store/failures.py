"""What an error of the driver means, and how it is said: in one line, without a password or a statement's data."""

from typing import Any

import psycopg2

from orchestrator.errors import DatabaseUnavailable, SchemaError, StatementRefused

# sqlstates after which this server, or this session, is of no use: connection trouble (08), it is going away or is
# starting (57P0x), no room for us (53300), and read-only (25006: a failover has left us on a standby).
_LOST_STATES = frozenset({"25006", "53300"})
_LOST_CLASSES = ("08", "57P")
READ_ONLY = (
    "the server is read-only: it is a standby (name the primary, or both hosts, in DATABASE_URL), "
    "or default_transaction_read_only is on for this role or database"
)
_NO_ROOM = ("too many", "remaining connection slots")
# A deadlock with another statement, or an isolation level above READ COMMITTED that the role has as its default:
# nothing was changed, and the same statement again will do.
TRY_AGAIN_STATES = frozenset({"40001", "40P01"})
# No such table, column, function or schema.
_NO_TABLES_STATES = frozenset({"42P01", "42703", "42883", "3F000"})
_NO_TABLES = "this database has no tables for tasks yet, or old ones: run `orchestratord migrate`"


def meaning(raw: Any, error: Exception) -> DatabaseUnavailable | StatementRefused:
    """What a failed statement means: the session is lost, or the server said no and the session goes on."""
    if isinstance(error, UnicodeDecodeError):
        return DatabaseUnavailable("the reply is not UTF-8: is SQL_ASCII the database's encoding?", sent=True)
    if not isinstance(error, psycopg2.Error):  # a NUL or a lone surrogate in a parameter: nothing was sent
        return StatementRefused(f"a parameter cannot be sent: {error}", sqlstate=None)
    state: str | None = error.pgcode
    if state == "25006":
        return DatabaseUnavailable(READ_ONLY)
    if raw.closed or state in _LOST_STATES or (state or "").startswith(_LOST_CLASSES):
        return DatabaseUnavailable(one_line(error), sent=True)
    if state is None and not isinstance(error, psycopg2.ProgrammingError):
        return DatabaseUnavailable(one_line(error), sent=True)
    # Only the primary message: the whole text quotes the statement with its data.
    return StatementRefused(error.diag.message_primary or one_line(error), sqlstate=state)


def missing_tables(refusal: StatementRefused) -> SchemaError | None:
    """What to do about it, if our tables or something of theirs is not there."""
    if refusal.sqlstate not in _NO_TABLES_STATES:
        return None
    return SchemaError(f"{_NO_TABLES} ({refusal})")


def add_cure(error: Exception) -> None:
    """Notes the same on an error of a caller's library, psycopg's own or one that SQLAlchemy or Django made of it."""
    for each in (error, error.__cause__):
        if getattr(each, "sqlstate", None) in _NO_TABLES_STATES or getattr(each, "pgcode", None) in _NO_TABLES_STATES:
            error.add_note(f"{_NO_TABLES}, or put their schema into this session's search_path")
            break


def one_line(error: Exception) -> str:
    """libpq's words without its hints, which it indents.

    What refuses a connection is said in the server's own language and encoding, which the driver takes for UTF-8.
    """
    text = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)
    lines = [line.strip() for line in text.splitlines() if not line.startswith("\t")]
    return " ".join(line for line in lines if line)[:500] or type(error).__name__


def refused(error: Exception) -> str:
    """Why a server did not take us."""
    reason = one_line(error)
    if any(words in reason for words in _NO_ROOM):
        reason = f"the server has no free connection: {reason}"
    return reason
