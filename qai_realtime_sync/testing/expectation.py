"""What a test expects of a conversation: a trigger, and the steps that follow from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline.items import Response
from qai_realtime_sync.offline.script import Situation, checked_call

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Action", "Expectation", "Run", "Trigger", "check_close", "pattern_of", "raw_message"]

Pattern: TypeAlias = "str | re.Pattern[str]"
_LAST: Final = frozenset({"interrupt", "fail", "close", "drop"})
_LONGEST_REASON: Final = 123  # bytes, RFC 6455


def pattern_of(pattern: Pattern) -> re.Pattern[str]:
    """Return a pattern, one given as text without regard to case. Raises: `ConfigError`."""
    if isinstance(pattern, re.Pattern):
        return pattern
    try:
        return re.compile(pattern, re.IGNORECASE)
    except (re.error, TypeError) as error:
        raise ConfigError(f"the pattern {pattern!r} is no regular expression: {error}", code="invalid_script") from error


@attrs.frozen
class Trigger:
    """What sets an expectation off; ``never`` says in a report that it did not come."""

    kind: str  # question, request, connect
    label: str
    never: str
    match: Callable[[Situation], re.Match[str] | None] = attrs.field(repr=False)


@attrs.frozen
class Action:
    """One step behind a trigger. ``kind``: say, call, interrupt, fail, close, drop, slow, send; ``index`` is its number among the steps."""

    kind: str
    label: str
    index: int
    text: str = ""
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    code: Any = None
    seconds: float = 0.0
    result: Any = None
    may_fail: bool = False


@attrs.define(eq=False)
class Run:
    """One time that an expectation was set off: how far it came."""

    expectation: Expectation
    connection: str
    match: re.Match[str]
    round: int = 0
    begun: set[int] = attrs.field(factory=set)
    met: set[int] = attrs.field(factory=set)
    problems: dict[int, str] = attrs.field(factory=dict)
    responses: dict[int, Response] = attrs.field(factory=dict)

    def _settle(self) -> None:
        """An interruption that was wanted may come before everything was said: then the rest need not be."""
        for round_ in self.expectation.rounds:
            wanted = next((one for one in round_ if one.kind == "interrupt"), None)
            begun = [self.responses[one.index] for one in round_ if one.index in self.responses]
            if wanted is not None and begun and begun[-1].status == "cancelled":
                self.met |= {one.index for one in round_ if one.index <= wanted.index and one.kind != "call"}

    @property
    def open(self) -> Action | None:
        """The first step that was not met, or was met wrongly."""
        self._settle()
        return next((one for one in self.expectation.actions if one.index in self.problems or one.index not in self.met), None)


class Expectation:
    """Something that a test expects to be said, and what the service does then; made by `ScriptedServer.on_text` and its kin.

    Steps that begin with ``then_`` come when the results of the calls before them are there.
    """

    def __init__(
        self, trigger: Trigger, times: int | None, changed: Callable[[], object], load_voice: Callable[[], object] = lambda: None
    ) -> None:
        if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
            raise ConfigError(f"times must be a whole number above 0, or None for any number, not {times!r}", code="invalid_script")
        self.trigger, self.times = trigger, times
        self.rounds: list[list[Action]] = [[]]
        self.runs: list[Run] = []
        self._changed, self._load_voice = changed, load_voice

    def __repr__(self) -> str:
        return f"<expected: {self.path(len(self.actions))}>"

    @property
    def actions(self) -> list[Action]:
        """All steps behind the trigger, in order."""
        return [action for round_ in self.rounds for action in round_]

    @property
    def used_up(self) -> bool:
        """It was set off as often as it may be."""
        return self.times is not None and len(self.runs) >= self.times

    def path(self, index: int) -> str:
        """Return the way to a step in words; 0 is the trigger."""
        return " -> ".join([self.trigger.label, *(one.label for one in self.actions[:index])])

    def step(self, index: int) -> str:
        """Return which step this is, in words; 0 is the trigger."""
        return f"step {index + 1} of {len(self.actions) + 1}, {self.path(index)}"

    # -- what follows ---------------------------------------------------------------------------------------------------------

    def say(self, *sentences: str) -> Self:
        """Say these sentences; ``{0}``, ``{1}``, ``{name}`` stand for the match of the pattern and its groups."""
        for one in sentences:
            if not isinstance(one, str):
                raise ConfigError(f"say() takes text, not {one!r}", code="invalid_script")
        text = " ".join(sentences)
        self._load_voice()  # now, and not in the time that the client waits for its answer
        return self._add(kind="say", label=f"say({_quoted(text)})", text=text)

    def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None, *, result: Any = None, may_fail: bool = False) -> Self:
        """Call a tool of the client, and expect its result.

        ``result``: what it must be, a pattern for text, or a JSON value. A tool that fails is reported, unless it ``may_fail``. Text among
        the arguments may hold the places of `say`.
        """
        given = checked_call(name, arguments)
        if isinstance(result, str):
            pattern_of(result)  # now, not when the result comes
        return self._add(
            kind="call", label=f"call_tool({_quoted(name)})", text=name, arguments=given, result=result, may_fail=may_fail
        )

    def then_say(self, *sentences: str) -> Self:
        """The same as `say`, when the results are there."""
        self._next_round()
        return self._relabelled(self.say(*sentences))

    def then_call_tool(self, name: str, arguments: Mapping[str, Any] | None = None, *, result: Any = None, may_fail: bool = False) -> Self:
        """The same as `call_tool`, when the results are there."""
        self._next_round()
        return self._relabelled(self.call_tool(name, arguments, result=result, may_fail=may_fail))

    def until_interrupted(self, timeout: float = 10.0) -> Self:
        """Keep the answer open until the caller speaks, or the client cancels it; at most ``timeout`` seconds."""
        _check_seconds("until_interrupted()", timeout)
        return self._add(kind="interrupt", label="until_interrupted()", seconds=timeout)

    def slow(self, seconds: float) -> Self:
        """Wait so many real seconds before what comes next."""
        _check_seconds("slow()", seconds)
        return self._add(kind="slow", label=f"slow({seconds:g})", seconds=seconds)

    def fail(self, code: str = "server_error", message: str = "The server had an error while processing your request.") -> Self:
        """End the answer with an error instead."""
        for one in (code, message):
            if not isinstance(one, str):
                raise ConfigError(f"fail() takes a code and a message as text, not {one!r}", code="invalid_script")
        return self._add(kind="fail", label=f"fail({_quoted(code)})", code=code, text=message)

    def rate_limit(self) -> Self:
        """End the answer because there were too many."""
        message = "Rate limit reached: too many responses. Try again later."
        return self._add(kind="fail", label="rate_limit()", code="rate_limit_exceeded", text=message)

    def close(self, code: int = 1000, reason: str = "") -> Self:
        """Close the connection with a code and a reason."""
        check_close(code, reason)
        return self._add(kind="close", label=f"close({code}{', ' + _quoted(reason) if reason else ''})", code=code, text=reason)

    def drop(self) -> Self:
        """Lose the connection, without a close frame."""
        return self._add(kind="drop", label="drop()")

    def send(self, message: Mapping[str, Any] | str | bytes) -> Self:
        """Send this message as it is, a dict as JSON."""
        return self._add(kind="send", label=f"send({_quoted(str(message))})", code=raw_message(message))

    def _add(self, **fields: Any) -> Self:
        last = next(reversed(self.actions), None)
        if last is not None and last.kind in _LAST:
            raise ConfigError(
                f"nothing can follow {last.label}, which ends the answer; expect what is said next with another on_text() or on_audio()",
                code="invalid_script",
            )
        # Whole lists are put in place of the old ones: a server's thread may be reading them.
        action = Action(index=len(self.actions) + 1, **fields)
        self.rounds = [*self.rounds[:-1], [*self.rounds[-1], action]]
        self._changed()
        return self

    def _next_round(self) -> None:
        if any(action.kind == "call" for action in self.rounds[-1]):
            self.rounds = [*self.rounds, []]

    def _relabelled(self, same: Self) -> Self:
        last = self.rounds[-1][-1]
        self.rounds = [*self.rounds[:-1], [*self.rounds[-1][:-1], attrs.evolve(last, label=f"then_{last.label}")]]
        return same


def raw_message(message: object) -> str | bytes:
    """Return a message as it goes out, a dict as JSON. Raises: `ConfigError`."""
    if isinstance(message, (str, bytes)):
        return message
    if not isinstance(message, Mapping):
        raise ConfigError(f"send() takes a dict, text or bytes, not {message!r}", code="invalid_script")
    try:
        return json.dumps(message)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"send() takes a dict of JSON values: {error}", code="invalid_script") from error


def check_close(code: object, reason: object) -> None:
    """Raise `ConfigError` for what cannot stand in a close frame."""
    if isinstance(code, bool) or not isinstance(code, int) or not 1000 <= code <= 4999:
        raise ConfigError(f"close() needs a code from 1000 to 4999, not {code!r}", code="invalid_script")
    if code in (1005, 1006, 1015):
        raise ConfigError(f"no close frame carries {code}, which stands for an end without one: drop()", code="invalid_script")
    if not isinstance(reason, str) or len(reason.encode()) > _LONGEST_REASON:
        raise ConfigError(f"close() takes a reason of at most {_LONGEST_REASON} bytes, not {reason!r}", code="invalid_script")


def _check_seconds(what: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ConfigError(f"{what} needs a number of seconds, not {seconds!r}", code="invalid_script")


def _quoted(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:59] + "…", ensure_ascii=False)
