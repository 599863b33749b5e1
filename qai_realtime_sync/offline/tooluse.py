"""Which declared tool a sentence asks for, and what its arguments are; by words, not by understanding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Wish", "fill", "question_for", "wish"]

_GENERIC = frozenset(
    "get set fetch find lookup look up do make call run show give tell check current search retrieve query create "
    "the a an of for to by in on and is tool function info information data details".split()
)
_KIN = {
    "weather": "rain raining rainy sunny sun snow snowing temperature forecast cold warm hot umbrella wind windy degrees",
    "time": "clock hour oclock",
    "date": "day today",
    "light": "lamp lights",
    "lights": "lamp light",
    "music": "song songs",
    "appointment": "meeting booking",
    "order": "package parcel delivery",
    "temperature": "degrees warmer colder heating",
    "email": "mail",
    "price": "cost costs much",
    "hangup": "goodbye bye",
    "human": "person agent operator",
    "agent": "person human operator",
}
_STOP = frozenset(
    "today tomorrow tonight now please right this and end thanks thank like at for with is are was it should can could "
    "would you i me my then so because "
    "yesterday next saying on but or if when while do does did will be there here soon later".split()
)
_PLACE_WORDS = ("in", "at", "for", "near", "around", "of", "to", "from")
_PREPOSITIONS = {
    "place": ("in", "for", "at", "near", "around", "of", "to", "from"),
    "to": ("to", "for", "towards"),
    "from": ("from",),
    "name": ("for", "to", "called", "named", "is", "with", "of"),
    "topic": ("about", "for", "of", "on", "saying", "that"),
}
_KINDS = {
    "place": "city location place town address area region country where room",
    "to": "destination to recipient arrival target",
    "from": "origin from source departure start",
    "name": "name person customer contact artist user",
    "topic": "query question text message topic subject term keyword content title body note reason description song item product",
}
_NUMBERS = {
    word: number
    for number, word in enumerate(
        (
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
            "eighteen nineteen twenty"
        ).split()
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100}
_DATES = re.compile(
    r"\b(today|tomorrow|tonight|yesterday|monday|tuesday|wednesday|thursday|friday|saturday|sunday|\d{4}-\d\d-\d\d|noon|midnight|"
    r"\d{1,2}(?::\d\d)? ?(?:am|pm|o'clock))\b",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"\b(not|no|off|without|never|don't|disable)\b", re.IGNORECASE)


@attrs.define
class Wish:
    """A tool that is wanted: the arguments found, and the names of required ones that are not."""

    tool: Mapping[str, Any]
    arguments: dict[str, Any] = attrs.field(factory=dict)
    missing: list[str] = attrs.field(factory=list)

    @property
    def name(self) -> str:
        """The tool's name."""
        return str(self.tool.get("name", ""))


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; snake_case and camelCase names fall apart too."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).replace("_", " ").replace("-", " ")
    return [word.strip("'") for word in re.findall(r"[a-z0-9']+", apart.lower()) if word.strip("'")]


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _score(tool: Mapping[str, Any], heard: set[str]) -> float:
    """Return how well a tool fits: 1 and more is a fit, by at least half of the telling words of its name, or three of its description."""
    telling = [word for word in words_of(str(tool.get("name", ""))) if word not in _GENERIC] or words_of(str(tool.get("name", "")))
    hits = sum(1 for word in telling if _stem(word) in heard or any(_stem(kin) in heard for kin in _KIN.get(word, "").split()))
    score = 1 + hits / len(telling) if telling and hits * 2 >= len(telling) else 0.0
    described = {
        _stem(word) for word in words_of(str(tool.get("description") or "")) if word not in _GENERIC and word not in _STOP and len(word) > 3
    }
    overlap = len(described & heard)
    return score + overlap * 0.1 if score or overlap < 3 else 1.0


def wish(text: str, tools: list[dict[str, Any]], choice: Any = "auto") -> Wish | None:
    """Return the tool that a sentence asks for, its arguments filled from the words; ``None`` for no tool.

    ``choice`` is the session's ``tool_choice``: ``none`` forbids, ``required`` or a name forces one.
    """
    callable_tools = [tool for tool in tools if isinstance(tool, dict) and tool.get("name") and tool.get("type", "function") == "function"]
    if isinstance(choice, dict):
        named = [tool for tool in callable_tools if tool.get("name") == choice.get("name")]
        return fill(named[0], text, force=True) if named else None
    if choice == "none" or not callable_tools:
        return None
    heard = {_stem(word) for word in words_of(text)}
    best = max(callable_tools, key=lambda tool: _score(tool, heard))
    if _score(best, heard) >= 1:
        return fill(best, text)
    return fill(callable_tools[0], text, force=True) if choice == "required" else None


def fill(tool: Mapping[str, Any], text: str, force: bool = False, bare: str = "") -> Wish:
    """Return a wish for this tool with what the text says about its parameters.

    ``bare`` names a parameter that was just asked for: the whole text is its value if nothing better is found.
    ``force`` leaves nothing missing: text parameters get the whole text, others a plain value.
    """
    schema = tool.get("parameters")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    required = schema.get("required") if isinstance(schema, dict) else None
    made = Wish(tool)
    for name, declared in (properties if isinstance(properties, dict) else {}).items():
        declared = declared if isinstance(declared, dict) else {}
        value = _value(str(name), declared, text, bare == name)
        if value is not None:
            made.arguments[str(name)] = value
        elif isinstance(required, list) and name in required:
            if force:
                made.arguments[str(name)] = _any_value(declared, text)
            else:
                made.missing.append(str(name))
    return made


def question_for(found: Wish) -> str:
    """Return the question that asks for the first missing argument."""
    name = " ".join(words_of(found.missing[0]))
    article = "an" if name[:1] in "aeiou" else "a"
    return f"I can do that, but I need {article} {name}. Which {name} would you like?"


def _value(name: str, declared: Mapping[str, Any], text: str, asked: bool) -> Any:
    kind = declared.get("type")
    kind = next((one for one in kind if one != "null"), None) if isinstance(kind, list) else kind
    options = declared.get("enum")
    if isinstance(options, list):
        heard = " " + " ".join(words_of(text)) + " "
        return next((option for option in options if " " + " ".join(words_of(str(option))) + " " in heard), None)
    if kind in ("integer", "number"):
        return _number(text, whole=kind == "integer")
    if kind == "boolean":
        said = {_stem(word) for word in words_of(text)}
        about = any(_stem(word) in said for word in words_of(name))
        return not _NEGATIVE.search(text) if about or asked else None
    if kind not in ("string", None):
        return None
    return _words_for(name, text) or (_tidy(text, _kind_of(name), recognised=text == text.lower()) if asked else None)


def _number(text: str, whole: bool) -> float | int | None:
    digits = re.search(r"-?\d+(?:\.\d+)?", text)
    if digits:
        value = float(digits.group())
        return int(value) if whole or value.is_integer() else value
    found = [_NUMBERS[word] for word in words_of(text) if word in _NUMBERS]
    return found[0] if found else None


def _kind_of(name: str) -> str:
    words = words_of(name)
    if any(word in ("date", "day", "when", "time") for word in words):
        return "date"
    return next((kind for kind, names in _KINDS.items() if any(word in names.split() for word in words)), "topic")


def _words_for(name: str, text: str) -> str | None:
    kind = _kind_of(name)
    if kind == "date":
        found = _DATES.search(text)
        return found.group(1).lower() if found else None
    quoted = re.search(r"[\"“«]([^\"”»]+)[\"”»]", text) if kind == "topic" else None
    if quoted:
        return quoted.group(1)
    for preposition in _PREPOSITIONS[kind]:
        found = re.search(rf"\b{preposition}\s+(?:the\s+|a\s+|an\s+)?([^,.?!;]+)", text, re.IGNORECASE)
        phrase = _phrase(found.group(1), kind) if found else ""
        if phrase:
            return _tidy(phrase, kind, recognised=text == text.lower())
    return None


def _phrase(rest: str, kind: str) -> str:
    """Return the words of a phrase until one that cannot belong to it; topics run to the end of the sentence."""
    if kind == "topic":
        return rest
    words: list[str] = []
    for word in rest.split():
        if word.lower() in _STOP or (words and word.lower() in _PLACE_WORDS and word.lower() != "of") or len(words) == 4:
            break
        words.append(word)
    return " ".join(words)


def _tidy(text: str, kind: str, recognised: bool) -> str:
    """Return a value without what surrounds it; recognised speech has no capitals, so places and names get theirs here."""
    bare = re.sub(
        r"^(?:(?:in|for|to|at|from|it is|it's|i mean|the|well|please|um|uh)\s+)+",
        "",
        text.strip().strip(".,!?;"),
        flags=re.IGNORECASE,
    )
    bare = re.sub(r"[\s,]+(?:please|thanks|thank you)$", "", bare, flags=re.IGNORECASE)
    if kind in ("place", "to", "from", "name") and recognised:
        return " ".join(word.capitalize() for word in bare.split())
    return bare


def _any_value(declared: Mapping[str, Any], text: str) -> Any:
    options = declared.get("enum")
    if isinstance(options, list) and options:
        return options[0]
    plain: dict[Any, Any] = {"integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}
    kind = declared.get("type")
    return plain.get(kind if isinstance(kind, str) else "string", text)
