"""One interruption by voice, measured: from the frame that tells of speech to silence, and to the frame that cuts the answer."""

from __future__ import annotations

import threading
from typing import Any

import attrs

from qai_realtime_sync import Event, ItemTruncated, PlaybackStopped
from tests.faults.scene import Seen
from tests.scenes.stage import Room, Stage, Wire, hear_something, speech

__all__ = ["STORY", "Measured", "interrupted_by_voice"]

STORY = " ".join(f"Sentence number {number} of a story that nobody will hear to its end." for number in range(1, 30))
_BLOCKED = 2.0


@attrs.frozen(kw_only=True)
class Measured:
    """Seconds from the frame to silence and to the cut; milliseconds heard by the caller and kept by the server."""

    silence: float
    cut: float
    heard_ms: float
    kept_ms: int
    kept_text: str
    told_text: str


def interrupted_by_voice(stage: Stage, listened: float = 1.0) -> Measured:
    """Let the caller hear the beginning of a long answer and speak, while a background handler blocks for two seconds."""
    wire, room = Wire(b"input_audio_buffer.speech_started", b'conversation.item.truncate"'), Room()
    client = stage.client(dialer=wire)
    client.play_to(room)
    seen = Seen(client)
    release = threading.Event()

    def slow(event: Any) -> None:
        release.wait(_BLOCKED)

    client.on(Event, slow, background=True)
    with client:
        client.send_text("Tell me the story")
        hear_something(client, room, listened)
        client.send_audio_from(speech(0.5, quiet=0.0), pace=True)
        assert seen.until(PlaybackStopped).reason == "barge_in"
        truncated = seen.until(ItemTruncated)
        cut_at = wire.when(b'conversation.item.truncate"')
        began = wire.when(b"input_audio_buffer.speech_started")
        told = client.conversation[0].heard
        release.set()
    (item,) = stage.items(id=truncated.item_id)
    return Measured(
        silence=room.cleared_at[0] - began,
        cut=cut_at - began,
        heard_ms=room.heard_ms[0],
        kept_ms=item["truncated_ms"],
        kept_text=item["text"],
        told_text=told,
    )
