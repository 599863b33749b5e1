"""The ordered record of a conversation: who said what, joined by ids, however late a transcript comes."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any

import attrs

from qai_realtime_sync.commands import Command, SendFunctionResult, SendText
from qai_realtime_sync.events import (
    AudioDelta,
    Event,
    FunctionCall,
    InputCommitted,
    ItemTruncated,
    PlaybackStopped,
    ResponseCreated,
    ResponseDone,
    SpeechStarted,
    SpeechStopped,
    TextDone,
    TranscriptCorrected,
    TranscriptDone,
    TurnDone,
)
from qai_realtime_sync.turns import ToolCall, Turn

__all__ = ["Turns"]

_REMEMBERED = 1000


@attrs.define(eq=False)
class _Open:
    """What is still going on in a turn."""

    turn: Turn
    running: set[str] = attrs.field(factory=set)
    calls: dict[str, ToolCall] = attrs.field(factory=dict)
    answers: dict[tuple[str, str], str] = attrs.field(factory=dict)
    heard: dict[str, str] = attrs.field(factory=dict)
    told: bool = False


class Turns:
    """Told of events and of commands that were sent; keeps the last 1000 turns. Safe to read from any thread.

    Times are seconds of the client's clock since it connected.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._turns: collections.deque[_Open] = collections.deque(maxlen=_REMEMBERED)
        self._by_item: dict[str, _Open] = {}
        self._by_response: dict[str, _Open] = {}
        self._number = 0

    def snapshot(self) -> list[Turn]:
        """Copies of the turns, in order."""
        with self._lock:
            return [
                attrs.evolve(
                    o.turn,
                    tool_calls=[attrs.evolve(call) for call in o.turn.tool_calls],
                    response_ids=list(o.turn.response_ids),
                )
                for o in self._turns
            ]

    def sent(self, command: Command, at: float) -> None:
        """A command left: what the user typed opens a turn, a tool's result belongs to its call."""
        with self._lock:
            if isinstance(command, SendText):
                current = self._for_user("")
                current.turn.user = f"{current.turn.user}\n{command.text}".strip()
                if current.turn.speech_stopped_at is None:
                    current.turn.speech_stopped_at = at
            elif isinstance(command, SendFunctionResult):
                for current in reversed(self._turns):
                    if command.call_id in current.calls:
                        current.calls[command.call_id].output = command.output
                        break

    def told(self, event: Event, at: float) -> TurnDone | None:
        """Follow the service; return what to tell when an exchange is over."""
        row = _ROWS.get(type(event))
        if row is None:
            return None
        with self._lock:
            done = row(self, event, at)
            return None if done is None else TurnDone(turn=done.turn)

    # -- rows: one per event ---------------------------------------------------------------------------------------------------

    def _speech_started(self, event: SpeechStarted, at: float) -> None:
        current = self._for_user(event.item_id)
        if current.turn.speech_started_at is None:
            current.turn.speech_started_at = at

    def _speech_stopped(self, event: SpeechStopped, at: float) -> None:
        self._for_user(event.item_id).turn.speech_stopped_at = at

    def _committed(self, event: InputCommitted, at: float) -> None:
        current = self._for_user(event.item_id)
        if current.turn.speech_stopped_at is None:
            current.turn.speech_stopped_at = at

    def _transcript(self, event: TranscriptDone, at: float) -> None:
        if event.source == "input":
            current = self._for_user(event.item_id)
            current.heard[event.item_id] = event.transcript.strip()
            current.turn.user = " ".join(text for text in current.heard.values() if text)
        else:
            current = self._for_answer(event.response_id)
            current.answers[(event.response_id, event.item_id)] = event.transcript
            self._join(current)

    def _text(self, event: TextDone, at: float) -> None:
        current = self._for_answer(event.response_id)
        current.answers[(event.response_id, event.item_id)] = event.text
        self._join(current)

    def _corrected(self, event: TranscriptCorrected, at: float) -> None:
        current = self._for_answer(event.response_id)
        for key in current.answers:
            if key[0] == event.response_id:
                current.answers[key] = event.corrected
        self._join(current)

    def _audio(self, event: AudioDelta, at: float) -> None:
        current = self._by_response.get(event.response_id)
        if current is not None and current.turn.first_audio_at is None:
            current.turn.first_audio_at = at

    def _created(self, event: ResponseCreated, at: float) -> None:
        self._for_answer(event.response_id).running.add(event.response_id)

    def _called(self, event: FunctionCall, at: float) -> None:
        current = self._for_answer(event.response_id)
        call = ToolCall(name=event.name, call_id=event.call_id, arguments=event.arguments)
        current.calls[event.call_id] = call
        current.turn.tool_calls.append(call)

    def _stopped(self, event: PlaybackStopped, at: float) -> None:
        current = self._by_response.get(event.response_id)
        if current is not None and event.reason != "finished":
            current.turn.interrupted = True
            current.turn.heard_ms = event.heard_ms
            current.turn.audio_ms = event.received_ms

    def _truncated(self, event: ItemTruncated, at: float) -> None:
        for current in reversed(self._turns):
            if any(item_id == event.item_id for _, item_id in current.answers):
                if event.transcript:
                    current.turn.heard_text = event.transcript.strip()
                return

    def _done(self, event: ResponseDone, at: float) -> _Open | None:
        current = self._by_response.get(event.response_id)
        if current is None:
            return None
        current.running.discard(event.response_id)
        if event.status == "cancelled":
            current.turn.interrupted = True
        asked = any(item.type == "function_call" for item in event.output) or any(
            call.output is None for call in current.calls.values()
        )
        if current.running or current.told or (asked and event.status == "completed"):
            return None
        current.told = True
        current.turn.ended_at = at
        return current

    # -- joining ---------------------------------------------------------------------------------------------------------------

    def _new(self) -> _Open:
        self._number += 1
        current = _Open(Turn(number=self._number))
        if len(self._turns) == _REMEMBERED:
            self._forget(self._turns[0])
        self._turns.append(current)
        return current

    def _forget(self, old: _Open) -> None:
        for known in (self._by_item, self._by_response):
            for key in [key for key, value in known.items() if value is old]:
                del known[key]

    def _for_user(self, item_id: str) -> _Open:
        if item_id and item_id in self._by_item:
            return self._by_item[item_id]
        last = self._turns[-1] if self._turns else None
        current = last if last is not None and not last.turn.response_ids else self._new()
        if item_id:
            self._by_item[item_id] = current
        return current

    def _for_answer(self, response_id: str) -> _Open:
        if response_id in self._by_response:
            return self._by_response[response_id]
        current = self._turns[-1] if self._turns else self._new()
        current.turn.response_ids.append(response_id)
        current.told = False
        self._by_response[response_id] = current
        return current

    @staticmethod
    def _join(current: _Open) -> None:
        current.turn.assistant = " ".join(text.strip() for text in current.answers.values() if text.strip())


_ROWS: dict[type[Event], Callable[[Turns, Any, float], _Open | None]] = {
    SpeechStarted: Turns._speech_started,
    SpeechStopped: Turns._speech_stopped,
    InputCommitted: Turns._committed,
    TranscriptDone: Turns._transcript,
    TranscriptCorrected: Turns._corrected,
    TextDone: Turns._text,
    AudioDelta: Turns._audio,
    ResponseCreated: Turns._created,
    FunctionCall: Turns._called,
    PlaybackStopped: Turns._stopped,
    ItemTruncated: Turns._truncated,
    ResponseDone: Turns._done,
}
