"""Readers of the shapes that the OpenAI family repeats in many events: items, parts, usage, audio formats. All are total."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from qai_realtime_sync.audio import b64decode
from qai_realtime_sync.config import AudioFormat
from qai_realtime_sync.dialects.rows import at, read_mapping, read_number, read_text, read_whole
from qai_realtime_sync.events import ContentPart, Item, RateLimit, TokenUsage

__all__ = [
    "audio_format",
    "content_part",
    "input_format",
    "item",
    "items",
    "languages",
    "output_format",
    "rate_limits",
    "usage",
    "usage_or_none",
]


def content_part(value: Any) -> ContentPart:
    """Read a part of an item; its sound, if it has some, as bytes (source: only ``conversation.item.retrieved`` carries any)."""
    if type(value) is not dict:
        return ContentPart()
    get = value.get
    audio = b""
    if type(encoded := get("audio")) is str:
        try:
            audio = b64decode(encoded)
        except ValueError:
            pass  # a field of the wrong form takes its default; raw still has it
    return ContentPart(
        type=read_text(get("type")), text=read_text(get("text")), transcript=read_text(get("transcript")), audio=audio
    )


def item(value: Any) -> Item:
    """Read an item of the conversation."""
    if type(value) is not dict:
        return Item()
    get = value.get
    content = get("content")
    return Item(
        id=read_text(get("id")),
        type=read_text(get("type")),
        role=read_text(get("role")),
        status=read_text(get("status")),
        content=[content_part(part) for part in content if type(part) is dict] if type(content) is list else [],
        name=read_text(get("name")),
        call_id=read_text(get("call_id")),
        arguments=read_text(get("arguments")),
        output=read_text(get("output")),
        raw=value,
    )


def items(value: Any) -> list[Item]:
    """Read a list of items."""
    return [item(part) for part in value if type(part) is dict] if type(value) is list else []


def usage(value: Any) -> TokenUsage:
    """Read a usage object (source: OpenAI spec; xAI adds seconds; a transcription by duration says ``seconds``)."""
    given = read_mapping(value)
    get = given.get
    sent = read_mapping(get("input_token_details") or get("input_tokens_details"))
    made = read_mapping(get("output_token_details") or get("output_tokens_details"))
    return TokenUsage(
        input_tokens=read_whole(get("input_tokens")),
        output_tokens=read_whole(get("output_tokens")),
        total_tokens=read_whole(get("total_tokens")),
        cached_tokens=read_whole(sent.get("cached_tokens")),
        input_audio_tokens=read_whole(sent.get("audio_tokens")),
        input_text_tokens=read_whole(sent.get("text_tokens")),
        output_audio_tokens=read_whole(made.get("audio_tokens")),
        output_text_tokens=read_whole(made.get("text_tokens")),
        audio_seconds=read_number(get("output_audio_seconds"), read_number(get("seconds"))),
        billable_seconds=read_number(get("billable_audio_seconds")),
        raw=given,
    )


def usage_or_none(value: Any) -> TokenUsage | None:
    """Read a usage object; an empty one says nothing."""
    return usage(value) if type(value) is dict and value else None


def languages(value: Any) -> list[str]:
    """Read ``[{"code": "en"}]``, also as plain texts."""
    if type(value) is not list:
        return []
    codes = (part if type(part) is str else read_text(at(part, "code")) for part in value)
    return [code for code in codes if code]


def rate_limits(value: Any) -> list[RateLimit]:
    """Read the list of limits."""
    if type(value) is not list:
        return []
    return [
        RateLimit(
            name=read_text(limit.get("name")),
            limit=read_whole(limit.get("limit")),
            remaining=read_whole(limit.get("remaining")),
            reset_seconds=read_number(limit.get("reset_seconds"), 0.0),
        )
        for limit in value
        if type(limit) is dict
    ]


_ENCODINGS: Final[Mapping[str, tuple[str, int]]] = {
    "audio/pcm": ("pcm16", 24000),
    "audio/pcmu": ("g711_ulaw", 8000),
    "audio/pcma": ("g711_alaw", 8000),
    "audio/opus": ("opus", 24000),
    "pcm16": ("pcm16", 24000),
    "g711_ulaw": ("g711_ulaw", 8000),
    "g711_alaw": ("g711_alaw", 8000),
}


def audio_format(value: Any, rate: Any = None) -> AudioFormat | None:
    """Read a format: the object of today, or the word of the beta with its rate beside it; ``None`` for ``not specified``.

    A rate that no service has is not believed: a filter for it would be silent, or so long that it is never done.
    """
    if type(value) is dict:
        value, rate = value.get("type"), value.get("rate")
    found = _ENCODINGS.get(value) if type(value) is str else None
    if found is None:
        return None
    encoding, usual = found
    given = read_whole(rate, usual) if encoding == "pcm16" else usual
    return AudioFormat(encoding, given if 8000 <= given <= 96_000 else usual)


def input_format(session: Any) -> AudioFormat | None:
    """Read the format of the user's sound from a session object."""
    nested = audio_format(at(session, "audio", "input", "format"))
    return nested or audio_format(at(session, "input_audio_format"), at(session, "input_audio_sampling_rate"))


def output_format(session: Any) -> AudioFormat | None:
    """Read the format of the answer's sound from a session object."""
    return audio_format(at(session, "audio", "output", "format")) or audio_format(at(session, "output_audio_format"))
