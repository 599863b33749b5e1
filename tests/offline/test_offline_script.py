"""What is answered: tools chosen and filled by words, default answers, scripts."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from caller import WEATHER

from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline.answers import STORY, default_answer
from qai_realtime_sync.offline.script import Call, Say, Script, Situation
from qai_realtime_sync.offline.tooluse import fill, wish


def tool(name: str, description: str = "", required: bool = True, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties) if required else []}
    return {"type": "function", "name": name, "description": description, "parameters": schema}


STRING = {"type": "string"}
TOOLS = [
    WEATHER,
    tool("book_table", people={"type": "integer"}, day=STRING),
    tool("set_light", room=STRING, state={"type": "string", "enum": ["on", "off"]}),
    tool("searchFlights", origin=STRING, destination=STRING),
    tool("send_message", recipient=STRING, text=STRING, required=False),
    tool("hang_up"),
    tool("lookup_order", order_number={"type": "integer"}),
]


@pytest.mark.parametrize(
    ("said", "name", "arguments"),
    [
        ("What is the weather in London?", "get_weather", {"city": "London"}),
        ("what is the weather like in london today", "get_weather", {"city": "London"}),
        ("Is it raining in New York right now?", "get_weather", {"city": "New York"}),
        ("weather for san francisco please", "get_weather", {"city": "San Francisco"}),
        ("I would like to book a table for two people tomorrow", "book_table", {"people": 2, "day": "tomorrow"}),
        ("Turn on the light in the kitchen", "set_light", {"room": "kitchen", "state": "on"}),
        ("Are there flights from Berlin to Rome?", "searchFlights", {"origin": "Berlin", "destination": "Rome"}),
        ('Send a message to Anna saying "I am late"', "send_message", {"recipient": "Anna", "text": "I am late"}),
        ("Please hang up now", "hang_up", {}),
        ("Where is my order 4711?", "lookup_order", {"order_number": 4711}),
    ],
)
def test_a_tool_is_chosen_and_filled_by_words(said: str, name: str, arguments: dict[str, Any]) -> None:
    """The words of a sentence choose the tool and give its arguments."""
    found = wish(said, TOOLS)
    assert found is not None
    assert found.name == name
    assert found.arguments == arguments
    assert found.missing == []


@pytest.mark.parametrize("said", ["Hello there", "Thank you very much", "Tell me a long story", "What is your name?", ""])
def test_small_talk_calls_no_tool(said: str) -> None:
    """What asks for none of the tools calls none."""
    assert wish(said, TOOLS) is None


def test_tool_choice_is_obeyed() -> None:
    """none forbids, required forces one, a name forces that one; forced arguments are never missing."""
    assert wish("What is the weather in London?", TOOLS, "none") is None
    forced = wish("Hello there", TOOLS, "required")
    assert forced is not None
    assert forced.missing == []
    named = wish("Hello in London", TOOLS, {"type": "function", "name": "get_weather"})
    assert named is not None
    assert (named.name, named.arguments) == ("get_weather", {"city": "London"})
    assert wish("Hello", TOOLS, {"type": "function", "name": "unknown"}) is None
    assert wish("Hello", [], "required") is None


@pytest.mark.parametrize(
    "schema",
    [
        None,
        7,
        {},
        {"properties": None},
        {"properties": {"city": None}, "required": "city"},
        {"properties": {"city": {"type": ["string", "null"]}}},
    ],
)
def test_odd_schemas_are_survived(schema: Any) -> None:
    """A tool whose schema is missing or strange can still be wished for."""
    assert fill({"name": "get_weather", "parameters": schema}, "weather in Rome").missing == []


def test_values_by_type() -> None:
    """Numbers come as digits or words, booleans from a negation, enums by their words."""
    declared = tool("x", count={"type": "number"}, loud={"type": "boolean"}, size={"type": "string", "enum": ["extra_large", "small"]})
    assert fill(declared, "an extra large one, 2.5 times, not loud").arguments == {"count": 2.5, "loud": False, "size": "extra_large"}
    assert fill(declared, "three small ones, loud").arguments == {"count": 3, "loud": True, "size": "small"}
    assert fill(declared, "hello").missing == ["count", "loud", "size"]


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        ("Hello, my name is Anna", "Hello Anna"),
        ("hello my name is peter and i need some help", "Hello Peter"),
        ("Thank you", "welcome"),
        ("Goodbye", "Goodbye"),
        ("What time is it?", "It is "),
        ("What can you do?", "I can"),
        ("stop that is enough thank you very much", "stop here"),
        ("How are you?", "fine"),
        ("Purple elephants", "You said: Purple elephants."),
    ],
)
def test_default_answers(said: str, answered: str) -> None:
    """Small rules answer small talk; the rest is echoed."""
    (step,) = default_answer(Situation(text=said))
    assert isinstance(step, Say)
    assert answered in step.text


def test_the_name_is_remembered() -> None:
    """What was said about oneself is known later in the same conversation."""
    situation = Situation(text="Hello, my name is Anna")
    default_answer(situation)
    assert default_answer(Situation(text="What is my name?", memory=situation.memory)) == [Say("Your name is Anna.")]


def test_a_question_for_an_argument_can_be_dropped() -> None:
    """After the server asked for the city, cancelling calls nothing, and neither does the next small talk."""
    situation = Situation(text="What is the weather?", tools=[WEATHER])
    (question,) = default_answer(situation)
    assert question == Say("I can do that, but I need a city. Which city would you like?")
    (step,) = default_answer(Situation(text="Never mind", tools=[WEATHER], memory=situation.memory))
    assert isinstance(step, Say)
    (step,) = default_answer(Situation(text="Hello", tools=[WEATHER], memory=situation.memory))
    assert isinstance(step, Say)


@pytest.mark.parametrize(
    ("output", "spoken"),
    [
        ("Sunny, 21 degrees", "Sunny, 21 degrees."),
        ('{"condition": "sunny", "degrees": 21, "wind": null}', "Here is what I found: condition is sunny, degrees is 21."),
        ('["a", "b"]', "Here is what I found: a, b."),
        ("true", "yes."),
        ("", "Here is what I found: get weather is done."),
        ("{}", "Here is what I found: get weather is done."),
    ],
)
def test_results_become_sentences(output: str, spoken: str) -> None:
    """A tool's output is spoken in words, JSON too."""
    assert default_answer(Situation(text="", results=[("get_weather", output)])) == [Say(spoken)]


def test_the_long_story_lasts() -> None:
    """A story is long enough to be interrupted: at least fifteen seconds at fifteen characters a second."""
    assert default_answer(Situation(text="Please tell me a long story")) == [Say(STORY)]
    assert len(STORY) >= 15 * 15


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda script: script.on_text(5), "5 is no regular expression"),
        (lambda script: script.on_text("a").say(5), r"say\(\) takes text, not 5"),
        (lambda script: script.on_text("a").call_tool(5), r"call_tool\(\) needs the name of a tool, not 5"),
        (lambda script: script.on_text("a").call_tool("t", 5), "must be a dict of names and values, like .*, not 5"),
        (lambda script: script.on_text("a").call_tool("t", {"x": object()}), "must be JSON values"),
    ],
)
def test_a_wrong_rule_says_what_is_wanted(wrong: Callable[[Script], object], said: str) -> None:
    """A rule that could not be carried out is a ConfigError where it is written."""
    with pytest.raises(ConfigError, match=said):
        wrong(Script())


def test_rules_of_a_file(tmp_path: pathlib.Path) -> None:
    """A JSON file holds the same rules as the Python calls."""
    path = tmp_path / "script.json"
    rules = [{"on": "pay (?P<what>.+)", "say": ["One moment.", "I pay {what}."], "call": "pay", "args": {"what": "{what}", "now": 1}}]
    path.write_text(json.dumps(rules), encoding="utf-8")
    steps = Script.load(path).answer(Situation(text="please pay the bill"), default_answer)
    assert steps == [Say("One moment. I pay the bill."), Call("pay", {"what": "the bill", "now": 1})]
    assert Script.load(path).answer(Situation(text="Thank you"), default_answer) == default_answer(Situation(text="Thank you"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "cannot be read"),
        ("7", "list of rules"),
        ('[{"on": "x"}]', "rule 1"),
        ('[{"on": "(", "say": "x"}]', "regular expression"),
        ('[{"on": "x", "say": 7}]', "say"),
        ('[{"on": "x", "call": "y", "args": []}]', "args"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: pathlib.Path, text: str, said: str) -> None:
    """Each mistake of a script file is a ConfigError that names it."""
    path = tmp_path / "script.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        Script.load(path)
