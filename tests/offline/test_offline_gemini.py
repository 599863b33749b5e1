"""The local server's Gemini wire, held against the vendor's types and the recorded sessions by a client of another maker."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websocket

pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")
pytest.importorskip("werkzeug", reason="the local server needs werkzeug")

from qai_realtime_sync.offline import RealtimeServer, Script
from tests.offline.caller import silence, tone

MODEL = "models/gemini-3.8-live"
DEADLINE = 30.0


class Talk:
    """A Gemini client: plain JSON over websocket-client."""

    def __init__(self, url: str, **options: Any) -> None:
        self.socket = websocket.create_connection(url, timeout=DEADLINE, **options)
        self.opcodes: set[int] = set()

    def send(self, **member: Any) -> None:
        self.socket.send(json.dumps(member))

    def receive(self) -> dict[str, Any]:
        opcode, data = self.socket.recv_data()
        assert opcode != websocket.ABNF.OPCODE_CLOSE, f"closed: {data!r}"
        self.opcodes.add(opcode)
        value: dict[str, Any] = json.loads(data)
        return value

    def setup(self, **fields: Any) -> dict[str, Any]:
        """Say what is wanted and read the answer."""
        self.send(setup={"model": MODEL, "inputAudioTranscription": {}, "outputAudioTranscription": {}, **fields})
        return self.receive()

    def until(self, wanted: str) -> list[dict[str, Any]]:
        """Return the messages up to the first with this member, or this field of serverContent."""
        seen = []
        while True:
            seen.append(self.receive())
            if wanted in seen[-1] or wanted in seen[-1].get("serverContent", {}):
                return seen

    def write(self, text: str, complete: bool = True, role: str = "user") -> None:
        self.send(clientContent={"turns": [{"role": role, "parts": [{"text": text}]}], "turnComplete": complete})

    def say(self, audio: bytes, rate: int = 16000, size: int = 640, urlsafe: bool = False) -> None:
        encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
        for at in range(0, len(audio), size):
            blob = {"mimeType": f"audio/pcm;rate={rate}", "data": encode(audio[at : at + size]).decode()}
            self.send(realtimeInput={"audio": blob})

    def close_frame(self) -> tuple[int, str]:
        while True:
            opcode, data = self.socket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return struct.unpack(">H", data[:2])[0], data[2:].decode()

    def close(self) -> None:
        try:
            self.socket.close(timeout=2)
        except (OSError, websocket.WebSocketException):
            pass  # the server was faster
        finally:
            self.socket.shutdown()

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def script() -> Script:
    made = Script()
    made.on_text("hello").say("Yes.")
    made.on_text("two things").call_tool("first").call_tool("second", {"n": 1})
    made.on_text("story").say("Once upon a time there was a keeper who lived alone. " * 4)
    made.on_text(r"\(speech\)").say("I hear.")
    return made


@pytest.fixture
def server() -> Iterator[RealtimeServer]:
    with RealtimeServer(light=True, dialect="gemini", script=script()) as running:
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


def shape(messages: list[dict[str, Any]]) -> list[str]:
    """What each message is, each run of one kind once."""
    found: list[str] = []
    for message in messages:
        content = message.get("serverContent", message)
        kinds = [name for name in content if name != "usageMetadata"]
        parts = content.get("modelTurn", {}).get("parts", [])
        part = "" if not parts else "thought" if parts[0].get("thought") else "audio" if "inlineData" in parts[0] else "text"
        name = "+".join(part if kind == "modelTurn" else kind for kind in kinds)
        if not found or found[-1] != name:
            found.append(name)
    return found


def spoken(messages: list[dict[str, Any]]) -> bytes:
    parts = [part for message in messages for part in message.get("serverContent", {}).get("modelTurn", {}).get("parts", [])]
    return b"".join(base64.b64decode(part["inlineData"]["data"]) for part in parts if "inlineData" in part)


def words(messages: list[dict[str, Any]], side: str = "outputTranscription") -> str:
    return "".join(message.get("serverContent", {}).get(side, {}).get("text", "") for message in messages)


def test_setup_and_binary_frames(talk: Callable[..., Talk]) -> None:
    """The setup is answered by an empty setupComplete, in a binary frame as everything is."""
    one = talk()
    assert one.setup() == {"setupComplete": {}}
    assert one.opcodes == {websocket.ABNF.OPCODE_BINARY}


def test_the_order_of_a_written_turn(talk: Callable[..., Talk]) -> None:
    """As recorded: a thought, transcript and sound, generationComplete, and turnComplete with what it cost."""
    one = talk()
    one.setup()
    one.write("hello")
    seen = one.until("turnComplete")
    order = shape(seen)
    assert (order[0], order[-2:]) == ("thought", ["generationComplete", "turnComplete"])
    assert set(order[1:-2]) == {"audio", "outputTranscription"}
    assert words(seen) == "Yes."
    usage = seen[-1]["usageMetadata"]
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["responseTokenCount"] + usage["thoughtsTokenCount"]
    assert {"modality": "AUDIO", "tokenCount": usage["responseTokensDetails"][-1]["tokenCount"]} in usage["responseTokensDetails"]
    mime = next(m["serverContent"]["modelTurn"]["parts"][0]["inlineData"]["mimeType"] for m in seen if shape([m]) == ["audio"])
    assert mime == "audio/pcm;rate=24000"


def test_a_turn_ends_when_it_was_heard(talk: Callable[..., Talk]) -> None:
    """turnComplete comes when the sound must have been played, generationComplete before it."""
    one = talk()
    one.setup()
    faster = False
    for _ in range(3):  # a busy machine is late, but not each time
        began = time.monotonic()
        one.write("hello")
        seen = one.until("generationComplete")
        generated = time.monotonic() - began
        seen += one.until("turnComplete")
        length = len(spoken(seen)) / 48000
        assert length < time.monotonic() - began + 0.01
        faster = faster or generated < length
    assert faster


def test_snake_case_and_text_frames(talk: Callable[..., Talk]) -> None:
    """What the vendor's Python client writes is read too."""
    one = talk()
    one.send(setup={"model": MODEL, "generation_config": {"response_modalities": ["TEXT"]}})
    one.receive()
    one.send(client_content={"turns": [{"role": "user", "parts": [{"text": "hello"}]}], "turn_complete": True})
    seen = one.until("turnComplete")
    assert shape(seen) == ["thought", "text", "generationComplete", "turnComplete"]
    assert seen[1]["serverContent"]["modelTurn"]["parts"] == [{"text": "Yes."}]


def test_transcripts_only_if_asked_for(talk: Callable[..., Talk]) -> None:
    """Without the two transcription fields nothing is transcribed."""
    one = talk()
    one.send(setup={"model": MODEL})
    one.receive()
    one.say(silence(0.3, 16000) + tone(0.6, 16000) + silence(0.8, 16000))
    assert shape(one.until("turnComplete")) == ["thought", "audio", "generationComplete", "turnComplete"]


@pytest.mark.parametrize(("rate", "urlsafe"), [(16000, False), (24000, True), (8000, False), (48000, False)])
def test_a_spoken_turn(talk: Callable[..., Talk], rate: int, urlsafe: bool) -> None:
    """Sound of any rate and in both alphabets of base64 is heard; its transcript comes in increments with a leading blank."""
    one = talk()
    one.setup()
    one.say(silence(0.3, rate) + tone(0.6, rate) + silence(0.8, rate), rate, urlsafe=urlsafe)
    seen = one.until("turnComplete")
    assert shape(seen)[:2] == ["inputTranscription", "thought"]
    assert words(seen, "inputTranscription") == " (speech)"
    assert words(seen) == "I hear."


def test_speech_interrupts(server: RealtimeServer, talk: Callable[..., Talk]) -> None:
    """Speech gives interrupted and turnComplete without generationComplete, and nothing more of that answer."""
    one = talk()
    one.setup()
    one.write("Tell me a story.")
    for _ in range(6):
        one.until("modelTurn")
    one.say(tone(0.4, 16000))
    seen = one.until("interrupted")
    assert "generationComplete" not in shape(seen)
    assert shape(one.until("turnComplete")) == ["turnComplete"]
    one.say(silence(0.8, 16000))
    assert shape(one.until("turnComplete"))[:2] == ["inputTranscription", "thought"]
    story = next(item for item in server.conversations[0]["items"] if item["role"] == "assistant")
    assert 0 < story["truncated_ms"] < story["generated_ms"]


def test_speech_interrupts_what_still_plays(talk: Callable[..., Talk]) -> None:
    """Between generationComplete and turnComplete speech interrupts too."""
    one = talk()
    one.setup()
    one.write("Tell me a story.")
    one.until("generationComplete")
    one.say(tone(0.4, 16000))
    assert shape(one.until("turnComplete")) == ["interrupted", "turnComplete"]


def test_no_interruption(talk: Callable[..., Talk]) -> None:
    """With NO_INTERRUPTION speech waits for the end of the answer."""
    one = talk()
    one.setup(realtimeInputConfig={"activityHandling": "NO_INTERRUPTION"})
    one.write("hello")
    one.until("modelTurn")
    one.say(tone(0.5, 16000) + silence(0.8, 16000))
    seen = one.until("turnComplete")
    assert "interrupted" not in shape(seen)
    assert words(seen + one.until("turnComplete")).endswith("I hear.")


def test_text_interrupts_and_context_is_not_answered(server: RealtimeServer, talk: Callable[..., Talk]) -> None:
    """clientContent interrupts a running answer; with turnComplete false nothing follows."""
    one = talk()
    one.setup()
    one.write("Tell me a story.")
    one.until("modelTurn")
    one.write("The user is called Ada.", complete=False)
    assert shape(one.until("turnComplete"))[-2:] == ["interrupted", "turnComplete"]
    one.write("Good to know.", complete=False, role="model")
    one.write("hello")
    assert words(one.until("turnComplete")) == "Yes."
    assert [item["role"] for item in server.conversations[0]["items"]] == ["user", "assistant", "user", "assistant", "user", "assistant"]


def test_manual_turns(talk: Callable[..., Talk]) -> None:
    """With detection disabled a turn is what lies between activityStart and activityEnd; a new start interrupts."""
    one = talk()
    one.setup(realtimeInputConfig={"automaticActivityDetection": {"disabled": True}})
    one.say(tone(1.0, 16000) + silence(1.0, 16000))
    one.send(realtimeInput={"activityStart": {}})
    one.say(tone(0.4, 16000))
    one.send(realtimeInput={"activityEnd": {}})
    seen = one.until("modelTurn")
    assert shape(seen) == ["inputTranscription", "thought"]
    one.until("generationComplete")
    one.send(realtimeInput={"activityStart": {}})
    assert shape(one.until("turnComplete")) == ["interrupted", "turnComplete"]


def test_the_microphone_pauses(talk: Callable[..., Talk]) -> None:
    """audioStreamEnd ends what is being said, without the silence that would."""
    one = talk()
    one.setup()
    one.say(silence(0.2, 16000) + tone(0.6, 16000))
    one.send(realtimeInput={"audioStreamEnd": True})
    assert words(one.until("turnComplete")) == "I hear."


def test_activity_signals(talk: Callable[..., Talk]) -> None:
    """With explicitVadSignal the beginning and the end of speech are told."""
    one = talk()
    one.setup(explicitVadSignal=True)
    one.say(silence(0.5, 16000) + tone(0.6, 16000) + silence(0.8, 16000))
    signals = [message["voiceActivity"] for message in one.until("turnComplete") if "voiceActivity" in message]
    assert [signal["voiceActivityType"] for signal in signals] == ["ACTIVITY_START", "ACTIVITY_END"]
    assert all(signal["audioOffset"].endswith("s") for signal in signals)


TOOLS = [
    {
        "functionDeclarations": [
            {"name": "first", "description": "One thing."},
            {"name": "second", "parameters": {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}}},
        ]
    }
]


def test_a_tool_round(talk: Callable[..., Talk]) -> None:
    """All calls come in one message, the model waits for all results, and the asking part has no end of its own."""
    one = talk()
    one.setup(tools=TOOLS)
    one.write("Do two things.")
    calls = one.receive()["toolCall"]["functionCalls"]
    assert [(call["name"], call["args"]) for call in calls] == [("first", {}), ("second", {"n": 1})]
    one.send(toolResponse={"functionResponses": [{"id": calls[0]["id"], "name": "first", "response": {"output": "One."}}]})
    one.send(toolResponse={"functionResponses": [{"name": "second", "response": {"error": "Two failed."}}]})
    seen = one.until("turnComplete")
    assert words(seen) == "One. Two failed."
    assert shape(seen)[-2:] == ["generationComplete", "turnComplete"]


def test_speech_cancels_calls(talk: Callable[..., Talk]) -> None:
    """Speech while a tool runs cancels its calls; a late result is dropped."""
    one = talk()
    one.setup(tools=TOOLS)
    one.write("Do two things.")
    ids = [call["id"] for call in one.receive()["toolCall"]["functionCalls"]]
    one.say(tone(0.5, 16000))
    seen = one.until("turnComplete")
    assert shape(seen) == ["toolCallCancellation", "interrupted", "turnComplete"]
    assert seen[0]["toolCallCancellation"]["ids"] == ids
    one.send(toolResponse={"functionResponses": [{"id": one_id, "name": "x", "response": {"output": "Late."}} for one_id in ids]})
    one.say(silence(0.8, 16000))
    assert words(one.until("turnComplete")) == "I hear."


def test_functions_nobody_waits_for(talk: Callable[..., Talk]) -> None:
    """A NON_BLOCKING call ends the turn at once; its result is told later, or kept with SILENT."""
    one = talk()
    declared = [{"functionDeclarations": [{"name": name, "behavior": "NON_BLOCKING"} for name in ("first", "second")]}]
    one.setup(tools=declared)
    one.write("Do two things.")
    seen = one.until("turnComplete")
    assert shape(seen) == ["toolCall", "generationComplete", "turnComplete"]
    calls = seen[0]["toolCall"]["functionCalls"]
    silent = {"id": calls[0]["id"], "name": "first", "response": {"output": "Quiet."}, "scheduling": "SILENT"}
    one.send(toolResponse={"functionResponses": [silent]})
    one.send(toolResponse={"functionResponses": [{"id": calls[1]["id"], "name": "second", "response": {"output": "Loud."}}]})
    assert words(one.until("turnComplete")).endswith("Loud.")


def test_resumption(server: RealtimeServer, talk: Callable[..., Talk]) -> None:
    """Handles come after the setup and after each turn; a new connection with the newest one knows what was said."""
    one = talk()
    one.setup(sessionResumption={})
    first = one.receive()["sessionResumptionUpdate"]
    assert first["resumable"] is True
    one.write("hello, I am Ada")
    one.until("turnComplete")
    newest = one.until("sessionResumptionUpdate")[-1]["sessionResumptionUpdate"]["newHandle"]
    assert newest != first["newHandle"]
    one.socket.shutdown()
    two = talk()
    two.setup(sessionResumption={"handle": newest})
    two.write("hello")
    assert words(two.until("turnComplete")) == "Yes."
    assert [item["text"].strip() for item in server.conversations[-1]["items"]] == ["hello, I am Ada", "Yes.", "hello", "Yes."]
    three = talk()
    three.send(setup={"model": MODEL, "sessionResumption": {"handle": "unknown"}})
    assert three.close_frame() == (1008, "BidiGenerateContent session not found.")


def test_go_away() -> None:
    """The end of a connection is announced with the time that is left."""
    with RealtimeServer(light=True, dialect="gemini", session_cap=0.6) as server, Talk(server.ws_url) as one:
        one.setup()
        assert one.receive() == {"goAway": {"timeLeft": "0.3s"}}
        assert one.close_frame()[0] == 1001


def test_new_instructions_and_tools(server: RealtimeServer, talk: Callable[..., Talk]) -> None:
    """contextUpdate changes the tools of a running session."""
    one = talk()
    one.setup()
    declared = {"name": "get_weather", "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}}
    one.send(contextUpdate={"systemInstruction": {"parts": [{"text": "Be brief."}]}, "tools": [{"functionDeclarations": [declared]}]})
    one.write("What is the weather in Oslo?")
    assert one.receive()["toolCall"]["functionCalls"][0]["args"] == {"city": "Oslo"}


EMPTY = {"name": "f", "parameters": {"type": "OBJECT"}}


@pytest.mark.parametrize(
    ("frame", "code", "words"),
    [
        ('{"clientContent": {}}', 1007, "setup"),
        ('{"setup": {"model": "models/gpt-4"}}', 1008, "not found"),
        ('{"setup": {"model": "models/gemini-x", "magic": 1}}', 1007, "Unknown name"),
        (json.dumps({"setup": {"model": MODEL, "generationConfig": {"responseModalities": ["TEXT", "AUDIO"]}}}), 1007, "Modalities"),
        (json.dumps({"setup": {"model": MODEL, "tools": [{"functionDeclarations": [EMPTY]}]}}), 1007, "non-empty"),
        ("{", 1007, "JSON"),
        ("[]", 1007, "object"),
    ],
)
def test_a_wrong_setup(talk: Callable[..., Talk], frame: str, code: int, words: str) -> None:
    """Errors are close frames with a code and a text, nothing else."""
    one = talk()
    one.socket.send(frame)
    found, reason = one.close_frame()
    assert found == code
    assert words in reason


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"setup": {"model": MODEL}}, "once"),
        ({"magic": {}}, "Unknown name"),
        ({"clientContent": {}, "realtimeInput": {}}, "exactly one"),
        ({"clientContent": {"turns": [{"parts": [{"text": "x"}]}]}}, "valid role"),
        ({"clientContent": {"turns": [{"role": "system", "parts": []}]}}, "valid role"),
        ({"realtimeInput": {"audio": {"mimeType": "audio/pcm", "data": "?"}}}, "Base64"),
        ({"realtimeInput": {"audio": {"mimeType": "audio/mp3", "data": ""}}}, "mime type"),
        ({"realtimeInput": {"activityStart": {}}}, "Explicit activity"),
        ({"realtimeInput": {"noise": {}}}, "Unknown name"),
        ({"toolResponse": {"functionResponses": [{"id": "x", "response": {}}]}}, "no call"),
        ({"toolResponse": {"functionResponses": [{"id": "x", "response": "text"}]}}, "object"),
    ],
)
def test_a_wrong_message(talk: Callable[..., Talk], message: dict[str, Any], words: str) -> None:
    """A message that is none closes with 1007 and says why."""
    one = talk()
    one.setup()
    one.send(**message)
    code, reason = one.close_frame()
    assert code == 1007
    assert words in reason


def test_doors_and_keys() -> None:
    """A key opens as header, as ?key=, as a bearer and as a short-lived token; a wrong one closes with 1007."""
    with RealtimeServer(light=True, dialect="xai", key="right") as server:  # the path speaks Gemini whatever the dialect
        base = server.base_ws_url + "/ws/google.ai.generativelanguage."
        path = base + "v1beta.GenerativeService.BidiGenerateContent"
        constrained = base + "v1alpha.GenerativeService.BidiGenerateContentConstrained"
        vertex = server.base_ws_url + "/ws/google.cloud.aiplatform.v1.LlmBidiService/BidiGenerateContent"
        token = server.ledger.mint(60, "auth_tokens/")[0]
        doors: list[tuple[str, list[str]]] = [
            (path, ["x-goog-api-key: right"]),
            (f"{path}?key=right", []),
            (vertex, ["Authorization: Bearer right"]),
            (constrained, [f"Authorization: Token {token}"]),
            (f"{constrained}?access_token={token}", []),
        ]
        for url, header in doors:
            with Talk(url, header=header) as one:
                assert one.setup() == {"setupComplete": {}}
        with Talk(path, header=["x-goog-api-key: wrong"]) as one:
            assert one.close_frame() == (1007, "API key not valid. Please pass a valid API key.")


def test_too_many_answers() -> None:
    """A spent quota is a close with 1011."""
    with RealtimeServer(light=True, dialect="gemini", script=script(), rate_limit=1) as server, Talk(server.ws_url) as one:
        one.setup()
        one.write("hello")
        one.until("turnComplete")
        one.write("hello")
        code, reason = one.close_frame()
        assert (code, "quota" in reason) == (1011, True)
