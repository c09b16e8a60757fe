"""The databases that the tests get."""

from collections.abc import Callable

import psycopg
import psycopg.conninfo


def test_each_database_has_the_schema_and_nothing_in_it(database_url: str, make_database: Callable[[], str]) -> None:
    for url in (database_url, make_database()):
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM tasks").fetchone() == (0,)
            connection.execute("SELECT enqueue_task('fixtures:probe', '{}')")


def test_an_empty_database_is_empty(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT to_regclass('tasks')").fetchone() == (None,)
