"""The ordered record of a conversation: who said what, joined by ids, however late a transcript comes."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable
from typing import Any, Final

import attrs

from qai_realtime_sync.commands import Command, CreateResponse, SendFunctionResult, SendText
from qai_realtime_sync.config import TurnDetection
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
    TextDelta,
    TextDone,
    TranscriptCorrected,
    TranscriptDelta,
    TranscriptDone,
    TurnDone,
)
from qai_realtime_sync.turns import ToolCall, Turn, words_heard

__all__ = ["FOLLOWED", "NOTED_BEFORE", "Turns"]

_REMEMBERED = 1000
_SAME_RUN = 0.002  # seconds: sound that begins this near to the end of the last piece goes on from there
_MOST_RUNS = 10_000
_MOST_EARLY = 64
_LONGEST_MS = 10**12
_PADDING, _SILENCE = 0.3, 0.5  # what services hold before and after speech if nothing else is said (source: OpenAI reference)


@attrs.define(eq=False, repr=False)
class _Open:
    """What is still going on in a turn."""

    turn: Turn
    running: set[str] = attrs.field(factory=set)
    calls: dict[str, ToolCall] = attrs.field(factory=dict)
    asking: set[str] = attrs.field(factory=set)  # answers that called a function: another answer follows them
    answers: dict[tuple[str, str], str] = attrs.field(factory=dict)
    heard: dict[str, str] = attrs.field(factory=dict)
    typed: list[str] = attrs.field(factory=list)
    pieces: dict[tuple[str, bool], str] = attrs.field(factory=dict)  # (answer, spoken or not) without items -> its text so far
    kept: dict[tuple[str, str], str] = attrs.field(factory=dict)  # what was cut: the text the service keeps of it
    cut: tuple[str, str] | None = None  # the item that was cut here, as a key of answers
    told: bool = False


class Turns:
    """Told of events and of commands that were sent; keeps the last 1000 turns. Safe to read from any thread.

    Times are seconds of the client's clock since it connected.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._turns: list[_Open] = []
        self._by_item: dict[str, _Open] = {}
        self._by_response: dict[str, _Open] = {}
        self._number = 0
        self.noted: dict[type[Event], str] = {AudioDelta: "?", TextDelta: "?", TranscriptDelta: "?"}
        """Of each kind of delta the answer whose first one was noted last: of the rest nothing is to be learned."""
        self._sounding: _Open | None = None  # whose answer was put last behind what plays
        self._runs: list[tuple[float, float]] = []  # the user's sound that was recorded: its seconds, and when each began
        self._spoken = 0.0
        self._early: dict[str, tuple[str, float]] = {}  # results whose call is not known yet
        self._apart: list[dict[str, str]] = []  # the metadata of requests out of band, by which their answers are known
        self._beside: list[str] = []  # these answers; nobody said them to the user
        self._padding, self._silence = _PADDING, _SILENCE  # seconds that the service counts before and after the user's speech

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
                current.typed.append(command.text)
                self._join_user(current)
                if current.turn.speech_stopped_at is None:
                    current.turn.speech_stopped_at = at
            elif isinstance(command, SendFunctionResult):
                for current in reversed(self._turns):
                    if command.call_id in current.calls:
                        call = current.calls[command.call_id]
                        call.output, call.answered_at = command.output, at
                        break
                else:  # it was answered before its call was told here
                    self._early[command.call_id] = (command.output, at)
                    if len(self._early) > _MOST_EARLY:
                        del self._early[next(iter(self._early))]
            elif isinstance(command, CreateResponse) and command.out_of_band and command.metadata:
                self._apart = [*self._apart[-_MOST_EARLY:], command.metadata]

    def told(self, event: Event, at: float) -> TurnDone | None:
        """Follow the service; return what to tell when an exchange is over."""
        row = _ROWS.get(type(event))
        if row is None:
            return None
        with self._lock:
            if self._beside and getattr(event, "response_id", "") in self._beside:
                return None
            done = row(self, event, at)
            return None if done is None else TurnDone(turn=done.turn)

    def sounds(self, response_id: str, at: float, silent_at: float) -> None:
        """An answer is heard from ``at`` on; what plays before it ends at ``silent_at``."""
        with self._lock:
            last, self._sounding = self._sounding, self._by_response.get(response_id)
            if last is not None and last is not self._sounding and last.turn.sound_ended_at is None:
                last.turn.sound_ended_at = min(at, silent_at)
            if self._sounding is not None and self._sounding.turn.first_sound_at is None:
                self._sounding.turn.first_sound_at = at

    def silent(self, at: float) -> None:
        """What played was heard to its end at ``at``."""
        with self._lock:
            last, self._sounding = self._sounding, None
            if last is not None:
                last.turn.sound_ended_at = at

    def spoke(self, at: float, seconds: float) -> None:
        """The next ``seconds`` of the user's sound stand at ``at`` in the recording."""
        with self._lock:
            if not self._runs or abs(self._time_of(self._spoken) - at) > _SAME_RUN:
                self._runs.append((self._spoken, at))
                del self._runs[:-_MOST_RUNS]
            self._spoken += seconds

    def connected(self, detection: object) -> None:
        """A connection begins, with this turn detection: the service counts the user's sound and its answers anew."""
        with self._lock:
            self._runs.clear()
            self._spoken = 0.0
            self._by_response.clear()  # some services number the answers of each connection from 1
            self.noted.update(dict.fromkeys(self.noted, "?"))
            if isinstance(detection, TurnDetection):
                padding, silence = detection.prefix_padding_ms, detection.silence_duration_ms
                self._padding = padding / 1000 if isinstance(padding, int) else _PADDING
                self._silence = silence / 1000 if isinstance(silence, int) else _SILENCE

    def _time_of(self, position: float) -> float:
        """Return when the user's sound at ``position`` seconds was heard."""
        spoken, at = self._runs[max(0, bisect.bisect_right(self._runs, (position, float("inf"))) - 1)]
        return at + position - spoken

    # -- rows: one per event ---------------------------------------------------------------------------------------------------

    def _speech_started(self, event: SpeechStarted, at: float) -> None:
        turn = self._for_user(event.item_id).turn
        if turn.speech_started_at is None:
            turn.speech_started_at = at
        position = _seconds(event.audio_start_ms)
        if turn.spoke_from is None and self._runs and position:  # at 0 the padding may be shorter
            turn.spoke_from = self._time_of(position + self._padding)

    def _speech_stopped(self, event: SpeechStopped, at: float) -> None:
        turn = self._for_user(event.item_id).turn
        turn.speech_stopped_at = at
        position = _seconds(event.audio_end_ms)
        if self._runs and position is not None:
            turn.spoke_until = self._time_of(position - self._silence)

    def _committed(self, event: InputCommitted, at: float) -> None:
        current = self._for_user(event.item_id)
        if current.turn.speech_stopped_at is None:
            current.turn.speech_stopped_at = at

    def _transcript(self, event: TranscriptDone, at: float) -> None:
        if event.source == "input":
            # Where there are no items, what the user said may come when its answer has begun, and names that.
            answered = self._by_response.get(event.response_id) if not event.item_id else None
            current = answered if answered is not None else self._for_user(event.item_id)
            words = event.transcript.strip()
            if not event.item_id:  # nothing tells one sentence from the next, so neither may replace the other
                before = current.heard.get(event.response_id, "")
                again = event.response_id and before and words.startswith(before)  # the same utterance, told again and perhaps longer
                words = words if again else f"{before} {words}".strip()
            current.heard[event.item_id or event.response_id] = words
            self._join_user(current)
        else:
            self._answered(event, event.transcript, event.final)

    def _text(self, event: TextDone, at: float) -> None:
        self._answered(event, event.text, True)

    def _answered(self, event: TranscriptDone | TextDone, text: str, final: bool) -> None:
        """An item's text, or without items a piece of the answer's; one that is not final may come again, and then longer."""
        current = self._for_answer(event.response_id)
        self._goes_on(current, event.response_id)
        if not event.item_id:
            kind = (event.response_id, isinstance(event, TranscriptDone))  # some services write down what they also say
            before = current.pieces.get(kind, "")
            if before and (final or not text.strip().startswith(before)):
                text = f"{before} {text.strip()}"
            current.pieces[kind] = text.strip()
        current.answers[(event.response_id, event.item_id)] = text
        self._join(current)

    def _corrected(self, event: TranscriptCorrected, at: float) -> None:
        current = self._for_answer(event.response_id)
        original = event.original.strip()
        for key, text in current.answers.items():
            if key[0] == event.response_id:
                before = text.strip()
                only = before[: -len(original)] if original and before.endswith(original) else ""  # of several pieces the last one
                current.answers[key] = only + event.corrected
                current.kept[key] = current.answers[key].strip()
                for kind in current.pieces:
                    if kind[0] == event.response_id:
                        current.pieces[kind] = current.kept[key]
        self._join(current)

    def _audio(self, event: AudioDelta, at: float) -> None:
        current = self._by_response.get(event.response_id)
        if current is None:
            return
        if current.turn.first_audio_at is None:
            current.turn.first_audio_at = at
        self.noted[AudioDelta] = event.response_id

    def _words(self, event: TextDelta | TranscriptDelta, at: float) -> None:
        current = self._by_response.get(event.response_id)
        if isinstance(event, TranscriptDelta) and event.source != "output":
            if current is None and not event.item_id:
                self._for_user("")  # without items and speech events these words are the first sign of a new turn
            return
        if current is None:
            return
        if current.turn.first_text_at is None:
            current.turn.first_text_at = at
        self.noted[type(event)] = event.response_id

    def _created(self, event: ResponseCreated, at: float) -> None:
        if event.metadata and event.metadata in self._apart and not event.conversation_id:
            self._apart.remove(event.metadata)  # a later answer of the conversation may carry the same
            self._beside = [*self._beside[-_MOST_EARLY:], event.response_id]
            return
        self._for_answer(event.response_id).running.add(event.response_id)

    def _called(self, event: FunctionCall, at: float) -> None:
        current = self._for_answer(event.response_id)
        call = ToolCall(name=event.name, call_id=event.call_id, arguments=event.arguments, called_at=at)
        call.output, call.answered_at = self._early.pop(event.call_id, (None, None))
        current.calls[event.call_id] = call
        current.asking.add(event.response_id)
        current.turn.tool_calls.append(call)

    def _stopped(self, event: PlaybackStopped, at: float) -> None:
        if event.reason == "finished":
            return
        # After a reconnect the old answer may still play, though its id means nothing any more.
        current = self._by_response.get(event.response_id) or self._sounding
        self._sounding = None
        if current is not None:
            current.turn.interrupted = True
            current.turn.heard_ms = event.heard_ms
            current.turn.audio_ms = event.received_ms
            current.turn.sound_ended_at = at
            current.cut = (event.response_id, event.item_id)
            self._weigh(current)
        for later in reversed(self._turns):
            if later is current or later.turn.first_sound_at is None or later.turn.first_sound_at <= at:
                break
            # It waited behind what was stopped: nobody heard any of it.
            later.turn.first_sound_at, later.turn.interrupted = None, True
            later.turn.heard_text = ""

    def _truncated(self, event: ItemTruncated, at: float) -> None:
        for current in reversed(self._turns):
            for key in current.answers:
                if key[1] == event.item_id:
                    if event.transcript:
                        current.kept[key] = event.transcript.strip()
                        self._weigh(current)
                    return

    def _done(self, event: ResponseDone, at: float) -> _Open | None:
        current = self._by_response.get(event.response_id)
        if current is None:
            return None
        current.running.discard(event.response_id)
        if event.status == "cancelled":
            current.turn.interrupted = True
        asked = event.response_id in current.asking or any(item.type == "function_call" for item in event.output)
        if current.running or current.told or (asked and event.status == "completed"):
            return None
        current.told = True
        current.turn.ended_at = at
        return current

    # -- joining ---------------------------------------------------------------------------------------------------------------

    def _join_user(self, current: _Open) -> None:
        """What was spoken, then what was typed: words of the one may come when the other is there already."""
        spoken = " ".join(text for text in current.heard.values() if text)
        current.turn.user = "\n".join([spoken, *current.typed]).strip()

    def _new(self) -> _Open:
        self._number += 1
        current = _Open(Turn(number=self._number))
        if len(self._turns) == _REMEMBERED:
            self._forget(self._turns.pop(0))
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
        current = self._turns[-1] if self._turns and not self._turns[-1].told else self._new()
        current.turn.response_ids.append(response_id)
        current.told = False
        self._by_response[response_id] = current
        return current

    @staticmethod
    def _goes_on(current: _Open, response_id: str) -> None:
        """Words that come after all results: this service goes on in the same answer, and no other follows it."""
        if response_id in current.asking and all(call.output is not None for call in current.calls.values()):
            current.asking.discard(response_id)

    @staticmethod
    def _join(current: _Open) -> None:
        current.turn.assistant = " ".join(text.strip() for text in current.answers.values() if text.strip())
        Turns._weigh(current)

    @staticmethod
    def _weigh(current: _Open) -> None:
        """Tell what was heard of several items, or of one that the service cut; of a single one its length alone tells it."""
        if not current.kept and (current.cut is None or len(current.answers) < 2):
            return
        turn, heard, over = current.turn, [], False
        for key, text in current.answers.items():
            if key in current.kept:
                heard.append(current.kept[key])
            elif key == current.cut and turn.heard_ms is not None:
                heard.append(words_heard(text, turn.heard_ms, turn.audio_ms))
            elif not over:
                heard.append(text.strip())
            over = over or key == current.cut
        turn.heard_text = " ".join(text for text in heard if text)


def _seconds(position_ms: int | None) -> float | None:
    """Return a position in the user's sound in seconds, ``None`` for what cannot be one."""
    return position_ms / 1000 if position_ms is not None and abs(position_ms) <= _LONGEST_MS else None


_ROWS: dict[type[Event], Callable[[Turns, Any, float], _Open | None]] = {
    SpeechStarted: Turns._speech_started,
    SpeechStopped: Turns._speech_stopped,
    InputCommitted: Turns._committed,
    TranscriptDone: Turns._transcript,
    TranscriptCorrected: Turns._corrected,
    TextDone: Turns._text,
    AudioDelta: Turns._audio,
    TextDelta: Turns._words,
    TranscriptDelta: Turns._words,
    ResponseCreated: Turns._created,
    FunctionCall: Turns._called,
    PlaybackStopped: Turns._stopped,
    ItemTruncated: Turns._truncated,
    ResponseDone: Turns._done,
}

NOTED_BEFORE: Final = (SendText, SendFunctionResult, CreateResponse)
"""The commands that `Turns.sent` is told of before they leave."""

FOLLOWED: Final = frozenset(_ROWS)
"""The events that `Turns.told` has something to learn from."""
