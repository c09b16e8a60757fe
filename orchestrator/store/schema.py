"""The schema in the database: which version it has, and bringing it to ours. For `orchestratord migrate` and `start`.

schema.sql at the top of the project is the only copy; it travels in the package.
"""

from importlib.resources import files

from orchestrator.errors import SchemaError, StatementRefused
from orchestrator.store.connection import Connection

SCHEMA_VERSION = 3

_ADVISORY_LOCK = 0x7461736B6F726368  # "taskorch"
_LOCK_SECONDS = 5.0
# Refusals that say nothing about the schema or our rights: somebody else is at work; try again.
_PASSING_STATES = frozenset({"40001", "40P01", "55P03", "57014"})


def schema_sql() -> str:
    """The text of schema.sql."""
    return files("orchestrator.store").joinpath("schema.sql").read_text(encoding="utf-8")


def version(connection: Connection, *, within: float) -> int | None:
    """The version that the database has; None: none yet. SchemaError if this role may not read it."""
    try:
        present = connection.execute("SELECT to_regclass('orchestrator_schema') IS NOT NULL", within=within)
        if not present[0][0]:
            return None
        rows = connection.execute("SELECT version FROM orchestrator_schema", within=within)
    except StatementRefused as refusal:
        raise _schema_error(refusal) from refusal
    return int(rows[0][0]) if rows else None


def migrate(connection: Connection, *, within: float) -> bool:
    """Makes the schema ours: True if it was changed, False if it was current (then nothing but reading is done).

    One transaction, under an advisory lock that ends with it: any number may start at once, one does it. Running
    workers go on; a lock that they or others hold for long refuses it (StatementRefused 55P03: try again). SchemaError:
    the schema is newer than this version, or this role may not create or change it.
    """
    present = version(connection, within=within)
    if present == SCHEMA_VERSION:
        return False
    if present is not None and present > SCHEMA_VERSION:
        raise SchemaError(
            f"the database has version {present} of the schema and this orchestratord knows {SCHEMA_VERSION}: "
            "install the newer orchestratord"
        )
    steps = (
        f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK});",
        "SET LOCAL client_min_messages = warning;",
        schema_sql(),
    )
    try:
        connection.execute("".join(steps), within=within, lock_within=min(_LOCK_SECONDS, within))
    except StatementRefused as refusal:
        raise _schema_error(refusal) from refusal
    return True


def _schema_error(refusal: StatementRefused) -> SchemaError | StatementRefused:
    if refusal.sqlstate in _PASSING_STATES:
        return refusal
    return SchemaError(f"the schema cannot be applied: {refusal}")
