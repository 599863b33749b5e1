"""Recordings as a `Recorder` writes them, of a conversation that was made up: two turns, a tool, an interruption."""

from __future__ import annotations

import math
import pathlib
from array import array

from qai_realtime_sync import (
    AudioDelta,
    Closed,
    FunctionCall,
    PlaybackStopped,
    RealtimeConfig,
    Recorder,
    ResponseCreated,
    ResponseDone,
    SendFunctionResult,
    SendText,
    SpeechStarted,
    SpeechStopped,
    StateChanged,
    TokenUsage,
    TranscriptDone,
)
from qai_realtime_sync.commands import Command, SendAudio
from qai_realtime_sync.events import Event

__all__ = ["EVIL", "make", "tone"]

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror=\"window.hacked = 2\"> & $x_1$"


def tone(seconds: float, hertz: float = 440.0, rate: int = 24000) -> bytes:
    """A tone, PCM16."""
    return array("h", (round(12000 * math.sin(2 * math.pi * hertz * n / rate)) for n in range(round(seconds * rate)))).tobytes()


def _story(said: str) -> list[tuple[float, Event | Command]]:
    """The caller speaks from 0.2 to 1.2 s, the answer begins at 2.0 s and is interrupted at 3.5 s; then something typed is answered."""
    output = {"response_id": "r1", "item_id": "a1"}
    return [
        (0.05, StateChanged(old="connecting", new="handshaking")),
        (0.2, SendAudio(audio=tone(1.0) + bytes(24000))),
        (0.4, SpeechStarted(item_id="u1", audio_start_ms=0)),
        (1.7, SpeechStopped(item_id="u1", audio_end_ms=1500)),
        (1.8, TranscriptDone(source="input", item_id="u1", transcript=said)),
        (1.85, ResponseCreated(response_id="r0")),
        (1.9, FunctionCall(call_id="c1", name="look_up", arguments='{"what": "it"}', response_id="r0", item_id="f1")),
        (1.91, ResponseDone(response_id="r0")),
        (1.95, SendFunctionResult(call_id="c1", output=f"result: {said}")),
        (1.96, ResponseCreated(response_id="r1")),
        (2.0, AudioDelta(audio=tone(3.0, 300.0), duration_ms=3000, **output)),
        (2.1, TranscriptDone(transcript="one two three four five six", **output)),
        (3.5, SpeechStarted(item_id="u2")),
        (3.5, PlaybackStopped(heard_ms=1500, received_ms=3000, reason="barge_in", **output)),
        (3.6, ResponseDone(response_id="r1", status="cancelled", usage=TokenUsage(total_tokens=12, input_tokens=5, output_tokens=7))),
        (4.0, SpeechStopped(item_id="u2")),
        (4.1, TranscriptDone(source="input", item_id="u2", transcript="stop")),
        (4.2, ResponseCreated(response_id="r2")),
        (4.4, AudioDelta(audio=tone(0.8, 300.0), duration_ms=800, response_id="r2", item_id="a2")),
        (4.5, TranscriptDone(transcript="All right.", response_id="r2", item_id="a2")),
        (4.6, ResponseDone(response_id="r2")),
        (5.2, PlaybackStopped(heard_ms=800, received_ms=800, reason="finished", response_id="r2", item_id="a2")),
        (5.5, SendText(text="And a typed one?")),
        (5.6, ResponseCreated(response_id="r3")),
        (5.8, AudioDelta(audio=tone(0.5, 300.0), duration_ms=500, response_id="r3", item_id="a3")),
        (5.9, TranscriptDone(transcript="Typed, too.", response_id="r3", item_id="a3")),
        (5.95, ResponseDone(response_id="r3")),
        (6.3, PlaybackStopped(heard_ms=500, received_ms=500, reason="finished", response_id="r3", item_id="a3")),
    ]


def make(folder: pathlib.Path, *, said: str = "how are you", end: bool = True) -> pathlib.Path:
    """Write the recording and return its folder; ``end=False`` leaves it as a process that was killed would."""
    recorder = Recorder(folder)
    recorder.follow(RealtimeConfig(), list, lambda: True, lambda: 0.0)
    for at, what in _story(said):
        if isinstance(what, Event):
            recorder.told(what, at)
        else:
            recorder.sent(what, at)
    if end:
        recorder.told(Closed(code=1000, clean=True, by="client", meaning="normal"), 6.5)
    recorder.close()
    return folder
