"""What goes into a task and comes out of it: refused at enqueue, judged when it runs, replaced when it ends."""

import json
import math
from typing import Any

import psycopg2
import pytest

from orchestrator import Client
from orchestrator.errors import PayloadError
from tests.fixtures.command import Command
from tests.fixtures.daemon import Queue, Start
from tests.fixtures.working import wait_counted


def nested(levels: int) -> str:
    """JSON text of an object that is so many levels deep."""
    return '{"x": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


MEGABYTES_50 = json.dumps({"x": "y" * (50 << 20)})

REFUSED_BY_CLIENT = {
    "array": ([1], "a list; a handler takes a dict"),
    "50 MB": ({"x": "y" * (50 << 20)}, "payload.x: larger than 1048576 bytes"),
    "deep": (json.loads(nested(101)), "nested more than 100 levels deep"),
    "NaN": ({"x": [1, math.nan]}, "payload.x[1]: nan is no JSON number"),
    "NUL": ({"x": {"y": "a\0b"}}, "payload.x.y: a NUL character"),
    "surrogate": ({"x": "\udcff"}, "payload.x: a lone surrogate"),
    "no JSON": ({"x": {1, 2}}, "payload.x: set is no JSON value"),
}


def test_the_client_refuses_what_no_handler_could_take(queue: Queue) -> None:
    with Client(queue.url) as client:
        for payload, reason in REFUSED_BY_CLIENT.values():
            with pytest.raises(PayloadError) as refused:
                client.enqueue("t", payload)  # type: ignore[arg-type]
            assert reason in str(refused.value)
            with pytest.raises(PayloadError, match="task 1: "):
                client.enqueue_many([("t", {}), ("t", payload)])  # type: ignore[list-item]
    assert queue.one("SELECT count(*) FROM tasks") == 0


REFUSED_BY_COMMAND = {
    "[1]": "a list; a handler takes a dict",
    '"x"': "a str; a handler takes a dict",
    "{x": "not JSON",
    MEGABYTES_50: "payload.x: larger than 1048576 bytes",
    nested(101): "nested more than 100 levels deep",
    nested(100_000): "nested too deeply",
    '{"x": NaN}': "payload.x: nan is no JSON number",
    '{"x": "a\\u0000b"}': "payload.x: a NUL character",
    '{"x": "\\udcff"}': "payload.x: a lone surrogate",
}


def test_the_command_refuses_it_too_in_one_line(queue: Queue, orchestratord_here: Command) -> None:
    for payload, reason in REFUSED_BY_COMMAND.items():
        ended = orchestratord_here("enqueue", "t", "-", stdin=payload, DATABASE_URL=queue.url)
        assert ended.returncode == 2, payload[:50]
        assert reason in ended.stderr
        assert ended.stderr.count("\n") == 1 and len(ended.stderr) < 500
    assert queue.one("SELECT count(*) FROM tasks") == 0


REFUSED_BY_FUNCTION = {
    "[1]": "the payload of a task is a JSON object",
    "null": "the payload of a task is a JSON object",
    MEGABYTES_50: "the payload of a task has at most 1048576 bytes",
    nested(101): "the payload of a task is nested at most 100 levels deep",
    '{"x":' * 101 + "1" + "}" * 101: "the payload of a task is nested at most 100 levels deep",
    nested(100_000): "stack depth limit exceeded",
    '{"x": NaN}': "invalid input syntax for type json",
    '{"x": "a\\u0000b"}': "unsupported Unicode escape sequence",
}


def test_the_sql_function_refuses_it_too(queue: Queue) -> None:
    for payload, reason in REFUSED_BY_FUNCTION.items():
        with pytest.raises(psycopg2.Error, match=reason):
            queue.rows("SELECT enqueue_task('t', %s::jsonb)", payload)
    assert queue.one("SELECT count(*) FROM tasks") == 0
    queue.rows("SELECT enqueue_task('t', %s::jsonb)", nested(100))


TAKING = """
from orchestrator import App

app = App()

@app.task("take")
def take(**anything: object) -> int:
    return len(anything)

@app.task("greet")
def greet(name: str, loudly: bool = False) -> str:
    return f"hello {name}"

@app.task("old", max_retries=3)
def old() -> None:
    pass
"""


def test_what_raw_sql_stored_and_no_handler_can_take_fails_at_once_and_says_why(queue: Queue, daemon: Start) -> None:
    def insert(type_name: str, payload: str) -> str:
        return str(
            queue.one("INSERT INTO tasks (type, payload) VALUES (%s, %s::jsonb) RETURNING id", type_name, payload)
        )

    failing = {
        insert("take", "[1]"): "the payload is a JSON array; a handler takes an object",
        insert("take", '"text"'): "the payload is a JSON string; a handler takes an object",
        insert("take", "null"): "the payload is a JSON null; a handler takes an object",
        insert("take", "12"): "the payload is a JSON number; a handler takes an object",
        insert("take", nested(101)): "payload.x[0][0]",
        insert("take", nested(5000)): "nested more than 100 levels deep",
        insert("take", MEGABYTES_50): "payload: larger than 1048576 bytes",
        insert("take", json.dumps({"x": "y" * (1 << 20)})): "payload: larger than 1048576 bytes",
        insert("greet", '{"nmae": "Ann"}'): "missing name; unknown nmae (it takes [loudly], name)",
        insert("greet", "{}"): "missing name",
        insert("greet", '{"name": "Ann", "self": 1}'): "unknown self",
        insert("gone", "{}"): "no handler is registered for the type 'gone'",
        insert("weird \n\x1b[31m type", "{}"): "no handler is registered for the type",
    }
    fine = {
        insert("take", nested(100)): 1,
        insert("take", json.dumps({str(n): n for n in range(20_000)})): 20_000,
        insert("greet", '{"name": "Ann"}'): "hello Ann",
    }
    worker = daemon(TAKING, "--pool-size", "1", DATABASE_URL=queue.url)
    before = worker.children()

    queue.wait_empty()

    for task_id, reason in failing.items():
        ((status, attempts, error),) = queue.rows(
            "SELECT status, attempts, last_error FROM tasks WHERE id = %s", task_id
        )
        assert (status, attempts) == ("failed", 1), f"{reason}: tried once, and never again"
        assert reason in error
        assert len(error) < 1000
    for task_id, result in fine.items():
        assert queue.one("SELECT result FROM tasks WHERE id = %s", task_id) == result
    assert worker.children() == before
    assert "\x1b" not in worker.log()
    assert "it has: greet, old, take" in queue.one("SELECT last_error FROM tasks WHERE type = 'gone'")
    wait_counted(worker, 8, "tasks_completed_total", type="take", status="failed")


RETURNING = """
import math
from orchestrator import App

app = App()
VALUES = {
    "object": lambda: object(),
    "set": lambda: {1, 2},
    "keys": lambda: {1: "x"},
    "nan": lambda: [math.nan],
    "nul": lambda: "a\\0b",
    "surrogate": lambda: "\\udcff",
    "50 MB": lambda: "y" * (50 << 20),
    "itself": lambda: itself(),
    "hostile": lambda: Hostile(x=1),
    "none": lambda: None,
    "false": lambda: False,
    "60 KB": lambda: "y" * (60 << 10),
    "65 KB": lambda: "y" * (65 << 10),
    "900 KB": lambda: {"x": ["y" * (900 << 10)], "ü": "ß"},
}

class Hostile(dict):
    def items(self):
        raise SystemExit("no")

def itself() -> list:
    value: list = []
    value.append(value)
    return value

@app.task("return", max_retries=0)
def returning(what: str) -> object:
    return VALUES[what]()
"""

NOTED = {
    "object": "result: object is no JSON value",
    "set": "result: set is no JSON value",
    "keys": "result: the key 1 is no str",
    "nan": "result[0]: nan is no JSON number",
    "nul": "result: a NUL character",
    "surrogate": "result: a lone surrogate",
    "50 MB": "result: larger than 1048576 bytes",
    "itself": "nested more than 100 levels deep",
    "hostile": "it raised SystemExit when it was read",
}
STORED: dict[str, Any] = {
    "none": None,
    "false": False,
    "60 KB": "y" * (60 << 10),
    "65 KB": "y" * (65 << 10),
    "900 KB": {"x": ["y" * (900 << 10)], "ü": "ß"},
}


def test_a_result_that_cannot_be_stored_is_replaced_by_a_note_and_the_task_is_completed(
    queue: Queue, daemon: Start
) -> None:
    returned = {what: queue.enqueue("return", {"what": what}) for what in [*NOTED, *STORED] * 2}
    worker = daemon(RETURNING, "--pool-size", "1", DATABASE_URL=queue.url)

    queue.wait_empty()

    assert queue.rows("SELECT DISTINCT status::text, attempts, last_error FROM tasks") == [("completed", 1, None)]
    for what, note in NOTED.items():
        result = queue.task(returned[what])["result"]
        assert result.keys() == {"note"}
        assert "the result was not stored" in result["note"] and note in result["note"]
    for what, stored in STORED.items():
        assert queue.task(returned[what])["result"] == stored
    assert worker.log().count("result_replaced") == 2 * len(NOTED)
    assert len(worker.log()) < 100_000, "the log holds no result"
