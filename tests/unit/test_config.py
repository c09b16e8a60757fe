"""Settings: what is read, what is refused, and that one table makes everything."""

from typing import Any

import pytest

from orchestrator.config import FIELDS, Settings, misspelt, settings_table, without_password
from orchestrator.errors import ConfigurationError

URL = "postgres://ann:secret@db.example.org:5432/shop?sslmode=disable"


def load(flags: dict[str, object] | None = None, **environ: str) -> Settings:
    return Settings.load({"DATABASE_URL": URL, **environ}, flags or {})


def problems(flags: dict[str, object] | None = None, **environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(flags, **environ)
    return [str(problem) for problem in caught.value.problems]


def test_with_only_a_database_url_everything_has_the_guides_default() -> None:
    settings = load()
    assert settings.database_url == URL
    assert (settings.pool_size, settings.claim_interval, settings.shutdown_timeout) == (10, 1.0, 30.0)
    assert settings.distributed is False
    assert (settings.heartbeat_interval, settings.worker_timeout, settings.leader_term) == (10.0, 30.0, 30.0)
    assert (settings.cleanup_interval, settings.metrics_port, settings.metrics_host) == (60.0, 9090, "0.0.0.0")
    assert (settings.debug, settings.enqueue_examples, settings.app) == (False, False, None)
    assert (settings.task_timeout, settings.task_kill_grace, settings.database_wait) == (None, 5.0, 30.0)
    assert (settings.max_result_size, settings.log_format, settings.fork_safety) == (1 << 20, "text", "refuse")
    assert settings == Settings(database_url=URL)


def test_the_variables_are_those_of_the_guide_and_the_flags_are_the_fields_names() -> None:
    flags = {field.variable: field.flag for field in FIELDS}
    assert flags["WORKER_POOL_SIZE"] == "--pool-size"
    assert flags["DISTRIBUTED_MODE"] == "--distributed"
    assert flags["ORCHESTRATOR_APP"] == "--app"
    assert len(flags) == len(FIELDS) == 26


def test_a_flag_wins_over_its_variable_and_an_empty_text_is_not_given() -> None:
    assert load({"pool_size": "20"}, WORKER_POOL_SIZE="5").pool_size == 20
    assert load({"pool_size": None}, WORKER_POOL_SIZE="5").pool_size == 5
    assert load(WORKER_POOL_SIZE=" ").pool_size == 10
    assert load({"distributed": False}, DISTRIBUTED_MODE="yes").distributed is False


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1s", 1.0), ("1m", 60.0), ("1h", 3600.0), ("1m30s", 90.0), ("1.5s", 1.5), ("10ms", 0.01)],
)
def test_durations_are_read_as_seconds(text: str, seconds: float) -> None:
    assert load(CLAIM_INTERVAL=text).claim_interval == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["1", "1.5", "9ms", "2h", "-1s", "s", "1 s", "1s 5", "1x", "one", "1e3s", "٣s", "0"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    (problem,) = problems(CLAIM_INTERVAL=text)
    assert f"CLAIM_INTERVAL is {text!r}: write a duration from 10ms to 1h" in problem


def test_a_bare_number_is_told_its_unit_except_for_a_zero_that_is_accepted() -> None:
    assert "write 30s if you mean seconds" in problems(SHUTDOWN_TIMEOUT="30")[0]
    assert load(SHUTDOWN_TIMEOUT="0").shutdown_timeout == 0.0
    assert problems(TASK_TIMEOUT="0")[0].endswith(", or none")
    assert load(SHUTDOWN_TIMEOUT="1d").shutdown_timeout == 86400.0


@pytest.mark.parametrize(("text", "value"), [("true", True), ("YES", True), ("1", True), ("on", True), ("Off", False)])
def test_booleans_have_four_spellings_each(text: str, value: bool) -> None:
    assert load(DISTRIBUTED_MODE=text).distributed is value


@pytest.mark.parametrize(("text", "count"), [("512MB", 512 << 20), ("2GB", 2 << 30), ("64kb", 65536), ("0", 0)])
def test_sizes_are_read_as_bytes(text: str, count: int) -> None:
    assert load(MAX_CHILD_MEMORY=text).max_child_memory == count


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("WORKER_POOL_SIZE", "0"),
        ("WORKER_POOL_SIZE", "1001"),
        ("WORKER_POOL_SIZE", "ten"),
        ("WORKER_POOL_SIZE", "1.0"),
        ("METRICS_PORT", "65536"),
        ("METRICS_PORT", "-1"),
        ("DISTRIBUTED_MODE", "maybe"),
        ("LOG_FORMAT", "xml"),
        ("FORK_SAFETY", "ignore"),
        ("MAX_CHILD_MEMORY", "512"),
        ("MAX_RESULT_SIZE", "1TB"),
        ("ORCHESTRATOR_APP", "my app"),
        ("TASK_TIMEOUT", "0"),
        ("LEADER_TERM", "99ms"),
        ("DATABASE_URL", "mysql://localhost/shop"),
    ],
)
def test_what_is_not_accepted_names_variable_value_and_what_is(variable: str, text: str) -> None:
    (problem,) = problems(**{variable: text})
    assert problem.startswith(f"{variable} is {text!r}: write ")


def test_all_problems_are_listed_at_once_and_a_flag_is_named() -> None:
    found = problems({"pool_size": "none"}, DEBUG="2", WORKER_TIMEOUT="15s", DATABASE_URL="")
    assert [text.split(":")[0] for text in found] == [
        "DATABASE_URL is not set",
        "WORKER_POOL_SIZE (--pool-size) is 'none'",
        "DEBUG is '2'",
        "WORKER_TIMEOUT is '15s'",
    ]
    assert found[-1].endswith("at least twice HEARTBEAT_INTERVAL, which is 10s")


def test_an_empty_flag_is_told_and_an_empty_variable_is_none() -> None:
    """`--app "$APP"` without an APP would serve the examples, and end the tasks of all other types."""
    assert problems({"app": "", "pool_size": " "}, ORCHESTRATOR_APP="shop:app", WORKER_POOL_SIZE="5") == [
        "ORCHESTRATOR_APP (--app) is '': write module:attribute, such as shop.tasks:app",
        "WORKER_POOL_SIZE (--pool-size) is '': write a whole number from 1 to 1000",
    ]
    assert load(ORCHESTRATOR_APP="", WORKER_POOL_SIZE=" ").pool_size == 10


def test_no_limit_can_be_said_in_a_word() -> None:
    assert load({"task_timeout": "none"}, TASK_TIMEOUT="5s").task_timeout is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "postgres://ann:***@db.example.org:5432/shop?sslmode=disable"),
        ("postgres://ann@db/shop", "postgres://ann@db/shop"),
        ("postgres://db:5432/shop?options=-csearch_path%3Da", "postgres://db:5432/shop?options=-csearch_path%3Da"),
        ("postgres://u:p@ss@db/shop", "postgres://u:***@db/shop"),
        ("postgres://u:pa/s?s@db/shop", "postgres://u:***@db/shop"),
        ("postgres://u:s@a:1,b:2/shop?port=1", "postgres://u:***@a:1,b:2/shop?port=1"),
        ("postgres://u@db/x?password=secret&sslmode=require", "postgres://u@db/x?password=***&sslmode=require"),
        ("postgres://u@db/x?pass%77ord=s&sslpassword=s", "postgres://u@db/x?pass%77ord=***&sslpassword=***"),
        ("host=db password=secret dbname=x", "host=db password=*** dbname=x"),
        ("host=db password = 'se cr\\'et' dbname=x", "host=db password = *** dbname=x"),
        ("password='unfinished secret", "password=***"),
        ("password=a\\ b&c host=db", "password=*** host=db"),
        ("no url at all", "no url at all"),
        ("host=db pasword=secret", "host=db pasword=***"),
        ("postgres://u@db/x?password=sec&ret&sslmode=disable", "postgres://u@db/x?password=***&***&sslmode=disable"),
        ("postgres:/db/x?user=ann&password=sec@ret", "postgres:***"),
        ("postgres://u@db/x?pasword=secret", "postgres://u@db/x?pasword=***"),
        ("postgres//user:secret@db/x", "postgres//user:***@db/x"),
        ("postgresql:/user:secret@db/x", "postgresql:***@db/x"),
        ("user:secret@db/x", "user:***@db/x"),
        ("postgres//user:sec@ret@db/x", "postgres//user:***@db/x"),
        ("postgres:/db/x?user=ann&password=secret", "postgres:/db/x?user=ann&password=***"),
        ("host=db password=sec ret user=ann", "host=db password=***"),
        ("host=db password='sec're't user=ann", "host=db password=***"),
        ("postgres://u:s3c@r3t@127.0.0.1:1/db", "postgres://u:***@127.0.0.1:1/db"),
        ("postgres://u:p@ss/w:ord@h/db", "postgres://u:***@h/db"),
        ("postgres://u:secret/db", "postgres://u:***"),
        ("postgres://u:se@cr:et/db", "postgres://u:***"),
        ("postgres://db:5432?password=se@cret", "postgres://db:***"),
        ("postgres://db:5432/x?password=se@cret", "postgres://db:***"),
        ("postgres://u:se@cr?et@h/x", "postgres://u:***"),
        ("postgres://u:se@cr?e=t@h/x", "postgres://u:***"),
        ("postgres://u@h/x?application_name=me@here", "postgres://u@h/x?application_name=me@here"),
        ("postgres://[::1]:5432,[fe80::1]/x", "postgres://[::1]:5432,[fe80::1]/x"),
        ("postgresql+asyncpg://u:p@ss/w:ord@h/db", "postgresql+asyncpg://u:***@h/db"),
        ("postgresql+psycopg2://u:se@cr?e=t@h/x", "postgresql+psycopg2://u:***"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_neither_the_settings_nor_an_error_show_the_password() -> None:
    assert "secret" not in repr(load())
    assert "secret" not in problems(DATABASE_URL="mysql://ann:secret@db/shop")[0]


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("SHUTDOWN_TIMOUT", "SHUTDOWN_TIMEOUT"),
        ("WORKER_POOLSIZE", "WORKER_POOL_SIZE"),
        ("METRIC_PORT", "METRICS_PORT"),
        ("LOG_FROMAT", "LOG_FORMAT"),
        ("distributed_mode", "DISTRIBUTED_MODE"),
        ("DATABASE_URI", "DATABASE_URL"),
    ],
)
def test_a_variable_that_is_nearly_a_setting_is_noticed_unless_that_one_is_given(variable: str, meant: str) -> None:
    assert misspelt({variable: "1", "PATH": "/bin"}) == [(variable, meant)]
    assert misspelt({variable: "1", meant: "1"}) == []


def test_what_other_programs_read_is_not_taken_for_a_misspelt_setting() -> None:
    others = (
        "DATABASE_HOST DATABASE_USER METRICS_PATH LOG_LEVEL LOG_FORMATTER DJANGO_DEBUG NODE_DEBUG POOL_SIZE TASK_MARK"
    )
    assert (
        misspelt(dict.fromkeys([*others.split(), "ORCHESTRATOR_PORT", "GUNICORN_TIMEOUT", "RETENTION_DAYS"], "1")) == []
    )


def test_the_readmes_table_has_every_setting() -> None:
    table = settings_table()
    for field in FIELDS:
        assert f"| `{field.variable}` | `{field.flag}`" in table


def test_settings_cannot_be_changed() -> None:
    settings: Any = load()
    with pytest.raises(AttributeError):
        settings.pool_size = 3
