"""From a Python function to JSON Schema and from a model's JSON back to Python values: a table of annotations."""

# ruff: noqa: UP006, UP007, UP045 - the older spellings of annotations are used by programs too

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import enum
import functools
import re
import typing
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Optional, Union

import attrs
import pytest

from qai_realtime_sync.conversation.schema import bind_arguments, plain_result, tool_from
from qai_realtime_sync.errors import ConfigError


class Unit(enum.Enum):
    CELSIUS = "c"
    FAHRENHEIT = "f"


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


@attrs.define
class Place:
    city: str
    country: str = "NO"


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}

TABLE: list[tuple[Any, dict[str, Any]]] = [
    (str, {"type": "string"}),
    (int, {"type": "integer"}),
    (float, {"type": "number"}),
    (bool, {"type": "boolean"}),
    (None, {"type": "null"}),
    (Any, {}),
    (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
    (Literal[1, "b"], {"enum": [1, "b"]}),
    (Unit, {"type": "string", "enum": ["c", "f"]}),
    (Mixed, {"enum": [1, "two"]}),
    (Optional[int], {"type": ["integer", "null"]}),
    (int | None, {"type": ["integer", "null"]}),
    (Union[int, str], {"type": ["integer", "string"]}),
    (list[int] | None, {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}),
    (list, {"type": "array", "items": {}}),
    (list[str], {"type": "array", "items": {"type": "string"}}),
    (typing.List[str], {"type": "array", "items": {"type": "string"}}),
    (Sequence[float], {"type": "array", "items": {"type": "number"}}),
    (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
    (set[str], {"type": "array", "items": {"type": "string"}}),
    (frozenset[str], {"type": "array", "items": {"type": "string"}}),
    (tuple[int, int], {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}),
    (
        tuple[str, int, str],
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "minItems": 3, "maxItems": 3},
    ),
    (collections.abc.Set[str], {"type": "array", "items": {"type": "string"}}),
    (list[Annotated[int, ["note"]]], {"type": "array", "items": {"type": "integer"}}),
    (dict, {"type": "object"}),
    (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
    (Mapping[str, Any], {"type": "object", "additionalProperties": {}}),
    (Annotated[int, "note"], {"type": "integer"}),
    (Place, PLACE),
    (
        Point,
        {
            "type": "object",
            "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
            "required": ["x"],
            "additionalProperties": False,
        },
    ),
    (list[Place], {"type": "array", "items": PLACE}),
]


def taking(annotation: Any, default: Any = None) -> Callable[..., Any]:
    def tool(value: Any) -> Any:
        return value

    tool.__annotations__ = {"value": annotation}
    if default is not None:
        tool.__defaults__ = (default,)
    return tool


@pytest.mark.parametrize(("annotation", "schema"), TABLE, ids=[str(row[0]) for row in TABLE])
def test_each_annotation_has_its_schema(annotation: Any, schema: dict[str, Any]) -> None:
    """The schema of an argument is that of its annotation."""
    tool = tool_from(taking(annotation))
    assert tool.parameters == {"type": "object", "properties": {"value": schema}, "required": ["value"], "additionalProperties": False}


@pytest.mark.parametrize("annotation", [datetime.date, Callable[[], None], bytes, collections.abc.Iterator[int], complex], ids=str)
def test_an_annotation_without_a_schema_is_refused_by_name(annotation: Any) -> None:
    """The error names tool, argument and annotation, and the way out."""
    with pytest.raises(ConfigError, match=r"tool tool, argument 'value': .* has no JSON Schema here; give `parameters=` by hand"):
        tool_from(taking(annotation))


def test_a_tool_is_made_of_name_docstring_and_signature() -> None:
    """Name, text above Args, notes of the arguments, defaults and what is required."""

    def get_weather(city: str, unit: Unit = Unit.CELSIUS, days: int = 3, *, exact: bool = False, anything=None, **more: Any) -> str:  # type: ignore[no-untyped-def]
        """Current weather
        in a city.

        Args:
            city: Where, by its
                usual name.
            days (int): How many.

        Returns:
            Text.
        """
        return ""

    tool = tool_from(get_weather)
    assert (tool.name, tool.description, tool.timeout) == ("get_weather", "Current weather in a city.", 30.0)
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where, by its usual name."},
            "unit": {"type": "string", "enum": ["c", "f"]},
            "days": {"type": "integer", "description": "How many.", "default": 3},
            "exact": {"type": "boolean", "default": False},
            "anything": {},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_the_other_docstring_style_is_read_too() -> None:
    """Lines with :param describe the parameters."""

    def look(where: str, how: str) -> None:
        """Look there.

        :param where: The place.
        :param str how: The manner.
        """

    tool = tool_from(look)
    assert tool.description == "Look there."
    assert tool.parameters["properties"]["where"]["description"] == "The place."
    assert tool.parameters["properties"]["how"]["description"] == "The manner."


def test_what_is_given_replaces_what_is_read() -> None:
    """Name, description, schema and time limit can be given by hand; the schema is not checked against the annotations then."""
    tool = tool_from(taking(datetime.date), name="n", description="d", parameters={"type": "object"}, timeout=5.0)
    assert (tool.name, tool.description, tool.parameters, tool.timeout) == ("n", "d", {"type": "object"}, 5.0)


async def wait() -> None:
    """Wait."""


def several() -> Iterator[int]:
    """Yield."""
    yield 1


async def pieces() -> AsyncIterator[int]:
    """Yield, later."""
    yield 1


class Waiter:
    """Called, but not awaited."""

    async def __call__(self) -> None:
        """Wait."""


def positional(a: int, /) -> None:
    """Take one by position."""


def star(*values: int) -> None:
    """Take many."""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (wait, "tool wait is an async function"),
        (pieces, "tool pieces is an async function"),
        (several, "tool several is a generator"),
        (positional, "tool positional: a model gives arguments by name"),
        (star, r"tool star: a model gives arguments by name, so \*values"),
        (5, "a tool must be a function, not int"),
    ],
    ids=["async", "pieces", "generator", "positional", "star", "number"],
)
def test_what_cannot_be_a_tool_is_refused(function: Any, words: str) -> None:
    """Functions that nothing here could call are refused when they are registered."""
    with pytest.raises(ConfigError, match=words):
        tool_from(function)


def test_an_object_whose_call_is_async_is_refused() -> None:
    """What is called decides, not what it is called on."""
    with pytest.raises(ConfigError, match="tool wait is an async function"):
        tool_from(Waiter(), name="wait")


def test_annotations_that_cannot_be_read_are_a_mistake_of_the_program() -> None:
    """A name that does not exist is told with the function it stands in."""
    with pytest.raises(ConfigError, match="the annotations of tool cannot be read"):
        tool_from(taking("NoSuchType"))


def test_a_class_without_a_signature_is_a_mistake_of_the_program() -> None:
    """What Python cannot look into cannot be told to a model."""
    with pytest.raises(ConfigError, match="int has no signature that can be read: wrap it"):
        tool_from(int)


class Callable_:
    """An object that is called like a function."""

    def __call__(self, city: str) -> str:
        """Look."""
        return city


def test_objects_and_partials_are_functions_too() -> None:
    """What a partial fills in is not asked of the model... and an object's call counts."""
    tool = tool_from(functools.partial(taking_two, "x"), name="p")
    assert tool.parameters["properties"] == {"b": {"type": "integer"}}
    assert tool_from(Callable_(), name="c").parameters["required"] == ["city"]


def taking_two(a: str, b: int) -> None:
    """Take two."""


# -- values ----------------------------------------------------------------------------------------------------------------------

VALUES: list[tuple[Any, Any, Any]] = [
    (str, "a", "a"),
    (int, 5, 5),
    (int, 5.0, 5),
    (float, 5, 5.0),
    (float, 5.5, 5.5),
    (bool, True, True),
    (Any, {"a": [1]}, {"a": [1]}),
    (Literal["a", "b"], "b", "b"),
    (Unit, "c", Unit.CELSIUS),
    (int | None, None, None),
    (int | None, 3, 3),
    (Union[int, str], "x", "x"),
    (Union[Place, None], {"city": "Oslo"}, Place("Oslo")),
    (list[int], [1, 2], [1, 2]),
    (tuple[int, ...], [1, 2], (1, 2)),
    (set[str], ["a"], {"a"}),
    (frozenset[str], ["a"], frozenset({"a"})),
    (collections.abc.Set[str], ["a"], {"a"}),
    (list, [1, "a"], [1, "a"]),
    (dict, {"a": [1]}, {"a": [1]}),
    (tuple[str, int], ["a", 1], ("a", 1)),
    (Union[float, int], 5, 5),
    (Union[float, int], 5.5, 5.5),
    (None, None, None),
    (list[Annotated[int, ["note"]]], [1], [1]),
    (Sequence[float], [1, 2.5], [1.0, 2.5]),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (Annotated[int, "note"], 4, 4),
    (Place, {"city": "Oslo"}, Place("Oslo", "NO")),
    (list[Place], [{"city": "Oslo", "country": "N"}], [Place("Oslo", "N")]),
    (Point, {"x": 1}, Point(1.0)),
    (list[int | None], [1, None], [1, None]),
    (dict[str, Place | None], {"a": {"city": "Oslo"}}, {"a": Place("Oslo")}),
]


@pytest.mark.parametrize(("annotation", "given", "value"), VALUES, ids=[f"{row[0]} {row[1]}" for row in VALUES])
def test_a_models_json_becomes_what_the_annotation_promises(annotation: Any, given: Any, value: Any) -> None:
    """The function gets Python values, not JSON."""
    bound = bind_arguments(taking(annotation), {"value": given})["value"]
    assert bound == value
    assert type(bound) is type(value) or annotation is Sequence[float]


REFUSED: list[tuple[Any, Any]] = [
    (str, 5),
    (int, "5"),
    (int, 5.5),
    (int, True),
    (float, "5"),
    (float, True),
    (bool, 1),
    (bool, "true"),
    (Literal["a", "b"], "c"),
    (Unit, "kelvin"),
    (int | None, "x"),
    (Union[int, Place], {"town": "x"}),
    (list[int], 5),
    (list[int], ["a"]),
    (list[str], "abc"),
    (set[str], "abc"),
    (tuple[int, ...], 5),
    (tuple[str, int], ["a"]),
    (tuple[str, int], ["a", "b"]),
    (None, 0),
    (dict[str, int], [1]),
    (dict[str, int], {"a": "b"}),
    (Place, {"city": "Oslo", "street": "x"}),
    (Place, {}),
    (Place, "Oslo"),
    (str, None),
]


@pytest.mark.parametrize(("annotation", "given"), REFUSED, ids=[f"{row[0]} {row[1]}" for row in REFUSED])
def test_a_value_of_the_wrong_kind_is_refused_in_words(annotation: Any, given: Any) -> None:
    """Nothing is turned from one kind into another by luck; the message names argument, kind and value."""
    with pytest.raises(ValueError, match="argument 'value' must be .*, not "):
        bind_arguments(taking(annotation), {"value": given})


def test_missing_and_unknown_arguments_are_named() -> None:
    """The model reads which argument it left out, or made up, and which there are."""
    with pytest.raises(ValueError, match="argument 'b' is missing"):
        bind_arguments(taking_two, {"a": "x"})
    with pytest.raises(ValueError, match="there is no argument 'c'; arguments: a, b"):
        bind_arguments(taking_two, {"a": "x", "b": 1, "c": 2})
    with pytest.raises(ValueError, match="there is no argument 'c'; arguments: none"):
        bind_arguments(lambda: None, {"c": 2})


def test_a_default_may_be_left_out_and_more_may_be_taken() -> None:
    """What has a default is not filled in here; ``**more`` takes anything."""

    def look(city: str = "Oslo", **more: int) -> None:
        """Look."""

    assert bind_arguments(look, {}) == {}
    assert bind_arguments(look, {"x": 1, "y": "z"}) == {"x": 1, "y": "z"}


RESULTS: list[tuple[Any, str]] = [
    ("text", "text"),
    ("", ""),
    ("naïve ☃", "naïve ☃"),
    (None, "null"),
    (True, "true"),
    (5, "5"),
    (1.5, "1.5"),
    ([1, "a", None], '[1, "a", null]'),
    ((1, 2), "[1, 2]"),
    ({"a": "ø"}, '{"a": "ø"}'),
    (Unit.CELSIUS, '"c"'),
    ({"u": Unit.CELSIUS}, '{"u": "c"}'),
    (Place("Oslo"), '{"city": "Oslo", "country": "NO"}'),
    ([Place("Oslo")], '[{"city": "Oslo", "country": "NO"}]'),
    (Point(1.0), '{"x": 1.0, "y": 0.0}'),
    (datetime.date(2026, 11, 20), '"2026-11-20"'),
    ({"when": datetime.datetime(2026, 11, 20, 8, 0)}, '{"when": "2026-11-20T08:00:00"}'),
]


@pytest.mark.parametrize(("value", "text"), RESULTS, ids=[repr(row[0]) for row in RESULTS])
def test_each_result_has_its_text(value: Any, text: str) -> None:
    """Text goes as it is, everything else as JSON."""
    assert plain_result(value) == text


class Own:
    """Something of the program's."""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"x", "the tool returned bytes"),
        (bytearray(b"x"), "the tool returned bytes"),
        (memoryview(b"x"), "the tool returned bytes"),
        (float("nan"), "no JSON form"),
        (float("inf"), "no JSON form"),
        ({"a": float("nan")}, "no JSON form"),
        (Own(), "no JSON form"),
        ([Own()], "no JSON form"),
        ({(1, 2): 3}, "no JSON form"),
        (5j, "no JSON form"),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", repr(value)),
)
def test_a_result_without_a_json_form_is_refused(value: Any, words: str) -> None:
    """What a model could not read is told to the program instead."""
    with pytest.raises(ValueError, match=words):
        plain_result(value)


def test_text_that_is_an_enumeration_goes_by_its_value() -> None:
    """A str enumeration is an enumeration first."""

    class Word(str, enum.Enum):
        YES = "y"

    assert plain_result(Word.YES) == '"y"'


def test_a_function_without_a_name_must_be_given_one() -> None:
    """A lambda or a partial has none that a model could call."""
    for function in (lambda: 1, functools.partial(int, "5")):
        with pytest.raises(ConfigError, match="pass name="):
            tool_from(function)
        assert tool_from(function, name="look", parameters={}).name == "look"
