"""Plans kept by sessions, whichever session a pooler hands out."""

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.errors import StatementRefused
from orchestrator.store.connection import Connection
from orchestrator.store.prepared import execute_prepared, plan_ahead, prepared

DOUBLE = prepared("double", "SELECT 2 * %(n)s, %(text)s || %(text)s", {"text": "text", "n": "integer"})


def double(connection: Connection, n: int) -> list[tuple[Any, ...]]:
    return execute_prepared(connection, DOUBLE, {"n": n, "text": "it's"}, within=5.0, lock_within=5.0)


def test_a_statement_is_planned_once_and_called_often(connection: Connection) -> None:
    assert [double(connection, n) for n in range(5)] == [[(2 * n, "it'sit's")] for n in range(5)]
    rows = connection.execute("SELECT name, generic_plans, custom_plans FROM pg_prepared_statements", within=5.0)
    assert rows == [(DOUBLE.name, 5, 0)]


def test_what_was_planned_ahead_was_not_run_and_is_not_planned_again(connection: Connection) -> None:
    connection.execute("CREATE TABLE notes (n integer)", within=5.0)
    note = prepared("note", "INSERT INTO notes VALUES (%(n)s) RETURNING n", {"n": "integer"})
    for _ in range(2):
        plan_ahead(connection, note, within=5.0, lock_within=5.0)
        connection.prepared.clear()  # as if another client had this session next, behind a pooler
    assert connection.execute("SELECT count(*) FROM notes", within=5.0) == [(0,)]
    assert execute_prepared(connection, note, {"n": 7}, within=5.0, lock_within=5.0) == [(7,)]
    rows = connection.execute("SELECT name, generic_plans, custom_plans FROM pg_prepared_statements", within=5.0)
    assert rows == [(note.name, 2, 0)]


def test_what_cannot_be_planned_is_refused_ahead(connection: Connection) -> None:
    lost = prepared("lost", "SELECT * FROM nowhere WHERE n = %(n)s", {"n": "integer"})
    with pytest.raises(StatementRefused):
        plan_ahead(connection, lost, within=5.0, lock_within=5.0)
    assert connection.prepared == set()


def test_the_settings_it_is_planned_under_do_not_stay(connection: Connection) -> None:
    double(connection, 1)
    rows = connection.execute("SELECT name FROM pg_settings WHERE source = 'session' AND name ~ '^enable_'", within=5.0)
    assert rows == []


def test_a_session_that_has_forgotten_it_is_given_it_again(connection: Connection) -> None:
    double(connection, 1)
    connection.execute("DEALLOCATE ALL", within=5.0)
    assert double(connection, 2) == [(4, "it'sit's")]


def test_a_session_that_has_it_from_another_client_is_used_as_it_is(connection: Connection) -> None:
    double(connection, 1)
    connection.prepared.clear()
    assert double(connection, 2) == [(4, "it'sit's")]


def test_a_pooler_that_always_hands_out_the_wrong_session_is_no_obstacle(database_url: str) -> None:
    class Unlucky(Connection):
        def execute(
            self, sql: str, params: Mapping[str, Any] | None = None, *, within: float, lock_within: float | None = None
        ) -> list[tuple[Any, ...]]:
            super().execute("DEALLOCATE ALL", within=5.0)
            if "PREPARE" in sql:
                super().execute(DOUBLE.definition, within=5.0)
            return super().execute(sql, params, within=within, lock_within=lock_within)

    connection = Unlucky.open(database_url, within=10.0, application_name="test")
    assert double(connection, 2) == [(4, "it'sit's")]
    connection.close()


def test_a_refusal_of_the_statement_itself_is_passed_on(connection: Connection) -> None:
    divide = prepared("divide", "SELECT 1 / %(n)s", {"n": "integer"})
    for _ in range(3):
        with pytest.raises(StatementRefused) as refusal:
            execute_prepared(connection, divide, {"n": 0}, within=5.0, lock_within=5.0)
        assert refusal.value.sqlstate == "22012"
    assert execute_prepared(connection, divide, {"n": 1}, within=5.0, lock_within=5.0) == [(1,)]


def test_another_text_is_another_statement() -> None:
    other = prepared("double", "SELECT 3 * %(n)s, %(text)s || %(text)s", {"text": "text", "n": "integer"})
    assert other.name != DOUBLE.name
