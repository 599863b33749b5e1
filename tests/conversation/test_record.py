"""A conversation on paper: JSON and back, subtitles, Markdown, and the times at which it was heard."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from qai_realtime_sync.commands import SendFunctionResult, SendText
from qai_realtime_sync.config import TurnDetection
from qai_realtime_sync.conversation.record import Conversation
from qai_realtime_sync.conversation.turns import Turns
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import (
    AudioDelta,
    FunctionCall,
    ItemTruncated,
    PlaybackStopped,
    ResponseCreated,
    ResponseDone,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TranscriptDelta,
    TranscriptDone,
)
from qai_realtime_sync.turns import ToolCall, Turn


def spoken() -> Turn:
    return Turn(
        number=1, user="Is it raining?", assistant="Yes, in Oslo.", speech_started_at=1.2, speech_stopped_at=2.9, spoke_from=1.0,
        spoke_until=2.4, first_audio_at=3.0, first_sound_at=3.25, sound_ended_at=4.75, ended_at=3.6,
        tool_calls=[ToolCall(name="get_weather", call_id="c", arguments='{"city": "Oslo"}', output="rain `now`", called_at=2.95)],
    )  # fmt: skip


def cut_off() -> Turn:
    return Turn(
        number=2, user="Tell me\n\nmore", assistant="one two three four", interrupted=True, heard_ms=500, audio_ms=1000,
        speech_stopped_at=6.0, first_sound_at=7.0, sound_ended_at=7.5,
    )  # fmt: skip


def test_json_gives_the_same_conversation_back() -> None:
    """What is written as JSON is read back with nothing lost, lists of calls included."""
    conversation = Conversation([spoken(), cut_off()])
    assert Conversation.from_json(conversation.to_json()) == conversation
    assert json.loads(conversation.to_json())["turns"][0]["latency"] == pytest.approx(0.1)


@given(st.text(), st.text(), st.one_of(st.none(), st.integers(0, 10**6)), st.one_of(st.none(), st.floats(0, 1e6)))
def test_any_words_survive_json(user: str, assistant: str, heard: int | None, at: float | None) -> None:
    """No text and no time is changed by writing and reading."""
    conversation = Conversation([Turn(number=1, user=user, assistant=assistant, heard_ms=heard, first_sound_at=at)])
    assert Conversation.from_json(conversation.to_json(indent=1)) == conversation


def test_what_a_later_version_writes_is_read_too() -> None:
    """Keys that are not known are passed over."""
    text = '{"turns": [{"number": 3, "user": "hi", "mood": "good", "tool_calls": [{"name": "f", "call_id": "c", "cost": 1}]}], "v": 9}'
    assert Conversation.from_json(text) == [Turn(number=3, user="hi", tool_calls=[ToolCall(name="f", call_id="c")])]


@pytest.mark.parametrize(
    "text", ["", "no", "[]", "{}", '{"turns": 3}', '{"turns": [3]}', '{"turns": [{}]}', '{"turns": [{"number": "1"}]}',
             '{"turns": [{"number": 1, "user": null}]}', '{"turns": [{"number": 1, "tool_calls": [{}]}]}']
)  # fmt: skip
def test_what_is_no_conversation_is_refused(text: str) -> None:
    """Anything else is a mistake of the program that says what it should be."""
    with pytest.raises(ConfigError, match=r"Conversation\.to_json"):
        Conversation.from_json(text)


def test_subtitles_stand_where_each_side_was_heard() -> None:
    """A subtitle begins with the sound, not with the message that told of it, and of a cut answer it has what was heard."""
    assert Conversation([spoken(), cut_off()]).to_srt(user="You") == (
        "1\n00:00:01,000 --> 00:00:02,400\nYou: Is it raining?\n\n"
        "2\n00:00:03,250 --> 00:00:04,750\nAssistant: Yes, in Oslo.\n\n"
        "3\n00:00:06,000 --> 00:00:06,500\nYou: Tell me more\n\n"
        "4\n00:00:07,000 --> 00:00:07,500\nAssistant: one two\n"
    )


def test_subtitles_are_in_order_of_time_and_never_empty() -> None:
    """Who began first is written first, whatever the turn, and a turn without words has no subtitle; hours have their place."""
    late = Turn(number=1, user="a", assistant="b", speech_started_at=3600.0, speech_stopped_at=3601.5, first_sound_at=3725.0004)
    early = Turn(number=2, user="c", spoke_from=1.0, spoke_until=1.2)
    blocks = Conversation([late, early, Turn(number=3)]).to_srt().split("\n\n")
    assert [block.splitlines()[1:] for block in blocks] == [
        ["00:00:01,000 --> 00:00:01,200", "User: c"],
        ["01:00:00,000 --> 01:00:01,500", "User: a"],
        ["01:02:05,000 --> 01:02:05,500", "Assistant: b"],
    ]
    assert Conversation().to_srt() == ""


def test_markdown_is_for_people() -> None:
    """Both sides, what tools were asked and said, and where an answer was cut."""
    assert Conversation([spoken(), cut_off()]).to_markdown() == (
        '## 1 (0:01)\n\n**User:** Is it raining?\n\n- `get_weather({"city": "Oslo"})` → `` rain `now` ``\n\n'
        "**Assistant:** Yes, in Oslo.\n\n"
        "## 2 (0:06)\n\n**User:** Tell me more\n\n**Assistant:** one two …\n\n*(interrupted after 0.5 s)*\n\n"
    )
    unanswered = Turn(number=1, tool_calls=[ToolCall(name="f", call_id="c")], interrupted=True)
    assert Conversation([unanswered]).to_markdown() == "## 1 (0:00)\n\n- `f()` → (no result)\n\n*(interrupted)*\n\n"
    assert Conversation().to_markdown() == ""


def test_its_name_says_how_long_it_is() -> None:
    """A conversation in a log is one line, not all of its words."""
    assert repr(Conversation([spoken()])) == "<Conversation of 1 turns>"


# -- the times, as the turns learn them --------------------------------------------------------------------------------------


def answered(turns: Turns, response: str, at: float, text: str = "yes", item: str = "") -> None:
    turns.told(ResponseCreated(response_id=response), at)
    turns.told(AudioDelta(response_id=response, item_id=item or response), at)
    turns.told(TranscriptDone(transcript=text, response_id=response, item_id=item or response), at)


def test_sound_is_heard_when_it_is_played() -> None:
    """An answer that waits behind another begins when that one ends; each ends where the next begins, or where it fell silent."""
    turns = Turns()
    turns.sent(SendText(text="a"), 0.0)
    answered(turns, "r1", 1.0)
    turns.sounds("r1", 1.1, 0.0)
    turns.told(ResponseDone(response_id="r1"), 1.2)
    turns.sent(SendText(text="b"), 1.3)
    answered(turns, "r2", 1.4)
    turns.sounds("r2", 3.1, 3.1)
    turns.told(ResponseDone(response_id="r2"), 1.5)
    turns.told(PlaybackStopped(response_id="r2", reason="finished"), 5.2)
    turns.silent(5.1)
    first, second = turns.snapshot()
    assert (first.first_audio_at, first.first_sound_at, first.sound_ended_at) == (1.0, 1.1, 3.1)
    assert (second.first_audio_at, second.first_sound_at, second.sound_ended_at) == (1.4, 3.1, 5.1)


def test_what_waited_behind_an_interrupted_answer_was_not_heard() -> None:
    """An interruption takes the sound away from every answer that had not begun to be heard."""
    turns = Turns()
    for number, at in ((1, 0.0), (2, 1.0)):
        turns.sent(SendText(text=str(number)), at)
        answered(turns, f"r{number}", at)
    turns.sounds("r1", 0.1, 0.0)
    turns.sounds("r2", 4.0, 4.0)
    turns.told(PlaybackStopped(response_id="r1", item_id="r1", heard_ms=1900, received_ms=3900, reason="barge_in"), 2.0)
    first, second = turns.snapshot()
    assert (first.first_sound_at, first.sound_ended_at, first.interrupted) == (0.1, 2.0, True)
    assert (second.first_sound_at, second.interrupted, second.heard) == (None, True, "")


def test_of_two_answers_of_a_turn_the_first_was_heard_whole_and_the_second_in_part() -> None:
    """Cutting the second answer leaves every word of the first, by the length that was heard or by what the service kept."""
    turns = Turns()
    turns.sent(SendText(text="weather?"), 0.0)
    answered(turns, "r1", 1.0, "Let me look.")
    answered(turns, "r2", 2.0, "It rains cats and dogs here.")
    turns.told(PlaybackStopped(response_id="r2", item_id="r2", heard_ms=1000, received_ms=2000, reason="barge_in"), 3.0)
    assert turns.snapshot()[0].heard == "Let me look. It rains cats"
    turns.told(ItemTruncated(item_id="r2", audio_end_ms=1000, transcript="It rains"), 3.1)
    assert turns.snapshot()[0].heard == "Let me look. It rains"


def test_a_new_connection_may_number_its_answers_anew() -> None:
    """The same response id on another connection is another answer; what still plays of the old one can be interrupted."""
    turns = Turns()
    turns.sent(SendText(text="a"), 0.0)
    answered(turns, "1", 1.0, "one two three four", "")
    turns.sounds("1", 1.0, 0.0)
    turns.told(ResponseDone(response_id="1"), 1.1)
    turns.connected(None)
    turns.told(PlaybackStopped(response_id="1", heard_ms=500, received_ms=1000, reason="barge_in"), 1.5)
    turns.sent(SendText(text="b"), 2.0)
    answered(turns, "1", 3.0, "five", "")
    assert [(turn.user, turn.assistant, turn.heard, turn.first_audio_at) for turn in turns.snapshot()] == [
        ("a", "one two three four", "one two", 1.0),
        ("b", "five", "five", 3.0),
    ]


def test_the_first_words_are_noted_once() -> None:
    """The first piece of a transcript or of a text counts, the user's own words do not."""
    turns = Turns()
    turns.told(ResponseCreated(response_id="r1"), 0.5)
    turns.told(TranscriptDelta(delta="hm", source="input", response_id="r1"), 1.0)
    turns.told(TranscriptDelta(delta="a", response_id="r1"), 2.0)
    turns.told(TextDelta(delta="b", response_id="r1"), 3.0)
    turns.told(TextDelta(delta="b", response_id="nobody's"), 4.0)
    assert turns.snapshot()[0].first_text_at == 2.0
    assert turns.noted[TextDelta] == "r1"


def test_the_users_sound_is_found_by_its_position() -> None:
    """The service counts the sound it was sent; padding and silence are taken off, and a pause of the sender is no sound."""
    turns = Turns()
    turns.connected(TurnDetection(prefix_padding_ms=200, silence_duration_ms=600))
    for number in range(100):
        turns.spoke(5.0 + number * 0.02, 0.02)  # two seconds, then a pause of three
    for number in range(200):
        turns.spoke(10.0 + number * 0.02, 0.02)
    turns.told(SpeechStarted(item_id="u", audio_start_ms=2800), 13.2)
    turns.told(SpeechStopped(item_id="u", audio_end_ms=4600), 15.0)
    (turn,) = turns.snapshot()
    assert turn.spoke_from == pytest.approx(11.0)
    assert turn.spoke_until == pytest.approx(12.0)
    assert (turn.speech_started_at, turn.speech_stopped_at) == (13.2, 15.0)


def test_a_new_connection_counts_from_its_own_beginning() -> None:
    """After a reconnect the service's positions begin at 0 again; without a recording nothing is guessed."""
    turns = Turns()
    turns.spoke(0.0, 8.0)
    turns.connected(None)
    turns.told(SpeechStarted(item_id="u1", audio_start_ms=100), 8.4)
    turns.spoke(20.0, 5.0)
    turns.told(ResponseCreated(response_id="r1"), 21.0)
    turns.told(SpeechStarted(item_id="u2", audio_start_ms=1000), 22.0)
    turns.told(ResponseCreated(response_id="r2"), 23.0)
    turns.told(SpeechStarted(item_id="u3", audio_start_ms=0), 24.0)  # cut off at the beginning: where it began is not known
    assert [turn.spoke_from for turn in turns.snapshot()] == [None, pytest.approx(21.3), None]


def test_calls_have_their_times() -> None:
    """When the model called and when it was answered is kept with the call."""
    turns = Turns()
    turns.told(ResponseCreated(response_id="r"), 1.0)
    turns.told(FunctionCall(name="f", call_id="c", response_id="r"), 2.0)
    turns.sent(SendFunctionResult(call_id="c", output="x"), 3.5)
    assert turns.snapshot()[0].tool_calls == [ToolCall(name="f", call_id="c", output="x", called_at=2.0, answered_at=3.5)]
