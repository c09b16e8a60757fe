"""Enqueueing for real: what is stored, what is refused, and how handlers do it."""

import datetime
import enum
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest

from orchestrator import App, Client, NewTask
from orchestrator.errors import ConfigurationError, OptionError, PayloadError, SchemaError, StatementRefused
from orchestrator.examples import example_tasks
from orchestrator.new_tasks import ToEnqueue
from tests.fixtures.clients import Look

UTC = datetime.UTC


def offset(**amount: int) -> datetime.timezone:
    return datetime.timezone(datetime.timedelta(**amount))


# What is stored


def test_a_task_is_stored_with_what_was_given(client: Client, look: Look) -> None:
    task_id = client.enqueue(
        "email:send", {"to": "änn€", "n": [1, None]}, priority=7, idempotency_key="k", max_retries=0, timeout=2.5
    )
    assert look(
        "SELECT id::text, type, payload, status::text, priority, idempotency_key, max_retries, timeout_seconds,"
        " next_retry_at, attempts FROM tasks"
    ) == [(task_id, "email:send", {"to": "änn€", "n": [1, None]}, "pending", 7, "k", 0, 2.5, None, 0)]


def test_what_is_not_given_is_left_to_the_handler(client: Client, look: Look) -> None:
    client.enqueue("a")
    assert look(
        "SELECT payload, priority, idempotency_key, max_retries, timeout_seconds, next_retry_at FROM tasks"
    ) == [({}, 0, None, None, None, None)]


def test_a_delay_and_a_moment_are_waited_for(client: Client, look: Look) -> None:
    soon = datetime.datetime.now(UTC) + datetime.timedelta(hours=2)
    client.enqueue("delayed", delay=3600.0)
    client.enqueue("at", run_at=soon)
    client.enqueue("past", run_at=soon - datetime.timedelta(days=1))
    client.enqueue("at once", delay=0)
    client.enqueue_many([{"type": "many", "delay": 3600.0}, {"type": "many at", "run_at": soon}])
    waits: dict[str, Any] = dict(look("SELECT type, next_retry_at - clock_timestamp() FROM tasks"))
    assert waits["past"] is waits["at once"] is None
    for name, expected in (("delayed", 3600), ("many", 3600), ("at", 7200), ("many at", 7200)):
        assert expected - 60 < waits[name].total_seconds() <= expected


@pytest.mark.parametrize(
    "amount", [{"seconds": 3, "microseconds": 5}, {"hours": 23, "minutes": 59}, {"hours": -23, "seconds": -59}]
)
def test_a_moment_may_have_any_offset_that_python_knows(client: Client, look: Look, amount: dict[str, int]) -> None:
    moment = datetime.datetime(2100, 1, 1, tzinfo=offset(**amount))
    client.enqueue("one", run_at=moment)
    client.enqueue_many([{"type": "many", "run_at": moment}])
    assert look("SELECT next_retry_at FROM tasks") == [(moment,), (moment,)]


def test_the_first_and_the_last_moment_are_taken(client: Client, look: Look) -> None:
    last = datetime.datetime.max.replace(tzinfo=UTC)
    client.enqueue("a", run_at=last)
    client.enqueue("a", run_at=datetime.datetime.min.replace(tzinfo=UTC))
    assert look("SELECT next_retry_at FROM tasks ORDER BY 1") == [(last,), (None,)]


def test_a_key_that_is_there_gives_its_task_and_changes_nothing(client: Client, look: Look) -> None:
    first = client.enqueue("a", {"n": 1}, idempotency_key="k")
    assert client.enqueue("a", {"n": 2}, priority=5, idempotency_key="k") == first
    assert client.enqueue_many([{"type": "a", "payload": {"n": 3}, "idempotency_key": "k"}]) == [first]
    assert client.enqueue("b", idempotency_key="k") != first
    assert look("SELECT payload, priority FROM tasks WHERE type = 'a'") == [({"n": 1}, 0)]


def refuse_commits(look: Look, count: int) -> None:
    """So many transactions that add tasks fail in their COMMIT, as those of SERIALIZABLE sessions may."""
    look("CREATE SEQUENCE commits")
    look(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('commits') <= {count} THEN "
        "RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure'; END IF; "
        "RETURN NULL; END $$"
    )
    look(
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON tasks DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )


def test_a_commit_that_is_refused_is_never_taken_for_one_that_succeeded(client: Client, look: Look) -> None:
    refuse_commits(look, 1000)
    with pytest.raises(StatementRefused, match="could not serialize"):
        client.enqueue_many([("email", {"n": 1})])
    assert look("SELECT count(*) FROM tasks") == [(0,)]


def test_a_transaction_whose_commit_was_refused_is_made_again(client: Client, look: Look) -> None:
    refuse_commits(look, 2)
    ids = client.enqueue_many([("email", {"n": 1})])
    assert look("SELECT id::text FROM tasks") == [(ids[0],)]


def test_many_tasks_in_all_spellings_come_back_in_order(client: Client, look: Look) -> None:
    ids = client.enqueue_many(
        [
            ("pair", {"n": 0}),
            {"type": "dict", "payload": {"n": 1}, "priority": 3},
            NewTask("new", '{"n": 2}', max_retries=9),
            {"type": "key", "payload": {"n": 3}, "idempotency_key": "same"},
            {"type": "key", "payload": {"n": 4}, "idempotency_key": "same"},
        ]
    )
    assert ids[3] == ids[4]
    stored = {task_id: (type_, n) for task_id, type_, n in look("SELECT id::text, type, payload->'n' FROM tasks")}
    assert [stored[task_id] for task_id in ids] == [("pair", 0), ("dict", 1), ("new", 2), ("key", 3), ("key", 3)]


def test_thousands_are_stored_in_order_and_none_is_no_work(client: Client, look: Look) -> None:
    ids = client.enqueue_many(("bulk", {"n": n}) for n in range(12_000))
    assert [task_id for (task_id,) in look("SELECT id::text FROM tasks ORDER BY (payload->'n')::int")] == ids
    assert client.enqueue_many([]) == []


def test_a_bad_one_among_thousands_is_named_and_undoes_all_of_them(client: Client, look: Look) -> None:
    """Those before it were on their way to the server when it was looked at."""
    tasks: list[ToEnqueue] = [("bulk", {"n": n}) for n in range(12_000)]
    tasks[9_999] = ("bulk", {"n": float("nan")})
    with pytest.raises(PayloadError, match=r"task 9999: payload\.n"):
        client.enqueue_many(tasks)
    assert look("SELECT count(*) FROM tasks") == [(0,)]
    assert len(client.enqueue_many(tasks[:100])) == 100


def test_what_a_payload_raises_when_it_is_read_reaches_the_caller_and_the_client_goes_on(
    client: Client, look: Look
) -> None:
    class Unreadable(Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            raise ValueError("no items today")

        def __iter__(self) -> Iterator[str]:
            raise ValueError("no items today")

        def __len__(self) -> int:
            return 1

    tasks: list[ToEnqueue] = [("bulk", {"n": n}) for n in range(5_000)]
    tasks[4_500] = ("bulk", Unreadable())
    with pytest.raises(ValueError, match="no items today"):
        client.enqueue_many(tasks)
    assert look("SELECT count(*) FROM tasks") == [(0,)]
    assert client.enqueue("bulk", {"n": 1})


def test_numbers_may_be_of_a_kind_of_their_own_in_bulk_too(client: Client, look: Look) -> None:
    class Urgency(int, enum.Enum):
        HIGH = 7

    client.enqueue_many([{"type": "t", "priority": Urgency.HIGH, "max_retries": Urgency.HIGH}])
    assert look("SELECT priority, max_retries FROM tasks") == [(7, 7)]


def test_the_built_in_examples_can_be_enqueued(client: Client, look: Look) -> None:
    assert len(client.enqueue_many(example_tasks())) == look("SELECT count(*) FROM tasks")[0][0] > 0


# What is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"type": ""}, "task type"),
        ({"type": "x" * 201}, "longer than 200 bytes"),
        ({"type": 7}, "is a str"),
        ({"priority": 2**31}, "priority="),
        ({"priority": 1.5}, "priority="),
        ({"delay": -1}, "delay="),
        ({"delay": float("nan")}, "delay="),
        ({"delay": "30s"}, "delay="),
        ({"run_at": datetime.datetime(2030, 1, 1)}, "aware datetime"),  # noqa: DTZ001 that is the case
        ({"run_at": "tomorrow"}, "aware datetime"),
        ({"run_at": datetime.datetime.max.replace(tzinfo=offset(hours=-23, minutes=-59))}, "years 1 to 9999 of UTC"),
        ({"run_at": datetime.datetime.min.replace(tzinfo=offset(hours=1))}, "years 1 to 9999 of UTC"),
        ({"delay": 1, "run_at": datetime.datetime(2030, 1, 1, tzinfo=UTC)}, "not both"),
        ({"idempotency_key": ""}, "idempotency_key="),
        ({"idempotency_key": "a\x00"}, "NUL"),
        ({"idempotency_key": "\ud800"}, "surrogate"),
        ({"idempotency_key": "x" * 1001}, "1001 bytes"),
        ({"max_retries": -1}, "max_retries="),
        ({"timeout": 0}, "timeout="),
    ],
)
def test_an_option_out_of_range_is_refused_and_nothing_is_stored(
    client: Client, look: Look, options: dict[str, Any], says: str
) -> None:
    arguments = {"type": "a", **options}
    with pytest.raises(OptionError, match=says):
        client.enqueue(**arguments)
    with pytest.raises(OptionError, match=f"task 1: .*{says}"):
        client.enqueue_many([("fine", {}), arguments])
    assert look("SELECT * FROM tasks") == []


@pytest.mark.parametrize(
    "task",
    [
        ("a",),
        ("a", {}, 3),
        "a",
        None,
        {"payload": {}},
        {"type": "a", "retries": 3},
    ],
)
def test_what_is_no_task_is_refused_by_its_position(client: Client, task: Any) -> None:
    with pytest.raises(OptionError, match="task 0: write"):
        client.enqueue_many([task])


@pytest.mark.parametrize("payload", ["[1]", "{", '{"a": NaN}', '{"a": "\\u0000"}'])
def test_a_new_task_is_checked_too(client: Client, look: Look, payload: str) -> None:
    with pytest.raises(PayloadError, match="task 1: "):
        client.enqueue_many([NewTask("a", "{}"), NewTask("a", payload)])
    assert look("SELECT * FROM tasks") == []


@pytest.mark.parametrize("payload", [{"n": 1}, None, b"{}"])
def test_a_new_task_has_its_payload_as_text(client: Client, payload: Any) -> None:
    with pytest.raises(PayloadError, match=r"task 0: .* JSON text"):
        client.enqueue_many([NewTask("a", payload)])


def test_without_an_address_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not set"):
        Client().enqueue("a")


@pytest.mark.parametrize(
    "url", ["postgres://u:s3c@r3t@127.0.0.1:1/db", "postgres://u:s3c/r3t", "postgres://u:s3c@h:r3t/x"]
)
def test_an_address_that_cannot_be_told_is_a_setting_to_correct(url: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        Client(url).enqueue_many([("a", {})])
    assert "DATABASE_URL" in str(failure.value)
    assert not any(part in str(failure.value) for part in ("s3c", "r3t"))


def test_a_database_without_tables_says_what_to_do(empty_database_url: str) -> None:
    with Client(empty_database_url) as client, pytest.raises(SchemaError, match="orchestratord migrate"):
        client.enqueue("a")


# Handlers


def test_a_handler_enqueues_to_the_database_of_the_environment(
    database_url: str, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App()

    @app.task("email:send")
    def send_email(to: str, subject: str = "", **more: str) -> None: ...

    monkeypatch.setenv("DATABASE_URL", database_url)
    ids = [
        send_email.enqueue(to="ann"),
        send_email.enqueue("ann", "Hi", cc="bob"),
        send_email.options(priority=10, delay=60.0, idempotency_key="welcome-42").enqueue(to="ann", subject="Hi"),
    ]
    app.client.close()
    rows = look("SELECT id::text, payload, priority, idempotency_key, next_retry_at IS NULL FROM tasks ORDER BY id")
    assert rows == [
        (ids[0], {"to": "ann"}, 0, None, True),
        (ids[1], {"to": "ann", "subject": "Hi", "cc": "bob"}, 0, None, True),
        (ids[2], {"to": "ann", "subject": "Hi"}, 10, "welcome-42", False),
    ]


def test_a_handler_enqueues_in_the_callers_transaction(database_url: str, look: Look) -> None:
    app = App()

    @app.task("a")
    def handler(n: int) -> None: ...

    with psycopg.connect(database_url) as connection:
        handler.options(connection=connection).enqueue(n=1)
        connection.rollback()
        handler.options(connection=connection).enqueue(n=2)
    assert look("SELECT payload FROM tasks") == [({"n": 2},)]
