"""An exception in words, for `last_error` and the log. Runs in children and the forkserver, on exceptions of user code.

It must never raise: user code decides what `str()` of its exceptions does.
"""

import linecache
import os
from collections.abc import Iterator
from types import CodeType, TracebackType

from orchestrator.model import MAX_ERROR_BYTES
from orchestrator.payload import storable

MAX_MESSAGE_BYTES = 4 << 10
MAX_LINKS = 6
"""Exceptions described in one text: the one raised, its causes, the members of a group."""
MAX_FRAMES = 12
"""Lines of a traceback: the innermost calls, where the mistake usually is."""

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_EXAMPLES = _OURS + "examples.py"
_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_MACHINERY = tuple(_LIBRARY + package + os.sep for package in ("asyncio", "importlib"))  # importing one takes 20 ms


def describe_exception(error: BaseException) -> str:
    """Type, message and the user's frames, causes after it; storable, at most MAX_ERROR_BYTES. Never raises.

    The first line is the type and the message. Frames of this package, the event loop and the import system are left
    out.
    """
    try:
        return storable("\n".join(_lines(error)), MAX_ERROR_BYTES)
    except BaseException:  # noqa: BLE001 an attribute of the exception is a property that raises, or memory is out
        return _last_resort(error)


def user_frames(traceback: TracebackType | None, limit: int = MAX_FRAMES) -> list[str]:
    """The innermost `limit` frames of user code, outermost first, as lines like a traceback's."""
    found = [(code, line) for code, line in _walk(traceback) if _is_users(code.co_filename)]
    lines = [f"  … {len(found) - limit} calls left out"] if len(found) > limit else []
    for code, line in found[-limit:]:
        lines.append(f'  File "{code.co_filename}", line {line}, in {code.co_qualname}')
        source = linecache.getline(code.co_filename, line).strip()
        if source:
            lines.append(f"    {source[:200]}")
    return lines


def _lines(error: BaseException) -> Iterator[str]:
    for relation, each in _links(error):
        yield f"{relation}{_type_name(each)}: {_text(each)}".removesuffix(": ")
        yield from (f"  note: {_text(note)}" for note in list(getattr(each, "__notes__", ()))[:3])
        yield from user_frames(each.__traceback__)
        if isinstance(each, SyntaxError) and each.filename:
            yield f'  File "{_text(each.filename)}", line {each.lineno}'
            if each.text:
                yield f"    {_text(each.text).strip()[:200]}"


def _links(error: BaseException) -> list[tuple[str, BaseException]]:
    """The exception, then what it was raised from or wraps, nearest first, each once."""
    found: list[tuple[str, BaseException]] = []
    waiting = [("", error)]
    seen: set[int] = set()
    while waiting and len(found) < MAX_LINKS:
        relation, each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        found.append((relation, each))
        if each.__cause__ is not None:
            waiting.append(("caused by ", each.__cause__))
        elif each.__context__ is not None and not each.__suppress_context__:
            waiting.append(("while handling ", each.__context__))
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(("containing ", member) for member in each.exceptions[:MAX_LINKS])
    return found


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(value: object) -> str:
    """str(value), cut; if that raises, words that say so."""
    try:
        return storable(str(value), MAX_MESSAGE_BYTES)
    except BaseException as error:  # noqa: BLE001 even SystemExit: it is the value's own doing
        return f"<str() of it raised {type(error).__name__}>"


def _last_resort(error: BaseException) -> str:
    try:
        return storable(f"{type(error).__name__}: it could not be described", 1000)
    except BaseException:  # noqa: BLE001
        return "an exception that could not be described"


def _walk(traceback: TracebackType | None) -> Iterator[tuple[CodeType, int]]:
    while traceback is not None:
        yield traceback.tb_frame.f_code, traceback.tb_lineno
        traceback = traceback.tb_next


def _is_users(filename: str) -> bool:
    if filename.startswith(("<frozen importlib", *_MACHINERY)):
        return False
    return not filename.startswith(_OURS) or filename == _EXAMPLES
