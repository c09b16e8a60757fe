"""`orchestratord check`: what it finds, in the order in which `start` would meet it, and the code it ends with."""

import json
import re
import secrets
import socket
import tempfile
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from orchestrator.cli import run
from orchestrator.store.schema import SCHEMA_VERSION
from tests.fixtures.command import Command
from tests.fixtures.proxy import Proxy
from tests.fixtures.psql import a_role, sql
from tests.fixtures.waiting import eventually

PRINTING = """
from orchestrator import App
print("good morning")
app = App()
@app.task("greet")
def greet() -> None: ...
app.periodic("0 9 * * MON", greet)
app.periodic("0 9 * * MON", "great", name="misspelt")
"""

QUIET_FORK = """
import os, select
check = os.pidfd_open(os.getppid())
if os.fork():
    os._exit(3)
os.dup2(os.open(os.devnull, os.O_RDWR), 1)
os.dup2(1, 2)
"""


def test_check_finds_everything_in_order(orchestratord: Command, database_url: str) -> None:
    done = orchestratord("check", "--json", DATABASE_URL=database_url)
    findings = json.loads(done.stdout)
    assert done.returncode == 0
    assert [(finding["subject"], finding["verdict"]) for finding in findings] == [
        ("settings", "ok"),
        ("app", "ok"),
        ("app", "warning"),
        ("metrics", "ok"),
        ("database", "ok"),
        ("connections", "ok"),
        ("schema", "ok"),
        ("types", "ok"),
    ]
    assert findings[2]["message"].startswith("ORCHESTRATOR_APP is not set")
    asked_for = orchestratord("check", DATABASE_URL=database_url, ENQUEUE_EXAMPLES="true", TASK_MEMORY_LIMIT="1MB")
    assert "ORCHESTRATOR_APP" not in asked_for.stdout
    assert "MB, more than TASK_MEMORY_LIMIT (1MB)" in asked_for.stdout


def test_check_tells_problems_of_app_and_types_and_has_the_code_of_the_first(
    orchestratord_here: Command, database_url: str, tmp_path: Path
) -> None:
    sql(database_url, "SELECT enqueue_task('nobody:serves', '{}')")
    (tmp_path / "broken.py").write_text("import no_such_module_at_all\n")
    done = orchestratord_here("check", "--app", "broken:app", "--pool-size", "1000", DATABASE_URL=database_url)
    assert done.returncode == 3
    assert "problem  app: " in done.stdout
    assert "no_such_module_at_all" in done.stdout
    assert "warning  connections: 1002 needed" in done.stdout
    assert "warning  types: 1 pending tasks of type 'nobody:serves'" in done.stdout


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os\nos._exit(3)\n", "the process that imported it ended: it exited with code 3"),
        ("import os\nos.abort()\n", "the process that imported it ended: it was killed by SIGABRT"),
        ("from orchestrator import App\napp = App()\n", "it has no tasks"),
        ("import select\ndel select.poll\n" + PRINTING, "eventlet's monkey_patch()"),
        ("raise KeyboardInterrupt\n", "importing it raised"),
        ("import os\nos.closerange(3, 1000)\n" + PRINTING, "the process that imported it ended: it exited with code 3"),
        ("import threading, time\nthreading.Timer(600, print).start()\n" + PRINTING, "forking breaks: the thread"),
    ],
)
def test_check_has_the_app_imported_as_start_would(
    orchestratord_here: Command, database_url: str, tmp_path: Path, code: str, words: str
) -> None:
    (tmp_path / "strange.py").write_text(code)
    done = orchestratord_here("check", "--app", "strange:app", DATABASE_URL=database_url)
    assert done.returncode == 3
    assert re.search(f"problem  app: .*{re.escape(words)}", done.stdout)
    assert "ok       schema: " in done.stdout, "what else there is to see is looked at all the same"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (QUIET_FORK + "select.select([check], [], [])\n", "code 3"),
        (QUIET_FORK, "code 3"),
        ("import os, time\nos.closerange(3, 1000)\ntime.sleep(600)\n", "it was killed by SIGKILL"),
    ],
    ids=["forks, and ends", "is a daemon", "closes our socket, and hangs"],
)
def test_check_ends_with_the_process_that_imported_the_app_whoever_else_has_its_socket(
    orchestratord: Command, database_url: str, tmp_path: Path, code: str, words: str
) -> None:
    (tmp_path / "strange.py").write_text(code + PRINTING)
    done = orchestratord("check", "--app", "strange:app", DATABASE_URL=database_url)
    assert done.returncode == 3
    assert re.search(f"problem  app: the process that imported it ended: .*{words}", done.stdout)


def test_check_as_start_needs_no_folder_for_temporary_files_where_memory_is_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert run(["check", "--database-url", database_url, "--metrics-port", "0"]) == 0
    assert "ok       metrics: " in capsys.readouterr().out


def test_what_an_app_prints_when_check_imports_it_is_not_in_its_json(
    orchestratord: Command, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "chatty.py").write_text(PRINTING)
    done = orchestratord("check", "--json", "--app", "chatty:app", DATABASE_URL=database_url)
    told = [each["message"] for each in json.loads(done.stdout) if each["subject"] == "app"]
    assert told == [
        "chatty:app serves greet",
        "it enqueues periodically: greet, misspelt",
        "the periodic task 'misspelt' is of type 'great', which it does not serve",
    ]
    assert done.stderr == "good morning\n"
    assert done.returncode == 0


def test_check_says_that_the_metrics_have_no_place_or_no_port(
    orchestratord_here: Command, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "taken").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for variables, words in (
            ({"METRICS_PORT": str(port)}, f"port {port} of 127.0.0.1 is taken by another program"),
            ({"METRICS_HOST": "192.0.2.1"}, "METRICS_HOST is '192.0.2.1'"),
            ({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "taken")}, "PROMETHEUS_MULTIPROC_DIR is"),
        ):
            done = orchestratord_here("check", DATABASE_URL=database_url, **{"METRICS_HOST": "127.0.0.1", **variables})
            assert done.returncode == 2
            assert re.search(f"problem  metrics: .*{re.escape(words)}", done.stdout)
    left = set(Path("/dev/shm").glob("orchestratord-check-*"))  # those of tests beside this one go with their commands
    eventually(lambda: not any(each.exists() for each in left), within=20)


def test_check_lists_all_settings_that_cannot_be_used(orchestratord_here: Command) -> None:
    done = orchestratord_here("check", "--pool-size", "0", LOG_FORMAT="xml")
    assert done.returncode == 2
    for name in ("DATABASE_URL is not set", "WORKER_POOL_SIZE (--pool-size) is '0'", "LOG_FORMAT is 'xml'"):
        assert name in done.stdout


def test_check_warns_of_a_variable_that_is_nearly_a_setting(orchestratord_here: Command, database_url: str) -> None:
    done = orchestratord_here("check", DATABASE_URL=database_url, SHUTDOWN_TIMOUT="2m")
    assert done.returncode == 0
    assert "warning  settings: SHUTDOWN_TIMOUT is not used: is SHUTDOWN_TIMEOUT meant?\n" in done.stdout


def test_check_says_that_there_are_no_tables_yet(orchestratord_here: Command, empty_database_url: str) -> None:
    done = orchestratord_here("check", DATABASE_URL=empty_database_url)
    assert done.returncode == 0
    assert "warning  schema: there are no tables yet" in done.stdout


def test_check_tells_that_a_name_of_ours_is_taken_and_migrate_where_the_tables_can_go(
    orchestratord_here: Command, empty_database_url: str
) -> None:
    sql(empty_database_url, "CREATE TABLE workers (id serial, surname text)")
    told = "public.workers is somebody else's: let the queue have a schema of its own: CREATE SCHEMA queue, and"
    done = orchestratord_here("check", DATABASE_URL=empty_database_url)
    assert (done.returncode, f"problem  schema: {told} " in done.stdout) == (6, True), done.stdout
    done = orchestratord_here("migrate", DATABASE_URL=empty_database_url)
    assert (done.returncode, done.stderr.startswith(f"orchestratord: {told} ")) == (6, True), done.stderr
    done = orchestratord_here("enqueue", "a", DATABASE_URL=empty_database_url)
    assert (done.returncode, "run `orchestratord migrate`" in done.stderr) == (6, True), done.stderr

    cured = f"{empty_database_url}{'&' if '?' in empty_database_url else '?'}options=-csearch_path%3Dqueue"
    sql(empty_database_url, "CREATE SCHEMA queue")
    assert orchestratord_here("migrate", DATABASE_URL=cured).returncode == 0
    assert orchestratord_here("enqueue", "a", DATABASE_URL=cured).returncode == 0
    assert f"schema: version {SCHEMA_VERSION}, in queue\n" in orchestratord_here("check", DATABASE_URL=cured).stdout

    wrong = cured.replace("%3Dqueue", "%3Dpublic,queue")
    told = "the search_path finds public.workers instead of what is in queue: put queue first in it\n"
    done = orchestratord_here("check", DATABASE_URL=wrong)
    assert (done.returncode, done.stdout.endswith(f"problem  schema: {told}")) == (6, True), done.stdout
    done = orchestratord_here("migrate", DATABASE_URL=wrong)
    assert (done.returncode, done.stderr) == (6, f"orchestratord: {told}")


def test_check_warns_of_an_encoding_in_which_one_task_may_stop_all(
    orchestratord_here: Command, database_url: str
) -> None:
    name = f"ascii_{secrets.token_hex(4)}"
    sql(database_url, f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        done = orchestratord_here("check", DATABASE_URL=make_conninfo(database_url, dbname=name))
    finally:
        sql(database_url, f"DROP DATABASE {name} WITH (FORCE)")
    assert "warning  encoding: the database's encoding is SQL_ASCII: a task whose texts are no UTF-8" in done.stdout
    assert done.returncode == 0
    assert "encoding" not in orchestratord_here("check", DATABASE_URL=database_url).stdout


def test_check_says_that_nothing_could_be_written(orchestratord_here: Command, database_url: str) -> None:
    read_only = make_conninfo(database_url, options="-c default_transaction_read_only=on")
    done = orchestratord_here("check", DATABASE_URL=read_only)
    assert done.returncode == 4
    assert "problem  database: the server is read-only: it is a standby (name the primary, or both" in done.stdout
    assert "ok       schema: " in done.stdout, "what else there is to see is looked at all the same"


def test_check_has_patience_with_a_database_that_answers_slowly(orchestratord_here: Command, proxy: Proxy) -> None:
    proxy.slow(0.4)  # each message: a connection takes a few of them
    done = orchestratord_here("check", DATABASE_URL=proxy.url)
    assert "ok       database: " in done.stdout
    assert done.returncode == 0


def test_check_says_that_start_would_not_be_allowed_to_make_the_tables(
    orchestratord_here: Command, empty_database_url: str
) -> None:
    sql(empty_database_url, "REVOKE CREATE ON SCHEMA public FROM public")
    with a_role(empty_database_url) as url:
        done = orchestratord_here("check", DATABASE_URL=url)
        migrated = orchestratord_here("migrate", DATABASE_URL=url)
    assert done.returncode == migrated.returncode == 6
    assert "problem  schema: there are no tables yet, and this role may not change that: let a role" in done.stdout
    assert "permission denied for schema public; let a role that may create tables run" in migrated.stderr


def test_check_and_start_name_the_rights_that_the_role_lacks(orchestratord: Command, database_url: str) -> None:
    tables = ("tasks", "task_types", "periodic_tasks", "workers", "leadership", "sleepers")
    with a_role(database_url) as url:
        role = conninfo_to_dict(url)["user"]
        sql(database_url, f"GRANT SELECT ON orchestrator_schema TO {role}")
        sql(database_url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(tables)} TO {role}")
        sql(database_url, f"REVOKE UPDATE ON task_types, workers FROM {role}")
        sql(database_url, f"GRANT UPDATE (last_heartbeat) ON workers TO {role}")
        sql(database_url, "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
        functions = ["orchestrator_id_at(timestamp with time zone)"]
        functions.append("retry_delay(integer,double precision,double precision)")
        execute = "".join(f"GRANT EXECUTE ON FUNCTION {each} TO {role}; " for each in functions)
        cure = f"run: {execute}GRANT UPDATE ON task_types TO {role}; GRANT USAGE ON SEQUENCE claim_tokens TO {role}\n"
        checked = orchestratord("check", DATABASE_URL=url)
        started = orchestratord("start", DATABASE_URL=url)
        sql(database_url, f"DROP OWNED BY {role}")
    assert checked.returncode == started.returncode == 6
    assert f"problem  schema: this role lacks rights; let the owner of the tables {cure}" in checked.stdout
    assert cure.strip() in started.stderr


def test_check_and_start_name_the_policies_without_which_the_role_sees_no_row(
    orchestratord: Command, orchestratord_here: Command, database_url: str
) -> None:
    """Row level security raises no error: a worker would be healthy, and its queue empty for ever."""
    with a_role(database_url) as url:
        role = conninfo_to_dict(url)["user"]
        sql(database_url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        sql(database_url, f"GRANT ALL ON SEQUENCE claim_tokens TO {role}")
        sql(database_url, "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY; ALTER TABLE workers ENABLE ROW LEVEL SECURITY")
        sql(database_url, "CREATE POLICY readers ON tasks FOR SELECT USING (true)")
        cure = "; ".join(f"CREATE POLICY {role} ON {table} TO {role} USING (true)" for table in ("tasks", "workers"))
        checked, started = orchestratord_here("check", DATABASE_URL=url), orchestratord("start", DATABASE_URL=url)
        sql(database_url, cure)
        cured = orchestratord_here("check", DATABASE_URL=url)
        sql(database_url, "ALTER TABLE orchestrator_schema ENABLE ROW LEVEL SECURITY")
        migrated = orchestratord_here("migrate", DATABASE_URL=url)
        sql(database_url, f"DROP OWNED BY {role}")
    assert (checked.returncode, started.returncode, cured.returncode, migrated.returncode) == (6, 6, 0, 6)
    told = f"this role lacks rights; let the owner of the tables run: {cure}"
    assert f"problem  schema: {told}\n" in checked.stdout
    assert f'reason="{told}"' in started.stderr
    assert f"CREATE POLICY {role} ON orchestrator_schema TO {role} USING (true)\n" in migrated.stderr


def test_a_role_that_may_read_and_write_all_data_lacks_nothing(orchestratord_here: Command, database_url: str) -> None:
    """It has no USAGE on the sequence, but UPDATE, which nextval() takes as well."""
    with a_role(database_url) as url:
        sql(database_url, f"GRANT pg_read_all_data, pg_write_all_data TO {conninfo_to_dict(url)['user']}")
        sql(url, "SELECT nextval('claim_tokens')")
        done = orchestratord_here("check", DATABASE_URL=url)
    assert done.returncode == 0, done.stdout


def test_check_and_migrate_tell_that_the_search_path_names_no_schema(
    orchestratord_here: Command, empty_database_url: str
) -> None:
    url = make_conninfo(empty_database_url, options="-c search_path=nowhere")
    checked, migrated = orchestratord_here("check", DATABASE_URL=url), orchestratord_here("migrate", DATABASE_URL=url)
    assert checked.returncode == migrated.returncode == 6
    cure = "no schema that this role may use is in its search_path: ALTER ROLE … SET search_path"
    assert cure in checked.stdout and cure in migrated.stderr


def test_what_was_dropped_is_told_by_check_and_made_again_by_migrate(
    orchestratord_here: Command, database_url: str
) -> None:
    sql(database_url, "DROP INDEX idx_tasks_claimable")
    sql(database_url, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_tasks_owned'::regclass")
    sql(database_url, "ALTER TABLE tasks DISABLE TRIGGER wake_on_insert")
    done = orchestratord_here("check", DATABASE_URL=database_url)
    assert done.returncode == 0
    assert "schema: missing: idx_tasks_claimable, idx_tasks_owned, wake_on_insert; `orchestratord mig" in done.stdout
    assert "is now at" in orchestratord_here("migrate", DATABASE_URL=database_url).stdout
    assert "was already at" in orchestratord_here("migrate", DATABASE_URL=database_url).stdout
    assert "ok       schema: version" in orchestratord_here("check", DATABASE_URL=database_url).stdout
