"""The wire as OpenAI spells it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from caller import WEATHER, Caller, silence, spoken, tone, types

from qai_realtime_sync.offline import RealtimeServer

Dial = Callable[..., Caller]
TURN = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio.delta",
    "response.output_audio_transcript.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]


def test_only_session_created_opens(openai: RealtimeServer, dial: Dial) -> None:
    """The first frame is session.created in GA shape with server VAD, and nothing follows it unasked."""
    caller = dial(openai, "?model=gpt-realtime-2")
    session = caller.receive()["session"]
    assert (session["type"], session["object"], session["model"]) == ("realtime", "realtime.session", "gpt-realtime-2")
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 500
    caller.send("input_audio_buffer.clear")
    assert caller.receive()["type"] == "input_audio_buffer.cleared"


GA = {
    "type": "realtime",
    "instructions": "Be brief.",
    "output_modalities": ["audio"],
    "tools": [WEATHER],
    "audio": {
        "input": {
            "format": {"type": "audio/pcmu"},
            "transcription": {"model": "gpt-realtime-whisper"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
            "noise_reduction": {"type": "near_field"},
        },
        "output": {"format": {"type": "audio/pcmu"}, "voice": "cedar", "speed": 1.2},
    },
}
BETA = {
    "instructions": "Be brief.",
    "modalities": ["text", "audio"],
    "tools": [WEATHER],
    "input_audio_format": "g711_ulaw",
    "output_audio_format": "g711_ulaw",
    "input_audio_transcription": {"model": "gpt-realtime-whisper"},
    "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
    "input_audio_noise_reduction": {"type": "near_field"},
    "voice": "cedar",
    "speed": 1.2,
}


@pytest.fixture
def gateway(openai: RealtimeServer) -> Iterator[Caller]:
    """A connection through the gateway's path, where the beta's names are still taken."""
    with Caller(openai.base_ws_url + "/qai/v1/realtime") as caller:
        yield caller


@pytest.mark.parametrize("session", [GA, BETA], ids=["ga", "beta"])
def test_both_shapes_mean_the_same(gateway: Caller, session: dict[str, Any]) -> None:
    """Through the gateway the flat beta shape and the nested GA shape give the same session."""
    body = gateway.configure(**session)
    assert body["instructions"] == "Be brief."
    assert body["tools"] == [WEATHER]
    assert body["output_modalities"] == ["audio"]
    assert body["audio"]["output"] == {"format": {"type": "audio/pcmu"}, "voice": "cedar", "speed": 1.2}
    heard = body["audio"]["input"]
    assert heard["format"] == {"type": "audio/pcmu"}
    assert heard["transcription"] == {"model": "gpt-realtime-whisper"}
    assert heard["noise_reduction"] == {"type": "near_field"}
    assert (heard["turn_detection"]["silence_duration_ms"], heard["turn_detection"]["create_response"]) == (300, True)


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"bogus": 1}, "session.bogus"),
        ({"output_modalities": ["text", "audio"]}, "session.output_modalities"),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "session.audio.output.format.rate"),
        ({"audio": {"input": {"turn_detection": {"type": "magic"}}}}, "session.turn_detection.type"),
        ({"tools": [{"type": "function"}]}, "session.tools[0].name"),
        ({"tool_choice": "perhaps"}, "session.tool_choice"),
    ],
)
def test_a_wrong_field_refuses_the_whole_update(openai: RealtimeServer, dial: Dial, session: dict[str, Any], param: str) -> None:
    """An unknown or impossible field is an error that names it, and nothing else of the update is taken."""
    caller = dial(openai)
    caller.send("session.update", session={"type": "realtime", "instructions": "Not taken.", **session})
    assert caller.error()["param"] == param
    assert caller.configure(type="realtime")["instructions"] != "Not taken."


def test_the_ga_shape_is_taken_without_the_gateway(openai: RealtimeServer, dial: Dial) -> None:
    """What the beta said flat is said nested, and counts."""
    body = dial(openai).configure(**GA)
    assert body["audio"]["output"] == {"format": {"type": "audio/pcmu"}, "voice": "cedar", "speed": 1.2}
    assert body["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 300


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value in BETA.items() if name not in GA])
def test_a_name_of_the_beta_refuses_the_update(openai: RealtimeServer, dial: Dial, name: str, value: Any) -> None:
    """The flat names are gone since the beta was switched off: each is an unknown parameter, and changes nothing."""
    caller = dial(openai)
    before = caller.receive()["session"]
    caller.send("session.update", session={"type": "realtime", "instructions": "Not taken.", name: value})
    error = caller.error()
    assert (error["code"], error["param"]) == ("unknown_parameter", f"session.{name}")
    assert error["message"] == f"Unknown parameter: 'session.{name}'."
    assert caller.configure(type="realtime") == before


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({"type": "realtime", "audio": {"bogus": {}}}, "unknown_parameter", "session.audio.bogus"),
        ({"type": "realtime", "audio": {"input": {"bogus": 1}}}, "unknown_parameter", "session.audio.input.bogus"),
        ({"type": "realtime", "audio": {"output": {"transport": "binary"}}}, "unknown_parameter", "session.audio.output.transport"),
        (
            {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_ms": 1}}}},
            "unknown_parameter",
            "session.audio.input.turn_detection.silence_ms",
        ),
        ({"type": "realtime", "audio": {"input": {"format": "pcm16"}}}, "invalid_type", "session.audio.input.format"),
        ({"type": "realtime", "temperature": 0.8}, "unknown_parameter", "session.temperature"),
        ({"type": "realtime", "tools": [{**WEATHER, "strict": True}]}, "unknown_parameter", "session.tools[0].strict"),
        ({"type": "realtime", "tools": [{"type": "function", "function": WEATHER}]}, "unknown_parameter", "session.tools[0].function"),
        ({"type": "bogus"}, "invalid_value", "session.type"),
        ({"instructions": "Be brief."}, "missing_required_parameter", "session.type"),
        ({"type": "transcription", "instructions": "Be brief."}, "unknown_parameter", "session.instructions"),
    ],
)
def test_what_ga_refuses_of_a_session(openai: RealtimeServer, dial: Dial, session: dict[str, Any], code: str, param: str) -> None:
    """An unknown name at any depth, and a type that is missing or wrong, are refused and named."""
    caller = dial(openai)
    caller.send("session.update", session=session)
    error = caller.error()
    assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize(
    ("response", "code", "param"),
    [
        ({"modalities": ["text", "audio"]}, "unknown_parameter", "response.modalities"),
        ({"voice": "cedar"}, "unknown_parameter", "response.voice"),
        ({"output_audio_format": "pcm16"}, "unknown_parameter", "response.output_audio_format"),
        ({"max_response_output_tokens": 100}, "unknown_parameter", "response.max_response_output_tokens"),
        ({"temperature": 0.8}, "unknown_parameter", "response.temperature"),
        ({"bogus": 1}, "unknown_parameter", "response.bogus"),
        ({"audio": {"input": {}}}, "unknown_parameter", "response.audio.input"),
        ({"audio": {"output": {"speed": 1.0}}}, "unknown_parameter", "response.audio.output.speed"),
        ({"output_modalities": ["text", "audio"]}, "invalid_value", "response.output_modalities"),
    ],
)
def test_what_ga_refuses_of_a_response(openai: RealtimeServer, dial: Dial, response: dict[str, Any], code: str, param: str) -> None:
    """A name of the beta, an unknown one, or two modalities at once make no answer; the next request is answered."""
    caller = dial(openai)
    caller.write("Hello")
    caller.send("response.create", response=response, event_id="mine")
    *before, error = caller.until("error")
    assert (error["error"]["code"], error["error"]["param"], error["error"]["event_id"]) == (code, param, "mine")
    assert "response.created" not in types(before)
    known = {"audio": {"output": {"voice": "cedar"}}, "output_modalities": ["audio"], "max_output_tokens": 99}
    caller.send("response.create", response=known)
    assert caller.expect("response.done")["response"]["status"] == "completed"


def test_the_gateway_takes_the_betas_response(gateway: Caller) -> None:
    """What the gateway's own clients ask for is answered there, and an unknown name still is not."""
    events = gateway.ask("Hello", modalities=["text", "audio"], voice="cedar", max_response_output_tokens=100)
    assert events[-1]["response"]["status"] == "completed"
    gateway.send("response.create", response={"bogus": 1})
    assert gateway.error()["param"] == "response.bogus"


def test_the_order_of_a_written_turn(openai: RealtimeServer, dial: Dial) -> None:
    """A typed question is answered in the recorded order, usage inside the response, rate limits after it."""
    caller = dial(openai)
    events = [*caller.ask("Hello"), caller.receive()]
    assert types(events)[1:] == ["conversation.item.added", "conversation.item.done", *TURN, "rate_limits.updated"]
    done = events[-2]["response"]
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "Hello! How can I help you today?"}]
    assert done["usage"]["output_token_details"]["audio_tokens"] > 0
    assert next(event for event in events if event["type"] == "response.content_part.done")["part"]["type"] == "audio"
    assert {"name", "limit", "remaining", "reset_seconds"} == set(events[-1]["rate_limits"][0])


def test_the_order_of_a_spoken_turn(openai: RealtimeServer, dial: Dial) -> None:
    """With turn detection the user's item comes after the commit; its transcript has usage and is told only when asked for."""
    caller = dial(openai)
    caller.configure(type="realtime", audio={"input": {"transcription": {"model": "gpt-realtime-whisper"}}})
    caller.append(silence(0.5) + tone(1.0) + silence(0.8))
    events = caller.until("response.done")
    name = "conversation.item.input_audio_transcription"
    assert types(events) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        f"{name}.delta",
        f"{name}.completed",
        *TURN,
    ]
    completed = events[6]
    assert completed["usage"]["type"] == "duration"
    assert completed["item_id"] == events[0]["item_id"]
    caller.configure(type="realtime", audio={"input": {"transcription": None}})
    caller.append(tone(1.0) + silence(0.8))
    assert not any(event["type"].startswith(name) for event in caller.until("response.done"))


def test_a_text_answer(openai: RealtimeServer, dial: Dial) -> None:
    """With output_modalities text the answer has text events only, and its item an output_text."""
    events = dial(openai).ask("Hello", output_modalities=["text"])
    assert "response.output_text.delta" in types(events)
    assert not any("audio" in kind for kind in types(events))
    text = next(event for event in events if event["type"] == "response.output_text.done")["text"]
    assert "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == text
    assert events[-1]["response"]["output"][0]["content"] == [{"type": "output_text", "text": text}]


def test_a_tool_call(openai: RealtimeServer, dial: Dial) -> None:
    """A call begins with empty arguments, and ends with the name in function_call_arguments.done."""
    caller = dial(openai)
    caller.configure(type="realtime", tools=[WEATHER])
    events = caller.ask("Is it raining in Oslo?")
    added = next(event for event in events if event["type"] == "response.output_item.added")["item"]
    done = next(event for event in events if event["type"] == "response.function_call_arguments.done")
    assert (added["type"], added["name"], added["arguments"]) == ("function_call", "get_weather", "")
    assert (done["name"], done["call_id"], json.loads(done["arguments"])) == ("get_weather", added["call_id"], {"city": "Oslo"})


def test_an_item_can_be_retrieved_with_its_sound(openai: RealtimeServer, dial: Dial) -> None:
    """A committed item comes back with the audio that was sent."""
    caller = dial(openai)
    caller.configure(type="realtime", audio={"input": {"turn_detection": None}})
    caller.append(tone(0.5))
    caller.send("input_audio_buffer.commit")
    caller.send("conversation.item.retrieve", item_id=caller.expect("input_audio_buffer.committed")["item_id"])
    part = caller.expect("conversation.item.retrieved")["item"]["content"][0]
    assert base64.b64decode(part["audio"]) == tone(0.5)


def test_sound_of_an_item_is_told_only_to_who_asks_for_it(openai: RealtimeServer, dial: Dial) -> None:
    """A message written with its sound comes back without it in events, and with it when it is retrieved."""
    caller = dial(openai)
    sound = base64.b64encode(tone(0.1)).decode()
    item = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": sound, "transcript": "Hello"}]}
    caller.send("conversation.item.create", item=item)
    told = [caller.expect(f"conversation.item.{name}")["item"] for name in ("added", "done")]
    assert [one["content"] for one in told] == [[{"type": "input_audio", "transcript": "Hello"}]] * 2
    caller.send("conversation.item.retrieve", item_id=told[0]["id"])
    assert caller.expect("conversation.item.retrieved")["item"]["content"] == item["content"]


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("user", "text"),
        ("user", "audio"),
        ("system", "text"),
        ("assistant", "text"),
        ("assistant", "input_text"),
        ("assistant", "output_audio"),
    ],
)
def test_parts_of_a_message_have_todays_names(openai: RealtimeServer, gateway: Caller, dial: Dial, role: str, kind: str) -> None:
    """A name of the beta, or of another role, refuses the item; the gateway still takes the beta's."""
    item = {"type": "message", "role": role, "content": [{"type": kind, "text": "Hello"}]}
    caller = dial(openai)
    caller.send("conversation.item.create", item=item)
    assert caller.error()["param"] == "item.content[0].type"
    gateway.send("conversation.item.create", item=item)
    if kind == "output_audio":
        gateway.error()
    else:
        gateway.expect("conversation.item.added")


@pytest.mark.parametrize(
    ("metadata", "code"),
    [({"n": 1}, "invalid_type"), ({"n": None}, "invalid_type"), ({"n" * 65: "x"}, "invalid_value"), ({"n": "x" * 513}, "invalid_value")],
)
def test_metadata_is_short_text(openai: RealtimeServer, dial: Dial, metadata: dict[str, Any], code: str) -> None:
    """Names of at most 64 and text of at most 512 characters; anything else refuses the request."""
    caller = dial(openai)
    caller.send("response.create", response={"metadata": metadata})
    assert caller.error()["code"] == code
    caller.send("response.create", response={"metadata": {"n" * 64: "x" * 512}})
    assert caller.expect("response.done")["response"]["metadata"] == {"n" * 64: "x" * 512}


def test_an_answer_may_have_a_sound_of_its_own(openai: RealtimeServer, gateway: Caller, dial: Dial) -> None:
    """Format, voice and limit of one answer are its own and told with it; the next one is the session's again."""
    caller = dial(openai)
    usual = spoken(caller.ask("Hello"))
    own = {"format": {"type": "audio/pcmu"}, "voice": "cedar"}
    events = caller.ask("Hello", audio={"output": own}, max_output_tokens=4000)
    told = events[-1]["response"]
    assert (told["audio"]["output"], told["max_output_tokens"]) == (own, 4000)
    assert len(spoken(events)) == pytest.approx(len(usual) / 6, rel=0.02)  # 8000 bytes a second for 48,000
    events = caller.ask("Hello")
    told = events[-1]["response"]
    assert told["audio"]["output"] == {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"}
    assert (told["max_output_tokens"], len(spoken(events))) == ("inf", len(usual))
    caller.send("response.create", response={"audio": {"output": {"format": "g711_ulaw"}}})
    assert caller.error()["param"] == "response.audio.output.format.type"
    beta = gateway.ask("Hello", output_audio_format="g711_ulaw", voice="cedar")
    assert (beta[-1]["response"]["audio"]["output"], len(spoken(beta))) == (own, pytest.approx(len(usual) / 6, rel=0.02))


@pytest.mark.parametrize("query", ["", "?intent=transcription"])
def test_a_transcription_session_only_transcribes(openai: RealtimeServer, dial: Dial, query: str) -> None:
    """Speech brings a transcript and no answer, an answer that is asked for is refused, and the session shows nothing of answers."""
    caller = dial(openai, query)
    assert caller.receive()["session"]["type"] == ("transcription" if query else "realtime")
    session = caller.configure(type="transcription", audio={"input": {"transcription": {"model": "gpt-transcribe"}}})
    assert set(session) == {"type", "object", "id", "expires_at", "audio", "include"}
    assert set(session["audio"]) == {"input"}
    caller.append(tone(0.6) + silence(1.0))
    caller.expect("conversation.item.input_audio_transcription.completed")
    caller.send("response.create", event_id="mine")
    *before, error = caller.until("error")
    assert error["error"]["event_id"] == "mine"
    assert "response.created" not in types(before)


def test_the_voice_is_fixed_once_it_was_heard(openai: RealtimeServer, dial: Dial) -> None:
    """Before the first spoken answer the voice may change, afterwards that refuses the update; the same voice again does not."""
    caller = dial(openai)
    assert caller.configure(type="realtime", audio={"output": {"voice": "cedar"}})["audio"]["output"]["voice"] == "cedar"
    caller.ask("Hello")
    caller.configure(type="realtime", audio={"output": {"voice": "cedar"}}, model="another")
    caller.send("session.update", session={"type": "realtime", "audio": {"output": {"voice": "marin"}}})
    assert caller.error()["code"] == "cannot_update_voice"


def test_an_answer_out_of_band(openai: RealtimeServer, dial: Dial) -> None:
    """With conversation none the answer has its metadata, no conversation id, and leaves no item behind."""
    caller = dial(openai)
    caller.send(
        "response.create",
        response={
            "conversation": "none",
            "metadata": {"topic": "aside"},
            "output_modalities": ["text"],
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Thank you"}]}],
        },
    )
    events = caller.until("response.done")
    assert events[1]["response"]["metadata"] == {"topic": "aside"}
    assert events[-1]["response"]["conversation_id"] is None
    assert "welcome" in events[-1]["response"]["output"][0]["content"][0]["text"]
    assert "conversation.item.added" not in types(events)
    assert openai.conversations[0]["items"] == []


def test_several_answers_out_of_band_beside_the_default_one(dial: Dial) -> None:
    """While the default answer is spoken slowly, two others are made beside it."""
    with RealtimeServer(light=True, dialect="openai", pace=1.0) as server:
        caller = dial(server)
        caller.write("Tell me a long story")
        caller.send("response.create")
        caller.expect("response.output_audio.delta")
        for number in ("1", "2"):
            caller.send("response.create", response={"conversation": "none", "metadata": {"number": number}, "output_modalities": ["text"]})
        done = [caller.expect("response.done")["response"] for _ in range(2)]
        assert {one["metadata"]["number"] for one in done} == {"1", "2"}
        caller.send("response.cancel")
        assert caller.expect("response.done")["response"]["status"] == "cancelled"


def test_the_beta_header_is_refused(openai: RealtimeServer, dial: Dial) -> None:
    """The retired OpenAI-Beta header is answered by an error and close 4000, even when the client has sent something by then."""
    caller = dial(openai, header=["OpenAI-Beta: realtime=v1"])
    caller.send("session.update", session={})
    assert caller.error()["code"] == "beta_api_shape_disabled"
    assert caller.close_frame() == (4000, "invalid_request_error.beta_api_shape_disabled")


def test_the_beta_header_means_nothing_at_xai(xai: RealtimeServer, dial: Dial) -> None:
    """Only OpenAI retired the header."""
    assert dial(xai, header=["OpenAI-Beta: realtime=v1"]).receive()["type"] == "session.created"


def test_a_wrong_key_is_refused_after_the_upgrade(dial: Dial) -> None:
    """OpenAI accepts the upgrade and closes with 3000."""
    with RealtimeServer(light=True, dialect="openai", key="sk-right") as server:
        caller = dial(server, header=["Authorization: Bearer sk-wrong"])
        assert caller.error()["code"] == "invalid_api_key"
        assert caller.close_frame() == (3000, "invalid_request_error.invalid_api_key")
        assert dial(server, header=["Authorization: Bearer sk-right"]).receive()["type"] == "session.created"


def test_semantic_turn_detection_is_taken(openai: RealtimeServer, dial: Dial) -> None:
    """semantic_vad is accepted, and its eagerness decides how long a pause may be."""
    caller = dial(openai)
    body = caller.configure(type="realtime", audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}})
    assert body["audio"]["input"]["turn_detection"]["eagerness"] == "high"
    caller.append(tone(0.5) + silence(0.5))
    assert caller.expect("response.done")["response"]["status"] == "completed"


def test_the_session_ends_with_an_error_first(dial: Dial) -> None:
    """At the cap there is an error session_expired, then close 1001 with a reason; expires_at told it before."""
    with RealtimeServer(light=True, dialect="openai", session_cap=0.2) as server:
        caller = dial(server)
        assert caller.receive()["session"]["expires_at"] > 0
        assert caller.error()["code"] == "session_expired"
        code, reason = caller.close_frame()
        assert (code, "maximum duration" in reason) == (1001, True)


def test_a_rate_limit_fails_the_answer(dial: Dial) -> None:
    """Beyond the limit an answer fails with its reason in status_details, and no error event comes."""
    with RealtimeServer(light=True, dialect="openai", pace=1000, rate_limit=1) as server:
        caller = dial(server)
        assert caller.ask("Hello")[-1]["response"]["status"] == "completed"
        events = caller.ask("Hello again")
        assert events[-1]["response"]["status_details"]["error"]["code"] == "rate_limit_exceeded"
        assert "error" not in types(events)
        assert caller.expect("rate_limits.updated")["rate_limits"][0]["remaining"] == 0


def test_sound_is_whole_samples(openai: RealtimeServer, dial: Dial) -> None:
    """Every delta holds whole samples, 120 ms at most."""
    events = dial(openai).ask("Tell me a long story")
    sizes = {len(base64.b64decode(event["delta"])) for event in events if event["type"] == "response.output_audio.delta"}
    assert all(size % 2 == 0 and size <= 5760 for size in sizes)
    assert len(spoken(events)) > 0
