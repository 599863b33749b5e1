"""Function calls of Gemini: whole ones, and on Vertex those whose arguments arrive in pieces (source: the vendor's SDK types)."""

from __future__ import annotations

from typing import Any, Final

from qai_realtime_sync.dialects.base import remember
from qai_realtime_sync.dialects.rows import Value, read_mapping, read_text
from qai_realtime_sync.dialects.wire import dumps

__all__ = ["function_calls", "partial_call"]

_VALUES: Final = ("stringValue", "numberValue", "boolValue")


def function_calls(value: Any) -> list[Value]:
    """Return the calls of a ``toolCall``."""
    calls = read_mapping(value).get("functionCalls")
    return [call for call in calls if type(call) is dict] if type(calls) is list else []


def partial_call(open_calls: dict[str, Any], call_id: str, given: Value) -> tuple[str | None, str]:
    """Return the arguments of a call as JSON text, ``None`` while more will come, and its new pieces as JSON text."""
    pieces = given.get("partialArgs")
    arguments: Value = open_calls.pop(call_id, {})
    for piece in pieces if type(pieces) is list else ():
        _put(arguments, read_mapping(piece))
    text = dumps(pieces).decode() if type(pieces) is list and pieces else ""
    if given.get("willContinue") is True:
        remember(open_calls, call_id, arguments, limit=64)
        return None, text
    return dumps(arguments | read_mapping(given.get("args"))).decode(), text


def _put(arguments: Value, piece: Value) -> None:
    """Put one piece where its path says (``$.city``, ``$.place.name``); text that continues is appended."""
    *path, last = read_text(piece.get("jsonPath")).removeprefix("$").strip(".").split(".")
    for key in path:
        inner = arguments.get(key)
        if type(inner) is not dict:
            inner = arguments[key] = {}
        arguments = inner
    if not last:
        return
    value = next((piece[kind] for kind in _VALUES if kind in piece), None)
    before = arguments.get(last)
    arguments[last] = before + value if type(before) is str and type(value) is str else value
