"""A recorded conversation as lines, each with its time: who said what, which tools ran, what was cut off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from qai_realtime_sync.turns import Turn

__all__ = ["Line", "lines_of"]

_SHORTEST = 0.5  # seconds that a line lasts whose end is not known


@attrs.frozen(kw_only=True)
class Line:
    """One line, heard from ``begins`` to ``ends`` (seconds). ``who`` is ``user``, ``assistant`` or ``tool``.

    ``unheard`` is what of an answer was cut off; ``output`` a tool's result, ``None`` if there was none.
    """

    who: str
    turn: int
    begins: float
    ends: float
    words: str
    unheard: str = ""
    output: str | None = None
    interrupted: bool = False


def lines_of(turns: Iterable[Turn]) -> list[Line]:
    """Return the lines in the order in which they begin."""
    return sorted((line for turn in turns for line in _lines(turn)), key=lambda line: line.begins)


def _lines(turn: Turn) -> Iterator[Line]:
    if turn.user:
        begins = _first(turn.spoke_from, turn.speech_started_at, turn.speech_stopped_at, turn.first_sound_at, turn.first_audio_at)
        yield _line("user", turn, begins, _first(turn.spoke_until, turn.speech_stopped_at), turn.user)
    for call in turn.tool_calls:
        begins = _first(call.called_at, turn.speech_stopped_at)
        made = _line("tool", turn, begins, _first(call.answered_at, call.called_at), f"{call.name}({call.arguments})")
        yield attrs.evolve(made, output=call.output)
    if turn.assistant or turn.interrupted:
        begins = _first(turn.first_sound_at, turn.first_audio_at, turn.first_text_at, turn.ended_at, turn.speech_stopped_at)
        heard = turn.heard.strip() if turn.interrupted else turn.assistant
        whole = turn.assistant.strip()
        unheard = whole[len(heard) :].strip() if turn.interrupted and whole.startswith(heard) else ""
        made = _line("assistant", turn, begins, _first(turn.sound_ended_at, turn.ended_at), heard)
        yield attrs.evolve(made, unheard=unheard, interrupted=turn.interrupted)


def _line(who: str, turn: Turn, begins: float, ends: float, words: str) -> Line:
    return Line(who=who, turn=turn.number, begins=begins, ends=ends if ends > begins else begins + _SHORTEST, words=words)


def _first(*times: float | None) -> float:
    return next((max(0.0, at) for at in times if at is not None), 0.0)
