"""The schema in the database: which version it has, and bringing it to ours. For `orchestratord migrate` and `start`.

schema.sql at the top of the project is the only copy; it travels in the package.
"""

import re
from importlib.resources import files

from orchestrator.errors import SchemaError, StatementRefused
from orchestrator.store.connection import Connection

SCHEMA_VERSION = 4

NO_RIGHTS_CURE = "let a role that may create tables run `orchestratord migrate`, and grant this one its rights on them"

NO_SCHEMA_CURE = (
    "no schema that this role may use is in its search_path: ALTER ROLE … SET search_path, or GRANT USAGE on the schema"
)

OWN_SCHEMA_CURE = (
    "let the queue have a schema of its own: CREATE SCHEMA queue, and ?options=-csearch_path%3Dqueue at the end of "
    "DATABASE_URL"
)

_ADVISORY_LOCK = 0x7461736B6F726368  # "taskorch"
_LOCK_SECONDS = 5.0
# Refusals that say nothing about the schema or our rights: somebody else is at work; try again.
_PASSING_STATES = frozenset({"40001", "40P01", "55P03", "57014"})
# A right that this role lacks; no schema in its search_path to create anything in.
_CURES = {"42501": NO_RIGHTS_CURE, "3F000": NO_SCHEMA_CURE}
_RELATION = re.compile(r"^CREATE (?:UNLOGGED TABLE|TABLE|SEQUENCE|(?:UNIQUE )?INDEX) IF NOT EXISTS (\w+)", re.MULTILINE)
_MARKS = {
    "tasks": "claim_token",
    "task_types": "retry_base_seconds",
    "workers": "last_heartbeat",
    "leadership": "holder_process",
    "sleepers": "is_sleeping",
    "periodic_tasks": "last_due_at",
}
"""A column by which each table is known to be ours."""
_RIGHTS = {
    "tasks": ("SELECT", "UPDATE"),
    "task_types": ("SELECT", "INSERT", "UPDATE"),
    "workers": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "leadership": ("SELECT", "UPDATE"),
    "sleepers": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "periodic_tasks": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
"""Without one of these a worker runs no task."""
_CALLED = ["orchestrator_id_at", "retry_delay"]
"""Without EXECUTE on these, which is everybody's unless somebody has revoked it, a leader recovers and counts none."""
_TRIGGER = re.compile(r"^CREATE OR REPLACE TRIGGER (\w+)", re.MULTILINE)
_BOUND_FUNCTION = re.compile(r"^CREATE OR REPLACE FUNCTION (\w+)\([^;]*?SET search_path FROM CURRENT", re.MULTILINE)


def schema_sql() -> str:
    """The text of schema.sql."""
    return files("orchestrator.store").joinpath("schema.sql").read_text(encoding="utf-8")


def version(connection: Connection, *, within: float) -> int | None:
    """The version that the database has; None: none yet. SchemaError if this role may not read it, or does not find our
    tables behind others of these names."""
    try:
        present = connection.execute("SELECT to_regclass('orchestrator_schema') IS NOT NULL", within=within)
        if not present[0][0]:
            return None
        _refuse_hidden(connection, within=within)
        rows = connection.execute("SELECT version FROM orchestrator_schema", within=within, lock_within=within)
        hidden = [] if rows else _policies(connection, ["orchestrator_schema"], "r", within=within)
    except StatementRefused as refusal:
        raise _schema_error(refusal) from refusal
    if hidden:
        raise SchemaError(_lacking(hidden))
    return int(rows[0][0]) if rows else None


def _refuse_hidden(connection: Connection, *, within: float) -> None:
    """SchemaError: a schema in front of ours in the search_path has something under a name of ours."""
    rows = connection.execute(
        """
        WITH home AS (
            SELECT relnamespace AS oid, relnamespace::regnamespace AS name FROM pg_class
            WHERE oid = to_regclass('orchestrator_schema')
        )
        SELECT format('%%s.%%I', found.namespace::regnamespace, found.name), home.name::text
        FROM home, LATERAL (
            SELECT name, front.relnamespace FROM unnest(%(tables)s::text[]) AS name
            JOIN pg_class AS front ON front.oid = to_regclass(name)
            JOIN pg_class AS ours ON ours.relname = name AND ours.relnamespace = home.oid
            UNION ALL
            SELECT front.typname, front.typnamespace FROM pg_type AS front
            JOIN pg_type AS ours ON ours.typname = front.typname AND ours.typnamespace = home.oid
            WHERE front.oid = to_regtype('task_status')
        ) AS found (name, namespace)
        WHERE found.namespace <> home.oid
        ORDER BY 1
        """,
        {"tables": list(_MARKS)},
        within=within,
    )
    if rows:
        names, home = ", ".join(name for name, _ in rows), rows[0][1]
        raise SchemaError(f"the search_path finds {names} instead of what is in {home}: put {home} first in it")


def home(connection: Connection, *, within: float) -> str:
    """The schema in which our tables are, of those that the search_path names."""
    rows = connection.execute(
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('tasks')", within=within
    )
    return str(rows[0][0])


def lock_holders(connection: Connection, *, within: float) -> frozenset[tuple[int | None, str]]:
    """The transactions that an upgrade would have to wait for: process id (None: a prepared one's) and virtual id.

    VACUUM's is not among them: where an upgrade waits, an automatic one gives way.
    """
    rows = connection.execute(
        """
        SELECT DISTINCT pid, virtualtransaction FROM pg_locks
        WHERE locktype = 'relation' AND granted AND pid IS DISTINCT FROM pg_backend_pid()
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND relation IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)
          AND mode <> 'ShareUpdateExclusiveLock'
        """,
        {"tables": list(_MARKS)},
        within=within,
    )
    return frozenset((pid, virtual_id) for pid, virtual_id in rows)


def missing(connection: Connection, *, within: float) -> list[str]:
    """Which tables, indexes and triggers of ours somebody has dropped, disabled or built half, by name.

    And functions that look for the tables elsewhere: the schema was renamed since they were made.
    """
    text = schema_sql()
    rows = connection.execute(
        """
        SELECT name FROM unnest(%(relations)s::text[]) AS name
        WHERE to_regclass(name) IS NULL OR to_regclass(name) IN (SELECT indexrelid FROM pg_index WHERE NOT indisvalid)
        UNION ALL
        SELECT name FROM unnest(%(triggers)s::text[]) AS name WHERE NOT EXISTS (
            SELECT FROM pg_trigger WHERE tgrelid = to_regclass('tasks') AND tgname = name AND tgenabled <> 'D')
        UNION ALL
        SELECT p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.oid = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('tasks'))
          AND p.proname = ANY (%(functions)s)
          AND p.proconfig IS DISTINCT FROM ARRAY[format('search_path=%%I', n.nspname)]
        """,
        {
            "relations": _RELATION.findall(text),
            "triggers": _TRIGGER.findall(text),
            "functions": _BOUND_FUNCTION.findall(text),
        },
        within=within,
    )
    return [name for (name,) in rows]


def strangers(connection: Connection, *, within: float) -> list[str]:
    """What somebody else has under a name of ours where our tables would be made, such as `public.tasks`."""
    rows = connection.execute(
        """
        SELECT format('%%I.%%I', current_schema(), relname)
        FROM pg_class JOIN unnest(%(tables)s::text[], %(marks)s::text[]) AS ours (name, mark) ON relname = name
        WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))
          AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = mark)
        UNION ALL
        SELECT format('%%I.%%I', current_schema(), typname) FROM pg_type
        WHERE typname = 'task_status' AND typnamespace = to_regnamespace(quote_ident(current_schema()))
          AND NOT EXISTS (SELECT FROM pg_enum WHERE enumtypid = pg_type.oid AND enumlabel = 'dead_letter')
        ORDER BY 1
        """,
        {"tables": list(_MARKS), "marks": list(_MARKS.values())},
        within=within,
    )
    return [name for (name,) in rows]


def cure(connection: Connection, *, within: float) -> str | None:
    """What has to be done before this role can create our tables, or change them if they are there. None: nothing."""
    ((has_home, may_apply),) = connection.execute(
        """
        SELECT current_schema() IS NOT NULL, coalesce(
            (SELECT has_schema_privilege(relnamespace, 'CREATE') AND pg_has_role(relowner, 'USAGE') FROM pg_class
             WHERE oid = to_regclass('tasks')),
            has_schema_privilege(current_schema(), 'CREATE'), false)
        """,
        within=within,
    )
    if may_apply:
        return None
    return NO_RIGHTS_CURE if has_home else NO_SCHEMA_CURE


def missing_rights(connection: Connection, *, within: float) -> str | None:
    """What this role needs on our tables and has not got, as what their owner has to run. None: nothing.

    Rights on columns are taken for enough, and any policy of row level security: whoever makes those knows which.
    """
    needed = [(table, right) for table, rights in _RIGHTS.items() for right in rights]
    rows = connection.execute(
        """
        SELECT format('GRANT %%s ON %%I TO %%I', string_agg(needed, ', '), name, current_user)
        FROM unnest(%(tables)s::text[], %(rights)s::text[]) AS needs (name, needed)
        WHERE NOT CASE needed WHEN 'DELETE' THEN has_table_privilege(to_regclass(name), needed)
                              ELSE has_any_column_privilege(to_regclass(name), needed) END
        GROUP BY name
        UNION ALL
        SELECT format('GRANT USAGE ON SEQUENCE claim_tokens TO %%I', current_user)
        WHERE NOT has_sequence_privilege(to_regclass('claim_tokens'), 'USAGE, UPDATE')  -- either will do
        UNION ALL
        SELECT format('GRANT EXECUTE ON FUNCTION %%s TO %%I', p.oid::regprocedure, current_user) FROM pg_proc AS p
        WHERE p.pronamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('tasks'))
          AND p.proname = ANY (%(called)s) AND NOT has_function_privilege(p.oid, 'EXECUTE')
        ORDER BY 1
        """,
        {"tables": [table for table, _ in needed], "rights": [right for _, right in needed], "called": _CALLED},
        within=within,
    )
    lacking = [grant for (grant,) in rows] + _policies(connection, list(_RIGHTS), "w", within=within)
    return _lacking(lacking) if lacking else None


def _lacking(statements: list[str]) -> str:
    return f"this role lacks rights; let the owner of the tables run: {'; '.join(statements)}"


def _policies(connection: Connection, tables: list[str], command: str, *, within: float) -> list[str]:
    """What has to be run before this role reads ("r") or updates ("w") any row of these: where row level security is on
    and no policy lets it, they are empty to it, and that is no error."""
    rows = connection.execute(
        """
        SELECT format('CREATE POLICY %%I ON %%I TO %%I USING (true)', current_user, name, current_user)
        FROM unnest(%(tables)s::text[]) AS name
        WHERE row_security_active(to_regclass(name)) AND NOT EXISTS (
            SELECT FROM pg_policy CROSS JOIN unnest(polroles) AS role
            WHERE polrelid = to_regclass(name) AND polpermissive AND polcmd IN ('*', %(command)s)
              AND (role = 0 OR pg_has_role(role, 'USAGE')))
        ORDER BY name
        """,
        {"tables": tables, "command": command},
        within=within,
    )
    return [statement for (statement,) in rows]


def migrate(connection: Connection, *, within: float, repairs: bool = False) -> bool:
    """Makes the schema ours: True if it was changed, False if it was current (then nothing but reading is done).

    `repairs`: what somebody has dropped of a current one is made again, which may take long: an index of many tasks.

    One transaction, under an advisory lock that ends with it: any number may start at once, one does it. Running
    workers go on; a lock that they or others hold for long refuses it (StatementRefused 55P03: try again). SchemaError:
    the schema is newer than this version, names of ours are taken, or this role may not create or change it.
    """
    present = version(connection, within=within)
    if present == SCHEMA_VERSION and not (repairs and missing(connection, within=within)):
        return False
    if present is not None and present > SCHEMA_VERSION:
        raise SchemaError(
            f"the database has version {present} of the schema and this orchestratord knows {SCHEMA_VERSION}: "
            "install the newer orchestratord"
        )
    if present is None and (names := strangers(connection, within=within)):
        raise SchemaError(f"{', '.join(names)} is somebody else's: {OWN_SCHEMA_CURE}")
    steps = (
        # at another level it would see the catalogs as they were before it waited for the lock
        "SET LOCAL TRANSACTION ISOLATION LEVEL READ COMMITTED;",  # LOCAL: behind a pooler the session is others', too
        f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK});",
        "SET LOCAL client_min_messages = warning;",
        schema_sql(),
    )
    try:
        connection.execute("".join(steps), within=within, lock_within=min(_LOCK_SECONDS, within * 0.8))
    except StatementRefused as refusal:
        raise _schema_error(refusal) from refusal
    return True


def _schema_error(refusal: StatementRefused) -> SchemaError | StatementRefused:
    if refusal.sqlstate in _PASSING_STATES:
        return refusal
    message = f"the schema cannot be applied: {refusal}"
    if refusal.sqlstate in _CURES:
        message += f"; {_CURES[refusal.sqlstate]}"
    return SchemaError(message)
