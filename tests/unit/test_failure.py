"""Any exception becomes words that can be stored, whatever it does when it is looked at."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from orchestrator.app import App
from orchestrator.errors import Discard, SignatureMismatch
from orchestrator.failure import MAX_FRAMES, describe_exception
from orchestrator.model import MAX_ERROR_BYTES


def caught(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 any
        return error
    raise AssertionError("it did not raise")


def raising(error: BaseException) -> BaseException:
    def fail() -> NoReturn:
        raise error

    return caught(fail)


def test_the_first_line_is_type_and_message_and_the_frames_follow() -> None:
    def send_email() -> None:
        raise ValueError("no such address")

    lines = describe_exception(caught(send_email)).splitlines()
    assert lines[0] == "ValueError: no such address"
    assert lines[-2].startswith(f'  File "{__file__}", line ')
    assert lines[-2].endswith("send_email")
    assert lines[-1] == '    raise ValueError("no such address")'


def test_the_type_is_named_with_its_module_and_a_message_may_be_missing() -> None:
    assert describe_exception(Discard("enough")).splitlines()[0] == "orchestrator.errors.Discard: enough"
    assert describe_exception(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_frames_of_our_own_are_left_out() -> None:
    app = App()

    @app.task("a")
    def handler(x: int) -> None:
        raise KeyError(x)

    text = describe_exception(caught(lambda: handler(x=1)))
    assert "in test_frames_of_our_own_are_left_out.<locals>.handler" in text
    assert "handler.py" not in text
    mismatch = caught(lambda: handler.enqueue(y=1))  # type: ignore[call-arg]
    assert isinstance(mismatch, SignatureMismatch)
    assert "orchestrator/handler.py" not in describe_exception(mismatch)


def test_frames_of_the_event_loop_are_left_out() -> None:
    async def fetch() -> NoReturn:
        await asyncio.sleep(0)
        raise OSError("unreachable")

    text = describe_exception(caught(lambda: asyncio.run(fetch())))
    assert "fetch" in text
    assert "asyncio/" not in text


def test_causes_are_told_and_a_suppressed_context_is_not() -> None:
    def chained() -> None:
        try:
            raise KeyError("key")
        except KeyError as error:
            raise ValueError("value") from error

    def handling() -> None:
        try:
            raise KeyError("key")
        except KeyError:
            raise ValueError("value")  # noqa: B904 that is the case

    def suppressed() -> None:
        try:
            raise KeyError("key")
        except KeyError:
            raise ValueError("value") from None

    assert "caused by KeyError: 'key'" in describe_exception(caught(chained))
    assert "while handling KeyError: 'key'" in describe_exception(caught(handling))
    assert "KeyError" not in describe_exception(caught(suppressed))


def test_the_members_of_a_group_and_notes_are_told() -> None:
    group = ExceptionGroup("two failed", [OSError("first"), ValueError("second")])
    group.add_note("while fetching")
    text = describe_exception(group)
    assert "containing OSError: first" in text
    assert "containing ValueError: second" in text
    assert "note: while fetching" in text


def test_exceptions_in_a_circle_are_told_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert describe_exception(first).count("ValueError: first") == 1


def test_a_deep_recursion_is_told_by_its_innermost_frames() -> None:
    def recurse(n: int) -> int:
        return recurse(n + 1) + 1

    text = describe_exception(caught(lambda: recurse(0)))
    assert text.startswith("RecursionError: ")
    assert "calls left out" in text
    assert text.count("  File ") == MAX_FRAMES


def raises(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    return fail


def recurses(self: Any) -> str:
    return str(self)


def exhausts(self: Any) -> str:
    return "x" * sys.maxsize


@pytest.mark.parametrize(
    "text_of_it",
    [
        raises(RuntimeError("no")),
        raises(SystemExit(3)),
        raises(KeyboardInterrupt()),
        raises(MemoryError()),
        recurses,
        exhausts,
        lambda self: None,
        lambda self: b"bytes",
    ],
)
def test_an_exception_whose_str_misbehaves_still_has_its_type_and_place(text_of_it: Callable[[Any], Any]) -> None:
    kind = type("Rude", (Exception,), {"__str__": text_of_it, "__repr__": text_of_it})
    text = describe_exception(raising(kind()))
    assert "Rude" in text.splitlines()[0]
    assert "str() of it raised" in text.splitlines()[0]
    assert "in raising" in text


@pytest.mark.parametrize("attribute", ["__cause__", "__context__", "__traceback__", "__notes__"])
@pytest.mark.parametrize("given", [property(raises(SystemExit())), 7])
def test_an_exception_with_broken_attributes_is_still_named(attribute: str, given: object) -> None:
    kind = type("Odd", (Exception,), {attribute: given})
    assert "Odd" in describe_exception(kind("text"))


def test_an_exception_whose_very_name_raises_gets_fixed_words() -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError("no")

    class Nameless(Exception, metaclass=Meta):
        __cause__ = property(raises(ValueError()))

    assert describe_exception(Nameless()) == "an exception that could not be described"


@pytest.mark.parametrize(
    "message",
    ["x" * 10_000_000, "\x00" * 50_000, "\udc80" * 50_000, "a\n" * 100_000, "𝄞" * 50_000],
    ids=["10 MB", "NUL", "surrogate", "lines", "four bytes"],
)
def test_huge_and_unstorable_messages_fit_and_leave_room_for_the_frames(message: str) -> None:
    text = describe_exception(raising(ValueError(message)))
    encoded = text.encode()  # no lone surrogate
    assert len(encoded) <= MAX_ERROR_BYTES
    assert "\x00" not in text
    assert "in raising" in text


def test_long_chains_of_huge_messages_fit() -> None:
    error: BaseException = ValueError("x" * 100_000)
    for _ in range(5000):
        outer = ValueError("ä" * 10_000)
        outer.__cause__ = error
        error = outer
    assert len(describe_exception(error).encode()) <= MAX_ERROR_BYTES
