"""What may be done periodically is looked at where it is written."""

from typing import Any

import pytest

from orchestrator import App
from orchestrator.board.birth import MESSAGE_BYTES, encode
from orchestrator.cron import MAX_LENGTH
from orchestrator.errors import HandlerError
from orchestrator.model import PeriodicTask


def report(region: str, due_at: str = "") -> None:
    pass


def with_report() -> tuple[App, Any]:
    app = App()
    return app, app.task("report")(report)


def test_a_periodic_task_has_what_enqueue_takes() -> None:
    app, handler = with_report()
    app.periodic("0 3 * * *", handler, {"region": "eu"})
    app.periodic(
        "30 3 * * MON",
        "report",
        {"region": "us"},
        name="us",
        timezone="America/New_York",
        priority=5,
        max_retries=0,
        timeout=9,
        due_as="due_at",
    )
    assert app.periodic_tasks == (
        PeriodicTask("report", "report", "0 3 * * *", "UTC", '{"region": "eu"}'),
        PeriodicTask("us", "report", "30 3 * * MON", "America/New_York", '{"region": "us"}', 5, 0, 9.0, "due_at"),
    )


@pytest.mark.parametrize(
    ("cron", "payload", "options", "reason"),
    [
        ("0 25 * * *", {"region": "eu"}, {}, "Bad hour"),
        ("0 3 * * *", {"region": "eu"}, {"timezone": "Mars/Olympus"}, "no time zone"),
        ("0 3 * * *", {}, {}, "missing region"),
        ("0 3 * * *", {"region": "eu", "regoin": "eu"}, {}, "unknown"),
        ("0 3 * * *", {"region": "eu"}, {"due_as": "when"}, "unknown"),
        ("0 3 * * *", {"region": "eu"}, {"due_as": "region"}, "stands in its payload already"),
        ("0 3 * * *", {"region": "eu"}, {"due_as": ""}, "due_as"),
        ("0 3 * * *", {"region": "eu"}, {"due_as": "a\0"}, "NUL"),
        ("0 3 * * *", {"region": "eu"}, {"due_as": "x" * 201}, "due_as"),
        ("0 3 * * *", {"region": {1}}, {}, "set"),
        ("0 3 * * *", {"region": "x" * 9000}, {}, "8192"),
        ("0 3 * * *", {"region": "eu"}, {"name": "a\nb"}, "printable"),
        ("0 3 * * *", {"region": "eu"}, {"name": "x" * 201}, "200"),
        ("0 3 * * *", {"region": "eu"}, {"priority": "high"}, "priority"),
        ("0 3 * * *", {"region": "eu"}, {"max_retries": -1}, "max_retries"),
        ("0 3 * * *", {"region": "eu"}, {"timeout": 0}, "timeout"),
    ],
)
def test_a_mistake_is_told_where_it_stands(
    cron: str, payload: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    app, handler = with_report()
    with pytest.raises(HandlerError, match=reason):
        app.periodic(cron, handler, payload, **options)
    assert app.periodic_tasks == ()


def test_the_longest_fits_into_the_message_that_tells_it() -> None:
    """Each of these characters takes six bytes there."""
    app, longest = App(), "\x7f" * 200
    cron = "0 3 * * *"
    spaces = "\x1c" * (MAX_LENGTH - len(cron))
    app.periodic(cron + spaces, "é" * 100, {"": "\x7f" * 8184}, name="ü" * 100, due_as=longest)
    (made,) = app.periodic_tasks
    assert len(made.payload) == 8 << 10
    assert len(encode("periodic", made)) < MESSAGE_BYTES


def test_two_of_one_name_are_refused() -> None:
    app, handler = with_report()
    app.periodic("0 3 * * *", handler, {"region": "eu"})
    with pytest.raises(HandlerError, match="give each a name="):
        app.periodic("0 4 * * *", handler, {"region": "us"})


def test_an_included_app_brings_its_own_unless_one_is_there() -> None:
    app, other = App(), App()
    app.periodic("0 3 * * *", "a")
    other.task("b")(lambda: None)
    other.periodic("0 4 * * *", "b")
    app.include(other)
    assert [each.name for each in app.periodic_tasks] == ["a", "b"]
    twice = App()
    twice.task("c")(lambda: None)
    twice.periodic("0 5 * * *", "a")
    with pytest.raises(HandlerError, match="two periodic tasks 'a'"):
        app.include(twice)
    assert "c" not in app.handlers
