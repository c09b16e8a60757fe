"""The commands of `orchestratord` for people and scripts: what they print, and the code they end with."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator._version import __version__
from orchestrator.cli import run
from orchestrator.store.schema import SCHEMA_VERSION
from tests.fixtures.command import Command
from tests.fixtures.psql import sql


class Answer:
    """What a command that ran in this process answered."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ask = Callable[..., Answer]
NOBODY = "01a21a43-1442-7229-8d9b-f57349beefac"


@pytest.fixture
def ask(database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs a command in this process against a fresh database."""
    monkeypatch.setenv("DATABASE_URL", database_url)

    def ask(*arguments: str) -> Answer:
        code = run(list(arguments))
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return ask


def test_enqueue_prints_the_id_of_a_task_with_all_its_options(ask: Ask) -> None:
    options = ["--priority", "7", "--delay", "1h30m", "--key", "k-1", "--max-retries", "0", "--timeout", "1.5s"]
    answer = ask("enqueue", "email:send", '{"to": "ann@example.org"}', *options)
    assert answer.code == 0
    task = ask("tasks", "show", answer.out.strip(), "--json").json
    assert task["payload"] == {"to": "ann@example.org"}
    assert (task["priority"], task["idempotency_key"], task["max_retries"]) == (7, "k-1", 0)
    assert task["timeout_seconds"] == 1.5
    assert task["next_retry_at"] is not None
    assert ask("enqueue", "email:send", "{}", "--key", "k-1", "--json").json == {"id": task["id"]}


def test_enqueue_takes_its_payload_from_standard_input(orchestratord: Command, database_url: str) -> None:
    done = orchestratord("enqueue", "a", "-", stdin='{"x": "é"}', DATABASE_URL=database_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert sql(database_url, "SELECT payload FROM tasks") == [({"x": "é"},)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("enqueue", "a", "{to:ann}"), """; write '{"key": "value"}', with all these quotes"""),
        (("enqueue", "a", "[1]"), "the payload is a list"),
        (("enqueue", "a", '{"x": NaN}'), "payload"),
        (("enqueue", "a", "[" * 100_000), "nested too deeply"),
        (("enqueue", "a", r'{"x": "\u0000"}'), "NUL"),
        (("enqueue", "", "{}"), "printable"),
        (("enqueue", "a", "{}", "--max-retries", "-1"), "max_retries=-1"),
        (("enqueue", "a", "{}", "--delay", "30"), "write 30s"),
        (("enqueue", "a", "{}", "--run-at", "2030-01-31T18:00"), "add the offset"),
        (("enqueue", "a", "{}", "--run-at", "2030-01-31"), "2030-01-31T00:00:00Z"),
        (("enqueue", "a", "{}", "--run-at", "tomorrow"), "2030-01-31T18:00+01:00"),
        (("enqueue", "a", "{}", "--delay", "1s", "--run-at", "2030-01-31T18:00Z"), "not both"),
        (("enqueue", "a", "{}", "--run-at", "9999-12-31T23:59:59-23:00"), "years 1 to 9999 of UTC"),
        (("enqueue", "a", "{}", "--key", "a\udcff"), "lone surrogate"),
        (("enqueue", "a", '{"x": "a\udcff"}'), "surrogate"),
        (("enqueue", "a\udcff"), "printable"),
        (("tasks", "list", "--type", "a\udcff"), r"the task type 'a\udcff' must be printable"),
        (("tasks", "retry", "--status", "failed", "--type", "a\udcff"), r"the task type 'a\udcff' must be printable"),
        (("tasks", "show", "a\udcff"), r"there is no task 'a\udcff'"),
        (("tasks", "list", "--status", "done"), "'done' is not one of"),
        (("tasks", "show", "no-such-id"), "there is no task 'no-such-id': that is no id"),
        (("tasks", "show", NOBODY), f"orchestratord: there is no task '{NOBODY}': completed ones are deleted after"),
        (("tasks", "retry"), "name tasks by id"),
        (("tasks", "retry", "--type", "a"), "name tasks by id"),
        (("tasks", "cancel"), "Missing argument"),
        (("frobnicate",), "No such command"),
    ],
)
def test_wrong_usage_is_said_clearly_stores_nothing_and_ends_with_2(
    ask: Ask, database_url: str, arguments: tuple[str, ...], words: str
) -> None:
    answer = ask(*arguments)
    assert answer.code == 2
    assert words in answer.err
    assert "Traceback" not in answer.err
    assert sql(database_url, "SELECT count(*) FROM tasks") == [(0,)]


def test_tasks_are_listed_newest_first_and_filtered(ask: Ask) -> None:
    for type_name in ("a", "b", "a"):
        ask("enqueue", type_name)
    assert [task["type"] for task in ask("tasks", "list", "--json").json] == ["a", "b", "a"]
    assert [task["type"] for task in ask("tasks", "list", "--type", "b", "--json").json] == ["b"]
    assert ask("tasks", "list", "--status", "running", "--json").json == []
    assert ask("tasks", "list", "--status", "running").out == "no such tasks\n"
    newest = ask("tasks", "list", "--limit", "1")
    titles, first = newest.out.splitlines()
    assert titles.split()[:3] == ["ID", "TYPE", "STATUS"]
    assert first.split()[1:3] == ["a", "pending"]
    assert newest.err == "orchestratord: these are the newest 1; there are more (--limit)\n"
    assert len(ask("tasks", "list", "--limit", "2", "--json").json) == 2
    assert ask("tasks", "list", "--limit", "3").err == ""


def test_what_a_task_contains_cannot_write_to_the_terminal(ask: Ask, database_url: str) -> None:
    task_id = ask("enqueue", "a").out.strip()
    evil = "E'\\x1b]0;owned\\x07 \\x1b[31mred\\n  second line'"
    sql(database_url, f"UPDATE tasks SET status = 'failed', last_error = {evil}")
    for answer in (ask("tasks", "list"), ask("tasks", "show", task_id)):
        assert "\x1b" not in answer.out
        assert "\x07" not in answer.out
        assert "red" in answer.out
    assert "second line" in ask("tasks", "show", task_id).out


def test_nor_can_what_the_server_says_of_one(ask: Ask, database_url: str) -> None:
    sql(
        database_url,
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION E'\\x1b[31m not % \n second line', NEW.payload ->> 'to'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION refuse();
        """,
    )
    answer = ask("tasks", "cancel", ask("enqueue", "a", '{"to": "\\u009b2Jann"}').out.strip())
    assert (answer.code, answer.err) == (4, "orchestratord: \\x1b[31m not \\x9b2Jann \n second line\n")


def test_what_python_cannot_read_is_shown_as_text_beside_the_other_tasks(ask: Ask, database_url: str) -> None:
    odd = {
        "too long": '{"a": ' + "9" * 5000 + "}",
        "infinite": '{"a": ' + "9" * 400 + ".5}",
        "too deep": '{"a": ' + "[" * 5000 + "]" * 5000 + "}",
        "deep for print": '{"a": ' + "[" * 985 + "]" * 985 + "}",
    }
    for type_name, payload in odd.items():
        sql(database_url, f"INSERT INTO tasks (type, payload, result) VALUES ('{type_name}', '{payload}', '{payload}')")
    ask("enqueue", "plain", json.dumps({"a": "x" * 400}))
    shown = {task["type"]: task["payload"] for task in ask("tasks", "list", "--json").json}
    for deep in ("too deep", "deep for print"):  # one Python reads more of them than another
        del odd[deep], shown[deep]
    assert shown == {**odd, "plain": {"a": "x" * 400}}
    for task in ask("tasks", "list", "--json").json:
        assert ask("tasks", "show", task["id"], "--json").code == 0


def test_a_task_that_ended_can_be_retried_and_one_that_did_not_cannot(ask: Ask, database_url: str) -> None:
    first, second = ask("enqueue", "a").out.strip(), ask("enqueue", "a").out.strip()
    sql(database_url, f"UPDATE tasks SET status = 'dead_letter', attempts = 4 WHERE id = '{first}'")
    answer = ask("tasks", "retry", first, second)
    assert answer.out == "retried 1 task\n"
    assert answer.code == 2
    assert answer.err == (
        f"orchestratord: '{second}' was not retried: it is pending; only tasks that have ended are retried\n"
    )
    task = ask("tasks", "show", first, "--json").json
    assert (task["status"], task["attempts"]) == ("pending", 0)


def test_a_task_that_is_named_twice_is_one(ask: Ask) -> None:
    task_id = ask("enqueue", "a").out.strip()
    cancelled = ask("tasks", "cancel", task_id, task_id.upper())
    assert (cancelled.code, cancelled.out, cancelled.err) == (0, "cancelled 1 task\n", "")
    retried = ask("tasks", "retry", task_id, "{" + task_id + "}", task_id)
    assert (retried.code, retried.out, retried.err) == (0, "retried 1 task\n", "")


@pytest.mark.parametrize("status", ["dead_letter", "failed"])
def test_all_that_ended_alike_are_retried_by_type_in_batches(ask: Ask, database_url: str, status: str) -> None:
    sql(
        database_url,
        "INSERT INTO tasks (type, payload, status, attempts) SELECT CASE WHEN n <= 2500 THEN 'a' ELSE 'b' END, '{}', "
        f"'{status}', 4 FROM generate_series(1, 2600) AS n",
    )
    assert ask("tasks", "retry", "--status", status, "--type", "a").out == "retried 2500 tasks\n"
    assert ask("stats", "--json").json["b"][status] == 100
    assert ask("tasks", "retry", "--status", status, "--json").json == {"retried": 100}


def test_a_pending_task_can_be_cancelled_once(ask: Ask) -> None:
    task_id = ask("enqueue", "a").out.strip()
    assert ask("tasks", "cancel", task_id).out == "cancelled 1 task\n"
    again = ask("tasks", "cancel", task_id, "nope", "a\udcff", "--json")
    assert (again.code, again.json) == (2, {"cancelled": 0})
    assert again.err.splitlines() == [
        f"orchestratord: '{task_id}' was not cancelled: it is failed; only pending tasks are cancelled",
        "orchestratord: 'nope' was not cancelled: there is no such task",
        r"orchestratord: 'a\udcff' was not cancelled: there is no such task",
    ]
    task = ask("tasks", "show", task_id, "--json").json
    assert (task["status"], task["last_error"]) == ("failed", "cancelled")


def test_stats_count_every_status_and_have_a_sum(ask: Ask) -> None:
    assert ask("stats").out == "no tasks\n"
    ask("enqueue", "a")
    ask("enqueue", "b")
    lines = [line.split() for line in ask("stats").out.splitlines()]
    assert lines[0][:2] == ["TYPE", "PENDING"]
    assert lines[1:] == [
        [name, count, "0", "0", "0", "0", "0"] for name, count in (("a", "1"), ("b", "1"), ("all", "2"))
    ]


def test_workers_are_listed_with_who_leads_and_who_is_dead(ask: Ask, database_url: str) -> None:
    assert ask("workers").out == "no workers are registered\n"
    sql(
        database_url,
        "INSERT INTO workers (id, hostname, pool_size, version, is_leader, leader_until, declared_dead_at) VALUES "
        "('one', 'h1', 10, '1.0.0', true, now() + interval '1 hour', NULL), "
        "('two', 'h2', 4, '1.0.0', false, NULL, now())",
    )
    states = {worker["id"]: (worker["is_leader"], worker["is_dead"]) for worker in ask("workers", "--json").json}
    assert states == {"one": (True, False), "two": (False, True)}
    lines = ask("workers").out.splitlines()
    assert lines[0].split()[0] == "ID"
    assert {line.split()[0]: line.split()[-1] for line in lines[1:]} == {"one": "leader", "two": "dead"}


def test_migrate_makes_the_tables_once_and_may_be_repeated(orchestratord: Command, empty_database_url: str) -> None:
    first = orchestratord("migrate", DATABASE_URL=empty_database_url)
    assert (first.returncode, first.stdout) == (0, f"the schema is now at version {SCHEMA_VERSION}\n")
    second = orchestratord("migrate", "--database-url", empty_database_url, DATABASE_URL="postgres://nowhere.invalid/x")
    assert (second.returncode, second.stdout) == (0, f"the schema was already at version {SCHEMA_VERSION}\n")


def test_a_newer_schema_ends_with_6(ask: Ask, database_url: str) -> None:
    sql(database_url, "UPDATE orchestrator_schema SET version = 999")
    answer = ask("migrate")
    assert answer.code == 6
    assert "version 999" in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("command", [("tasks", "list"), ("stats",), ("workers",), ("enqueue", "a")])
def test_without_tables_a_command_names_migrate_and_ends_with_6(
    orchestratord_here: Command, empty_database_url: str, command: tuple[str, ...]
) -> None:
    done = orchestratord_here(*command, DATABASE_URL=empty_database_url)
    assert done.returncode == 6
    assert "run `orchestratord migrate`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_database_that_is_not_there_ends_with_4_in_one_line_without_the_password(orchestratord: Command) -> None:
    url = "postgres://ann:sesame@127.0.0.1:1/x"
    done = orchestratord("stats", DATABASE_URL=url)
    assert done.returncode == 4
    assert done.stderr.startswith("orchestratord: the database is not available: 127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1
    waited = orchestratord("migrate", "--database-wait", "2s", DATABASE_URL=url)
    assert waited.returncode == 4
    assert "waiting for the database" in waited.stderr
    assert "sesame" not in done.stderr + waited.stderr


@pytest.mark.parametrize(
    "url",
    ["postgres://u:s3c@r3t@127.0.0.1:1/db", "postgres://u:s3c/r3t@127.0.0.1:1/db", "postgres://u:p@s3c/w:r3t@h/db"],
)
@pytest.mark.parametrize(
    "command", ["start", "check", "migrate", "stats", "workers", "tasks list", "tasks retry a", "enqueue ok"]
)
def test_a_password_that_is_not_escaped_is_explained_and_no_part_of_it_is_shown(
    orchestratord_here: Command, command: str, url: str
) -> None:
    done = orchestratord_here(*command.split(), DATABASE_URL=url, DATABASE_WAIT="0s")
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert said.count("\n") == 1
    assert "write %40 for @, %2F for /" in said
    assert "s3c" not in said
    assert "r3t" not in said


def test_what_libpq_says_is_shown_without_the_password(orchestratord_here: Command) -> None:
    """Here it quotes a parameter that repeats it."""
    url = "postgres://u:s3cr3t@127.0.0.1:1/db?ssl_min_protocol_version=s3cr3t"
    for command in ("stats", "check", "migrate"):
        done = orchestratord_here(command, DATABASE_URL=url, DATABASE_WAIT="2s")
        said = done.stdout + done.stderr
        assert done.returncode == 4
        assert "ssl_min_protocol_version" in said
        assert "s3cr3t" not in said


def test_without_a_database_url_a_command_asks_for_it_and_minds_no_other_variable(orchestratord_here: Command) -> None:
    done = orchestratord_here("stats", WORKER_POOL_SIZE="many")
    assert done.returncode == 2
    assert done.stderr == "orchestratord: DATABASE_URL is not set: write postgres://user:password@host:port/database\n"


def test_the_version_is_the_packages(orchestratord: Command) -> None:
    assert orchestratord("--version").stdout == f"orchestratord {__version__}\n"


@pytest.mark.parametrize("command", ["start", "dev", "migrate", "check", "enqueue", "tasks", "workers", "stats"])
def test_every_command_explains_itself(ask: Ask, command: str) -> None:
    answer = ask(command, "--help")
    assert answer.code == 0
    assert answer.out.startswith("Usage: orchestratord ")


def test_a_shell_can_complete_commands_options_and_values(orchestratord_here: Command) -> None:
    def completed(line: str) -> set[str]:
        number = str(line.count(" "))
        told = orchestratord_here(_ORCHESTRATORD_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=number).stdout
        return {each.partition(",")[2] for each in told.split()}

    assert "_orchestratord_completion" in orchestratord_here(_ORCHESTRATORD_COMPLETE="bash_source").stdout
    assert completed("orchestratord st") == {"start", "stats"}
    assert "--pool-size" in completed("orchestratord start --p")
    assert "dead_letter" in completed("orchestratord tasks list --status ")


def test_help_tells_what_each_setting_takes(ask: Ask) -> None:
    told = ask("start", "--help").out
    for flag in (
        "--fork-safety [refuse|warn]",
        "--task-timeout DURATION",
        "--max-result-size SIZE",
        "--pool-size INTEGER",
    ):
        assert f"  {flag} " in told
