"""What becomes JSON for PostgreSQL, what is refused, and that any text can be made storable."""

import enum
import json
import math
from collections import OrderedDict
from types import MappingProxyType
from typing import Any, NoReturn

import pytest

from orchestrator.errors import PayloadError
from orchestrator.model import MAX_PAYLOAD_BYTES
from orchestrator.payload import MAX_DEPTH, decode_payload, encode_payload, encode_result, storable


class Colour(enum.IntEnum):
    RED = 1


def nested(levels: int) -> dict[str, Any]:
    """An object with `levels` levels, itself counted."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


def many_references() -> list[Any]:
    """A billion values for anybody who walks them all, in a few hundred bytes."""
    value: list[Any] = []
    for _ in range(9):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"text": "äöü € 𝄞", "n": 1, "x": -2.5, "yes": True, "none": None, "list": [1, [2, {"a": []}]]},
        {"tuple": (1, 2), "enum": Colour.RED, "ordered": OrderedDict(a=1)},
        {"": "an empty key", "not an identifier": 1},
        {"a backslash is no NUL": "\\u0000"},
        nested(MAX_DEPTH),
        {"long": 10**4000},
    ],
)
def test_a_json_object_comes_back_as_it_went(payload: dict[str, Any]) -> None:
    back = decode_payload(encode_payload(payload))
    assert json.dumps(back) == json.dumps(payload)


def test_any_mapping_is_an_object() -> None:
    assert encode_payload(MappingProxyType({"a": 1})) == '{"a": 1}'


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ([1, 2], "the payload is a list"),
        ("text", "the payload is a str"),
        (None, "the payload is a NoneType"),
        ({"x": math.nan}, "payload.x: nan is no JSON number"),
        ({"a": [0, {"b": math.inf}]}, "payload.a[1].b: inf is no JSON number"),
        ({"a": "x\x00y"}, "payload.a: a NUL character"),
        ({"a\x00": 1}, "payload.a\\x00: a NUL character"),
        ({"a": {"k\x00": 1}}, "a NUL character"),
        ({"a": "\ud800"}, "payload.a: a lone surrogate"),
        ({"\udfff": 1}, "payload.\\udfff: a lone surrogate"),
        ({"x\n\x1b[31mforged": math.nan}, "payload.x\\n\\x1b[31mforged: nan"),
        ({10**5000: 1}, "the key <int> is no str"),
        ({1: "a"}, "the key 1 is no str"),
        ({"a": {None: 1}}, "payload.a: the key None is no str"),
        ({"a": [1, {2}]}, "payload.a[1]: set is no JSON value"),
        ({"a": b"bytes"}, "payload.a: bytes is no JSON value"),
        ({"a": object}, "payload.a: type is no JSON value"),
        (nested(MAX_DEPTH + 1), "nested more than 100 levels deep"),
        ({"a": 10**5000}, "payload.a: an integer of more than 4300 digits"),
        ({"a": "x" * 50_000_000}, "payload.a: larger than 1048576 bytes"),
        ({"a": "ä" * 600_000}, "larger than 1048576 bytes"),
        ({"a": [1e300] * 5_000}, "larger than 1048576 bytes"),
        ({"a": many_references()}, "larger than 1048576 bytes"),
    ],
)
def test_what_cannot_be_stored_is_refused_where_it_stands(payload: Any, says: str) -> None:
    with pytest.raises(PayloadError) as refused:
        encode_payload(payload)
    assert says in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 4000


def test_an_object_inside_itself_is_refused() -> None:
    payload: dict[str, Any] = {}
    payload["self"] = payload
    with pytest.raises(PayloadError, match="nested more than"):
        encode_payload(payload)


def test_the_limit_is_met_to_the_byte() -> None:
    frame = len(json.dumps({"a": ""}))
    encode_payload({"a": "x" * (MAX_PAYLOAD_BYTES - frame)})
    with pytest.raises(PayloadError):
        encode_payload({"a": "x" * (MAX_PAYLOAD_BYTES - frame + 1)})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "larger than"),
        ("[1]", "a JSON array"),
        ('"text"', "a JSON string"),
        ("7", "a JSON number"),
        ("1.5", "a JSON number"),
        ("true", "a JSON boolean"),
        ("null", "a JSON null"),
        ("{", "cannot be read as JSON"),
        ('{"a": ' + "1" * 5000 + "}", "cannot be read as JSON"),
        ('{"a": ' * 200 + "1" + "}" * 200, "nested more than 100 levels deep"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested more than 100 levels deep"),
    ],
)
def test_what_raw_sql_stored_and_no_handler_can_take_is_a_payload_error(text: str | None, says: str) -> None:
    with pytest.raises(PayloadError) as refused:
        decode_payload(text)
    assert says in str(refused.value)


def test_a_wide_and_flat_payload_may_have_many_brackets() -> None:
    payload = {"rows": [[number, {}] for number in range(10_000)]}
    assert decode_payload(encode_payload(payload)) == payload


class Explosive(dict[str, Any]):
    def items(self) -> NoReturn:
        raise SystemExit("gone")


def test_a_result_is_stored_or_replaced_by_a_note() -> None:
    assert encode_result(None) == (None, None)
    assert encode_result({"rows": [1, 2]}) == ('{"rows": [1, 2]}', None)
    assert encode_result("text") == ('"text"', None)
    assert encode_result(False) == ("false", None)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "result: object is no JSON value"),
        ([b"x"], "result[0]: bytes is no JSON value"),
        ("x" * 50_000_000, "larger than 1048576 bytes"),
        ({"a": math.nan}, "result.a: nan"),
        ("\x00", "NUL"),
        ({"\ud800": object()}, "surrogate"),
        (Explosive(a=1), "it raised SystemExit"),
        (many_references(), "larger than"),
    ],
)
def test_a_result_that_cannot_be_stored_becomes_a_note(value: object, says: str) -> None:
    text, note = encode_result(value)
    assert note is not None
    assert says in note
    assert text is not None
    assert json.loads(text) == {"note": note}


class Stubborn(str):
    def encode(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no")

    def __str__(self) -> NoReturn:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("plain äöü", "plain äöü"),
        ("a\x00b", "a\\x00b"),
        ("a\ud800b", "a\\ud800b"),
        pytest.param(Stubborn("text"), "text", id="a str that overrides everything"),
        ("", ""),
    ],
)
def test_any_text_becomes_storable(text: str, stored: str) -> None:
    assert storable(text, 100) == stored


@pytest.mark.parametrize(
    "text",
    ["x" * 10_000_000, "ä" * 1000, "\x00" * 1000, "\udc80" * 1000, "𝄞" * 400],
    ids=["10 MB", "two bytes", "NUL", "surrogate", "four bytes"],
)
@pytest.mark.parametrize("limit", [0, 1, 7, 40, 200])
def test_long_text_is_cut_at_the_byte_and_says_so(text: str, limit: int) -> None:
    stored = storable(text, limit)
    assert len(stored.encode()) <= limit
    assert limit < 40 or stored.endswith(f"… [cut: {len(text)} characters in all]")
