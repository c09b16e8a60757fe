"""schema.sql: applied once, by whoever comes first, to any server we support; and what it makes is explained in it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from orchestrator.dev.binaries import find_binaries
from orchestrator.errors import SchemaError, StatementRefused
from orchestrator.store import claims, schema
from orchestrator.store.connection import Connection
from tests.store.rows import add_task, add_tasks, add_worker, at_once, claim, ending, values

Connect = Callable[[], Connection]


@pytest.fixture
def empty(empty_database_url: str) -> Connection:
    return Connection.open(empty_database_url, within=10.0, application_name="test")


def test_an_empty_database_gets_the_schema_and_then_keeps_it(empty: Connection) -> None:
    assert schema.version(empty, within=5.0) is None
    assert schema.migrate(empty, within=20.0)
    assert schema.version(empty, within=5.0) == schema.SCHEMA_VERSION
    assert not schema.migrate(empty, within=20.0)
    empty.close()


def test_the_text_names_the_version_that_the_code_knows() -> None:
    assert f"-- Version {schema.SCHEMA_VERSION}." in schema.schema_sql()


def test_schema_sql_can_be_run_again_by_hand_and_changes_nothing(connection: Connection) -> None:
    add_worker(connection)
    task_id = add_task(connection)
    claim(connection)
    before = connection.execute("SELECT * FROM leadership", within=5.0)
    connection.execute(schema.schema_sql(), within=20.0)
    assert values(connection, "status::text, worker_id", task_id) == ("claimed", "w")
    assert connection.execute("SELECT * FROM leadership", within=5.0) == before


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_any_number_of_starts_at_once_apply_it_once(empty_database_url: str, level: str) -> None:
    connections = [Connection.open(empty_database_url, within=10.0, application_name="test") for _ in range(6)]
    for own in connections:
        own.execute(f"SET default_transaction_isolation = '{level}'", within=5.0)
    results = at_once(*(lambda own=own: schema.migrate(own, within=30.0) for own in connections))
    assert set(results) <= {True, False}
    for own in connections:
        assert schema.version(own, within=5.0) == schema.SCHEMA_VERSION
        own.close()


def test_a_newer_schema_is_left_alone_and_said_to_be_newer(connection: Connection) -> None:
    connection.execute("UPDATE orchestrator_schema SET version = version + 1", within=5.0)
    with pytest.raises(SchemaError, match="newer"):
        schema.migrate(connection, within=20.0)
    with pytest.raises(StatementRefused, match="newer"):
        connection.execute(schema.schema_sql(), within=20.0)
    assert schema.version(connection, within=5.0) == schema.SCHEMA_VERSION + 1


def test_an_older_schema_is_upgraded_while_workers_work(connection: Connection, connect: Connect) -> None:
    add_worker(connection)
    add_tasks(connection, 300)
    connection.execute("UPDATE orchestrator_schema SET version = 0", within=5.0)
    worker, upgrader = connect(), connect()

    def work() -> int:
        done = 0
        while taken := claim(worker, 5):
            outcomes = [ending(one) for one in taken]
            done += claims.finish_and_claim(worker, outcomes, worker_id="w", slot=0, limit=0, within=20.0).accepted
        return done

    done, changed = at_once(work, lambda: schema.migrate(upgrader, within=20.0))
    assert (done, changed) == (300, True)
    assert schema.version(connection, within=5.0) == schema.SCHEMA_VERSION


STRUCTURE = """
SELECT 'index', indexname::text, indexdef FROM pg_indexes WHERE schemaname = current_schema()
UNION ALL
SELECT 'constraint', conname::text, replace(pg_get_constraintdef(oid), ' NOT VALID', '')
FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
UNION ALL
SELECT 'trigger', tgname::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'function', proname::text, prosrc FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
UNION ALL
SELECT 'column', format('%%s.%%s', table_name, column_name),
    format('%%s %%s %%s', data_type, is_nullable, column_default)
FROM information_schema.columns WHERE table_schema = current_schema()
ORDER BY 1, 2
"""


def test_a_schema_of_version_2_becomes_what_a_new_one_is(empty: Connection, connection: Connection) -> None:
    empty.execute((Path(__file__).parent / "schema_version_2.sql").read_text(), within=20.0)
    today = connection.execute(STRUCTURE, {}, within=5.0)
    assert empty.execute(STRUCTURE, {}, within=5.0) != today
    assert schema.migrate(empty, within=20.0)
    assert empty.execute(STRUCTURE, {}, within=5.0) == today


def test_a_dump_made_in_the_midst_of_work_can_be_restored(
    empty: Connection, empty_database_url: str, connection: Connection, database_url: str
) -> None:
    """What its functions look for is found while it is restored, with no schema in the search_path, and afterwards."""
    add_worker(connection)
    add_tasks(connection, 3)
    claim(connection)
    programs = find_binaries()
    dump = [programs.program("pg_dump"), "--no-toast-compression", database_url]
    dumped = subprocess.run(dump, capture_output=True, check=True).stdout
    dumped = dumped.replace(b"SET transaction_timeout = 0;", b"")  # which servers before 17 don't know
    restore = [programs.program("psql"), "--quiet", "--set=ON_ERROR_STOP=1", empty_database_url]
    subprocess.run(restore, input=dumped, stdout=subprocess.DEVNULL, check=True)
    for same in (STRUCTURE, "SELECT last_value FROM claim_tokens", "SELECT * FROM tasks", "SELECT * FROM leadership"):
        assert empty.execute(same, {}, within=5.0) == connection.execute(same, {}, within=5.0)
    assert schema.missing(empty, within=5.0) == []
    add_task(empty)
    assert len(claim(empty, 5)) == 3
    empty.close()


COMPRESSION = """
SELECT DISTINCT attcompression::text FROM pg_attribute
WHERE attrelid = to_regclass('tasks') AND attname IN ('payload', 'result')
"""
"""p: PostgreSQL's own; l: lz4; nothing: whatever the server's setting is."""


@pytest.mark.parametrize("older", ["", "schema_version_2.sql"])
def test_large_payloads_are_compressed_by_lz4_where_the_server_has_it(empty: Connection, older: str) -> None:
    methods = "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"
    ((available,),) = empty.execute(methods, within=5.0)
    if older:
        empty.execute((Path(__file__).parent / older).read_text(), within=20.0)
    schema.migrate(empty, within=20.0)
    assert empty.execute(COMPRESSION, within=5.0) == [("l" if "lz4" in available else "",)]


def test_a_method_of_compression_that_somebody_chose_stays(connection: Connection) -> None:
    choice = "ALTER TABLE tasks ALTER payload SET COMPRESSION pglz, ALTER result SET COMPRESSION pglz"
    connection.execute(choice, within=5.0)
    connection.execute(schema.schema_sql(), within=20.0)
    assert connection.execute(COMPRESSION, within=5.0) == [("p",)]


@pytest.mark.usefixtures("hears_refusals")
def test_a_long_lock_refuses_the_upgrade_and_is_no_schema_error(connection: Connection, other: Connection) -> None:
    connection.execute("UPDATE orchestrator_schema SET version = 0", within=5.0)
    other.execute("BEGIN; DELETE FROM tasks", within=5.0)
    with pytest.raises(StatementRefused) as refusal:
        schema.migrate(connection, within=5.0)
    assert refusal.value.sqlstate in {"55P03", "57014"}
    other.execute("ROLLBACK", within=5.0)
    assert schema.migrate(connection, within=20.0)


def test_a_role_without_rights_is_told_so(empty: Connection) -> None:
    empty.execute("DROP SCHEMA public CASCADE", within=5.0)  # nowhere to create anything
    with pytest.raises(SchemaError, match="cannot be applied"):
        schema.migrate(empty, within=10.0)
    assert empty.is_open
    empty.close()


def test_somebody_elses_tasks_table_is_not_taken_for_ours(empty: Connection) -> None:
    empty.execute("CREATE TABLE tasks (id integer); CREATE TYPE task_status AS ENUM ('open', 'done')", within=5.0)
    names = "public.task_status, public.tasks"
    with pytest.raises(SchemaError, match=f"^{names} is somebody else's: .*CREATE SCHEMA queue"):
        schema.migrate(empty, within=10.0)
    assert empty.execute("SELECT count(*) FROM tasks", within=5.0) == [(0,)]
    assert schema.version(empty, within=5.0) is None

    empty.execute("CREATE SCHEMA queue; SET search_path = queue, public", within=5.0)
    assert schema.migrate(empty, within=10.0)
    assert empty.execute("SELECT enqueue_task('a') IS NOT NULL FROM public.tasks", within=5.0) == []
    add_task(empty)
    empty.close()


@pytest.mark.parametrize("theirs", ["TABLE app.workers (id serial)", "TYPE app.task_status AS ENUM ('open', 'done')"])
def test_what_somebody_else_has_in_front_of_ours_is_told(connection: Connection, theirs: str) -> None:
    connection.execute(f"CREATE SCHEMA app; CREATE {theirs}; SET search_path = app, public", within=5.0)
    name = theirs.split()[1]
    with pytest.raises(SchemaError, match=f"^the search_path finds {name} instead of what is in public: put public "):
        schema.version(connection, within=5.0)
    connection.execute("SET search_path = public, app", within=5.0)
    assert schema.version(connection, within=5.0) == schema.SCHEMA_VERSION


def test_tables_whose_version_was_dropped_are_ours_still(connection: Connection) -> None:
    connection.execute("DROP TABLE orchestrator_schema", within=5.0)
    assert schema.strangers(connection, within=5.0) == []
    assert schema.migrate(connection, within=20.0)


def test_the_schema_works_in_another_schema_than_public(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as session:
        session.execute("CREATE SCHEMA jobs")
        session.execute(f"ALTER DATABASE {session.info.dbname} SET search_path = jobs")
    connection = Connection.open(empty_database_url, within=10.0, application_name="test")
    schema.migrate(connection, within=20.0)
    add_worker(connection)
    connection.execute("INSERT INTO sleepers VALUES ('w', true); LISTEN orchestrator_tasks", within=5.0)
    with psycopg.connect(empty_database_url, autocommit=True, options="-c search_path=public") as stranger:
        assert stranger.execute("SELECT jobs.enqueue_task('t')").fetchone() is not None
        stranger.execute("INSERT INTO jobs.tasks (type) VALUES ('t')")
    connection.wait(5.0)
    assert connection.notifications()
    assert len(claim(connection, 5)) == 2
    connection.close()


def test_in_a_schema_named_after_its_owner_other_roles_enqueue_and_retry_too(
    empty: Connection, empty_database_url: str
) -> None:
    ((owner,),) = empty.execute("SELECT current_user", within=5.0)
    empty.execute(f'CREATE SCHEMA "{owner}"', within=5.0)
    schema.migrate(empty, within=20.0)
    with psycopg.connect(empty_database_url) as stranger:  # undone at the end, its role too
        stranger.execute("CREATE ROLE stranger SUPERUSER; SET ROLE stranger")
        stranger.execute(f'INSERT INTO "{owner}".tasks (type, status) VALUES (%s, %s)', ("t", "dead_letter"))
        stranger.execute(f'UPDATE "{owner}".tasks SET status = %s', ("pending",))
        assert stranger.execute(f"SELECT \"{owner}\".enqueue_task('t')").fetchone() is not None
        stranger.rollback()


def test_functions_of_a_schema_that_was_renamed_are_made_again(connection: Connection) -> None:
    connection.execute('ALTER SCHEMA public RENAME TO "Our Jobs"; SET search_path = "Our Jobs"', within=5.0)
    with pytest.raises(StatementRefused, match="does not exist"):
        add_task(connection)
    functions = {"enqueue_task", "orchestrator_make_wholly_pending", "orchestrator_wake_sleepers"}
    assert set(schema.missing(connection, within=5.0)) == functions
    assert schema.migrate(connection, within=20.0, repairs=True)
    assert schema.missing(connection, within=5.0) == []
    add_task(connection)


def test_an_upgrade_leaves_the_tables_in_their_schema_whatever_comes_first_in_the_search_path_by_now(
    empty: Connection,
) -> None:
    empty.execute((Path(__file__).parent / "schema_version_2.sql").read_text(), within=20.0)
    empty.execute('CREATE SCHEMA "New Schema"; SET search_path = "New Schema", public', within=5.0)
    add_task(empty)
    assert schema.migrate(empty, within=20.0)
    assert schema.missing(empty, within=5.0) == []
    assert empty.execute("SELECT to_regclass('tasks') = 'public.tasks'::regclass", within=5.0) == [(True,)]
    assert empty.execute("SELECT count(*) FROM tasks", within=5.0) == [(1,)]
    assert empty.execute("SHOW search_path", within=5.0) == [('"New Schema", public',)]


def test_every_table_and_column_is_explained(connection: Connection) -> None:
    rows = connection.execute(
        """
        SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
          AND (obj_description(c.oid) IS NULL OR col_description(c.oid, a.attnum) IS NULL)
        """,
        within=5.0,
    )
    assert rows == []


def test_every_index_that_is_no_key_names_its_query(connection: Connection) -> None:
    rows = connection.execute(
        """
        SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relnamespace = 'public'::regnamespace AND NOT i.indisprimary AND obj_description(c.oid) IS NULL
        """,
        within=5.0,
    )
    assert rows == []


def test_the_index_that_the_guide_names_is_partial(connection: Connection) -> None:
    rows = connection.execute(
        "SELECT pg_get_expr(indpred, indrelid) FROM pg_index WHERE indexrelid = 'idx_tasks_claimable'::regclass",
        within=5.0,
    )
    assert "pending" in rows[0][0]


def test_all_times_carry_their_zone(connection: Connection) -> None:
    rows = connection.execute(
        """
        SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = 'public' AND data_type = 'timestamp without time zone'
        """,
        within=5.0,
    )
    assert rows == []


def test_the_lease_survives_a_crash_and_the_sleepers_need_not(connection: Connection) -> None:
    rows = connection.execute(
        "SELECT relname, relpersistence FROM pg_class WHERE relname IN ('leadership', 'sleepers', 'tasks')", within=5.0
    )
    assert dict(rows) == {"leadership": "p", "sleepers": "u", "tasks": "p"}


# Ids


def test_ids_are_version_seven_in_the_order_of_their_making(connection: Connection) -> None:
    rows = connection.execute("SELECT orchestrator_new_id()::text FROM generate_series(1, 1000)", within=5.0)
    ids = [task_id for (task_id,) in rows]
    assert len(set(ids)) == 1000
    assert all(task_id[14] == "7" and task_id[19] in "89ab" for task_id in ids)
    times = [task_id[:18] for task_id in ids]
    assert times == sorted(times)


def test_the_id_of_a_moment_separates_what_was_made_before_and_after(connection: Connection) -> None:
    rows = connection.execute(
        """
        WITH before AS MATERIALIZED (SELECT orchestrator_new_id() AS id),
            between AS MATERIALIZED (SELECT before.id, clock_timestamp() + interval '2 us' AS moment FROM before),
            pause AS MATERIALIZED (SELECT id, moment, pg_sleep(0.005) FROM between)
        SELECT id < orchestrator_id_at(moment), orchestrator_id_at(moment) < orchestrator_new_id() FROM pause
        """,
        within=5.0,
    )
    assert rows == [(True, True)]


def test_retry_delays_are_spread_from_nothing_to_their_ceiling(connection: Connection) -> None:
    rows = connection.execute(
        """
        SELECT retry, min(wait), max(wait) FROM (
            SELECT retry, retry_delay(retry, 2, 50) AS wait
            FROM unnest(ARRAY[1, 3, 9, 1000000, 0]) AS retry, generate_series(1, 400)
        ) AS drawn GROUP BY retry
        """,
        within=5.0,
    )
    ceilings = {1: 2, 3: 8, 9: 50, 1000000: 50, 0: 2}
    assert len(rows) == len(ceilings)
    for retry, least, most in rows:
        assert 0 <= least < 0.2 * ceilings[retry]
        assert 0.8 * ceilings[retry] < most <= ceilings[retry]


# What a row refuses


@pytest.mark.parametrize(
    "columns",
    [
        {"type": ""},
        {"type": "x" * 201},
        {"max_retries": -1},
        {"timeout_seconds": 0},
        {"timeout_seconds": "NaN"},
        {"timeout_seconds": "Infinity"},
        {"idempotency_key": ""},
        {"payload": None},
        {"priority": None},
        {"attempts": 2**31 - 1},
        {"attempts": -1},
        {"recoveries": 2**31 - 1},
    ],
)
def test_a_row_that_could_never_run_is_refused(connection: Connection, columns: dict[str, object]) -> None:
    with pytest.raises(StatementRefused) as refusal:
        add_task(connection, **columns)
    assert refusal.value.sqlstate in {"23514", "23502"}


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "-1", "1e300"])
@pytest.mark.parametrize("column", ["retry_base_seconds", "retry_cap_seconds"])
def test_a_backoff_that_recovery_could_not_reckon_with_is_refused(
    connection: Connection, column: str, seconds: str
) -> None:
    with pytest.raises(StatementRefused) as refusal:
        connection.execute(f"INSERT INTO task_types (type, {column}) VALUES ('t', '{seconds}')", within=5.0)
    assert refusal.value.sqlstate == "23514"


@pytest.mark.parametrize("payload", ["[1]", '"x"', "null", "7"])
def test_a_payload_that_is_no_object_may_be_written_by_raw_sql(connection: Connection, payload: str) -> None:
    """It is claimed like any other, and fails with a clear error."""
    add_worker(connection)
    add_task(connection, payload=payload)
    assert [one.payload for one in claim(connection)] == [payload]
