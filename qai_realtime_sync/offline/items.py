"""What a conversation is made of, whatever the wire calls it: items with their words, answers, settings; data only."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from typing import Any

import attrs

from qai_realtime_sync.audio import AudioFormat

__all__ = ["Detection", "Item", "RefusedError", "Request", "Response", "Settings", "Usage", "Word", "new_id"]


def new_id(prefix: str) -> str:
    """Return a fresh identifier such as ``item_4f…``; 24 hexadecimal digits, as the services' ids are random and opaque too."""
    return f"{prefix}_{secrets.token_hex(12)}"


class RefusedError(Exception):
    """The client asked for something that cannot be done; the spelling turns it into the service's kind of error event."""

    def __init__(self, code: str, message: str, *, param: str | None = None, type: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.code, self.message, self.param, self.type = code, message, param, type


@attrs.define
class Word:
    """One spoken word with the white space before it, and when it is heard, in ms from the start of its item's audio."""

    text: str
    start_ms: float
    end_ms: float


@attrs.define
class Item:
    """One thing that was said, called or answered.

    ``kind`` is ``message``, ``function_call`` or ``function_call_output``; ``content`` says how a message came: ``text`` or ``audio``.
    ``text`` is what was written or spoken. ``audio`` holds the user's sound as it was sent (of the latest turns only), ``heard_seconds``
    how long it was. ``planned`` is all that an answer is going to say. ``generated_ms`` is how much sound was made for an answer,
    ``truncated_ms`` where the client cut it.
    """

    id: str
    kind: str = "message"
    role: str = ""
    status: str = "completed"
    content: str = "text"
    text: str = ""
    planned: str = ""
    name: str = ""
    call_id: str = ""
    arguments: str = ""
    output: str = ""
    audio: bytes = attrs.field(default=b"", repr=False)
    heard_seconds: float = 0.0
    parts: list[dict[str, Any]] | None = None  # a client's own message, echoed as it was written
    words: list[Word] = attrs.field(factory=list, repr=False)
    generated_ms: int = 0
    truncated_ms: int | None = None
    response_id: str = ""
    answered: bool = False  # an answer was asked for since

    def cut(self, audio_end_ms: int) -> None:
        """Drop the words that were not heard by ``audio_end_ms``; a word counts as heard when half of it was played."""
        self.words = [word for word in self.words if (word.start_ms + word.end_ms) / 2 <= audio_end_ms]
        self.text = "".join(word.text for word in self.words)
        self.truncated_ms = audio_end_ms


@attrs.define
class Usage:
    """What an answer cost in tokens, by rules of thumb: four characters of text, 100 ms heard or 50 ms spoken are one token."""

    input_text: int = 0
    input_audio: int = 0
    output_text: int = 0
    output_audio: int = 0
    audio_seconds: float = 0.0


@attrs.define
class Request:
    """What a client may say about one answer; ``None`` means as the session has it, a limit of 0 tokens that there is none."""

    instructions: str | None = None
    spoken: bool | None = None
    metadata: Mapping[str, Any] | None = None
    out_of_band: bool = False
    input: list[Item] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    verbatim: str = ""
    steps: list[Any] | None = None  # of `script`: what to do instead of asking the script
    interruptible: bool = True
    max_output_tokens: int | None = None
    output_format: AudioFormat | None = None
    voice: Any = None


@attrs.define(eq=False)
class Response:
    """One answer while it is made and after; ``stop`` is set when nobody wants the rest of it."""

    id: str
    request: Request
    spoken: bool
    conversation_id: str
    status: str = "in_progress"
    reason: str = ""
    error_code: str = ""
    error_message: str = ""
    output: list[Item] = attrs.field(factory=list)
    usage: Usage = attrs.field(factory=Usage)
    stop: threading.Event = attrs.field(factory=threading.Event, repr=False)
    open_item: Item | None = None
    most_tokens: int | None = None

    @property
    def exhausted(self) -> bool:
        """It has cost as many tokens as it may."""
        return self.most_tokens is not None and self.usage.output_text + self.usage.output_audio >= self.most_tokens

    @property
    def active(self) -> bool:
        """More of it may come."""
        return self.status == "in_progress"


@attrs.frozen
class Detection:
    """Server-side turn detection: when speech starts and ends, and what follows from it."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    idle_timeout_ms: int | None = None
    create_response: bool = True
    interrupt_response: bool = True


@attrs.define
class Settings:
    """What a session is set to; ``detection`` ``None`` means that the client ends the turns itself."""

    instructions: str = ""
    detection: Detection | None = None
    input_format: AudioFormat = attrs.field(factory=AudioFormat)
    output_format: AudioFormat = attrs.field(factory=AudioFormat)
    spoken: bool = True
    tools: list[dict[str, Any]] = attrs.field(factory=list)
    tool_choice: Any = "auto"
    speed: float = 1.0
    max_output_tokens: int | None = None
