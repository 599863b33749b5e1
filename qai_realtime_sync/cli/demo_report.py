"""What the demo measures, and how it tells it: latencies of each turn, and checks of what must have happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from qai_realtime_sync import AudioDelta, FunctionCall, PlaybackStopped, RealtimeClient, SpeechStopped, TranscriptDone
from qai_realtime_sync.cli.demo_script import wrong_words

__all__ = ["Check", "Measured", "Row", "Spoken", "checks_of", "checks_of_recording", "latency_table", "write_checks"]

_MOST_WRONG = 0.2
_CLOSE_MS = 100


@attrs.define
class Spoken:
    """One turn of the caller: what was said, how, and when its last sound was sent (monotonic seconds)."""

    text: str
    typed: bool = False
    words: bool = True  # words were spoken, not tones
    ended_at: float = 0.0


@attrs.define
class Row:
    """What was measured of one turn, in seconds; ``None`` = did not happen. ``in_service`` counts from the service's speech_stopped."""

    turn: int
    said: str
    heard: str
    latency: float | None
    in_service: float | None


class Measured:
    """Notes when things happen, in seconds of the monotonic clock; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the lists below
        self._first_sounds: dict[str, float] = {}
        self._speech_ends: list[float] = []
        self._heard: list[tuple[float, str]] = []
        self.calls: list[FunctionCall] = []
        self.stops: list[PlaybackStopped] = []
        self.played_ms: float | None = None  # by the clock, of the answer that was stopped last

    def follow(self, client: RealtimeClient) -> None:
        """Register for what is measured; in order with the client's own reactions."""
        client.on(AudioDelta, self._sound)
        client.on(SpeechStopped, self._speech_ended)
        client.on(TranscriptDone, self._transcript)
        client.on(FunctionCall, self._called)
        client.on(PlaybackStopped, self._stopped)

    def _sound(self, event: AudioDelta) -> None:
        with self._lock:
            self._first_sounds.setdefault(event.response_id, time.monotonic())

    def _speech_ended(self, event: SpeechStopped) -> None:
        with self._lock:
            self._speech_ends.append(time.monotonic())

    def _transcript(self, event: TranscriptDone) -> None:
        if event.source == "input" and event.final:
            with self._lock:
                self._heard.append((time.monotonic(), event.transcript))

    def _called(self, event: FunctionCall) -> None:
        with self._lock:
            self.calls.append(event)

    def _stopped(self, event: PlaybackStopped) -> None:
        if event.reason != "finished":
            with self._lock:
                self.stops.append(event)
                began = self._first_sounds.get(event.response_id)
                self.played_ms = None if began is None else (time.monotonic() - began) * 1000

    def row(self, number: int, spoken: Spoken, until: float) -> Row:
        """Join what belongs to one turn: what happened from the end of its speech up to ``until``."""
        with self._lock:
            sounds = [at for at in self._first_sounds.values() if spoken.ended_at <= at < until]
            ends = [at for at in self._speech_ends if spoken.ended_at <= at < until]
            heard = " ".join(text for at, text in self._heard if spoken.ended_at <= at < until)
        sound = min(sounds, default=None)
        return Row(
            number,
            spoken.text,
            spoken.text if spoken.typed else heard,
            None if sound is None else sound - spoken.ended_at,
            None if sound is None or not ends else sound - ends[0],
        )

    def turns_heard(self, silence: float) -> list[Spoken]:
        """The turns of a recording nobody knows the words of; ``silence`` is how long the service waits for the end of speech."""
        with self._lock:
            return [Spoken("", ended_at=at - silence) for at in self._speech_ends]

    def rows(self, turns: Sequence[Spoken]) -> list[Row]:
        """One row for each turn of the caller."""
        limits = [*(turn.ended_at for turn in turns[1:]), float("inf")]
        return [self.row(number, turn, limit) for number, (turn, limit) in enumerate(zip(turns, limits), 1)]


def latency_table(rows: Sequence[Row]) -> list[str]:
    """The lines of the table."""
    lines = ["turn   end of speech -> first audio   of it after speech_stopped   heard"]
    for row in rows:
        heard = row.heard if len(row.heard) <= 60 else row.heard[:57] + "..."
        lines.append(f"{row.turn:>4}   {_ms(row.latency):>28}   {_ms(row.in_service):>26}   {heard}")
    return lines


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


@attrs.define
class Check:
    """One thing that must be so."""

    ok: bool
    text: str


def checks_of(measured: Measured, turns: Sequence[Spoken], rows: Sequence[Row], server: Mapping[str, Any] | None) -> list[Check]:
    """Hold what happened against what must happen; ``server`` is its journal, where there is one."""
    checks = []
    for turn, row in zip(turns, rows):
        if turn.words and not turn.typed:
            rate = wrong_words(turn.text, row.heard)
            checks.append(Check(rate <= _MOST_WRONG, f"turn {row.turn}: {rate * 100:.0f} % of the words were heard wrong"))
    told = ", ".join(f"{call.name}({call.arguments})" for call in measured.calls) or "no call"
    checks.append(Check(len(measured.calls) == 1, f"the tool was called once: {told}"))
    if len(turns) > 2:
        checks.append(_interruption(measured, server))
    checks += [
        Check(row.latency is not None, f"turn {row.turn} was answered with sound")
        for row in rows
        if row.latency is None
    ]
    return checks


def checks_of_recording(rows: Sequence[Row]) -> list[Check]:
    """What can be asked of a conversation with an unknown caller: was something heard, and answered?"""
    answered = sum(row.latency is not None for row in rows)
    return [Check(answered > 0, f"turns that were heard: {len(rows)}, answered with sound: {answered}")]


def _interruption(measured: Measured, server: Mapping[str, Any] | None) -> Check:
    if not measured.stops:
        return Check(False, "the answer was not interrupted")
    heard = measured.stops[-1]
    if server is None:
        return Check(True, f"the answer was interrupted: {heard.heard_ms} ms of it were heard")
    if not heard.item_id:
        return _stopped_here(measured, heard, server)
    items = [item for conversation in server["conversations"] for item in conversation["items"] if item["id"] == heard.item_id]
    cut = items[0].get("truncated_ms") if items else None
    made = items[0].get("generated_ms") if items else None
    return Check(
        cut is not None and abs(cut - heard.heard_ms) <= _CLOSE_MS,
        f"the server's item was truncated at {cut} ms of {made} ms; {heard.heard_ms} ms of it were heard",
    )


def _stopped_here(measured: Measured, heard: PlaybackStopped, server: Mapping[str, Any]) -> Check:
    """A service without items cuts its answer by its own clock: then ours must have stopped in time, after what the clock says."""
    cuts = [item["truncated_ms"] for one in server["conversations"] for item in one["items"] if item.get("truncated_ms") is not None]
    played = measured.played_ms
    return Check(
        played is not None and abs(played - heard.heard_ms) <= _CLOSE_MS and heard.heard_ms < heard.received_ms,
        f"playback stopped here at {heard.heard_ms} ms, {played or 0:.0f} ms after it began; "
        f"the service takes {cuts[-1] if cuts else 'no'} ms for heard",
    )


def write_checks(checks: Sequence[Check]) -> list[str]:
    """One line for each check."""
    return [f"  {'ok  ' if check.ok else 'FAIL'}  {check.text}" for check in checks]
