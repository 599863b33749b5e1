"""One table row per flat event: which class, and which wire field each of its fields comes from.

`row` compiles a row once into a constructor. A reader never fails: null, missing or the wrong type gives the field's default, so
one odd field cannot spoil an event. Only essential fields (sound, text, the arguments of a call) refuse, by `UnreadableError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias, TypeVar

import attrs

from qai_realtime_sync.audio import b64decode
from qai_realtime_sync.events import Event

__all__ = [
    "Decoder",
    "Reader",
    "UnreadableError",
    "at",
    "const",
    "essential",
    "events_of",
    "flag",
    "gives",
    "made",
    "mapping",
    "number",
    "read_mapping",
    "read_number",
    "read_text",
    "read_whole",
    "row",
    "sound",
    "text",
    "whole",
]

Value: TypeAlias = dict[str, Any]
Decoder: TypeAlias = Callable[[Any, Value], list[Event]]
_Function = TypeVar("_Function", bound=Callable[..., Any])


class UnreadableError(ValueError):
    """A frame of a known kind lacks what makes it that kind; the message is the `Unknown.problem`."""


# -- total readers -----------------------------------------------------------------------------------------------------------


def at(value: Any, *path: str) -> Any:
    """Return what stands at the end of a path of keys, or ``None``."""
    for key in path:
        if type(value) is not dict:
            return None
        value = value.get(key)
    return value


def read_text(value: Any, default: str = "") -> str:
    """Return text, else the default."""
    return value if type(value) is str else default


def read_whole(value: Any, default: Any = 0) -> Any:
    """Return a whole number (``5.0`` counts as one), else the default."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else default


def read_number(value: Any, default: Any = None) -> Any:
    """Return a finite float, else the default."""
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return default
    return value if type(value) is float and math.isfinite(value) else default


def read_flag(value: Any, default: bool = False) -> bool:
    """Return true or false, else the default."""
    return value if type(value) is bool else default


def read_mapping(value: Any) -> Value:
    """Return a JSON object, else an empty one."""
    return value if type(value) is dict else {}


def _kind(value: Any) -> str:
    return "null or missing" if value is None else f"of JSON type {_JSON.get(type(value), 'number')}"


_JSON: Mapping[type, str] = {str: "string", dict: "object", list: "array", bool: "boolean"}


def _refuse(path: str, value: Any) -> Any:
    raise UnreadableError(f"{path} is {_kind(value)}")


def read_sound(value: Any, path: str) -> bytes:
    """Return the bytes of base64 text, or the bytes that were cut out of the message before. Raises: `UnreadableError`."""
    if type(value) is bytes:
        return value
    if type(value) is not str:
        _refuse(path, value)
    try:
        return b64decode(value)
    except ValueError as error:
        raise UnreadableError(f"{path}: {error}") from None


# -- what a row is made of ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Reader:
    """How one field is read: the expression that reads it, with ``{get}`` for the wire value, and the names it needs."""

    expression: str
    path: tuple[str, ...] = ()
    names: Mapping[str, Any] = attrs.field(factory=dict)
    drop: bool = False


def text(*path: str) -> Reader:
    """Text, ``""`` if there is none."""
    return Reader("(v if type(v := {get}) is str else '')", path)


def essential(*path: str) -> Reader:
    """Text without which the event means nothing."""
    return Reader("(v if type(v := {get}) is str else refuse({path!r}, v))", path, {"refuse": _refuse})


def sound(*path: str) -> Reader:
    """Base64 as bytes; essential, and taken out of ``raw``."""
    return Reader("(v if type(v := {get}) is bytes else read_sound(v, {path!r}))", path, {"read_sound": read_sound}, drop=True)


def whole(*path: str, default: int | None = 0) -> Reader:
    """A whole number."""
    return Reader(f"(v if type(v := {{get}}) is int else read_whole(v, {default!r}))", path, {"read_whole": read_whole})


def number(*path: str, default: float | None = None) -> Reader:
    """A finite number."""
    return Reader(f"read_number({{get}}, {default!r})", path, {"read_number": read_number})


def flag(*path: str, default: bool = False) -> Reader:
    """True or false."""
    return Reader(f"(v if type(v := {{get}}) is bool else {default!r})", path)


def mapping(*path: str) -> Reader:
    """A JSON object."""
    return Reader("(v if type(v := {get}) is dict else {{}})", path)


def const(value: str | bool | int) -> Reader:
    """A field that this wire name implies."""
    return Reader(repr(value).replace("{", "{{").replace("}", "}}"))


def made(function: Callable[[Any], Any], *path: str) -> Reader:
    """A field that ``function`` reads; it gets the wire value at ``path``, or the whole frame, and must be total."""
    return Reader(f"{function.__name__}({{get}})", path, {function.__name__: function})


# -- compiling ---------------------------------------------------------------------------------------------------------------


def _get(path: tuple[str, ...]) -> str:
    if not path:
        return "value"
    return f"get({path[0]!r})" if len(path) == 1 else f"at(value, *{path!r})"


def row(event: type[Event], **fields: Reader) -> Decoder:
    """Compile a row into ``(dialect, value) -> [event]``; every event also gets ``event_id`` and ``raw``.

    The event is filled slot by slot: its constructor takes keywords, which costs three times as much for nearly every frame there is.
    """
    fields.setdefault("event_id", text("event_id"))
    names: dict[str, Any] = {"event": event, "new": event.__new__, "at": at}
    lines = ["def decode(dialect, value):", "get = value.get", "told = new(event)", "told.raw = value"]
    for name, reader in fields.items():
        names.update(reader.names)
        wire = ".".join(reader.path)
        lines.append(f"told.{name} = {reader.expression.format(get=_get(reader.path), path=wire)}")
    lines += _defaults(event, {"raw", *fields}, names)
    lines += [f"del value[{reader.path[0]!r}]" for reader in fields.values() if reader.drop]
    source = "\n    ".join([*lines, "return [told]"])
    exec(compile(source, f"<row of {event.__name__}>", "exec"), names)
    decode: Decoder = gives(event)(names["decode"])
    return decode


def _defaults(event: type[Event], given: Collection[str], names: dict[str, Any]) -> list[str]:
    """The lines that set every other field to its default; what they refer to is put into ``names``."""
    lines = []
    for field in attrs.fields(event):
        assert field.converter is None, "only a constructor would run it"
        assert field.validator is None, "only a constructor would run it"
        if field.name in given:
            continue
        made = isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
        names[f"default_{field.name}"] = field.default.factory if made else field.default
        lines.append(f"told.{field.name} = default_{field.name}{'()' if made else ''}")
    return lines


def gives(*events: type[Event]) -> Callable[[_Function], _Function]:
    """Note on a decoder which events it can give, for `events_of`."""

    def mark(function: _Function) -> _Function:
        setattr(function, "events", events)  # noqa: B010 - a plain attribute would not type-check
        return function

    return mark


def events_of(decoder: Decoder) -> tuple[type[Event], ...]:
    """Return which events a decoder can give."""
    found: tuple[type[Event], ...] = getattr(decoder, "events", ())
    return found
