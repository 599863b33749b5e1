"""One exchange as it was heard; data only."""

from __future__ import annotations

import attrs

__all__ = ["Answer", "ToolCall", "Turn"]


@attrs.define(kw_only=True)
class ToolCall:
    """One call of a tool within a turn: ``arguments`` is JSON text, ``output`` what was sent back (``None`` = nothing yet)."""

    name: str
    call_id: str
    arguments: str = ""
    output: str | None = None


@attrs.define(kw_only=True)
class Answer:
    """What ``client.ask`` returns: the finished answer, tool rounds included.

    ``text`` is the transcript of what was said, or the written answer; ``audio`` its sound in the session's output format;
    ``status`` is ``completed``, ``cancelled`` or ``incomplete``; the token counts are those of all its responses together.
    """

    text: str = ""
    audio: bytes = attrs.field(default=b"", repr=lambda value: f"<{len(value)} bytes>")
    status: str = "completed"
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    response_ids: list[str] = attrs.field(factory=list)


@attrs.define(kw_only=True)
class Turn:
    """What the user said and what the assistant answered.

    ``user`` and ``assistant`` are transcripts. Of an answer that was cut off, ``heard_ms`` is how much was played (``None`` = it was
    not cut, or nothing plays here), ``audio_ms`` how much had come by then, and ``heard_text`` what the service kept, where it says so.
    Times are seconds since the client connected; ``None`` = did not happen.
    """

    number: int
    user: str = ""
    assistant: str = ""
    interrupted: bool = False
    heard_ms: int | None = None
    audio_ms: int = 0
    heard_text: str | None = None
    tool_calls: list[ToolCall] = attrs.field(factory=list)
    response_ids: list[str] = attrs.field(factory=list)
    speech_started_at: float | None = None
    speech_stopped_at: float | None = None
    first_audio_at: float | None = None
    ended_at: float | None = None

    @property
    def heard(self) -> str:
        """What was heard of ``assistant``: all of it; of an answer that was cut off what the service kept, or the words that fit."""
        if self.heard_text is not None:
            return self.heard_text
        if self.heard_ms is None or not self.audio_ms or self.heard_ms >= self.audio_ms:
            return self.assistant
        words = self.assistant.split()
        return " ".join(words[: round(len(words) * self.heard_ms / self.audio_ms)])

    @property
    def latency(self) -> float | None:
        """Seconds from the end of the user's speech to the first sound of the answer; ``None`` if either is missing."""
        if self.speech_stopped_at is None or self.first_audio_at is None:
            return None
        return self.first_audio_at - self.speech_stopped_at
