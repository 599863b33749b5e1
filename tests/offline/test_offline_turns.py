"""Turns, answers, barge-in and truncation: what happens, whatever the spelling."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from caller import WEATHER, Caller, silence, spoken, tone, types
from hypothesis import strategies as st

from qai_realtime_sync.offline import RealtimeServer, Script
from qai_realtime_sync.offline.items import Word
from qai_realtime_sync.offline.speech import Sentence
from qai_realtime_sync.offline.voice import Voice

Dial = Callable[..., Caller]
VAD = {"type": "server_vad"}


@pytest.fixture
def slow() -> Iterator[RealtimeServer]:
    """A server whose answers take as long as they sound, so that they can be interrupted."""
    with RealtimeServer(light=True, pace=1.0) as server:
        yield server


def storyteller(caller: Caller) -> str:
    """Begin a long answer; return its item's id once sound comes."""
    caller.write("Tell me a long story")
    caller.send("response.create")
    return str(caller.expect("response.output_audio.delta")["item_id"])


# -- the user's sound --------------------------------------------------------------------------------------------------------


def test_speech_is_noticed_within_200_ms(xai: RealtimeServer, dial: Dial) -> None:
    """speech_started comes before 200 ms of speech have been sent, with the padding taken off its time."""
    caller = dial(xai)
    caller.configure(turn_detection={"type": "server_vad", "prefix_padding_ms": 100})
    caller.append(silence(1.0) + tone(0.2))
    caller.send("input_audio_buffer.clear")
    events = caller.until("input_audio_buffer.cleared")
    assert events[0]["type"] == "input_audio_buffer.speech_started"
    assert abs(events[0]["audio_start_ms"] - 900) <= 40


def test_silence_and_a_steady_hum_are_no_speech(xai: RealtimeServer, dial: Dial) -> None:
    """Neither silence nor faint noise starts a turn."""
    caller = dial(xai)
    caller.configure(turn_detection=VAD)
    caller.append(silence(1.0) + tone(1.0, level=60) + silence(1.0))
    caller.send("input_audio_buffer.clear")
    assert types(caller.until("input_audio_buffer.cleared")) == ["input_audio_buffer.cleared"]


@pytest.mark.parametrize("pause", [200, 500, 1000])
def test_the_pause_that_ends_a_turn_is_the_sessions(xai: RealtimeServer, dial: Dial, pause: int) -> None:
    """speech_stopped comes silence_duration_ms after the last sound."""
    caller = dial(xai)
    caller.configure(turn_detection={"type": "server_vad", "silence_duration_ms": pause})
    caller.append(tone(1.0) + silence(1.5))
    assert abs(caller.expect("input_audio_buffer.speech_stopped")["audio_end_ms"] - 1000 - pause) <= 40


def test_times_count_all_sound_of_the_session(xai: RealtimeServer, dial: Dial) -> None:
    """The second turn's times go on where the first ended, also across a change of the rate."""
    caller = dial(xai)
    caller.configure(turn_detection=VAD)
    caller.append(tone(1.0) + silence(1.0))
    caller.expect("response.done")
    caller.configure(turn_detection=VAD, audio={"input": {"format": {"type": "audio/pcm", "rate": 8000}}})
    caller.append(silence(1.0, 8000) + tone(0.5, 8000), 320)
    assert abs(caller.expect("input_audio_buffer.speech_started")["audio_start_ms"] - 2700) <= 60


def test_a_manual_turn(xai: RealtimeServer, dial: Dial) -> None:
    """Without turn detection nothing happens until commit, and nothing is answered until response.create."""
    caller = dial(xai)
    caller.configure(turn_detection=None)
    caller.append(tone(1.0) + silence(1.0))
    caller.send("input_audio_buffer.commit")
    events = caller.until("conversation.item.input_audio_transcription.completed")
    assert types(events) == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.input_audio_transcription.completed",
    ]
    caller.send("response.create")
    assert caller.receive()["type"] == "response.created"
    assert caller.expect("response.done")["response"]["status"] == "completed"


def test_an_empty_commit_is_an_error(xai: RealtimeServer, dial: Dial) -> None:
    """Less than 100 ms cannot be committed, neither after a clear; the message says how much there is."""
    caller = dial(xai)
    caller.configure(turn_detection=None)
    caller.append(tone(0.08))
    caller.send("input_audio_buffer.commit", event_id="e1")
    error = caller.error()
    assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "e1")
    assert "80ms" in error["message"]
    caller.append(tone(1.0))
    caller.send("input_audio_buffer.clear")
    assert caller.receive()["type"] == "input_audio_buffer.cleared"
    caller.send("input_audio_buffer.commit")
    assert caller.error()["code"] == "input_audio_buffer_commit_empty"


def test_create_response_false_leaves_the_answer_to_the_client(xai: RealtimeServer, dial: Dial) -> None:
    """The turn ends and is transcribed, but the answer waits for response.create."""
    caller = dial(xai)
    caller.configure(turn_detection={"type": "server_vad", "create_response": False})
    caller.append(tone(1.0) + silence(1.0))
    caller.expect("conversation.item.input_audio_transcription.completed", status="completed")
    caller.send("response.create")
    assert caller.receive()["type"] == "response.created"


# -- barge-in ----------------------------------------------------------------------------------------------------------------


def test_speech_cancels_the_running_answer(slow: RealtimeServer, dial: Dial) -> None:
    """speech_started comes first, then the cancelled response with its incomplete item, and not one delta after it."""
    caller = dial(slow)
    caller.configure(turn_detection=VAD)
    item_id = storyteller(caller)
    caller.append(tone(0.3))
    events = caller.until("response.done")
    after = events[[event["type"] for event in events].index("input_audio_buffer.speech_started") :]
    assert not any(kind.endswith(".delta") for kind in types(after, squeeze=False))
    done = after[-1]["response"]
    assert done["status"] == "cancelled"
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert (done["output"][0]["id"], done["output"][0]["status"]) == (item_id, "incomplete")
    caller.append(silence(0.8))
    following = caller.until("response.created")
    assert not any(event.get("item_id") == item_id for event in following)


def test_speech_after_a_finished_answer_is_only_told(xai: RealtimeServer, dial: Dial) -> None:
    """An answer that was made faster than it plays is not cancelled: the client truncates what it has not played."""
    caller = dial(xai)
    caller.configure(turn_detection=VAD)
    item_id = caller.ask("Tell me a long story")[-1]["response"]["output"][0]["id"]
    caller.append(tone(0.3))
    assert caller.receive()["type"] == "input_audio_buffer.speech_started"
    caller.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=1500)
    assert caller.expect("conversation.item.truncated")["audio_end_ms"] == 1500


def test_interrupt_response_false_lets_the_answer_finish(dial: Dial) -> None:
    """Speech does not cancel then, and the turn is answered when the running answer is over."""
    with RealtimeServer(light=True, pace=40) as server:
        caller = dial(server)
        caller.configure(turn_detection={"type": "server_vad", "interrupt_response": False})
        storyteller(caller)
        caller.append(tone(0.5) + silence(0.8))
        assert caller.expect("response.done")["response"]["status"] == "completed"
        assert caller.receive()["type"] == "response.created"
        assert "heard you speak" in caller.expect("response.output_audio_transcript.done")["transcript"]


def test_what_must_not_be_interrupted_is_not(slow: RealtimeServer, dial: Dial) -> None:
    """A force_message with interruptible false goes on while the user speaks."""
    caller = dial(slow)
    caller.configure(turn_detection=VAD)
    content = [{"type": "output_text", "text": "Please hold the line, this is important."}]
    caller.send("conversation.item.create", item={"type": "force_message", "role": "assistant", "interruptible": False, "content": content})
    caller.expect("response.output_audio.delta")
    caller.append(tone(0.3))
    assert caller.expect("response.done")["response"]["status"] == "completed"


# -- cancel, truncate --------------------------------------------------------------------------------------------------------


def test_cancel_stops_at_once(slow: RealtimeServer, dial: Dial) -> None:
    """After response.cancel the answer ends as cancelled, and a second cancel is a benign error."""
    caller = dial(slow)
    storyteller(caller)
    asked = time.monotonic()
    caller.send("response.cancel")
    done = caller.expect("response.done")["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
    assert time.monotonic() - asked < 15.0  # the story lasts for forty seconds
    caller.send("response.cancel", event_id="again")
    error = caller.error()
    assert (error["code"], error["event_id"]) == ("response_cancel_not_active", "again")


def test_cancel_of_another_answer_is_an_error(slow: RealtimeServer, dial: Dial) -> None:
    """response.cancel with the id of no running answer cancels nothing."""
    caller = dial(slow)
    storyteller(caller)
    caller.send("response.cancel", response_id="resp_of_yesterday")
    assert caller.error()["code"] == "response_cancel_not_active"
    assert caller.receive()["type"].endswith("delta")


def test_truncation_drops_what_was_not_heard(xai: RealtimeServer, dial: Dial) -> None:
    """The text that is kept is a beginning of the transcript, in proportion to the time that was heard."""
    caller = dial(xai)
    events = caller.ask("Tell me a long story")
    item = events[-1]["response"]["output"][0]
    whole = item["content"][0]["transcript"]
    total_ms = len(spoken(events)) / 48
    caller.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=int(total_ms / 4))
    kept = caller.expect("conversation.item.truncated")["transcript"]
    assert whole.startswith(kept)
    assert 0.15 < len(kept) / len(whole) < 0.35
    shown = xai.conversations[0]["items"][-1]
    assert (shown["text"], shown["truncated_ms"]) == (kept, int(total_ms / 4))


def test_truncation_at_the_very_end_and_at_nothing(xai: RealtimeServer, dial: Dial) -> None:
    """All of the sound that was made may be kept, or none; one ms more is an error."""
    caller = dial(xai)
    events = caller.ask("Hello")
    item = events[-1]["response"]["output"][0]
    total_ms = len(spoken(events)) // 48
    caller.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=total_ms + 2)
    error = caller.error()
    assert (error["code"], error["param"]) == ("invalid_value", "audio_end_ms")
    caller.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=total_ms)
    assert caller.expect("conversation.item.truncated")["transcript"] == item["content"][0]["transcript"]
    caller.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=0)
    assert caller.expect("conversation.item.truncated")["transcript"] == ""


def test_only_spoken_answers_can_be_truncated(xai: RealtimeServer, dial: Dial) -> None:
    """The user's item and a written answer cannot be cut, nor another content part."""
    caller = dial(xai)
    events = caller.ask("Hello", modalities=["text"])
    user = next(event for event in events if event["type"] == "conversation.item.added")["item"]["id"]
    for item_id in (user, events[-1]["response"]["output"][0]["id"]):
        caller.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=0)
        assert caller.error()["param"] == "item_id"
    item_id = caller.ask("Hello")[-1]["response"]["output"][0]["id"]
    caller.send("conversation.item.truncate", item_id=item_id, content_index=1, audio_end_ms=0)
    assert caller.error()["param"] == "content_index"


# -- answers -----------------------------------------------------------------------------------------------------------------


def test_one_answer_at_a_time(slow: RealtimeServer, dial: Dial) -> None:
    """A second response.create while one runs is an error with its event id, and the first goes on."""
    caller = dial(slow)
    storyteller(caller)
    caller.send("response.create", event_id="second")
    error = caller.error()
    assert (error["code"], error["event_id"]) == ("conversation_already_has_active_response", "second")
    assert caller.receive()["type"].endswith("delta")


def test_sound_comes_faster_than_it_plays_but_not_at_once(dial: Dial) -> None:
    """At pace 4 an answer takes about a quarter of its duration, and its first sound comes at once."""
    with RealtimeServer(light=True, pace=4.0) as server:
        caller = dial(server)
        in_time = False
        for _ in range(5):  # a busy machine is late, but not each time
            caller.write("How are you?")
            caller.send("response.create")
            began = time.monotonic()
            events = caller.until("response.output_audio.delta")
            first = time.monotonic() - began
            events += caller.until("response.done")
            took, lasts = time.monotonic() - began, len(spoken(events)) / 48000
            assert took > lasts / 6
            in_time = in_time or (first < 1.0 and took < lasts * 0.8)
        assert in_time, (first, took, lasts)


def test_an_answer_ends_when_its_tokens_are_used_up(xai: RealtimeServer, dial: Dial) -> None:
    """With max_output_tokens a long answer ends early as incomplete, and says why; an impossible limit is an error."""
    caller = dial(xai)
    done = caller.ask("Tell me a long story", max_output_tokens=50)[-1]
    assert done["response"]["status"] == "incomplete"
    assert done["response"]["status_details"]["reason"] == "max_output_tokens"
    assert 50 <= done["usage"]["output_tokens"] < 70
    caller.send("session.update", session={"max_response_output_tokens": 0})
    assert caller.error()["param"] == "session.max_output_tokens"


def test_one_answer_may_be_longer_than_the_sessions(openai: RealtimeServer, dial: Dial) -> None:
    """A limit of inf lifts the session's for this answer alone."""
    caller = dial(openai)
    caller.configure(type="realtime", max_output_tokens=5)
    assert caller.ask("Hello")[-1]["response"]["status"] == "incomplete"
    answer = caller.ask("Hello", max_output_tokens="inf")[-1]["response"]
    assert (answer["status"], answer["max_output_tokens"]) == ("completed", "inf")
    answer = caller.ask("Hello")[-1]["response"]
    assert (answer["status"], answer["max_output_tokens"]) == ("incomplete", 5)


def test_metadata_and_client_item_ids_are_kept(xai: RealtimeServer, dial: Dial) -> None:
    """metadata stands on response.created and response.done, null where none was given; an item keeps the client's id."""
    caller = dial(xai)
    caller.configure()
    caller.write("Hello", id="item_mine")
    assert caller.expect("conversation.item.added")["item"]["id"] == "item_mine"
    caller.send("response.create", response={"metadata": {"key": "value"}})
    events = caller.until("response.done")
    assert events[0]["response"]["metadata"] == events[-1]["response"]["metadata"] == {"key": "value"}
    assert caller.ask("Hello")[-1]["response"]["metadata"] is None
    caller.write("Hello", id="item_mine")
    assert caller.error()["param"] == "item.id"


def test_instructions_of_one_answer(xai: RealtimeServer, dial: Dial) -> None:
    """response.create with instructions to say something says it, also when nobody asked anything."""
    caller = dial(xai)
    caller.send("response.create", response={"instructions": 'Greet the caller. Say exactly: "Welcome to the bank."'})
    assert caller.expect("response.output_audio_transcript.done")["transcript"] == "Welcome to the bank."


def test_a_result_for_an_unknown_call_is_an_error(xai: RealtimeServer, dial: Dial) -> None:
    """A function_call_output must name a call of this conversation."""
    caller = dial(xai)
    caller.send("conversation.item.create", event_id="r", item={"type": "function_call_output", "call_id": "call_none", "output": ""})
    error = caller.error()
    assert (error["code"], error["param"], error["event_id"]) == ("invalid_tool_call_id", "item.call_id", "r")


def test_a_missing_argument_is_asked_for(xai: RealtimeServer, dial: Dial) -> None:
    """Without a city the weather tool is not called; the city alone calls it then."""
    caller = dial(xai)
    caller.configure(tools=[WEATHER])
    question = caller.ask("How is the weather?")[-1]["response"]["output"][0]["content"][0]["transcript"]
    assert "city" in question
    call = caller.ask("In Paris, please.")[-1]["response"]["output"][0]
    assert (call["type"], json.loads(call["arguments"])) == ("function_call", {"city": "Paris"})


def test_earlier_turns_are_history(xai: RealtimeServer, dial: Dial) -> None:
    """Seeded messages of both sides are not answered; only what the user said last is."""
    caller = dial(xai)
    caller.write("My name is Peter")
    caller.send(
        "conversation.item.create",
        item={"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello Peter."}]},
    )
    assert "You are welcome" in caller.ask("Thank you")[-1]["response"]["output"][0]["content"][0]["transcript"]


def test_items_are_put_where_the_client_says(xai: RealtimeServer, dial: Dial) -> None:
    """previous_item_id places an item: after that one, first for root, last without; an unknown one is an error."""
    caller = dial(xai)
    for item_id, previous in (("b", None), ("a", "root"), ("d", None), ("c", "b")):
        fields = {"previous_item_id": previous} if previous else {}
        item = {"id": item_id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": item_id}]}
        caller.send("conversation.item.create", item=item, **fields)
        caller.expect("conversation.item.added")
    assert [item["id"] for item in xai.conversations[0]["items"]] == ["a", "b", "c", "d"]
    caller.send("conversation.item.delete", item_id="b")
    assert caller.expect("conversation.item.deleted")["item_id"] == "b"
    assert [item["id"] for item in xai.conversations[0]["items"]] == ["a", "c", "d"]
    caller.send("conversation.item.create", previous_item_id="b", item={**item, "id": "e"})
    assert caller.error()["param"] == "previous_item_id"


def test_nobody_speaks_for_too_long(dial: Dial) -> None:
    """After idle_timeout_ms of quiet the server says so, and speaks by itself; any client event puts it off."""
    with RealtimeServer(light=True, pace=1000, dialect="openai") as server:
        caller = dial(server)
        caller.configure(
            type="realtime", output_modalities=["text"], audio={"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 100}}}
        )
        caller.ask("Hello")
        events = caller.until("response.done")
        assert "input_audio_buffer.timeout_triggered" in types(events)
        assert "still there" in events[-1]["response"]["output"][0]["content"][0]["text"]


def test_a_script_of_ones_own(dial: Dial) -> None:
    """Rules win over the default answers, in their order, and fill in what their pattern caught."""
    script = Script()
    script.on_text(r"order (\d+)").say("I will look for order {1}.").call_tool("find_order", {"number": "{1}", "urgent": True})
    script.on_text("refund").say("I am sorry to hear that.", "I will take care of it.")
    with RealtimeServer(light=True, pace=1000, script=script) as server:
        caller = dial(server)
        output = caller.ask("Where is order 77?")[-1]["response"]["output"]
        assert output[0]["content"][0]["transcript"] == "I will look for order 77."
        assert (output[1]["name"], json.loads(output[1]["arguments"])) == ("find_order", {"number": "77", "urgent": True})
        caller.send(
            "conversation.item.create",
            item={"type": "function_call_output", "call_id": output[1]["call_id"], "output": '{"state": "shipped"}'},
        )
        caller.send("response.create")
        assert "state is shipped" in caller.expect("response.output_audio_transcript.done")["transcript"]
        caller.expect("response.done")
        said = caller.ask("I want a refund")[-1]["response"]["output"][0]["content"][0]["transcript"]
        assert said == "I am sorry to hear that. I will take care of it."


# -- what goes wrong inside --------------------------------------------------------------------------------------------------


class _Hoarse:
    """A voice that says one sentence and then fails."""

    def speak(self, text: str, rate: int, speed: float = 1.0) -> Iterator[Sentence]:
        yield Sentence(bytes(4800), [Word("Well", 0, 100)])
        raise OSError("the voice is gone")


def test_a_voice_that_fails_ends_the_answer_and_not_the_call(dial: Dial, caplog: pytest.LogCaptureFixture) -> None:
    """The response fails with its reason, the failure is logged, and a written answer works afterwards."""
    with RealtimeServer(voice=Voice(_Hoarse(), None, False, True, "hoarse")) as server:
        caller = dial(server)
        done = caller.ask("Hello")[-1]["response"]
        assert (done["status"], done["status_details"]["error"]["code"]) == ("failed", "server_error")
        assert done["output"][0]["status"] == "incomplete"
        assert caller.ask("Hello", modalities=["text"])[-1]["response"]["status"] == "completed"
    assert "the voice is gone" in caplog.text


SCALARS = st.none() | st.booleans() | st.integers(-10, 100_000) | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS | st.text(max_size=8) | st.sampled_from(["message", "audio", "auto"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "name", "text", "function", "format", "id"]), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = {
    "session.update": ["session"],
    "input_audio_buffer.append": ["audio"],
    "conversation.item.create": ["item", "previous_item_id"],
    "conversation.item.delete": ["item_id"],
    "conversation.item.retrieve": ["item_id"],
    "conversation.item.truncate": ["item_id", "content_index", "audio_end_ms"],
    "response.create": ["response"],
    "response.cancel": ["response_id"],
}
INNER = {
    "session": (
        "type instructions voice modalities output_modalities tools tool_choice max_output_tokens speed turn_detection audio resumption "
        "input_audio_transcription input_audio_noise_reduction input_audio_format"
    ).split(),
    "item": "id type role content call_id output name arguments interruptible".split(),
    "response": "instructions modalities output_modalities metadata tools tool_choice input conversation".split(),
}


@st.composite
def frames(draw: st.DrawFn) -> dict[str, Any]:
    """A client event of a known type with any values in its fields."""
    kind = draw(st.sampled_from(sorted(FIELDS)))
    frame: dict[str, Any] = {"type": kind}
    for name in FIELDS[kind]:
        inner = INNER.get(name)
        frame[name] = draw(st.dictionaries(st.sampled_from(inner), VALUES, max_size=4) if inner else VALUES)
    return frame


@pytest.mark.parametrize("dialect", ["xai", "openai"])
def test_no_value_of_any_field_breaks_a_call(dialect: str) -> None:
    """Whatever stands in a field, the answer is an event or an error of the client's, never an internal one, and the call lives on."""
    with RealtimeServer(light=True, pace=100_000, dialect=dialect) as server:

        @hypothesis.given(st.lists(frames(), min_size=1, max_size=4))
        def check(sent: list[dict[str, Any]]) -> None:
            caller = Caller(server.ws_url)
            try:
                for frame in sent:
                    caller.socket.send(json.dumps(frame))
                caller.send("input_audio_buffer.clear")
                events = caller.until("input_audio_buffer.cleared")
                assert "internal_error" not in {event["error"]["code"] for event in events if event["type"] == "error"}
            finally:
                caller.close()

        check()


def test_half_a_character_comes_back_as_it_was_sent(xai: RealtimeServer, dial: Dial) -> None:
    """A lone surrogate in a text is echoed escaped, and the call lives on; other characters come as UTF-8."""
    caller = dial(xai)
    caller.write("half \ud83d, whole \U0001f600, ä")
    assert caller.expect("conversation.item.added")["item"]["content"][0]["text"] == "half \ud83d, whole \U0001f600, ä"
    assert caller.ask("Hello")[-1]["response"]["status"] == "completed"
