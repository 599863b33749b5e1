"""The local server's ElevenLabs wire, held against the vendor's message schema by a client of another maker."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")
pytest.importorskip("werkzeug", reason="the local server needs werkzeug")

from qai_realtime_sync.offline import RealtimeServer, Script
from qai_realtime_sync.offline.elevenlabs import ElevenLabsSpelling
from tests.offline.caller import Caller, silence, tone

RATE = 16000
ALL_EVENTS = [
    "audio", "interruption", "agent_response", "agent_response_correction", "agent_response_complete", "user_transcript",
    "tentative_user_transcript", "agent_chat_response_part", "vad_score",
]  # fmt: skip


class Talk(Caller):
    """A client of an agent."""

    def initiate(self, **fields: Any) -> dict[str, Any]:
        """Say what is wanted; return the metadata."""
        self.send("conversation_initiation_client_data", **fields)
        return self.expect("conversation_initiation_metadata")["conversation_initiation_metadata_event"]  # type: ignore[no-any-return]

    def override(self, **conversation: Any) -> dict[str, Any]:
        return self.initiate(conversation_config_override={"conversation": conversation})

    def say(self, audio: bytes, size: int = 640) -> None:
        for at in range(0, len(audio), size):
            self.socket.send(json.dumps({"user_audio_chunk": base64.b64encode(audio[at : at + size]).decode()}))

    def receive(self) -> dict[str, Any]:
        """Return the next message that is no ping; pings are answered."""
        while True:
            event = super().receive()
            if event["type"] != "ping":
                return event
            self.send("pong", event_id=event["ping_event"]["event_id"])


@pytest.fixture
def script() -> Script:
    made = Script()
    made.on_text("hello").say("Yes.")
    made.on_text("two things").call_tool("first").call_tool("second", {"n": 1})
    made.on_text("story").say("Once upon a time there was a keeper who lived alone. " * 4)
    return made


@pytest.fixture
def server(script: Script) -> Iterator[RealtimeServer]:
    with RealtimeServer(light=True, dialect="elevenlabs", script=script) as running:
        yield running


@pytest.fixture
def talk(server: RealtimeServer) -> Iterator[Callable[..., Talk]]:
    """Connect; what is left open is closed."""
    made: list[Talk] = []

    def dial(url: str = "", **options: Any) -> Talk:
        made.append(Talk(url or server.ws_url, **options))
        return made[-1]

    yield dial
    for one in made:
        one.close()


def sound(events: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(event["audio_event"]["audio_base_64"]) for event in events if event["type"] == "audio")


def names(events: list[dict[str, Any]]) -> list[str]:
    """The types in order, each run of one type once."""
    found: list[str] = []
    for event in events:
        if not found or found[-1] != event["type"]:
            found.append(event["type"])
    return found


def test_the_metadata(talk: Callable[..., Talk]) -> None:
    """The answer to the first message names the conversation and pcm_16000 both ways."""
    metadata = talk().initiate()
    assert metadata.pop("conversation_id").startswith("conv_")
    assert metadata == {"agent_output_audio_format": "pcm_16000", "user_input_audio_format": "pcm_16000"}


@pytest.mark.parametrize(("name", "bytes_per_second"), [("ulaw_8000", 8000), ("pcm_24000", 48000), ("pcm_8000", 16000)])
def test_other_formats(server: RealtimeServer, talk: Callable[..., Talk], name: str, bytes_per_second: int) -> None:
    """An agent with the name of a format sends its sound so."""
    one = talk(server.base_ws_url + f"/v1/convai/conversation?agent_id=demo-{name}")
    assert one.initiate(conversation_config_override={"conversation": {"client_events": ALL_EVENTS}})["agent_output_audio_format"] == name
    one.send("user_message", text="hello")
    length = len(sound(one.until("agent_response_complete"))) / bytes_per_second
    made = server.conversations[0]["items"][-1]["generated_ms"] / 1000
    assert length == pytest.approx(made, abs=0.02)


def test_the_order_of_an_answer(talk: Callable[..., Talk]) -> None:
    """The whole text goes ahead of the first sound, all with one event id, and the end comes if it is enabled."""
    one = talk()
    one.override(client_events=ALL_EVENTS)
    one.send("user_message", text="hello")
    events = one.until("agent_response_complete")
    assert names(events) == ["agent_response", "audio", "agent_response_complete"]
    assert events[0]["agent_response_event"]["agent_response"] == "Yes."
    ids = {next(iter(value for key, value in event.items() if key.endswith("_event")))["event_id"] for event in events}
    assert ids == {1}
    one.send("user_message", text="hello")
    assert one.expect("agent_response")["agent_response_event"]["event_id"] == 2


def test_no_end_unless_asked_for(talk: Callable[..., Talk]) -> None:
    """Without the override no agent_response_complete is sent."""
    one = talk()
    one.initiate()
    one.send("user_message", text="hello")
    one.until("audio")
    one.send("user_message", text="Do two things.")
    assert "agent_response_complete" not in names(one.until("client_tool_call"))


def test_a_spoken_turn(talk: Callable[..., Talk]) -> None:
    """What is spoken comes back as a transcript before the answer; scores rise and fall around it if they are enabled."""
    one = talk()
    one.override(client_events=ALL_EVENTS)
    one.say(silence(0.3, RATE) + tone(0.8, RATE) + silence(0.8, RATE))
    events = one.until("agent_response_complete")
    assert names(events) == ["vad_score", "user_transcript", "agent_response", "audio", "agent_response_complete"]
    assert [event["vad_score_event"]["vad_score"] for event in events if event["type"] == "vad_score"] == [1.0, 0.0]


def test_speech_interrupts(server: RealtimeServer, talk: Callable[..., Talk]) -> None:
    """Speech into an answer gives an interruption with its id, no more sound of it, and a correction with what was heard."""
    one = talk()
    one.override(client_events=ALL_EVENTS)
    one.send("user_message", text="Tell me a story.")
    for _ in range(8):
        one.until("audio")
    one.say(tone(0.4, RATE))
    number = one.expect("interruption")["interruption_event"]["event_id"]
    correction = one.expect("agent_response_correction")["agent_response_correction_event"]
    assert number == correction["event_id"] == 1
    assert correction["original_agent_response"].startswith(correction["corrected_agent_response"])
    assert len(correction["corrected_agent_response"]) < len(correction["original_agent_response"])
    one.say(silence(0.8, RATE))
    events = one.until("agent_response_complete")
    assert all(event["audio_event"]["event_id"] == 2 for event in events if event["type"] == "audio")
    story = next(item for item in server.conversations[0]["items"] if item["role"] == "assistant")
    assert story["text"].strip() == correction["corrected_agent_response"]


def test_speech_interrupts_what_was_sent_and_still_plays(talk: Callable[..., Talk]) -> None:
    """An answer that was sent faster than it plays can be interrupted after its end; one that must have been heard cannot."""
    one = talk()
    one.override(client_events=ALL_EVENTS)
    one.send("user_message", text="Tell me a story.")
    one.until("agent_response_complete")
    one.say(tone(0.4, RATE))
    assert one.expect("interruption")["interruption_event"]["event_id"] == 1
    one.say(silence(0.8, RATE))
    one.until("agent_response_complete")


def test_client_tools(talk: Callable[..., Talk]) -> None:
    """Each call has an id and parameters as an object; the agent goes on when every one is answered, and not before."""
    one = talk()
    one.override(client_events=ALL_EVENTS)
    one.send("user_message", text="Do two things.")
    calls = [one.expect("client_tool_call")["client_tool_call"] for _ in range(2)]
    told = [(call["tool_name"], call["parameters"], call["expects_response"]) for call in calls]
    assert told == [("first", {}, True), ("second", {"n": 1}, True)]
    one.send("client_tool_result", tool_call_id=calls[0]["tool_call_id"], result="One.", is_error=False)
    one.send("contextual_update", text="Nothing follows from this.")
    one.send("client_tool_result", tool_call_id="nobody", result="Lost.", is_error=False)
    one.send("client_tool_result", tool_call_id=calls[1]["tool_call_id"], result="Two.", is_error=False)
    events = one.until("agent_response_complete")
    assert names(events) == ["agent_response", "audio", "agent_response_complete"]
    assert events[0]["agent_response_event"]["agent_response"] == "One. Two."


def test_a_client_that_answers_faster_than_the_agent_asks(talk: Callable[..., Talk]) -> None:
    """However early a result comes, the agent goes on once, with all of them."""
    one = talk()
    one.override(client_events=ALL_EVENTS)
    for _ in range(10):
        one.send("user_message", text="Do two things.")
        for number in ("One.", "Two."):
            call = one.expect("client_tool_call")["client_tool_call"]
            one.send("client_tool_result", tool_call_id=call["tool_call_id"], result=number, is_error=False)
        events = one.until("agent_response_complete")
        assert [event["agent_response_event"]["agent_response"] for event in events if event["type"] == "agent_response"] == ["One. Two."]


def test_a_call_that_was_overtaken_is_waited_for_no_more(server: RealtimeServer, script: Script, talk: Callable[..., Talk]) -> None:
    """Once the user has asked something else, other calls are answered without it, and its result is known but not answered."""
    script.on_text("one thing").call_tool("third")
    one = talk()
    one.override(client_events=ALL_EVENTS)
    one.send("user_message", text="Do one thing.")
    old = one.expect("client_tool_call")["client_tool_call"]
    one.send("user_message", text="hello")
    one.until("agent_response_complete")
    one.send("user_message", text="Do one thing.")
    new = one.expect("client_tool_call")["client_tool_call"]
    one.send("client_tool_result", tool_call_id=new["tool_call_id"], result="New.", is_error=False)
    answer = one.until("agent_response_complete")[0]["agent_response_event"]["agent_response"]
    assert answer == "New."
    one.send("client_tool_result", tool_call_id=old["tool_call_id"], result="Old.", is_error=False)
    one.send("user_message", text="hello")
    assert [event["type"] for event in one.until("agent_response_complete")].count("agent_response") == 1
    outputs = [item["output"] for item in server.conversations[0]["items"] if item["kind"] == "function_call_output"]
    assert outputs == ["New.", "Old."]


def test_the_agents_own_tool(talk: Callable[..., Talk]) -> None:
    """A question about the weather calls get_weather with the city."""
    one = talk()
    one.initiate()
    one.send("user_message", text="What is the weather like in Oslo?")
    call = one.expect("client_tool_call")["client_tool_call"]
    assert (call["tool_name"], call["parameters"]) == ("get_weather", {"city": "Oslo"})


def test_context_is_not_answered_and_the_newest_counts(server: RealtimeServer, talk: Callable[..., Talk]) -> None:
    """A contextual_update replaces the one before it with the same id, and no answer follows."""
    one = talk()
    one.initiate()
    for text, context in (("Page one.", "page"), ("By the way.", ""), ("Page two.", "page")):
        one.send("contextual_update", text=text, **({"context_id": context} if context else {}))
    one.send("user_message", text="hello")
    assert names(one.until("audio")) == ["agent_response", "audio"]
    assert [item["text"] for item in server.conversations[0]["items"] if item["role"] == "system"] == ["By the way.", "Page two."]


def test_text_only(talk: Callable[..., Talk]) -> None:
    """A text-only conversation answers in parts and as a whole, without sound."""
    one = talk()
    one.override(text_only=True, client_events=ALL_EVENTS)
    one.send("user_message", text="hello")
    events = one.until("agent_response_complete")
    assert names(events) == ["agent_response", "agent_chat_response_part", "agent_response_complete"]
    parts = [event["text_response_part"] for event in events if event["type"] == "agent_chat_response_part"]
    assert [part["type"] for part in parts] == ["start", "delta", "stop"]
    assert "".join(part["text"] for part in parts) == "Yes."


def test_first_message_and_variables(talk: Callable[..., Talk]) -> None:
    """The agent begins with its first message, the variables in their places."""
    one = talk()
    one.initiate(
        conversation_config_override={"agent": {"first_message": "Welcome, {{ name }}."}},
        dynamic_variables={"name": "Ada"},
    )
    assert one.expect("agent_response")["agent_response_event"]["agent_response"] == "Welcome, Ada."


LIST = {"client_events": ["audio"]}


@pytest.mark.parametrize(
    ("agent", "fields", "kind"),
    [
        ("a", {"conversation_config_override": {"conversation": {"client_events": ["magic"]}}}, "override_error"),
        ("a", {"conversation_config_override": {"agent": {"mood": "good"}}}, "override_error"),
        ("a", {"conversation_config_override": {"tts": {"speed": 9}}}, "override_error"),
        ("a", {"conversation_config_override": {"conversation": {"text_only": "yes"}}}, "override_error"),
        ("locked", {"conversation_config_override": {"conversation": LIST}}, "override_error"),
        ("a", {"conversation_config_override": {"agent": {"first_message": "Hi {{name}}"}}}, "missing_dynamic_variable"),
    ],
)
def test_wrong_overrides(server: RealtimeServer, talk: Callable[..., Talk], agent: str, fields: dict[str, Any], kind: str) -> None:
    """An override that is unknown, wrong or not allowed is an error with its type and a close with 1008."""
    one = talk(server.base_ws_url + f"/v1/convai/conversation?agent_id={agent}")
    one.send("conversation_initiation_client_data", **fields)
    error = one.expect("error")["error_event"]
    assert (error["error_type"], error["code"]) == (kind, 1008)
    assert one.close_frame()[0] == 1008


AGAIN = '{"type": "conversation_initiation_client_data"}'


@pytest.mark.parametrize("frame", ["{", "[]", '{"type": "magic"}', '{"user_audio_chunk": 1}', '{"user_audio_chunk": "?"}', AGAIN])
def test_what_is_no_message(talk: Callable[..., Talk], frame: str) -> None:
    """Anything that is no message of the schema ends the conversation with invalid_message and 1008."""
    one = talk()
    one.initiate()
    one.socket.send(frame)
    assert one.expect("error")["error_event"]["error_type"] == "invalid_message"
    assert one.close_frame()[0] == 1008


def test_nothing_comes_before_the_first_message(talk: Callable[..., Talk]) -> None:
    """Sound before the first message is an error."""
    one = talk()
    one.say(silence(0.1, RATE))
    assert one.expect("error")["error_event"]["error_type"] == "invalid_message"


def test_a_client_that_answers_no_ping_is_dropped(talk: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings have numbers that count up; who answers none is dropped with 1002."""
    monkeypatch.setattr(ElevenLabsSpelling, "ping_seconds", 0.05)
    monkeypatch.setattr(ElevenLabsSpelling, "pong_seconds", 0.3)
    one = talk()
    one.initiate()
    seen = []
    while True:
        event = Caller.receive(one)
        seen.append(event)
        if event["type"] == "error":
            break
    assert [event["ping_event"]["event_id"] for event in seen[:-1]] == sorted({event["ping_event"]["event_id"] for event in seen[:-1]})
    assert len(seen) > 3
    assert one.close_frame()[0] == 1002


def test_a_client_that_answers_pings_stays(talk: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers pings is not dropped for many times as long."""
    monkeypatch.setattr(ElevenLabsSpelling, "ping_seconds", 0.1)
    monkeypatch.setattr(ElevenLabsSpelling, "pong_seconds", 1.0)
    one = talk()
    one.initiate()
    for _ in range(40):
        ping = next(event for event in iter(lambda: Caller.receive(one), None) if event["type"] == "ping")["ping_event"]
        one.send("pong", event_id=ping["event_id"])
    one.send("user_message", text="hello")
    one.until("audio")


def test_nothing_said_for_too_long(talk: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without user input the conversation ends with transport_receive_timeout and 1002; user_activity holds it back."""
    monkeypatch.setattr(ElevenLabsSpelling, "input_seconds", 0.4)
    one = talk()
    one.initiate()
    once = threading.Event()
    for _ in range(4):
        once.wait(0.15)
        one.send("user_activity")
    error = one.expect("error")["error_event"]
    assert (error["error_type"], error["code"]) == ("transport_receive_timeout", 1002)
    assert one.close_frame()[0] == 1002


def test_the_longest_conversation() -> None:
    """The maximum duration is told by an error with code 1000 and ends normally."""
    with RealtimeServer(light=True, dialect="elevenlabs", session_cap=1.0) as server, Talk(server.ws_url) as one:
        one.initiate()
        error = one.expect("error")["error_event"]
        assert (error["error_type"], error["code"]) == ("max_duration_exceeded", 1000)
        assert one.close_frame()[0] == 1000


def test_doors_and_keys() -> None:
    """A key opens as xi-api-key, by a signed URL that was fetched with it, and at the gateway's path; a wrong one closes with 1008."""
    with RealtimeServer(light=True, dialect="elevenlabs", key="right") as server:
        signed = server.url + "/v1/convai/conversation/get-signed-url?agent_id=agent_7"
        assert requests.get(signed, headers={"xi-api-key": "wrong"}, timeout=20).status_code == 401
        url = requests.get(signed, headers={"xi-api-key": "right"}, timeout=20).json()["signed_url"]
        assert "agent_id=agent_7&conversation_signature=" in url
        gateway = server.base_ws_url + "/qai/v1/realtime/elevenlabs?voice_id=v"
        for address, header in ((url, []), (server.ws_url, ["xi-api-key: right"]), (gateway, ["X-API-Key: right"])):
            with Talk(address, header=header) as one:
                assert one.initiate()["conversation_id"]
        with Talk(server.ws_url, header=["xi-api-key: wrong"]) as one:
            assert one.close_frame()[0] == 1008
        minted = requests.post(
            server.url + "/qai/v1/realtime/session", json={"provider": "elevenlabs"}, headers={"X-API-Key": "right"}, timeout=20
        ).json()
        assert minted["provider"] == "elevenlabs"
        with Talk(minted["signed_url"]) as one:
            assert one.initiate()["conversation_id"]
