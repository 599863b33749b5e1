"""A spoken conversation as it is seen: what was said, line by line, and at the bottom what is being said, levels and latency."""

from __future__ import annotations

import shutil
import textwrap
import threading
import time
from collections.abc import Callable

from qai_realtime_sync import (
    AudioDelta,
    Event,
    FunctionCall,
    HandlerFailed,
    PlaybackStopped,
    RealtimeClient,
    Reconnected,
    Reconnecting,
    ResponseCreated,
    ResponseDone,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TranscriptCorrected,
    TranscriptDelta,
    TranscriptDone,
    TranscriptFailed,
    TurnDone,
)
from qai_realtime_sync.cli.json_events import follow_as_json
from qai_realtime_sync.cli.terminal import LivePanel, Styled, bar
from qai_realtime_sync.errors import RealtimeError
from qai_realtime_sync.events import ErrorReceived

__all__ = ["Activity", "TalkScreen"]

_WIDEST = 60  # characters of what is being said
_ANSWER_WITHIN = 20.0
_QUIET = 1.0
_VOICED = 0.01  # of full scale


class Activity:
    """Knows whether something is still to come; told of events on the reader, asked from anywhere."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._last = clock()
        self._awaits = False  # an answer, to speech or to a tool's result
        self._calls = 0  # that the answer waits for

    def follow(self, client: RealtimeClient) -> None:
        """Register for what says that somebody speaks, or is about to."""
        for kind in (SpeechStarted, SpeechStopped, ResponseCreated, AudioDelta, ResponseDone, FunctionCall):
            client.on(kind, self.told)

    def told(self, event: Event) -> None:
        """Something happened."""
        with self._lock:
            self._last = self._clock()
            if isinstance(event, (SpeechStarted, SpeechStopped, ResponseCreated)):
                self._awaits = True
            elif isinstance(event, FunctionCall):
                self._calls += 1
            elif isinstance(event, AudioDelta):
                self._calls = 0  # the answer to the tool's result
            elif isinstance(event, ResponseDone):
                self._awaits, self._calls = self._calls > 0, 0

    def begin(self) -> None:
        """From now on something may happen: connecting was no quiet."""
        with self._lock:
            self._last = self._clock()

    def spoke(self, level: float) -> None:
        """The user's sound is so loud just now. Not every service tells that it hears speech."""
        if level > _VOICED:
            with self._lock:
                self._last, self._awaits = self._clock(), True

    @property
    def is_quiet(self) -> bool:
        """True if nothing has happened for a while, and nothing need be waited for any more."""
        with self._lock:
            return self._clock() - self._last > (_ANSWER_WITHIN if self._awaits else _QUIET)


class TalkScreen:
    """Follows a client and shows it: lines and a panel in a terminal, lines elsewhere, or events as JSON lines."""

    def __init__(self, panel: LivePanel, *, as_json: bool) -> None:
        self.panel, self._as_json = panel, as_json
        self._is_cut_off = False  # nobody reads any more
        self._lock = threading.Lock()  # guards everything below
        self._spoken: dict[str, str] = {"you": "", "assistant": ""}  # what is being said, and not yet a line
        self._answer = ""  # the answer whose words those are
        self._cut: dict[str, int] = {}  # answers that were interrupted, and how much was heard
        self._latency = ""

    def follow(self, client: RealtimeClient) -> None:
        """Register for everything that is shown; in the background, since a terminal may be slow."""
        if self._as_json:
            follow_as_json(client, cut_off=self._cut_off)
            return
        client.on(TranscriptDelta, self._words, background=True)
        client.on(TextDelta, lambda event: self._add("assistant", event.item_id, event.delta), background=True)
        client.on(TranscriptDone, self._whole, background=True)
        client.on(TranscriptCorrected, self._corrected, background=True)
        client.on(TranscriptFailed, lambda event: self.line("", f"(no transcript: {event.message})", "warning"), background=True)
        client.on(SpeechStarted, lambda event: self._begins("you", "…"), background=True)
        client.on(PlaybackStopped, self._stopped, background=True)
        client.on(FunctionCall, lambda event: self.line("tool", f"{event.name}({event.arguments})", "quiet"), background=True)
        client.on(TurnDone, self._turn, background=True)
        client.on(ErrorReceived, self._error, background=True)
        client.on(HandlerFailed, lambda event: self.line("error", f"{event.handler}: {event.error}", "bad"), background=True)
        client.on(Reconnecting, lambda event: self.line("", f"(connection lost, attempt {event.attempt})", "warning"), background=True)
        client.on(Reconnected, lambda event: self.line("", "(connected again)", "good"), background=True)

    def _cut_off(self) -> None:
        self._is_cut_off = True

    def line(self, who: str, text: str, style: str = "") -> None:
        """Show a line that stays, broken between words in a terminal; with JSON the events tell it."""
        if self._as_json:
            return
        begin = f"{who:<10} "
        lines = [f"{begin}{text}".rstrip()]
        if self.panel.is_live:
            width = shutil.get_terminal_size().columns
            lines = textwrap.wrap(text, max(width, 30), initial_indent=begin, subsequent_indent=" " * len(begin)) or lines
        for line in lines:
            try:
                self.panel.line(line, style)
            except OSError:
                self._is_cut_off = True  # raised where it ends the conversation

    def failed(self, error: RealtimeError) -> None:
        """Tell what broke."""
        self.line("error", str(error), "bad")

    def refresh(self, microphone: float, speaker: float, state: str, keys: str) -> None:
        """Draw the panel: levels from 0 to 1, what is being said, and what the keys do.

        Raises: `BrokenPipeError` when nobody reads any more.
        """
        if self._is_cut_off:
            raise BrokenPipeError
        if not self.panel.is_live:
            return
        with self._lock:
            you, assistant, latency = self._spoken["you"], self._spoken["assistant"], self._latency
        lines: list[Styled] = [
            (f"you        {bar(microphone)}  {_end_of(you)}", "caller"),
            (f"assistant  {bar(speaker)}  {_end_of(assistant)}", "assistant"),
            (f"{state}{'   ' + latency if latency else ''}", "strong"),
            (keys, "quiet"),
        ]
        self.panel.show(lines)

    # -- events ----------------------------------------------------------------------------------------------------------------

    def _words(self, event: TranscriptDelta) -> None:
        who = "assistant" if event.source == "output" else "you"
        if event.snapshot:
            self._begins(who, event.text)
        elif who == "assistant":
            self._add(who, event.item_id or event.response_id, event.delta)
        else:
            self._add(who, event.item_id, event.delta)

    def _begins(self, who: str, text: str) -> None:
        with self._lock:
            self._spoken[who] = text

    def _add(self, who: str, answer: str, words: str) -> None:
        with self._lock:
            if who == "assistant" and answer != self._answer:
                self._answer, self._spoken[who] = answer, ""
            if self._spoken[who] == "…":
                self._spoken[who] = ""
            self._spoken[who] += words

    def _whole(self, event: TranscriptDone) -> None:
        if not event.transcript.strip() or (event.source == "input" and not event.final):
            return  # of an answer ElevenLabs tells the text once, before it is spoken; what was heard of it comes as a correction
        who = "assistant" if event.source == "output" else "you"
        self._begins(who, "")
        self.line(who, event.transcript, "assistant" if who == "assistant" else "caller")

    def _corrected(self, event: TranscriptCorrected) -> None:
        if event.corrected.strip():
            self.line("", f"(the service takes this for heard: {event.corrected})", "quiet")

    def _stopped(self, event: PlaybackStopped) -> None:
        if event.reason != "finished":
            self._begins("assistant", "")
            self.line("", f"(the answer stops: {event.heard_ms / 1000:.1f} s of it were heard)", "warning")

    def _turn(self, event: TurnDone) -> None:
        turn = event.turn
        if turn is None or turn.speech_stopped_at is None:
            return
        times = [("words", turn.first_text_at), ("sound", turn.first_sound_at or turn.first_audio_at)]
        told = ", ".join(f"{name} after {(at - turn.speech_stopped_at) * 1000:.0f} ms" for name, at in times if at is not None)
        if told:
            with self._lock:
                self._latency = f"latency: {told}"
            self.line("", f"(turn {turn.number}: {told})", "quiet")

    def _error(self, event: ErrorReceived) -> None:
        if not event.benign:
            self.line("error", event.message, "bad")


def _end_of(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _WIDEST else "…" + text[1 - _WIDEST :]
