"""Statements that are parsed and planned once per session instead of at every call: for the hot path, the claim.

Planning the claim takes the server eight times as long as running it for one task (tried: 0.8 ms against 0.1 ms).
PREPARE and EXECUTE are plain SQL, so this works behind a transaction-pooling PgBouncer too: a session that has not got
the statement yet says so, changes nothing, and is given it.

A plan that is kept must be right for ever, not for the table as it was when the session began (empty, perhaps). So it
is made for unknown parameters and from index scans alone, and such a statement joins by `id = ANY (ARRAY[...])`: for
that the planner has nothing but a look-up by key, where `id = ...` could have it read a whole index in order.
"""

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from orchestrator.errors import StatementRefused
from orchestrator.store import peer
from orchestrator.store.connection import Connection
from orchestrator.store.failures import TRY_AGAIN_STATES

# SET LOCAL: it ends with the statement and leaks into no pooler's session (where there is none: `settle`). JIT compiles
# at every call, which takes longer than the call.
_PLANNING = (
    "SET LOCAL plan_cache_mode=force_generic_plan;SET LOCAL enable_seqscan=off;SET LOCAL enable_bitmapscan=off;"
    "SET LOCAL jit=off;"
)
_PLANNING_OF_SESSION = _PLANNING.replace("SET LOCAL", "SET")
# What is claimed and finished all the time would undo others' statements, and be undone, if it were more.
_ISOLATION_OF_SESSION = "SET default_transaction_isolation='read committed';"
_UNKNOWN_STATEMENT = "26000"
_KNOWN_ALREADY = "42P05"
_TRIES = 5


class Prepared(NamedTuple):
    """A statement as PREPARE and EXECUTE. The name holds a hash of its text: no two versions ever share one.

    What is sent begins with the name, within what pg_stat_activity shows of a query (1 kB at the least that is usual).
    """

    name: str
    parameters: tuple[str, ...]
    definition: str
    call: str
    plain: str


def prepared(name: str, sql: str, types: Mapping[str, str]) -> Prepared:
    """Makes `sql`, with its `%(name)s` parameters of these types, ready for `execute_prepared`."""
    order = list(types)
    numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${order.index(found[1]) + 1}", sql)
    full_name = f"{name}_{sha256(numbered.encode()).hexdigest()[:12]}"
    return Prepared(
        name=full_name,
        parameters=tuple(order),
        definition=f"PREPARE {full_name} ({', '.join(types.values())}) AS {numbered};",
        call=f"EXECUTE {full_name} ({', '.join(f'%({parameter})s' for parameter in order)})",
        plain=f"/* {full_name} */{sql}",
    )


def execute_prepared(
    connection: Connection,
    statement: Prepared,
    params: Mapping[str, Any],
    *,
    within: float,
    lock_within: float,
    is_durable: bool = True,
    has_choice: bool = True,
) -> list[tuple[Any, ...]]:
    """As `Connection.execute`, on the plan that the session keeps. Not `is_durable`: its commit awaits no disk. Not
    `has_choice`: there is but one way to plan it.

    Behind a pooler any call may meet a session that has not got the statement, or has it from another client. After
    some of these in a row it is sent as it is.
    """
    settings = _planning(connection) if has_choice else ""
    if not is_durable:
        settings += "SET LOCAL synchronous_commit=off;"
    for _ in range(_TRIES):
        try:
            rows = connection.execute(
                settings + _call(connection, statement), params, within=within, lock_within=lock_within
            )
        except StatementRefused as refusal:
            if not _learn(connection, statement, refusal):
                raise
        else:
            connection.prepared.add(statement.name)
            return rows
    return connection.execute(statement.plain, params, within=within, lock_within=lock_within)


def send_prepared(
    connection: Connection, statement: Prepared, params: Mapping[str, Any], *, within: float, lock_within: float
) -> Callable[[float], list[tuple[Any, ...]]]:
    """Sends it as `execute_prepared` would, and returns who gets the answer, within so many seconds."""
    sql = _planning(connection) + _call(connection, statement)
    connection.send(sql, params, within=within, lock_within=lock_within)

    def receive(within: float) -> list[tuple[Any, ...]]:
        try:
            rows = connection.receive(within=within)
        except StatementRefused as refusal:
            if not _learn(connection, statement, refusal) and refusal.sqlstate not in TRY_AGAIN_STATES:
                raise
            return execute_prepared(connection, statement, params, within=within, lock_within=lock_within)
        connection.prepared.add(statement.name)
        return rows

    return receive


def settle(connection: Connection, *, limit: float, lock_limit: float, within: float) -> None:
    """Has what such statements need, and limits of so many seconds for each and for its wait for a lock, stay with the
    session, if there is no pooler. All that is sent on it is planned like that from now on."""
    settings = _PLANNING_OF_SESSION + _ISOLATION_OF_SESSION + peer.PATIENCE + ";" + peer.LIMITS
    connection.settle(settings, limit=limit, lock_limit=lock_limit, within=within)


def _planning(connection: Connection) -> str:
    return "" if connection.is_settled else _PLANNING


def plan_ahead(connection: Connection, statement: Prepared, *, within: float, lock_within: float) -> None:
    """Has the session parse and plan it, which is most of what its first call takes; nothing is run.

    A session that has it already says so, or is another client's behind a pooler: the next call will find out.
    """
    explain = _planning(connection) + statement.definition + "EXPLAIN " + statement.call
    try:
        connection.execute(explain, dict.fromkeys(statement.parameters), within=within, lock_within=lock_within)
    except StatementRefused as refusal:
        if not _learn(connection, statement, refusal):
            raise
    else:
        connection.prepared.add(statement.name)


def _call(connection: Connection, statement: Prepared) -> str:
    return statement.call if statement.name in connection.prepared else statement.definition + statement.call


def _learn(connection: Connection, statement: Prepared, refusal: StatementRefused) -> bool:
    """Whether it was refused because the session has it, or has it not, unlike what we knew."""
    if refusal.sqlstate == _UNKNOWN_STATEMENT:
        connection.prepared.discard(statement.name)
    elif refusal.sqlstate == _KNOWN_ALREADY:
        connection.prepared.add(statement.name)
    else:
        return False
    return True
