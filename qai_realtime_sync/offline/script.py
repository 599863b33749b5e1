"""What the server answers: patterns with their sentences or tool calls, and the default answers behind them."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from qai_realtime_sync.errors import ConfigError

if TYPE_CHECKING:
    from qai_realtime_sync.offline.conversation import Conversation
    from qai_realtime_sync.offline.items import Response

__all__ = ["Call", "Do", "Rule", "Say", "Script", "Situation", "Step", "checked_call", "filled"]


@attrs.frozen
class Say:
    """Say this, sentence by sentence."""

    text: str


@attrs.frozen
class Call:
    """Call this tool with these arguments."""

    name: str
    arguments: Mapping[str, Any]
    call_id: str = ""  # a fresh one, if it is not given


@attrs.frozen
class Do:
    """Do something in the middle of an answer, in its thread; return whether the answer goes on."""

    act: Callable[[Conversation, Response], bool]


Step: TypeAlias = Say | Call | Do


@attrs.define
class Situation:
    """What an answer is asked for.

    ``text`` is what the user said or wrote since the last answer; ``results`` are the tool results since then as (tool, output) pairs.
    ``memory`` belongs to the conversation and may be written to. ``heard_seconds`` is how long the user spoke, ``None`` if not at all.
    """

    text: str = ""
    results: list[tuple[str, str]] = attrs.field(factory=list)
    instructions: str = ""
    own_instructions: bool = False  # the instructions are those of this one answer
    tools: list[dict[str, Any]] = attrs.field(factory=list)
    tool_choice: Any = "auto"
    wordless: bool = False  # something was spoken, but this server recognises no words
    memory: dict[str, Any] = attrs.field(factory=dict)
    heard_seconds: float | None = None


@attrs.define
class Rule:
    """One pattern and what follows from it; made by `Script.on_text`."""

    pattern: re.Pattern[str]
    script: Script
    steps: list[Step] = attrs.field(factory=list)

    def say(self, *sentences: str) -> Rule:
        """Say these sentences; ``{0}``, ``{1}``, ``{name}`` stand for the pattern's match and its groups.

        Raises: `ConfigError` for anything but text.
        """
        for one in sentences:
            if not isinstance(one, str):
                raise ConfigError(f"say() takes text, not {one!r}", code="invalid_script")
        self.steps.append(Say(" ".join(sentences)))
        return self

    def call_tool(self, name: str, args: Mapping[str, Any] | None = None) -> Rule:
        """Call a tool; text arguments may hold the same placeholders as `say`.

        Raises: `ConfigError` for a name that is no text, or arguments that are no JSON object.
        """
        self.steps.append(Call(name, checked_call(name, args)))
        return self

    def on_text(self, pattern: str) -> Rule:
        """Begin the next rule of the same script."""
        return self.script.on_text(pattern)

    def filled(self, match: re.Match[str]) -> list[Step]:
        """Return the steps with the match's words in their places."""
        return [_filled_step(step, match) for step in self.steps]


class Script:
    """Rules in the order they were made, the first that matches wins; what no rule matches gets a default answer.

    Patterns are regular expressions, searched without regard to case.

    >>> script = Script()
    >>> script.on_text(r"order (\\d+)").call_tool("find_order", {"number": "{1}"})      # doctest: +SKIP
    >>> script.on_text("refund").say("I am sorry to hear that.")                       # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def on_text(self, pattern: str) -> Rule:
        """Return a rule for what the user says; give it steps with `Rule.say` and `Rule.call_tool`.

        Raises: `ConfigError` if ``pattern`` is no regular expression.
        """
        try:
            rule = Rule(re.compile(pattern, re.IGNORECASE), self)
        except (re.error, TypeError, ValueError) as error:
            raise ConfigError(f"the pattern {pattern!r} is no regular expression: {error}", code="invalid_script") from error
        self._rules.append(rule)
        return rule

    @classmethod
    def load(cls, path: str | pathlib.Path) -> Script:
        """Read a script from JSON: a list of ``{"on": pattern, "say": text or list, "call": tool, "args": {…}}``.

        Raises: `ConfigError` if the file cannot be read or holds something else.
        """
        try:
            rows = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the script {str(path)!r} cannot be read: {error}", code="invalid_script") from error
        rows = rows.get("rules") if isinstance(rows, dict) else rows
        if not isinstance(rows, list):
            raise ConfigError(f"the script {str(path)!r} must be a JSON list of rules", code="invalid_script")
        script = cls()
        for number, row in enumerate(rows, 1):
            script._add(row, number)
        return script

    def _add(self, row: object, number: int) -> None:
        if not isinstance(row, dict) or not isinstance(row.get("on"), str) or not ("say" in row or "call" in row):
            raise ConfigError(f'rule {number} of the script needs "on" (a pattern) and "say" or "call"', code="invalid_script")
        rule = self.on_text(row["on"])
        say, call, args = row.get("say"), row.get("call"), row.get("args")
        sentences = [say] if isinstance(say, str) else say
        if sentences is not None:
            if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
                raise ConfigError(f'"say" of rule {number} must be a sentence or a list of sentences', code="invalid_script")
            rule.say(*sentences)
        if call is not None:
            if not isinstance(call, str) or not isinstance(args, dict | None):
                raise ConfigError(f'"call" of rule {number} must be the name of a tool and "args" an object', code="invalid_script")
            rule.call_tool(call, args)

    def answer(self, situation: Situation, otherwise: Callable[[Situation], list[Step]]) -> list[Step]:
        """Return the steps of the first rule that matches the user's words, or what ``otherwise`` says."""
        if situation.text and not situation.results:
            for rule in self._rules:
                match = rule.pattern.search(situation.text)
                if match:
                    return rule.filled(match)
        return otherwise(situation)


def checked_call(name: object, arguments: object) -> dict[str, Any]:
    """Return a copy of a tool's arguments, ``None`` for none. Raises: `ConfigError`."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"call_tool() needs the name of a tool, not {name!r}", code="invalid_script")
    if arguments is not None and not (isinstance(arguments, Mapping) and all(isinstance(key, str) for key in arguments)):
        raise ConfigError(
            f"the arguments of a tool must be a dict of names and values, like {{'size': 'large'}}, not {arguments!r}",
            code="invalid_script",
        )
    given = dict(arguments or {})
    try:
        json.dumps(given)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the arguments of a tool must be JSON values: {error}", code="invalid_script") from error
    return given


def _filled_step(step: Step, match: re.Match[str]) -> Step:
    if isinstance(step, Say):
        return Say(filled(step.text, match))
    if isinstance(step, Call):
        arguments = {key: filled(value, match) if isinstance(value, str) else value for key, value in step.arguments.items()}
        return attrs.evolve(step, arguments=arguments)
    return step


def filled(text: str, match: re.Match[str]) -> str:
    """Return a text with the match and its groups in the places ``{0}``, ``{1}``, ``{name}``."""

    def word(place: re.Match[str]) -> str:
        key = place.group(1)
        try:
            return match.group(int(key) if key.isdigit() else key) or ""
        except (IndexError, KeyError):
            return place.group(0)

    return re.sub(r"\{(\w+)\}", word, text)
