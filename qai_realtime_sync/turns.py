"""One exchange as it was heard; data only."""

from __future__ import annotations

import attrs

from qai_realtime_sync.fields import ByFields

__all__ = ["Answer", "ToolCall", "Turn", "words_heard"]


def words_heard(text: str, heard_ms: float, audio_ms: float) -> str:
    """Return the words that fit into ``heard_ms`` of the ``audio_ms`` that ``text`` takes; all of them if that is not known."""
    if not audio_ms or heard_ms >= audio_ms:
        return text
    words = text.split()
    return " ".join(words[: round(len(words) * heard_ms / audio_ms)])


@attrs.define(kw_only=True, eq=False, repr=False)
class ToolCall(ByFields):
    """One call of a tool within a turn: ``arguments`` is JSON text, ``output`` what was sent back (``None`` = nothing yet).

    ``called_at`` and ``answered_at`` are seconds since the client connected.
    """

    name: str
    call_id: str
    arguments: str = ""
    output: str | None = None
    called_at: float | None = None
    answered_at: float | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class Answer(ByFields):
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


@attrs.define(kw_only=True, eq=False, repr=False)
class Turn(ByFields):
    """What the user said and what the assistant answered.

    ``user`` and ``assistant`` are transcripts. Of an answer that was cut off, ``heard_ms`` is how much was played (``None`` = it was
    not cut, or nothing plays here), ``audio_ms`` how much had come by then, and ``heard_text`` what the service kept, where it says so.
    Times are seconds since the client connected; ``None`` = did not happen. ``first_text_at`` and ``first_audio_at`` are when the
    answer's first words and first sound came; ``first_sound_at`` and ``sound_ended_at`` when it was heard, where something plays it.
    ``spoke_from`` and ``spoke_until`` are when the user's sound itself began and ended, without the time in which the service found out
    (``speech_started_at``, ``speech_stopped_at``); known while the conversation is recorded.
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
    spoke_from: float | None = None
    spoke_until: float | None = None
    first_text_at: float | None = None
    first_audio_at: float | None = None
    first_sound_at: float | None = None
    sound_ended_at: float | None = None
    ended_at: float | None = None

    @property
    def heard(self) -> str:
        """What was heard of ``assistant``: all of it; of an answer that was cut off what the service kept, or the words that fit."""
        if self.heard_text is not None:
            return self.heard_text
        return self.assistant if self.heard_ms is None else words_heard(self.assistant, self.heard_ms, self.audio_ms)

    @property
    def latency(self) -> float | None:
        """Seconds from the end of the user's speech to the first sound of the answer; ``None`` if either is missing."""
        if self.speech_stopped_at is None or self.first_audio_at is None:
            return None
        return self.first_audio_at - self.speech_stopped_at
