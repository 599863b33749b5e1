"""From a Python function to the JSON Schema a model reads, and from a model's JSON back to Python values."""

from __future__ import annotations

import enum
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Literal, Union

import attrs

from qai_realtime_sync.config import Tool
from qai_realtime_sync.errors import ConfigError

__all__ = ["bind_arguments", "plain_result", "tool_from"]

_PLAIN: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def tool_from(
    function: Callable[..., Any],
    *,
    name: str = "",
    description: str = "",
    parameters: Mapping[str, Any] | None = None,
    timeout: float = 30.0,
) -> Tool:
    """Make a `Tool` of a function: its name, the text of its docstring, and a schema from its annotations.

    Known annotations: str, int, float, bool, None, Literal, Enum, Optional and unions, list, dict, attrs classes and dataclasses;
    ``Args:`` lines of the docstring describe the parameters. ``parameters`` gives the schema by hand.

    Raises: `ConfigError` for what has no name, an async or generator function, ``*args``, positional-only parameters, or an annotation
    without a schema.
    """
    title = name or getattr(function, "__name__", "")
    if not callable(function):
        raise ConfigError(f"a tool must be a function, not {type(function).__name__}")
    if not name and not title.isidentifier():
        shown = title or type(function).__name__
        raise ConfigError(f'{shown} is no name that a model could call: pass name=, as @client.tool(name="...")')
    called = (function, type(function).__call__)  # of an object its class says what a call is
    if any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in called):
        raise ConfigError(f"tool {title} is an async function, and nothing here would await it; use a plain function")
    if any(map(inspect.isgeneratorfunction, called)):
        raise ConfigError(f"tool {title} is a generator, and a call has one result: return it, a list for several, instead of yielding")
    summary, notes = _docstring(function)
    schema = dict(parameters) if parameters is not None else _signature_schema(function, title, notes)
    return Tool(name=title, description=description or summary, parameters=schema, function=function, timeout=timeout)


def bind_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a model's arguments into the values the function's annotations promise.

    Raises: ValueError, with words a model can act on, for an argument that is missing, unknown or of the wrong kind.
    """
    hints, parameters = _hints(function), _parameters(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in parameters and not takes_any:
            raise ValueError(f"there is no argument {key!r}; arguments: {', '.join(parameters) or 'none'}")
        hint = hints.get(key, Any)
        try:
            values[key] = _value(value, hint)
        except Exception as error:  # also what a class of the program raises when it is made
            raise ValueError(f"argument {key!r} must be {_name(hint)}, not {json.dumps(value)[:80]}") from error
    for key, parameter in parameters.items():
        if key not in values and parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            raise ValueError(f"argument {key!r} is missing")
    return values


def plain_result(value: Any) -> str:
    """A tool's result as the text a model reads: text as it is, everything else as JSON (None is ``null``).

    Raises: ValueError for bytes, NaN and what has no JSON form.
    """
    if isinstance(value, str) and not isinstance(value, enum.Enum):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise ValueError("the tool returned bytes; return text or something with a JSON form")
    try:
        if value is not None and type(value) not in (bool, int, float):
            from cattrs.preconf.json import make_converter  # lazily: only programs with tools need it

            value = make_converter().unstructure(value)
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the tool's result has no JSON form: {error}") from None


# -- the schema --------------------------------------------------------------------------------------------------------------


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except ValueError:  # a builtin, like int
        name = getattr(function, "__name__", function)
        raise ConfigError(f"{name} has no signature that can be read: wrap it in a function with the parameters that it takes") from None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target: Any = function
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target)
    except Exception as error:  # they are code of the program's, and may raise anything
        raise ConfigError(f"the annotations of {getattr(function, '__name__', function)} cannot be read: {error}") from None


def _signature_schema(function: Callable[..., Any], title: str, notes: Mapping[str, str]) -> dict[str, Any]:
    hints = _hints(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for key, parameter in _parameters(function).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise ConfigError(f"tool {title}: a model gives arguments by name, so {parameter} cannot be filled")
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        properties[key] = _schema(hints.get(key, Any), f"tool {title}, argument {key!r}")
        if key in notes:
            properties[key]["description"] = notes[key]
        if parameter.default is parameter.empty:
            required.append(key)
        elif isinstance(parameter.default, (str, int, float, bool)) and not isinstance(parameter.default, enum.Enum):
            properties[key]["default"] = parameter.default
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(hint: Any, where: str) -> dict[str, Any]:
    if hint is Any:
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return _enumeration(list(arguments))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enumeration([member.value for member in hint])
    if origin in (Union, types.UnionType):
        return _union(arguments, where)
    container = origin or hint
    if _is_array(container):
        return _array(container, arguments, where)
    if isinstance(container, type) and issubclass(container, Mapping):
        schema: dict[str, Any] = {"type": "object"}
        if len(arguments) == 2:
            schema["additionalProperties"] = _schema(arguments[1], where)
        return schema
    if isinstance(hint, type) and (attrs.has(hint) or hasattr(hint, "__dataclass_fields__")):
        return _class_schema(hint, where)
    raise ConfigError(f"{where}: {_name(hint)} has no JSON Schema here; give `parameters=` by hand")


def _is_array(container: Any) -> bool:
    if not isinstance(container, type) or issubclass(container, (str, bytes, bytearray, memoryview, range)):
        return False
    return issubclass(container, (list, tuple, set, frozenset, Sequence, Set))


def _array(container: type, arguments: tuple[Any, ...], where: str) -> dict[str, Any]:
    if issubclass(container, tuple) and arguments and arguments[-1] is not Ellipsis:
        # Of a fixed length; what stands where is checked when a call comes, because few models read such a schema.
        kinds = [_schema(argument, where) for argument in dict.fromkeys(arguments)]
        items = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        return {"type": "array", "items": items, "minItems": len(arguments), "maxItems": len(arguments)}
    return {"type": "array", "items": _schema(arguments[0], where) if arguments else {}}


def _enumeration(values: list[Any]) -> dict[str, Any]:
    kinds = {_PLAIN.get(type(value)) for value in values}
    schema: dict[str, Any] = {"enum": values}
    kind = kinds.pop() if len(kinds) == 1 else None
    return {"type": kind, **schema} if kind else schema


def _union(arguments: tuple[Any, ...], where: str) -> dict[str, Any]:
    schemas = [_schema(argument, where) for argument in arguments]
    if all(set(schema) == {"type"} for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    return {"anyOf": schemas}


def _class_schema(cls: type, where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    signature = inspect.signature(cls)
    properties = {key: _schema(hints.get(key, Any), f"{where}.{key}") for key in signature.parameters}
    required = [key for key, parameter in signature.parameters.items() if parameter.default is parameter.empty]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The text above ``Args:`` and what ``Args:`` says of each parameter (Google style; ``:param x:`` lines are read too)."""
    text = inspect.getdoc(function) or ""
    notes = {m[1]: m[2].strip() for m in re.finditer(r"^:param (?:\S+ )?(\w+):(.*)$", text, re.MULTILINE)}
    head, _, rest = text.partition("Args:\n")
    body = re.split(r"^\S", rest, maxsplit=1, flags=re.MULTILINE)[0]
    indent = re.match(r" *", body)[0]  # type: ignore[index]  # always matches
    for m in re.finditer(rf"^{indent}(\w+)(?: \([^)]*\))?:(.*(?:\n{indent} +.*)*)", body, re.MULTILINE):
        notes[m[1]] = " ".join(m[2].split())
    summary = re.split(r"^(?::param|Returns:|Raises:|Yields:)", head, maxsplit=1, flags=re.MULTILINE)[0]
    return " ".join(summary.split()), notes


# -- values ------------------------------------------------------------------------------------------------------------------


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")  # type: ignore[return-value]


def _value(value: Any, hint: Any) -> Any:
    """The Python value of a JSON value; the mirror of `_schema`.

    One kind is not turned into another: a model that writes "5" for a number is told so, not obeyed by luck.

    Raises: any exception for a value that does not fit.
    """
    if hint is Any:
        return value
    if hint in _PLAIN:
        return _plain_value(value, hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return next(one for one in arguments if _same(one, value))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return next(member for member in hint if _same(member.value, value))
    if origin in (Union, types.UnionType):
        return _first_that_fits(value, arguments)
    container = origin or hint
    if _is_array(container):
        return _array_value(value, container, arguments)
    if isinstance(container, type) and issubclass(container, Mapping):
        if not isinstance(value, dict):
            raise TypeError("not an object")
        inner = arguments[1] if len(arguments) == 2 else Any
        return {key: _value(one, inner) for key, one in value.items()}
    return _object(value, hint)


def _plain_value(value: Any, kind: Any) -> Any:
    if kind is None or kind is type(None):
        fits = value is None
    elif kind is float:
        fits = type(value) in (int, float)
    else:
        fits = type(value) is kind
        if kind is int and type(value) is float and value.is_integer():
            return int(value)
    if not fits:
        raise TypeError("of another kind")
    return float(value) if kind is float else value


def _same(one: Any, value: Any) -> bool:
    return type(one) is type(value) and bool(one == value)


def _first_that_fits(value: Any, hints: tuple[Any, ...]) -> Any:
    """Of a union the first member that fits; whole numbers are not made fractions if a later member is int."""
    for hint in sorted(hints, key=lambda hint: hint is float):
        try:
            return _value(value, hint)
        except Exception as error:  # the next one may fit; the last failure is raised
            failure = error
    raise failure


def _array_value(value: Any, container: type, hints: tuple[Any, ...]) -> Any:
    if not isinstance(value, list):
        raise TypeError("not an array")
    if issubclass(container, tuple) and hints and hints[-1] is not Ellipsis:
        return tuple(_value(one, hint) for one, hint in zip(value, hints, strict=True))
    found = [_value(one, hints[0] if hints else Any) for one in value]
    made = next((kind for kind in (tuple, frozenset, set) if issubclass(container, kind)), list)
    if made is list and not issubclass(container, (list, Sequence)):
        made = set  # an abstract set
    return made(found)


def _object(value: Any, cls: type) -> Any:
    """An attrs class or dataclass, made by its constructor; unknown keys are refused."""
    hints, parameters = typing.get_type_hints(cls), inspect.signature(cls).parameters
    if not isinstance(value, dict) or set(value) - set(parameters):
        raise TypeError("not such an object")
    return cls(**{key: _value(one, hints.get(key, Any)) for key, one in value.items()})
