"""The wire as xAI and the gateway spell it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from caller import WEATHER, Caller, silence, spoken, tone, types

from qai_realtime_sync.offline import RealtimeServer

Dial = Callable[..., Caller]


def test_three_events_open_a_session(xai: RealtimeServer, dial: Dial) -> None:
    """A connection begins with session.created, conversation.created and ping, before the client has said anything."""
    caller = dial(xai)
    opening = [caller.receive() for _ in range(3)]
    assert types(opening) == ["session.created", "conversation.created", "ping"]
    assert opening[0]["session"]["turn_detection"] == {"type": None}
    assert opening[1]["conversation"]["id"].startswith("conv_")
    assert all(event["event_id"].startswith("event_") for event in opening)


def test_the_model_of_the_address_is_echoed(xai: RealtimeServer, dial: Dial) -> None:
    """The model query parameter is the session's model."""
    assert dial(xai, "?model=grok-voice-3.0").receive()["session"]["model"] == "grok-voice-3.0"


def test_both_paths_are_served(xai: RealtimeServer) -> None:
    """The gateway's path and the service's own path lead to the same."""
    for path in ("/qai/v1/realtime", "/v1/realtime"):
        with Caller(xai.base_ws_url + path) as caller:
            assert caller.receive()["type"] == "session.created"


def test_an_update_is_echoed_as_xai_does(xai: RealtimeServer, dial: Dial) -> None:
    """The echo has nested tools and audio formats, and calls the flat formats not specified."""
    body = dial(xai).configure(
        instructions="Be brief.",
        voice="Eve",
        turn_detection={"type": "server_vad", "create_response": False},
        tools=[WEATHER],
        input_audio_transcription={"model": "grok-2-audio"},
        audio={"input": {"format": {"type": "audio/pcm", "rate": 16000}}, "output": {"format": {"type": "audio/pcm", "rate": 8000}}},
        something_new=[1],
    )
    assert (body["voice"], body["instructions"]) == ("Eve", "Be brief.")
    assert body["tools"] == [{"type": "function", "function": {key: value for key, value in WEATHER.items() if key != "type"}}]
    assert body["audio"]["input"]["format"]["rate"] == 16000
    assert body["audio"]["output"]["format"]["rate"] == 8000
    assert body["input_audio_format"] == "not specified"
    assert body["turn_detection"] == {"type": "server_vad", "create_response": False}
    assert body["something_new"] == [1]
    assert "id" not in body


def test_flat_formats_are_ignored(xai: RealtimeServer, dial: Dial) -> None:
    """A flat input_audio_format changes nothing, as at xAI."""
    assert dial(xai).configure(input_audio_format="g711_ulaw")["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}


def test_a_refused_update_changes_nothing(xai: RealtimeServer, dial: Dial) -> None:
    """A rate that xAI does not have is an error with param and event id, and the session stays as it was."""
    caller = dial(xai)
    caller.configure(voice="Eve")
    caller.send(
        "session.update", event_id="mine", session={"voice": "Rex", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 12345}}}}
    )
    error = caller.error()
    assert error["param"] == "session.audio.input.format.rate"
    assert error["event_id"] == "mine"
    assert caller.configure()["voice"] == "Eve"


def test_the_order_of_a_written_turn(xai: RealtimeServer, dial: Dial) -> None:
    """A typed question is answered with sound in the recorded order, the usage beside the response."""
    caller = dial(xai)
    caller.configure()
    events = caller.ask("Hello there!")
    assert types(events) == [
        "conversation.item.added",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio.delta",
        "response.output_audio_transcript.delta",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_audio.done",
        "response.output_item.done",
        "response.done",
    ]
    done = events[-1]
    assert done["response"]["status"] == "completed"
    assert done["response"]["usage"] == {}
    assert done["response_id"] == done["response"]["id"]
    usage = done["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_audio_seconds"] == pytest.approx(len(spoken(events)) / 48000, abs=0.01)
    assert done["response"]["output"][0]["content"] == [{"type": "audio", "transcript": "Hello! How can I help you today?"}]


def test_transcript_deltas_join_to_the_transcript(xai: RealtimeServer, dial: Dial) -> None:
    """The joined deltas of a long answer are its done transcript, and their start times never go back."""
    caller = dial(xai)
    events = caller.ask("Please tell me a long story.")
    deltas = [event for event in events if event["type"] == "response.output_audio_transcript.delta"]
    done = next(event for event in events if event["type"] == "response.output_audio_transcript.done")
    assert "".join(delta["delta"] for delta in deltas) == done["transcript"]
    assert [delta["start_time"] for delta in deltas] == sorted(delta["start_time"] for delta in deltas)
    assert len(spoken(events)) / 48000 >= 15


def test_the_order_of_a_spoken_turn(xai: RealtimeServer, dial: Dial) -> None:
    """With turn detection the user's item comes at the start of speech, and its final transcript before the answer."""
    caller = dial(xai)
    caller.configure(turn_detection={"type": "server_vad"})
    caller.append(silence(0.5) + tone(1.0) + silence(0.8))
    events = caller.until("response.done")
    assert types(events)[:6] == [
        "input_audio_buffer.speech_started",
        "conversation.item.added",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.input_audio_transcription.completed",
        "response.created",
    ]
    assert {event.get("item_id", event.get("item", {}).get("id")) for event in events[:5]} == {events[0]["item_id"]}
    assert events[4]["status"] == "completed"
    assert events[4]["transcript"] == "(speech)"


def test_a_tool_round(xai: RealtimeServer, dial: Dial) -> None:
    """A question calls the tool with its argument filled in, and the result is spoken in a sentence."""
    caller = dial(xai)
    caller.configure(tools=[WEATHER])
    events = caller.ask("What is the weather in London?")
    call = next(event for event in events if event["type"] == "response.function_call_arguments.done")
    assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "London"})
    assert "output_index" not in next(event for event in events if event["type"] == "response.function_call_arguments.delta")
    assert next(event for event in events if event["type"] == "response.output_item.done")["item"]["role"] == "user"
    caller.send("conversation.item.create", item={"type": "function_call_output", "call_id": call["call_id"], "output": "It is foggy"})
    caller.send("response.create")
    done = caller.expect("response.done")
    assert done["response"]["output"][0]["content"][0]["transcript"] == "It is foggy."


def test_force_message_is_said_verbatim(xai: RealtimeServer, dial: Dial) -> None:
    """A force_message runs a whole response of its own with exactly its words."""
    caller = dial(xai)
    caller.send(
        "conversation.item.create",
        item={"type": "force_message", "role": "assistant", "content": [{"type": "output_text", "text": "This call is recorded."}]},
    )
    assert caller.expect("response.output_audio_transcript.done")["transcript"] == "This call is recorded."


def test_an_answer_out_of_band_leaves_no_item(xai: RealtimeServer, dial: Dial) -> None:
    """What is said beside the conversation is no part of it, and not told as one."""
    caller = dial(xai)
    caller.send("response.create", response={"conversation": "none", "modalities": ["text"], "metadata": {"for": "form"}})
    assert "conversation.item.added" not in types(caller.until("response.done"))
    assert xai.conversations[0]["items"] == []


def test_binary_transport_both_ways(xai: RealtimeServer, dial: Dial) -> None:
    """With transport binary raw sound goes both ways; without it a binary frame is an error and the call lives on."""
    caller = dial(xai)
    caller.socket.send_binary(b"\x00\x01")
    assert caller.error()["code"] == "invalid_event"
    body = caller.configure(audio={"input": {"transport": "binary"}, "output": {"transport": "binary"}})
    assert body["audio"]["input"]["transport"] == "binary"
    caller.socket.send_binary(tone(0.5))
    caller.send("input_audio_buffer.commit")
    caller.send("response.create")
    events = caller.until("response.done")
    assert sum(len(event["audio"]) for event in events if event["type"] == "binary") > 20_000
    assert not spoken(events)


def test_resumption_replays_what_was_said(xai: RealtimeServer, dial: Dial) -> None:
    """A new connection with the conversation's id gets the same id and the earlier items, marked and under new ids."""
    first = dial(xai)
    conversation_id = first.expect("conversation.created")["conversation"]["id"]
    first.configure(resumption={"enabled": True})
    first.ask("My name is Peter")
    old = {event["item"]["id"] for event in first.seen if event["type"] == "conversation.item.added"}
    first.close()
    second = dial(xai, f"?conversation_id={conversation_id}")
    assert second.expect("conversation.created")["conversation"]["id"] == conversation_id
    second.send("session.update", session={"resumption": {"enabled": True}})
    replayed = [event["item"] for event in second.until("session.updated") if event["type"] == "conversation.item.added"]
    assert [item["content"][0]["text"] for item in replayed] == [
        "My name is Peter",
        "Hello Peter, nice to meet you! How can I help you today?",
    ]
    assert all(item["replayed"] for item in replayed)
    assert not old & {item["id"] for item in replayed}


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_telephone_formats(xai: RealtimeServer, dial: Dial, kind: str) -> None:
    """G.711 goes in and out at 8 kHz: speech is noticed, and the answer lasts as long as its usage says."""
    from qai_realtime_sync.audio import alaw_encode, ulaw_encode

    encode = ulaw_encode if kind == "audio/pcmu" else alaw_encode
    caller = dial(xai)
    caller.configure(
        turn_detection={"type": "server_vad"}, audio={"input": {"format": {"type": kind}}, "output": {"format": {"type": kind}}}
    )
    caller.append(encode(tone(1.0, 8000) + silence(0.8, 8000)), 160)
    events = caller.until("response.done")
    assert events[0]["type"] == "input_audio_buffer.speech_started"
    assert len(spoken(events)) / 8000 == pytest.approx(events[-1]["usage"]["output_audio_seconds"], abs=0.02)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000])
def test_every_rate_of_xai(xai: RealtimeServer, dial: Dial, rate: int) -> None:
    """At each of xAI's rates a second of sound is a second, in the speech events and in the answer."""
    caller = dial(xai)
    pcm = {"format": {"type": "audio/pcm", "rate": rate}}
    caller.configure(turn_detection={"type": "server_vad", "prefix_padding_ms": 0}, audio={"input": pcm, "output": pcm})
    caller.append(silence(0.5, rate) + tone(1.0, rate) + silence(0.8, rate), rate // 25)
    events = caller.until("response.done")
    assert abs(events[0]["audio_start_ms"] - 500) <= 40
    stopped = next(event for event in events if event["type"] == "input_audio_buffer.speech_stopped")
    assert abs(stopped["audio_end_ms"] - 2000) <= 60
    assert len(spoken(events)) / 2 / rate == pytest.approx(events[-1]["usage"]["output_audio_seconds"], abs=0.02)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{broken", "invalid_json"),
        ("[1]", "invalid_event"),
        ('{"no": "type"}', "missing_required_parameter"),
        ('{"type": "no.such.event"}', "invalid_value"),
        ('{"type": ["session.update"]}', "invalid_value"),
        ('{"type": "session.update"}', "missing_required_parameter"),
        ('{"type": "session.update", "session": 1}', "invalid_type"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": "*"}', "invalid_value"),
        ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty"),
        ('{"type": "conversation.item.create"}', "missing_required_parameter"),
        ('{"type": "conversation.item.create", "item": {"type": "poem"}}', "invalid_value"),
        ('{"type": "conversation.item.create", "item": {"type": "message", "role": "king", "content": []}}', "invalid_value"),
        ('{"type": "conversation.item.delete", "item_id": "none"}', "item_not_found"),
        ('{"type": "conversation.item.truncate", "item_id": "none", "audio_end_ms": 1}', "item_not_found"),
        ('{"type": "conversation.item.truncate", "item_id": "none", "audio_end_ms": "1"}', "invalid_type"),
        ('{"type": "response.cancel"}', "response_cancel_not_active"),
        ('{"type": "response.create", "response": 7}', "invalid_type"),
        ("[" * 100_000, "invalid_json"),
    ],
)
def test_a_wrong_frame_is_an_error_and_the_call_lives_on(xai: RealtimeServer, dial: Dial, frame: str, code: str) -> None:
    """Whatever a client sends wrongly is answered by an error with a code, and the next update works."""
    caller = dial(xai)
    caller.socket.send(frame)
    error = caller.error()
    assert error["code"] == code
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert caller.configure(voice="Eve")["voice"] == "Eve"
