"""A conversation on the terminal while it happens: both sides, tools and interruptions, each with its time."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from qai_realtime_sync import (
    ErrorReceived,
    Event,
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
from qai_realtime_sync.cli.terminal import cleaned, painted

__all__ = ["Live"]

_INDENT = 21  # columns in front of the words
_STYLES: Final = {"caller": "caller", "heard": "caller", "assistant": "assistant", "tool": "good", "error": "bad"}


class Live:
    """Prints what happens in a conversation. ``seconds`` returns the time that stands in front of a line."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()  # guards the two below, and the order of what is printed
        self._open = ""  # the answer whose words are being added to the last line
        self._streamed: set[str] = set()  # answers whose words came one by one
        self._ended = False
        self._lost: OSError | None = None
        self._width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0  # 0 = lines are as long as they are
        self._column = 0

    def follow(self, client: RealtimeClient, *, background: bool = True) -> None:
        """Register for everything that is shown; on the background lane, since a terminal may be slow."""
        rows: list[tuple[type[Event], Callable[[Any], object]]] = [
            (TranscriptDelta, self._words),
            (TextDelta, self._written),
            (TranscriptDone, self._whole),
            (TranscriptFailed, lambda event: self.line("heard", f"(no transcript: {event.message})")),
            (TranscriptCorrected, self._corrected),
            (SpeechStarted, lambda event: self.line("", "(the caller is heard)")),
            (PlaybackStopped, self._stopped),
            (ItemTruncated, self._truncated),
            (FunctionCall, lambda event: self.line("tool", f"{event.name}({event.arguments})")),
            (ErrorReceived, self._error),
            (HandlerFailed, lambda event: self.line("error", f"{event.handler}: {event.error}")),
            (Reconnecting, lambda event: self.line("", f"(connection lost, attempt {event.attempt})")),
        ]
        for event, function in rows:
            client.on(event, function, background=background)

    def line(self, who: str, text: str, *, at: float | None = None) -> None:
        """Print one line with its time, or that of ``at`` seconds."""
        with self._lock:
            self._break()
            self._begin(who, at)
            self._print(painted(cleaned(text), "" if who else "quiet") + "\n")

    def pause(self) -> None:
        """Finish the line that is open, because somebody else writes next."""
        with self._lock:
            self._break()

    def end(self) -> None:
        """Finish the line that is open; nothing is printed from now on."""
        with self._lock:
            self._break()
            self._ended = True

    def check(self) -> None:
        """Raise what kept the words from being printed: nobody reads any more, or the disk is full."""
        if self._lost is not None:
            raise self._lost

    def _words(self, event: TranscriptDelta) -> None:
        if event.source == "output" and not event.snapshot:
            self._add(event.item_id or event.response_id, event.delta)

    def _written(self, event: TextDelta) -> None:
        self._add(event.item_id or event.response_id, event.delta)

    def _add(self, answer: str, words: str) -> None:
        with self._lock:
            if self._open != answer:
                self._break()
                self._begin("assistant")
                words = words.lstrip()
            self._open = answer
            self._streamed.add(answer)
            self._print(self._wrapped(cleaned(words)) if self._width > 2 * _INDENT else cleaned(words))

    def _wrapped(self, words: str) -> str:
        """Break the lines of a terminal between words, below where the first one began."""
        shown = []
        for word in re.findall(r" *[^ ]+| +$", words):
            if self._column + len(word) >= self._width and word.startswith(" "):
                shown.append("\n" + " " * _INDENT)
                self._column, word = _INDENT, word.lstrip()
            shown.append(word)
            self._column += len(word)
        return "".join(shown)

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

    def _begin(self, who: str, at: float | None = None) -> None:
        seconds = self._seconds() if at is None else at
        self._column = _INDENT
        self._print(painted(f"{seconds:6.1f} s  ", "quiet") + painted(f"{who:<10} ", _STYLES.get(who, "")))

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
        except OSError as error:  # nobody reads any more, or the disk is full
            self._ended, self._lost = True, error
