"""A conversation on the terminal while it happens: both sides, tools and interruptions, each with its time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from qai_realtime_sync import (
    ErrorReceived,
    FunctionCall,
    HandlerFailed,
    ItemTruncated,
    PlaybackStopped,
    RealtimeClient,
    Reconnecting,
    SpeechStarted,
    TextDelta,
    TranscriptCorrected,
    TranscriptDelta,
    TranscriptDone,
    TranscriptFailed,
)

__all__ = ["Live"]


class Live:
    """Prints what happens in a conversation. ``seconds`` returns the time that stands in front of a line."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()  # guards the two below, and the order of what is printed
        self._open = ""  # the answer whose words are being added to the last line
        self._streamed: set[str] = set()  # answers whose words came one by one
        self._ended = False

    def follow(self, client: RealtimeClient) -> None:
        """Register for everything that is shown; on the background lane, since a terminal may be slow."""
        client.on(TranscriptDelta, self._words, background=True)
        client.on(TextDelta, self._written, background=True)
        client.on(TranscriptDone, self._whole, background=True)
        client.on(TranscriptFailed, lambda event: self.line("heard", f"(no transcript: {event.message})"), background=True)
        client.on(TranscriptCorrected, self._corrected, background=True)
        client.on(SpeechStarted, lambda event: self.line("", "(the caller is heard)"), background=True)
        client.on(PlaybackStopped, self._stopped, background=True)
        client.on(ItemTruncated, self._truncated, background=True)
        client.on(FunctionCall, lambda event: self.line("tool", f"{event.name}({event.arguments})"), background=True)
        client.on(ErrorReceived, self._error, background=True)
        client.on(HandlerFailed, lambda event: self.line("error", f"{event.handler}: {event.error}"), background=True)
        client.on(Reconnecting, lambda event: self.line("", f"(connection lost, attempt {event.attempt})"), background=True)

    def line(self, who: str, text: str) -> None:
        """Print one line with its time."""
        with self._lock:
            self._break()
            self._print(f"{self._seconds():6.1f} s  {who:<10} {text}\n")

    def end(self) -> None:
        """Finish the line that is open; nothing is printed from now on."""
        with self._lock:
            self._break()
            self._ended = True

    def _words(self, event: TranscriptDelta) -> None:
        if event.source == "output" and not event.snapshot:
            self._add(event.item_id or event.response_id, event.delta)

    def _written(self, event: TextDelta) -> None:
        self._add(event.item_id or event.response_id, event.delta)

    def _add(self, answer: str, words: str) -> None:
        with self._lock:
            if self._open != answer:
                self._break()
                self._print(f"{self._seconds():6.1f} s  {'assistant':<10} ")
                words = words.lstrip()
            self._open = answer
            self._streamed.add(answer)
            self._print(words)

    def _whole(self, event: TranscriptDone) -> None:
        if event.source == "input":
            self.line("heard", event.transcript)
        elif (event.item_id or event.response_id) not in self._streamed:  # ElevenLabs tells the whole text at once
            self.line("assistant", event.transcript)

    def _corrected(self, event: TranscriptCorrected) -> None:
        self.line("", f"(the service takes this for heard: {event.corrected})")

    def _stopped(self, event: PlaybackStopped) -> None:
        if event.reason != "finished":
            self.line("", f"(the answer stops: {event.heard_ms / 1000:.1f} s of it were heard)")

    def _truncated(self, event: ItemTruncated) -> None:
        kept = f", keeping: {event.transcript.strip()}" if event.transcript.strip() else ""
        self.line("", f"(the service cuts it at {event.audio_end_ms} ms{kept})")

    def _error(self, event: ErrorReceived) -> None:
        if not event.benign:
            self.line("error", event.message)

    def _break(self) -> None:
        if self._open:
            self._print("\n")
            self._open = ""

    def _print(self, text: str) -> None:
        if self._ended:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads any more: the main thread stumbles over it too, and ends
            self._ended = True
