"""xAI Voice Agent, which also stands behind the gateway: the family's rows, and what differs (source: recordings, documents)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from qai_realtime_sync.commands import CreateResponse, Say
from qai_realtime_sync.config import AudioFormat, RealtimeConfig
from qai_realtime_sync.dialects.base import remember, unsupported_commands
from qai_realtime_sync.dialects.openai import PCM_24K, OpenAI
from qai_realtime_sync.dialects.openai_commands import XAI_ENCODERS, beta_response
from qai_realtime_sync.dialects.openai_events import DECODERS, INPUT, C, I, O, R, with_underscores
from qai_realtime_sync.dialects.openai_session import xai_rate, xai_session
from qai_realtime_sync.dialects.rows import Decoder, Value, at, const, essential, gives, read_text, read_whole, row, sound, whole
from qai_realtime_sync.events import AudioDelta, Event, Ping, SpeechStarted, TranscriptDelta, TranscriptDone
from qai_realtime_sync.seam import Traits

__all__ = ["XAI"]

_AUDIO_DELTA: Final = row(
    AudioDelta, audio=sound("delta"), duration_ms=whole("audio_duration_ms", default=None), **R, **I, **O, **C
)
_SNAPSHOT: Final = row(TranscriptDelta, text=essential("transcript"), source=const("input"), snapshot=const(True), **I, **C)
_COMPLETED: Final = DECODERS[f"{INPUT}.completed"]
_STARTED: Final = DECODERS["input_audio_buffer.speech_started"]


@gives(TranscriptDelta, TranscriptDone)
def completed(dialect: XAI, value: Value) -> list[Event]:
    """The final sentence, once per item, if ``status`` is missing or ``completed``; else the sentence so far."""
    if (read_text(value.get("status")) or "completed") != "completed":
        return _SNAPSHOT(dialect, value)
    told = _COMPLETED(dialect, value)
    item_id, transcript = read_text(value.get("item_id")), read_text(value.get("transcript"))
    if not item_id:
        return told
    key = (item_id, read_whole(value.get("content_index")))
    final = dialect.finals.get(key)
    if final is None:
        remember(dialect.finals, key, transcript)
        return told
    return [] if final == transcript else _SNAPSHOT(dialect, value)


@gives(SpeechStarted)
def speech_started(dialect: XAI, value: Value) -> list[Event]:
    """Who speaks now interrupts every answer that is running."""
    for response_id in dialect.running:
        dialect.running[response_id] = True
    return _STARTED(dialect, value)


def _follow(plain: Decoder) -> Decoder:
    """Note to which response, item and part the sound belongs that comes without a header."""

    @gives(*getattr(plain, "events"))  # noqa: B009 - a plain attribute would not type-check
    def follow(dialect: XAI, value: Value) -> list[Event]:
        response_id = read_text(value.get("response_id"))
        item_id = read_text(value.get("item_id")) or read_text(at(value, "item", "id"))
        dialect.current = (
            response_id,
            item_id,
            read_whole(value.get("output_index")),
            read_whole(value.get("content_index")),
        )
        return plain(dialect, value)

    decoder: Decoder = follow
    return decoder


class XAI(OpenAI):
    """xAI Voice Agent and the gateway."""

    name = "xai"
    url = "wss://api.x.ai/v1/realtime"
    traits = Traits(
        answers_by_itself=frozenset({Say}),
        unsupported=unsupported_commands(XAI_ENCODERS),
        resumable=True,
        session_cap=7200.0,
    )
    decoders = with_underscores(
        DECODERS
        | {
            "ping": row(Ping, timestamp_ms=whole("timestamp", default=None)),
            "input_audio_buffer.speech_started": speech_started,
            f"{INPUT}.updated": _SNAPSHOT,
            f"{INPUT}.completed": completed,
            "response.output_audio.delta": _AUDIO_DELTA,
            "response.audio.delta": _AUDIO_DELTA,
            "response.output_item.added": _follow(DECODERS["response.output_item.added"]),
            "response.content_part.added": _follow(DECODERS["response.content_part.added"]),
        }
    )
    encoders = XAI_ENCODERS

    def __init__(self, gateway: bool = False) -> None:
        super().__init__(gateway)
        self.finals: dict[tuple[str, int], str] = {}  # (item, part) -> its final transcript
        self.binary_output = False
        self.current = ("", "", 0, 0)  # response, item, output and content index of sound without a header

    def direct_session(self, config: RealtimeConfig, changes: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the session object that xAI wants."""
        return xai_session(config, changes)

    def response_body(self, command: CreateResponse) -> dict[str, Any]:
        """Return the body of a ``response.create``: the beta's names, as xAI documents them."""
        return beta_response(command, self.after_text)

    def fixed_format(self, config: RealtimeConfig) -> AudioFormat | None:
        """Return the format for a rate that xAI does not have: the client converts."""
        return super().fixed_format(config) or (None if xai_rate(config.sample_rate) == config.sample_rate else PCM_24K)

    def session_body(self, config: RealtimeConfig) -> dict[str, Any]:
        """Return what minting sends: the gateway bills by the model, xAI itself takes none."""
        return {"model": config.model} if self.gateway and config.model else {}

    def heard(self, session: Mapping[str, Any]) -> None:
        """Sound travels in binary messages if the transport says so; an echo that does not say changes nothing."""
        if transport := at(session, "audio", "input", "transport"):
            self.binary_input = transport == "binary"
        if transport := at(session, "audio", "output", "transport"):
            self.binary_output = transport == "binary"

    def binary_is_sound(self) -> bool:
        """Binary messages are sound with the transport ``binary`` (documentation)."""
        return self.binary_output

    def sound(self, payload: bytes | bytearray | memoryview) -> list[Event]:
        """Raw sound of the current response and item, without a header (documentation)."""
        response_id, item_id, output_index, content_index = self.current
        return [
            AudioDelta(
                audio=bytes(payload),
                response_id=response_id,
                item_id=item_id,
                output_index=output_index,
                content_index=content_index,
            )
        ]
