"""Turns and answers: data, and one sum."""

from __future__ import annotations

from typing import Any

import pytest

from qai_realtime_sync.turns import Answer, ToolCall, Turn


@pytest.mark.parametrize(
    ("stopped", "first", "latency"), [(1.0, 1.5, 0.5), (None, 1.5, None), (1.0, None, None), (None, None, None), (0.0, 0.0, 0.0)]
)
def test_the_latency_of_a_turn(stopped: float | None, first: float | None, latency: float | None) -> None:
    """Latency runs from the end of the user's speech to the first sound, and is unknown if either is."""
    assert Turn(number=1, speech_stopped_at=stopped, first_audio_at=first).latency == latency


@pytest.mark.parametrize(
    ("given", "heard"),
    [
        ({}, "one two three four"),
        ({"heard_ms": 1000, "audio_ms": 1000}, "one two three four"),
        ({"heard_ms": 500, "audio_ms": 1000}, "one two"),
        ({"heard_ms": 0, "audio_ms": 1000}, ""),
        ({"heard_ms": 500, "audio_ms": 0}, "one two three four"),
        ({"heard_ms": 500, "audio_ms": 1000, "heard_text": "one"}, "one"),
        ({"heard_text": ""}, ""),
    ],
)
def test_what_was_heard_of_an_answer(given: dict[str, Any], heard: str) -> None:
    """All of an answer that was not cut off; else what the service kept, or the words that fit into what was played."""
    assert Turn(number=1, assistant="one two three four", **given).heard == heard


def test_turns_do_not_share_lists() -> None:
    """A call noted in one turn does not appear in another."""
    first, second = Turn(number=1), Turn(number=2)
    first.tool_calls.append(ToolCall(name="x", call_id="c"))
    first.response_ids.append("r")
    assert (second.tool_calls, second.response_ids) == ([], [])


def test_a_call_has_no_output_until_there_is_one() -> None:
    """None means nothing yet; the empty text is an output."""
    assert ToolCall(name="x", call_id="c").output is None


def test_an_answer_shows_its_sound_as_a_length() -> None:
    """The text form of an answer does not fill a terminal with sound."""
    assert "<4800 bytes>" in repr(Answer(text="Hi.", audio=bytes(4800)))
