"""The story of a test: what is expected to be said, how far that came, and what was said unexpectedly."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs

from qai_realtime_sync.commands import SendFunctionResult
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline.conversation import Conversation
from qai_realtime_sync.offline.items import Response, new_id
from qai_realtime_sync.offline.script import Call, Do, Say, Script, Situation, Step, filled
from qai_realtime_sync.testing.expectation import Action, Expectation, Run, Trigger, pattern_of

__all__ = ["Line", "Story"]

_ANYTHING = re.compile("")
_RUN = "expectation"  # where a conversation remembers what it is in the middle of


@attrs.frozen
class Line:
    """What the steps need of a connection: to send a message as it is, to close, to be lost; by its number as text."""

    send: Callable[[str | bytes], None]
    close: Callable[[int, str], None]
    drop: Callable[[], None]


class Story(Script):
    """A script that knows what has happened of it; safe for several threads.

    ``strict``: what nobody expected is answered by an error, and reported. Without any expectation the server's usual answers are given.
    """

    def __init__(self, strict: bool = True, in_order: bool = False) -> None:
        super().__init__()
        self.strict, self.in_order = strict, in_order
        self.delay = 0.0
        self.knows_tools = True  # the client declares its tools on the wire
        self.load_voice: Callable[[], object] = lambda: None
        self.line: Callable[[str], Line | None] = lambda number: None
        self._changed = threading.Condition()  # guards everything below, and the runs
        self.expectations: list[Expectation] = []
        self.unexpected: list[tuple[str, str]] = []  # what was said, and what was expected then
        self._calls: dict[str, tuple[Run, Action]] = {}

    # -- writing it -----------------------------------------------------------------------------------------------------------

    def expect(self, trigger: Trigger, times: int | None) -> Expectation:
        """Add an expectation."""
        made = Expectation(trigger, times, self._wake, self.load_voice)
        with self._changed:
            self.expectations.append(made)
        return made

    def text_trigger(self, pattern: Any) -> Trigger:
        """What the user says or writes fits a pattern."""
        compiled = pattern_of(pattern)

        def match(situation: Situation) -> re.Match[str] | None:
            return compiled.search(situation.text) if situation.text and not situation.wordless else None

        return Trigger("question", f"on_text({_shown(compiled)})", "nobody said that", match)

    def audio_trigger(self, seconds: float | None, words: Any) -> Trigger:
        """The user spoke, at least so long, and at least so many words or words that fit a pattern."""
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0):
            raise ConfigError(f"on_audio() takes seconds, not {seconds!r}; what is said goes into words=", code="invalid_script")
        counted = isinstance(words, int) and not isinstance(words, bool)
        compiled = pattern_of(words) if words is not None and not counted else None
        given = [f"seconds={seconds:g}"] if seconds is not None else []
        given += [f"words={words!r}" if compiled is None else f"words={_shown(compiled)}"] if words is not None else []

        def match(situation: Situation) -> re.Match[str] | None:
            heard = situation.heard_seconds
            if heard is None or (seconds is not None and heard < seconds):
                return None
            if words is not None and situation.wordless:
                return None
            if compiled is not None:
                return compiled.search(situation.text)
            return _ANYTHING.search(situation.text) if words is None or len(situation.text.split()) >= words else None

        return Trigger("question", f"on_audio({', '.join(given)})", "nobody spoke like that", match)

    def request_trigger(self, instructions: Any) -> Trigger:
        """The client asks for an answer though nobody said anything."""
        compiled = pattern_of(instructions)
        label = f"on_request({_shown(compiled) if compiled.pattern else ''})"
        return Trigger("request", label, "no such answer was asked for", lambda situation: compiled.search(situation.instructions))

    def connect_trigger(self) -> Trigger:
        """A client is ready."""
        return Trigger("connect", "on_connect()", "no client became ready", lambda situation: _ANYTHING.search(""))

    # -- playing it -----------------------------------------------------------------------------------------------------------

    def answer(self, situation: Situation, otherwise: Callable[[Situation], list[Step]]) -> list[Step]:
        """Return what follows from the first expectation that fits; under the conversation's lock."""
        with self._changed:
            steps = self._answer(situation, otherwise)
            self._changed.notify_all()
        return [Do(_wait(self.delay)), *steps] if self.delay else steps

    def _answer(self, situation: Situation, otherwise: Callable[[Situation], list[Step]]) -> list[Step]:
        run: Run | None = situation.memory.get(_RUN) if situation.results else None
        if run is not None and run.round + 1 < len(run.expectation.rounds):
            for one in run.expectation.rounds[run.round]:
                if one.kind == "call" and one.index not in run.met:
                    run.problems.setdefault(one.index, "an answer was asked for before the tool's result had come")
            run.round += 1
            return self._steps(run, situation)
        if situation.results and not situation.text:
            return otherwise(situation)
        kind = "question" if situation.text or situation.heard_seconds is not None else "request"
        found = self._find(kind, situation)
        if found is not None:
            return self._begin(*found, situation)
        asked = [one for one in self.expectations if one.trigger.kind == "question"]
        if kind == "request" or not asked or not self.strict:
            return otherwise(situation)
        said = situation.text if not situation.wordless else f"{situation.heard_seconds or 0:.1f} s of speech without known words"
        waiting = [one.path(0) for one in asked if not one.used_up]
        expected = "; ".join(waiting) if waiting else "nothing more"
        self.unexpected.append((said, expected))
        message = f"The test did not expect {json.dumps(said, ensure_ascii=False)}; it expects: {expected}."
        return [Do(_failing(message, "unexpected_question"))]

    def greet(self, conversation: Conversation) -> list[Step] | None:
        """Return what a client that became ready is told, ``None`` for nothing."""
        situation = Situation(memory=conversation.memory)
        with self._changed:
            found = self._find("connect", situation)
            return None if found is None else self._begin(*found, situation)

    def _find(self, kind: str, situation: Situation) -> tuple[Expectation, re.Match[str]] | None:
        for expectation in self.expectations:
            if expectation.trigger.kind != kind or expectation.used_up:
                continue
            match = expectation.trigger.match(situation)
            if match is not None:
                return expectation, match
            if self.in_order and expectation.times is not None:
                return None
        return None

    def _begin(self, expectation: Expectation, match: re.Match[str], situation: Situation) -> list[Step]:
        run = Run(expectation, "", match)
        expectation.runs.append(run)
        situation.memory[_RUN] = run
        return self._steps(run, situation)

    def _steps(self, run: Run, situation: Situation) -> list[Step]:
        steps: list[Step] = []
        for action in run.expectation.rounds[run.round]:
            steps += self._playing(run, action, situation)
        return steps

    def _playing(self, run: Run, action: Action, situation: Situation) -> list[Step]:
        begin, done = Do(self._noting(run, action, run.begun)), Do(self._noting(run, action, run.met))
        if action.kind == "say":
            return [begin, Say(filled(action.text, run.match)), done]
        if action.kind == "call":
            call = Call(action.text, _filled_all(action.arguments, run.match), new_id("call"))
            self._calls[call.call_id] = run, action
            declared = [str(tool.get("name")) for tool in situation.tools if tool.get("name")]
            if self.knows_tools and action.text not in declared:
                names = ", ".join(declared) or "none at all"
                run.problems[action.index] = f"the client has no tool {json.dumps(action.text)}; it declared: {names}"
            return [begin, call]
        return [begin, Do(self._doing(run, action))]

    def _noting(self, run: Run, action: Action, where: set[int]) -> Callable[[Conversation, Response], bool]:
        def note(conversation: Conversation, response: Response) -> bool:
            with self._changed:
                run.connection = conversation.name
                run.responses[action.index] = response
                where.add(action.index)
                self._changed.notify_all()
            return True

        return note

    def _doing(self, run: Run, action: Action) -> Callable[[Conversation, Response], bool]:
        met = self._noting(run, action, run.met)

        def act(conversation: Conversation, response: Response) -> bool:
            line = self.line(conversation.name)
            if action.kind == "slow":
                return not response.stop.wait(action.seconds) and met(conversation, response)
            if action.kind == "interrupt":
                if response.stop.wait(action.seconds) and response.status == "cancelled":
                    met(conversation, response)
                return response.active
            if line is None:
                return False
            met(conversation, response)
            if action.kind == "fail":
                return _failing(action.text, action.code)(conversation, response)
            if action.kind == "send":
                line.send(action.code)
                return True
            if action.kind == "close":
                line.close(action.code, action.text)
            else:
                line.drop()
            return False

        return act

    def result_came(self, connection: str, result: SendFunctionResult) -> None:
        """A client sent the result of a call."""
        with self._changed:
            found = self._calls.pop(result.call_id, None)
            if found is None and not result.call_id:
                found = self._by_name(connection, result.name)
            if found is None:
                return
            run, action = found
            run.met.add(action.index)
            problem = _wrong_result(action, result)
            if problem:
                run.problems.setdefault(action.index, problem)
            self._changed.notify_all()

    def _by_name(self, connection: str, name: str) -> tuple[Run, Action] | None:
        for call_id, (run, action) in self._calls.items():
            if run.connection == connection and action.text == name:
                return self._calls.pop(call_id)
        return None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # -- what became of it ----------------------------------------------------------------------------------------------------

    def wait(self, timeout: float, is_over: Callable[[], bool]) -> None:
        """Wait until all is met, or nothing more can come, or the time is up."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._problems(lambda run: "") and not self.unexpected and not is_over():
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return

    def connection_ended(self) -> None:
        """Look again whether more can come."""
        self._wake()

    def problems(self, summary: Callable[[str], str]) -> list[str]:
        """Return in words what was not met or not expected; ``summary`` tells what a connection's client sent ("" = all clients)."""
        with self._changed:
            return self._problems(lambda run: summary(run.connection if run is not None else ""))

    def _problems(self, summary: Callable[[Run | None], str]) -> list[str]:
        found = []
        for expectation in self.expectations:
            for run in expectation.runs:
                action = run.open
                if action is not None:
                    why = run.problems.get(action.index) or _why(run, action)
                    found.append(f"{expectation.step(action.index)}: {why}; the client sent: {summary(run)}")
            times, runs = expectation.times, len(expectation.runs)
            if times is not None and runs < times:
                count = f" ({runs} of {times} times so far)" if times > 1 else ""
                label = expectation.trigger.label
                again = " once more" * any(one.trigger.label == label and one.runs for one in self.expectations if one is not expectation)
                found.append(f"{expectation.step(0)}: {expectation.trigger.never}{again}{count}; the client sent: {summary(None)}")
        for said, expected in self.unexpected:
            found.append(f"unexpected: {json.dumps(said, ensure_ascii=False)}; expected at that moment: {expected}")
        return found


def _shown(pattern: re.Pattern[str]) -> str:
    return json.dumps(pattern.pattern, ensure_ascii=False)


def _filled_all(value: Any, match: re.Match[str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled_all(one, match) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled_all(one, match) for one in value]
    return filled(value, match) if isinstance(value, str) else value


def _wait(seconds: float) -> Callable[[Conversation, Response], bool]:
    return lambda conversation, response: not response.stop.wait(seconds)


def _failing(message: str, code: str) -> Callable[[Conversation, Response], bool]:
    def fail(conversation: Conversation, response: Response) -> bool:
        conversation.fail(response, message, code)
        return False

    return fail


def _wrong_result(action: Action, result: SendFunctionResult) -> str:
    if result.is_error and not action.may_fail:
        return f"the tool failed: {result.output}"
    if action.result is None:
        return ""
    if isinstance(action.result, (str, re.Pattern)):
        return "" if pattern_of(action.result).search(result.output) else f"the tool's result was {result.output!r}, not {action.result!r}"
    try:
        value = json.loads(result.output)
    except ValueError:
        value = result.output
    return "" if value == action.result else f"the tool's result was {value!r}, not {action.result!r}"


def _why(run: Run, action: Action) -> str:
    """Say why a step was not met."""
    if action.index not in run.begun:
        earlier = any(action in round_ for round_ in run.expectation.rounds[run.round + 1 :])
        return "no answer was asked for after the tool's result" if earlier else f"it was not reached{_cut(run, action.index - 1)}"
    if action.kind == "call":
        return "the tool's result never came back"
    if action.kind == "interrupt":
        return f"nobody interrupted the answer within {action.seconds:g} s"
    return f"it was not done to the end{_cut(run, action.index)}"


def _cut(run: Run, index: int) -> str:
    response = run.responses.get(index)
    if response is None:
        return ""
    if response.status in ("completed", "in_progress"):
        return ": the connection ended before, or the test did not wait for it"
    if response.status == "failed":
        return f": the answer failed: {response.error_message}"
    reason = {"client_cancelled": "the client cancelled the answer", "turn_detected": "the caller spoke over the answer"}
    return f": {reason.get(response.reason, response.reason or response.status)}"
