"""JSON and text that PostgreSQL can store: payloads checked before enqueue, results and errors made to fit. Pure.

jsonb refuses NUL and lone surrogates inside strings, and NaN; text refuses NUL. It also writes numbers out in full
(1e300 has 301 digits there), so a size is counted as the database will print it.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from orchestrator.errors import PayloadError
from orchestrator.model import MAX_PAYLOAD_BYTES, MAX_RESULT_BYTES

MAX_DEPTH = 100
MAX_DIGITS = 4300
"""Python itself reads no longer integer from text (sys.int_info.default_max_str_digits)."""

_MAX_BITS = int(MAX_DIGITS * math.log2(10))
_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _plain_encoder() -> Callable[[object], str]:
    """As `_ENCODER.encode`, for what cannot be circular: that makes the one of these in C anew at each call (1 us)."""
    try:
        encode = json.encoder.c_make_encoder(  # type: ignore[attr-defined]  # where Python has it, as json calls it
            None, _ENCODER.default, json.encoder.encode_basestring, None, ": ", ", ", False, False, False
        )
        assert "".join(encode({"a": ["b", 1]}, 0)) == '{"a": ["b", 1]}'
    except Exception:  # noqa: BLE001 another Python's, of which nothing is promised
        return _ENCODER.encode
    return lambda value: "".join(encode(value, 0))


_encode_quickly = _plain_encoder()

_PLAIN = frozenset({int, bool, type(None)})
"""Kinds in which the encoder itself finds whatever is wrong."""


class _Unfit(Exception):
    """A value that JSON or PostgreSQL has no room for. `path` grows while the walk unwinds: innermost first."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str] = []
        super().__init__(reason)

    def __str__(self) -> str:
        return "".join(reversed(self.path)) + ": " + self.reason


class _Walk:
    """One look at every value inside another; it ends early, so even 10^9 references to one list are cheap."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._room = max_bytes  # each value prints as one byte at least

    def visit(self, value: object, depth: int) -> None:
        self._room -= 1
        if self._room < 0:
            raise _Unfit(_too_large(self._max_bytes))
        if isinstance(value, str):
            self._string(value)
        elif value is None or isinstance(value, bool):
            pass
        elif isinstance(value, int):
            if value.bit_length() > _MAX_BITS:
                raise _Unfit(f"an integer of more than {MAX_DIGITS} digits")
        elif isinstance(value, float):
            self._float(value)
        elif isinstance(value, dict | list | tuple):
            if depth >= MAX_DEPTH:
                raise _Unfit(f"nested more than {MAX_DEPTH} levels deep")
            if isinstance(value, dict):
                self._object(value, depth + 1)
            else:
                self._array(value, depth + 1)
        else:
            raise _Unfit(f"{type(value).__name__} is no JSON value (a str, number, bool, None, list or dict)")

    def _object(self, value: dict[Any, Any], depth: int) -> None:
        for key, item in value.items():
            if not isinstance(key, str):
                raise _Unfit(f"the key {shown_key(key)} is no str")
            try:
                self._string(key)
                self.visit(item, depth)
            except _Unfit as unfit:
                unfit.path.append(f".{shown_key(key)}")
                raise

    def _array(self, value: list[Any] | tuple[Any, ...], depth: int) -> None:
        for index, item in enumerate(value):
            try:
                self.visit(item, depth)
            except _Unfit as unfit:
                unfit.path.append(f"[{index}]")
                raise

    def _string(self, value: str) -> None:
        self._room -= len(value)
        if self._room < 0:
            raise _Unfit(_too_large(self._max_bytes))
        if "\x00" in value:
            raise _Unfit("a NUL character, which PostgreSQL cannot store")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _Unfit("a lone surrogate, which is no character") from None

    def _float(self, value: float) -> None:
        if not math.isfinite(value):
            raise _Unfit(f"{value} is no JSON number")
        if value and not 1e-5 < abs(value) < 1e16:  # printed with an exponent here, in full by PostgreSQL
            self._room -= len(f"{Decimal(repr(value)):f}")


def encode_payload(payload: Mapping[str, Any], max_bytes: int = MAX_PAYLOAD_BYTES) -> str:
    """The payload as JSON text of at most `max_bytes`. PayloadError names the place of what cannot be stored."""
    if type(payload) is not dict and not isinstance(payload, Mapping):
        raise PayloadError(f"the payload is a {type(payload).__name__}; a handler takes a dict with str keys")
    try:
        return _encode(payload if type(payload) is dict else dict(payload), max_bytes)
    except _Unfit as unfit:
        raise PayloadError(f"payload{unfit}") from None


def decode_payload(text: str | None) -> dict[str, Any]:
    """A stored payload as a handler's keywords; PayloadError for what raw SQL can store and no handler can take.

    None stands for a payload too large to be read at all. `text` is as PostgreSQL prints jsonb: no space around it.
    """
    if text is None:
        raise PayloadError(f"payload: {_too_large(MAX_PAYLOAD_BYTES)}")
    try:
        value, end = _DECODER.raw_decode(text)
        if end < len(text):
            raise ValueError(f"{text[end : end + 20]!r} follows its end")
        is_flat = end <= MAX_DEPTH or (text.find("{", 1) < 0 and "[" not in text)  # finding is quicker than counting
        if not is_flat and text.count("[") + text.count("{") > MAX_DEPTH:  # else it cannot be that deep
            _Walk(len(text) * 2 + 64).visit(value, 0)
    except _Unfit as unfit:
        raise PayloadError(f"payload{unfit}") from None
    except RecursionError:
        raise PayloadError(f"payload: nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise PayloadError(f"payload: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        kind = {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
        raise PayloadError(f"the payload is a JSON {kind}; a handler takes an object")
    return value


def encode_result(value: object, max_bytes: int = MAX_RESULT_BYTES) -> tuple[str | None, str | None]:
    """A handler's return value as JSON text, and a note if it could not be stored: then the text is the note as JSON.

    None is no result. Never raises, whatever the value does when it is looked at: the task is done.
    """
    if value is None:
        return None, None
    try:
        return _encode(value, max_bytes), None
    except _Unfit as unfit:
        note = f"the result was not stored: result{unfit}"
    except BaseException as error:  # noqa: BLE001 its own items() or __iter__ raised
        note = f"the result was not stored: it raised {type(error).__name__} when it was read"
    note = storable(note, 1000)
    return json.dumps({"note": note}), note


def shown_key(key: object) -> str:
    """A key in a message, on its line and cut: keys come from anywhere, and the message goes into somebody's log."""
    try:
        text = str.__str__(key) if isinstance(key, str) else repr(key)
    except Exception:  # noqa: BLE001 an integer of 5,000 digits, or a repr of the caller's that fails
        text = f"<{type(key).__name__}>"
    return text[:80] if text[:80].isprintable() else repr(text[:80])[1:-1]


def storable(text: str, max_bytes: int) -> str:
    """`text` as PostgreSQL can store it, in at most `max_bytes` of UTF-8: NUL and lone surrogates are spelt out."""
    text = str.__str__(text)  # a str of its own: a subclass may have overridden anything
    length = len(text)
    text = text[: max_bytes + 1].replace("\x00", "\\x00")
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    mark = f"… [cut: {length} characters in all]".encode()
    if len(mark) > max_bytes:
        mark = b""
    return (encoded[: max_bytes - len(mark)] + mark).decode("utf-8", "ignore")


def _encode(value: object, max_bytes: int) -> str:
    text = _encode_plain(value, max_bytes)
    if text is None:
        walk = _Walk(max_bytes)
        walk.visit(value, 0)
        text = _ENCODER.encode(value)
        if len(text.encode()) > max_bytes:
            raise _Unfit(_too_large(max_bytes))
    return text


def _encode_plain(value: object, max_bytes: int) -> str | None:
    """The text of what is plain, as most is, at a third of the walk's cost; None: it has to be looked at closely."""
    if _room_left(value, max_bytes, MAX_DEPTH) < 0:
        return None
    try:
        text = _encode_quickly(value)
        size = len(text) if text.isascii() else len(text.encode())
    except ValueError:  # an endless integer, or a lone surrogate
        return None
    has_nul = "\\" in text and "\\u0000" in text  # one character is found ten times as fast
    return text if size <= max_bytes and not has_nul else None


def _room_left(container: object, room: int, levels: int) -> int:
    """What a dict or list leaves of `room`, at least; less than 0: it is too large or too deep, or not plain.

    Plain is what has nothing but Python's own kinds in it, and no float that PostgreSQL would write in full. One call
    a container, where the walk makes two a value.
    """
    if type(container) is dict:
        for key in container:
            if type(key) is not str:
                return -1
            room -= len(key)
        items: Iterable[object] = container.values()
    elif type(container) is list:
        items = container
    else:
        return -1
    room -= len(container)
    if room < 0 or levels == 0:
        return -1
    for item in items:
        kind = type(item)
        if kind is str:
            room -= len(item)  # type: ignore[arg-type]
        elif kind is dict or kind is list:
            room = _room_left(item, room, levels - 1)
            if room < 0:
                return -1
        elif kind is float:
            if item and not 1e-5 < abs(item) < 1e16:  # type: ignore[arg-type]
                return -1
        elif kind not in _PLAIN:
            return -1
    return room


def _too_large(max_bytes: int) -> str:
    return f"larger than {max_bytes} bytes; keep large data elsewhere and pass its name"
