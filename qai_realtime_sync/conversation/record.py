"""A conversation on paper: its turns as JSON, as subtitles and as Markdown, and back from JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.turns import ToolCall, Turn

__all__ = ["Conversation"]

_SHORTEST = 0.5  # seconds that a subtitle stays when its end is not known
_TURN_FIELDS = frozenset(field.name for field in attrs.fields(Turn))
_KINDS: dict[str, type | tuple[type, ...]] = {"str": str, "bool": bool, "int": int, "float": (int, float)}
_CALL_FIELDS = frozenset(field.name for field in attrs.fields(ToolCall))


class Conversation(list[Turn]):
    """The turns of a conversation in order, as they were when it was asked for: ``client.conversation``.

    A list of copies: it does not change any more, and may be given to ``connect(history=…)`` of the next client. Times are seconds
    since the client connected; a recording (`RealtimeClient.record_to`) counts from the same moment.
    """

    def __init__(self, turns: Iterable[Turn] = ()) -> None:
        super().__init__(turns)

    def __repr__(self) -> str:
        return f"<Conversation of {len(self)} turns>"

    def to_json(self, *, indent: int | None = None) -> str:
        """Return all there is to know of the turns; the form of a recording's ``transcript.json``."""
        value = {"turns": [{**attrs.asdict(turn), "latency": turn.latency} for turn in self]}
        return json.dumps(value, ensure_ascii=False, indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Conversation:
        """Read what `to_json` wrote, or a recording's ``transcript.json``; keys that are not known are passed over.

        Raises: `ConfigError` for text that is something else.
        """
        try:
            value = json.loads(text)
            turns = [_turn(row) for row in value["turns"]]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ConfigError(
                f"this is not a conversation ({error}); it should be the text of Conversation.to_json() or a recording's transcript.json",
                code="invalid_conversation",
            ) from None
        return cls(turns)

    def to_srt(self, *, user: str = "User", assistant: str = "Assistant") -> str:
        """Return subtitles in the order in which they begin: who said what, from when to when it was heard.

        They fit a recording of the conversation. What has no time (a text that was typed has only one) stands for half a second. Of an
        answer that was cut off, only what was heard is written. ``user`` and ``assistant`` are the names before the words.
        """
        cues = sorted(_cues(self, user, assistant), key=lambda cue: cue[0])
        blocks = [
            f"{number}\n{_clock(begins)} --> {_clock(max(ends, begins + 0.001))}\n{words}\n"
            for number, (begins, ends, words) in enumerate(cues, 1)
        ]
        return "\n".join(blocks)

    def to_markdown(self, *, user: str = "User", assistant: str = "Assistant") -> str:
        """Return a transcript for people: both sides, calls of tools with their results, and where an answer was cut off."""
        parts = []
        for turn in self:
            lines = [f"## {turn.number}{_moment(turn)}"]
            if turn.user:
                lines.append(f"**{user}:** {_line(turn.user)}")
            lines += [f"- {_code(f'{call.name}({call.arguments})')} → {_code(call.output)}" for call in turn.tool_calls]
            if turn.assistant:
                cut = turn.interrupted and turn.heard != turn.assistant
                lines.append(f"**{assistant}:** {_line(turn.heard if cut else turn.assistant)}{' …' if cut else ''}".rstrip())
            if turn.interrupted:
                lines.append(f"*(interrupted{'' if turn.heard_ms is None else f' after {turn.heard_ms / 1000:.1f} s'})*")
            parts.append("\n\n".join(lines))
        return "\n\n".join([*parts, ""]) if parts else ""


def _turn(row: Mapping[str, Any]) -> Turn:
    fields = {name: value for name, value in row.items() if name in _TURN_FIELDS}
    calls = [ToolCall(**{name: value for name, value in call.items() if name in _CALL_FIELDS}) for call in fields.pop("tool_calls", [])]
    turn = Turn(**fields, tool_calls=calls)
    for field in attrs.fields(Turn):
        value, annotation = getattr(turn, field.name), str(field.type)
        expected = _KINDS.get(annotation.split(" ")[0], list)
        if not (isinstance(value, expected) or (value is None and "None" in annotation)):
            raise TypeError(f"{field.name} of a turn is {type(value).__name__}")
    return turn


def _cues(turns: Iterable[Turn], user: str, assistant: str) -> Iterable[tuple[float, float, str]]:
    for turn in turns:
        if turn.user:
            begins = _first(turn.spoke_from, turn.speech_started_at, turn.speech_stopped_at, turn.first_sound_at, turn.first_audio_at)
            ends = _first(turn.spoke_until, turn.speech_stopped_at)
            yield _cue(begins, ends, f"{user}: {_line(turn.user)}")
        heard = turn.heard
        if heard:
            begins = _first(turn.first_sound_at, turn.first_audio_at, turn.first_text_at, turn.ended_at, turn.speech_stopped_at)
            yield _cue(begins, _first(turn.sound_ended_at, turn.ended_at), f"{assistant}: {_line(heard)}")


def _cue(begins: float, ends: float, words: str) -> tuple[float, float, str]:
    return begins, ends if ends > begins else begins + _SHORTEST, words


def _first(*times: float | None) -> float:
    return next((max(0.0, at) for at in times if at is not None), 0.0)


def _clock(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"


def _moment(turn: Turn) -> str:
    at = _first(turn.spoke_from, turn.speech_started_at, turn.speech_stopped_at, turn.first_sound_at, turn.first_audio_at, turn.ended_at)
    minutes, seconds = divmod(int(at), 60)
    return f" ({minutes}:{seconds:02})"


def _line(text: str) -> str:
    """One line: an empty one would end a subtitle."""
    return " ".join(text.split())


def _code(output: str | None) -> str:
    if output is None:
        return "(no result)"
    line = _line(output)
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))  # a longer run than any inside
    return f"{ticks} {line} {ticks}" if "`" in line else f"{ticks}{line}{ticks}"
