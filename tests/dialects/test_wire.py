"""JSON with and without orjson: the same values, the same refusals."""

from __future__ import annotations

import enum
import importlib
import json
import math
import sys
import types
import uuid
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from qai_realtime_sync.dialects import wire

NUMBERS = (
    "18446744073709551615", "18446744073709551616", "-9223372036854775808", "-9223372036854775809",
    "1e400", "-1e400", "1e-400", "-0", "-0.0", "1" * 400, "1" * 5000, "0.1", "1E5", "123456789012345678901234567890.5",
)  # fmt: skip

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)


def outcome(read: Any, data: Any) -> Any:
    """Return what a function gives, with types, or that it refused."""
    try:
        return repr(read(data))
    except ValueError:
        return ValueError


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
@example(b"\xef\xbb\xbf1")
@example(b"\xed\xa0\x80")
@example(b'"\\ud800"')
@example(b'{"a":1,"a":2}')
@example(b"[" * 2000 + b"]" * 2000)
@example(b"[" * 200_000)
@example(b"NaN")
@example(b"[-Infinity]")
@example(b'"\x00"')
@example(b" 1 ")
@example(b"")
def test_any_bytes_are_read_alike(data: bytes) -> None:
    """orjson and the standard library give the same value, or both refuse."""
    assert outcome(wire.loads, data) == outcome(wire.loads_plain, data)
    assert outcome(wire.loads, memoryview(data)) == outcome(wire.loads, data)


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_read_alike(number: str) -> None:
    """Whole numbers beyond 64 bits are floats, beyond a double whole again; infinities are refused."""
    assert outcome(wire.loads, number) == outcome(wire.loads_plain, number)
    assert outcome(wire.loads, f'{{"n":[{number}]}}') == outcome(wire.loads_plain, f'{{"n":[{number}]}}')


@given(json_values)
def test_any_value_is_written_alike_and_comes_back(value: Any) -> None:
    """What one writes the other reads as the same value; whole numbers beyond 64 bits come back as floats."""
    fast, plain = wire.dumps(value), wire.dumps_plain(value)
    assert outcome(wire.loads, fast) == outcome(wire.loads_plain, plain) == outcome(wire.loads, plain)
    assert wire.loads(fast) == json.loads(fast, parse_int=wire._whole)


class _Colour(enum.Enum):
    RED = "red"
    NAN = math.nan


@pytest.mark.parametrize("write", [wire.dumps, wire.dumps_plain])
def test_what_has_one_obvious_form_is_written(write: Any) -> None:
    """Mappings that are no dicts, enum members, UUIDs, tuples, whole-number keys and lone surrogates."""
    identity = uuid.uuid4()
    value = {"m": types.MappingProxyType({"a": 1}), "e": _Colour.RED, "u": identity, "t": (1, 2), "n": None}
    assert json.loads(write(value)) == {"m": {"a": 1}, "e": "red", "u": str(identity), "t": [1, 2], "n": None}
    assert json.loads(write({1: 2})) == {"1": 2}
    assert json.loads(write("\ud800")) == "\ud800"
    assert write({"a": "é", "b": [1.5]}) == '{"a":"é","b":[1.5]}'.encode()


@pytest.mark.parametrize("write", [wire.dumps, wire.dumps_plain])
@pytest.mark.parametrize(
    "value",
    [
        math.nan, [math.inf], {"a": (None, -math.inf)}, {"a": [{"b": math.nan}]}, {"a": types.MappingProxyType({"b": math.nan})},
        [_Colour.NAN], object(), {"a": b"bytes"}, {object(): 1},
    ],
)  # fmt: skip
def test_what_json_cannot_say_is_refused(write: Any, value: Any) -> None:
    """A NaN must not become null on the way, with orjson or without."""
    with pytest.raises(ValueError):  # noqa: PT011 - the text is the library's that noticed it
        write(value)


@pytest.mark.parametrize("write", [wire.dumps, wire.dumps_plain])
def test_a_circle_is_refused(write: Any) -> None:
    """A list that holds itself ends in an error, not in the interpreter's limit."""
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError):  # noqa: PT011
        write(circle)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError):  # noqa: PT011
        write(deep)


def test_reading_takes_text_and_buffers_only() -> None:
    """Anything else is refused as not JSON."""
    assert wire.loads_plain(bytearray(b"[1]")) == wire.loads("[1]") == [1]
    for read in (wire.loads, wire.loads_plain):
        with pytest.raises(ValueError):  # noqa: PT011
            read(7)


def test_without_orjson_the_standard_library_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is a choice: the module works without it."""
    monkeypatch.setitem(sys.modules, "orjson", None)
    try:
        plain = importlib.reload(wire)
        assert plain.loads is plain.loads_plain
        assert plain.dumps is plain.dumps_plain
        assert plain.loads(plain.dumps({"a": 1})) == {"a": 1}
    finally:
        monkeypatch.undo()
        importlib.reload(wire)
