"""Services that answer what the user wrote by themselves, driven frame by frame: what is due there, given up, lost or waited for."""

from __future__ import annotations

import abc
import base64
import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qai_realtime_sync import (
    Answer,
    ApiError,
    AudioDelta,
    RealtimeClient,
    RealtimeConfig,
    RealtimeTimeoutError,
    ResponseDone,
    TranscriptDelta,
)
from qai_realtime_sync.client import own_answers
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.commands import CommitAudio, SendText
from qai_realtime_sync.events import Event, FunctionCall, GoingAway, Reconnected, Reconnecting, ResumptionUpdate, ServerTool, TranscriptDone
from tests.servers import Talk, service
from tests.transport.peer import frame

PATIENCE = 20.0
SOUND = base64.b64encode(bytes(960)).decode()


class Wire(abc.ABC):
    """One connection of a service that answers by itself."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.first: dict[str, Any] = {}
        self._answers = 0
        self.heard: queue.Queue[dict[str, Any]] = queue.Queue()

    def open(self) -> None:
        """Take the client's first message and be ready."""
        self.talk.peer.upgrade()
        self.first = json.loads(self.talk.peer.read_frame()[1])
        self.say(self.ready())
        self.talk.next_frame = self._next_frame  # type: ignore[method-assign]

    def _next_frame(self) -> tuple[int, bytes]:
        opcode, payload = self.talk.peer.read_frame()
        if opcode in (1, 2):
            self.heard.put(json.loads(payload))
        return opcode, payload

    def say(self, *values: dict[str, Any]) -> None:
        self.talk.raw(*(frame(1, json.dumps(value).encode()) for value in values))

    def hear(self) -> str:
        """Return the next text of the user, skipping what is none."""
        while True:
            text = self.text_of(self.heard.get(timeout=PATIENCE))
            if text is not None:
                return text

    def answer(self, text: str) -> None:
        """Give one whole answer."""
        self._answers += 1
        self.say(*self.begin(text), *self.end())

    @abc.abstractmethod
    def ready(self) -> dict[str, Any]: ...

    @abc.abstractmethod
    def text_of(self, value: dict[str, Any]) -> str | None: ...

    @abc.abstractmethod
    def begin(self, text: str) -> list[dict[str, Any]]: ...

    @abc.abstractmethod
    def end(self) -> list[dict[str, Any]]: ...

    @abc.abstractmethod
    def user_says(self, text: str) -> dict[str, Any]: ...


class GeminiWire(Wire):
    name = "gemini"

    def ready(self) -> dict[str, Any]:
        return {"setupComplete": {}}

    def text_of(self, value: dict[str, Any]) -> str | None:
        content = value.get("clientContent", {})
        return content["turns"][0]["parts"][0]["text"] if content.get("turnComplete") else None

    def begin(self, text: str) -> list[dict[str, Any]]:
        sound = {"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": SOUND}}
        return [{"serverContent": {"outputTranscription": {"text": text}}}, {"serverContent": {"modelTurn": {"parts": [sound]}}}]

    def end(self) -> list[dict[str, Any]]:
        return [{"serverContent": {"generationComplete": True}}, {"serverContent": {"turnComplete": True}}]

    def user_says(self, text: str) -> dict[str, Any]:
        return {"serverContent": {"inputTranscription": {"text": text}}}


class ElevenLabsWire(Wire):
    name = "elevenlabs"

    def ready(self) -> dict[str, Any]:
        metadata = {"conversation_id": "conv", "agent_output_audio_format": "pcm_24000", "user_input_audio_format": "pcm_24000"}
        return {"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": metadata}

    def text_of(self, value: dict[str, Any]) -> str | None:
        return value["text"] if value.get("type") == "user_message" else None

    def begin(self, text: str) -> list[dict[str, Any]]:
        number = self._answers
        return [
            {"type": "agent_response", "agent_response_event": {"agent_response": text, "event_id": number}},
            {"type": "audio", "audio_event": {"audio_base_64": SOUND, "event_id": number}},
        ]

    def end(self) -> list[dict[str, Any]]:
        return [{"type": "agent_response_complete", "agent_response_complete_event": {"event_id": self._answers}}]

    def user_says(self, text: str) -> dict[str, Any]:
        return {"type": "tentative_user_transcript", "tentative_user_transcription_event": {"user_transcript": text, "event_id": 9}}


class Scene:
    """A client and the connections that it makes."""

    def __init__(self, made: type[Wire]) -> None:
        self._made = made
        self._wires: queue.Queue[Wire] = queue.Queue()
        self.client: RealtimeClient

    def opening(self, talk: Talk) -> None:
        wire = self._made(talk)
        wire.open()
        self._wires.put(wire)

    def wire(self) -> Wire:
        """The next connection."""
        return self._wires.get(timeout=PATIENCE)


def written(one: Scene, client: RealtimeClient) -> Wire:
    """The user has written "one", and the service has it; nothing is answered yet."""
    wire = one.wire()
    client.send_text("one")
    assert wire.hear() == "one"
    return wire


@contextlib.contextmanager
def scene(made: type[Wire]) -> Iterator[Scene]:
    one = Scene(made)
    with service(one.opening) as peer:
        one.client = RealtimeClient.direct(
            peer.base_url.replace("http", "ws") + ("/?agent_id=a" if made is ElevenLabsWire else ""),
            "token",
            RealtimeConfig(),
            dialect=made.name,  # type: ignore[attr-defined]
            allow_insecure=True,
            reconnect=ReconnectPolicy(base=0.01, cap=0.01),
        )
        yield one


both = pytest.mark.parametrize("made", [GeminiWire, ElevenLabsWire])


def sounds(client: RealtimeClient) -> Callable[[], set[str]]:
    """Note the answers whose sound is told."""
    found: set[str] = set()
    client.on(AudioDelta, lambda event: found.add(event.response_id))
    return lambda: set(found)


@both
def test_an_answer_that_has_not_begun_is_given_up(made: type[Wire]) -> None:
    """After `interrupt()` nothing of the answer to an earlier text is heard, and the next answer is."""
    with scene(made) as one, one.client as client:
        heard = sounds(client)
        wire = written(one, client)
        client.interrupt()
        wire.answer("First.")
        first = client.wait_for(ResponseDone, PATIENCE)
        client.send_text("two")
        assert wire.hear() == "two"
        wire.answer("Second.")
        second = client.wait_for(ResponseDone, PATIENCE)
        assert heard() == {second.response_id}
        assert first.response_id != second.response_id


@both
def test_what_the_user_says_after_it_is_answered_aloud(made: type[Wire]) -> None:
    """An answer that was given up and never came is not mistaken for the one to what the user says next."""
    with scene(made) as one, one.client as client:
        heard = sounds(client)
        wire = written(one, client)
        client.interrupt()
        wire.say(wire.user_says("Wait."))
        client.wait_for(TranscriptDelta, PATIENCE)
        wire.answer("Yes?")
        done = client.wait_for(ResponseDone, PATIENCE)
        assert heard() == {done.response_id}


@both
def test_an_ask_that_another_thread_gives_up_is_over(made: type[Wire]) -> None:
    """`interrupt()` before the answer begins lets `ask` return at once, with the status cancelled."""
    with scene(made) as one, one.client as client:
        wire = one.wire()
        answers: queue.Queue[Answer] = queue.Queue()
        asking = threading.Thread(target=lambda: answers.put(client.ask("one", PATIENCE)))
        asking.start()
        assert wire.hear() == "one"
        client.interrupt()
        assert answers.get(timeout=PATIENCE).status == "cancelled"
        asking.join(PATIENCE)


@both
def test_a_text_that_nothing_was_heard_about_goes_out_again(made: type[Wire]) -> None:
    """A connection that is lost before the answer began does not lose the question: the next one hears it once, and answers."""
    with scene(made) as one, one.client as client:
        answers: queue.Queue[Answer] = queue.Queue()
        asking = threading.Thread(target=lambda: answers.put(client.ask("one", PATIENCE)))
        asking.start()
        wire = one.wire()
        assert wire.hear() == "one"
        wire.talk.drop()
        wire = one.wire()
        assert wire.hear() == "one"
        assert wire.heard.empty()
        wire.answer("First.")
        assert answers.get(timeout=PATIENCE).text == "First."
        asking.join(PATIENCE)
        assert [(turn.user, turn.assistant) for turn in client.conversation] == [("one", "First.")]


@both
def test_an_answer_that_comes_too_late_for_its_ask_is_not_heard(made: type[Wire]) -> None:
    """The question is given up with the timeout of `ask`; the next one is answered aloud."""
    with scene(made) as one, one.client as client:
        heard = sounds(client)
        wire = one.wire()
        with pytest.raises(RealtimeTimeoutError):
            client.ask("one", 1.0)
        assert wire.hear() == "one"
        done: queue.Queue[str] = queue.Queue()
        client.on(ResponseDone, lambda event: done.put(event.response_id))
        wire.answer("First.")
        done.get(timeout=PATIENCE)
        assert heard() == set()
        asking = threading.Thread(target=lambda: client.ask("two", PATIENCE))
        asking.start()
        assert wire.hear() == "two"
        wire.answer("Second.")
        asking.join(PATIENCE)
        assert heard() == {done.get(timeout=PATIENCE)}


@both
def test_all_texts_that_nothing_was_heard_about_go_out_again(made: type[Wire]) -> None:
    """In their order, and once each: the last one is answered, and may mean what the first one said."""
    with scene(made) as one, one.client as client:
        wire = one.wire()
        client.send_text("I am Ada.")
        client.send_text("Who am I?")
        assert [wire.hear(), wire.hear()] == ["I am Ada.", "Who am I?"]
        wire.talk.drop()
        wire = one.wire()
        assert [wire.text_of(wire.heard.get(timeout=PATIENCE)) for _ in range(2)] == ["I am Ada.", "Who am I?"]


def test_a_text_that_was_given_up_does_not_go_out_again() -> None:
    """Nobody waits for its answer on the next connection either."""
    with scene(GeminiWire) as one, one.client as client:
        wire = written(one, client)
        client.interrupt()
        wire.talk.drop()
        wire = one.wire()
        client.wait_for(Reconnected, PATIENCE)
        client.send_text("two")
        assert wire.hear() == "two"


def test_a_change_waits_for_the_answer_and_for_the_handle_that_knows_of_it() -> None:
    """A new connection is made when the text was answered, and resumes with the handle that comes after that answer."""
    with scene(GeminiWire) as one, one.client as client:
        wire = one.wire()
        wire.say({"sessionResumptionUpdate": {"newHandle": "old", "resumable": True}})
        client.wait_for(ResumptionUpdate, PATIENCE)
        client.send_text("one")
        change = client.mutate_context(voice="Kore")
        assert wire.hear() == "one"
        assert change.outcome == "queued"
        wire.say({"sessionResumptionUpdate": {"resumable": False}})
        wire.answer("First.")
        client.wait_for(ResponseDone, PATIENCE)
        assert change.outcome == "queued"
        wire.say({"sessionResumptionUpdate": {"newHandle": "new", "resumable": True}})
        assert one.wire().first["setup"]["sessionResumption"] == {"handle": "new"}
        assert change.wait(PATIENCE).outcome == "applied"


def test_a_service_that_gives_no_handle_after_an_answer_is_not_waited_for_long() -> None:
    """After two seconds the connection is replaced with the handle there is."""
    with scene(GeminiWire) as one, one.client as client:
        wire = one.wire()
        wire.say({"sessionResumptionUpdate": {"newHandle": "old", "resumable": True}}, {"sessionResumptionUpdate": {}})
        client.send_text("one")
        assert wire.hear() == "one"
        wire.say({"goAway": {"timeLeft": "60s"}})
        client.wait_for(GoingAway, PATIENCE)
        change = client.mutate_context(voice="Kore")
        wire.answer("First.")
        assert one.wire().first["setup"]["sessionResumption"] == {"handle": "old"}
        assert change.wait(PATIENCE).outcome == "applied"


def test_a_call_that_a_resumed_service_makes_again_is_answered() -> None:
    """The result of the first run was lost with its connection; the model waits for one over the next."""
    with scene(GeminiWire) as one:
        runs: queue.Queue[threading.Event] = queue.Queue()

        @one.client.tool
        def look() -> str:
            """Look out of the window."""
            released = threading.Event()
            runs.put(released)
            released.wait(PATIENCE)
            return "rain"

        call = {"toolCall": {"functionCalls": [{"id": "f1", "name": "look", "args": {}}]}}
        with one.client:
            wire = one.wire()
            wire.say({"sessionResumptionUpdate": {"newHandle": "old", "resumable": True}}, call)
            first = runs.get(timeout=PATIENCE)
            wire.talk.drop()
            wire = one.wire()
            wire.say(call)
            runs.get(timeout=PATIENCE).set()
            (result,) = wire.heard.get(timeout=PATIENCE)["toolResponse"]["functionResponses"]
            assert (result["id"], result["response"]) == ("f1", {"output": "rain"})
            first.set()
            one.client.send_text("one")
            assert "clientContent" in wire.heard.get(timeout=PATIENCE)


_CALLED: dict[type[Event], dict[str, Any]] = {
    FunctionCall: {"type": "client_tool_call", "client_tool_call": {"tool_name": "book", "tool_call_id": "c1", "parameters": {}}},
    ServerTool: {
        "type": "agent_tool_request",
        "agent_tool_request": {"tool_name": "book", "tool_call_id": "c1", "tool_type": "webhook", "event_id": 1},
    },
}


@pytest.mark.parametrize("kind", list(_CALLED))
def test_a_text_that_a_tool_was_called_for_does_not_go_out_again(kind: type[Event]) -> None:
    """The table is not booked twice, and who asked learns that the connection is gone, also when no answer had begun."""
    with scene(ElevenLabsWire) as one:
        one.client.on(FunctionCall, lambda event: None)
        with one.client as client:
            wire = one.wire()
            failures: queue.Queue[str] = queue.Queue()

            def ask() -> None:
                with pytest.raises(ApiError) as caught:
                    client.ask("Book it.", None)
                failures.put(str(caught.value.code))

            asking = threading.Thread(target=ask)
            asking.start()
            assert wire.hear() == "Book it."
            wire.say(_CALLED[kind])
            client.wait_for(kind, PATIENCE)
            wire.talk.drop()
            assert failures.get(timeout=PATIENCE) == "connection_lost"
            asking.join(PATIENCE)
            wire = one.wire()
            client.wait_for(Reconnected, PATIENCE)
            client.send_text("two")
            assert wire.hear() == "two"


def test_an_empty_turn_that_a_newer_text_cut_off_is_not_the_answer_to_it() -> None:
    """Two texts, the first answer cut off before it began: the second is due, and a lost connection does not lose it."""
    with scene(GeminiWire) as one, one.client as client:
        wire = one.wire()
        client.send_text("one")
        client.send_text("two")
        assert [wire.hear(), wire.hear()] == ["one", "two"]
        wire.say({"serverContent": {"interrupted": True}}, {"serverContent": {"turnComplete": True}})
        client.wait_for(ResponseDone, PATIENCE)
        wire.talk.drop()
        wire = one.wire()
        assert [wire.hear(), wire.hear()] == ["one", "two"]


def test_a_turn_without_any_content_is_an_empty_answer() -> None:
    """Gemini ends a turn in which it said nothing: `ask` returns, and the next question has its own answer."""
    with scene(GeminiWire) as one, one.client as client:
        wire = one.wire()
        answers: queue.Queue[Answer] = queue.Queue()
        asking = threading.Thread(target=lambda: answers.put(client.ask("one", timeout=PATIENCE)))
        asking.start()
        assert wire.hear() == "one"
        wire.say({"serverContent": {"turnComplete": True}})
        answer = answers.get(timeout=PATIENCE)
        asking.join(PATIENCE)
        assert (answer.text, answer.audio, answer.status) == ("", b"", "completed")
        asking = threading.Thread(target=lambda: answers.put(client.ask("two", timeout=PATIENCE)))
        asking.start()
        assert wire.hear() == "two"
        wire.answer("Two.")
        assert answers.get(timeout=PATIENCE).text == "Two."
        asking.join(PATIENCE)


def test_a_question_given_up_while_nobody_hears_it_is_not_sent_later() -> None:
    """`ask` times out while the client reconnects: the text would be answered to whoever asks next."""
    may_open = threading.Event()
    may_open.set()

    class Gated(GeminiWire):
        def ready(self) -> dict[str, Any]:
            may_open.wait(PATIENCE)
            return super().ready()

    with scene(Gated) as one, one.client as client:
        wire = one.wire()
        may_open.clear()
        wire.talk.drop()
        client.wait_for(Reconnecting, PATIENCE)
        with pytest.raises(RealtimeTimeoutError):
            client.ask("one", timeout=0.3)
        may_open.set()
        wire = one.wire()
        client.wait_for(Reconnected, PATIENCE)
        client.send_text("two")
        assert wire.hear() == "two"


def test_a_change_does_not_wait_for_ever_for_an_answer_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user spoke after the text, and nothing was answered: after the longest wait the change is made."""
    monkeypatch.setattr(own_answers, "_LONGEST_WAIT", 1.0)
    with scene(GeminiWire) as one, one.client as client:
        wire = one.wire()
        client.send_text("one")
        change = client.mutate_context(voice="Kore")
        assert wire.hear() == "one"
        wire.say(wire.user_says("Wait."))
        assert change.wait(PATIENCE).outcome == "applied"


def test_giving_up_in_the_moment_the_answer_begins_does_not_silence_the_next_one() -> None:
    """The reader takes what was due while another thread gives it up: the one or the other comes first, and nothing stays behind."""
    books = RealtimeClient("key")._call.own_answers

    class Slow(list[SendText | CommitAudio]):
        """A list that lets another thread in whenever it is looked at."""

        def __len__(self) -> int:
            others.append(threading.Thread(target=books.begins))
            others[-1].start()
            others[-1].join(0.2)
            return 1

        def __getitem__(self, index: Any) -> Any:
            len(self)
            return super().__getitem__(index)

    for give_up in (books.give_up, lambda: books.give_up_answer_to("e1")):
        others: list[threading.Thread] = []
        books._unanswered = Slow([SendText(text="one", event_id="e1")])
        give_up()
        for other in others:
            other.join(PATIENCE)
        assert others
        assert books.begins()


@pytest.mark.parametrize("words", ["Wait.", "one"])
def test_a_whole_transcript_of_the_user_takes_the_place_of_what_was_given_up(words: str) -> None:
    """Where no pieces of it are told; a service that tells what was typed as if it had been said has heard nothing new."""
    with scene(ElevenLabsWire) as one, one.client as client:
        heard = sounds(client)
        wire = written(one, client)
        client.interrupt()
        wire.say({"type": "user_transcript", "user_transcription_event": {"user_transcript": words, "event_id": 9}})
        client.wait_for(TranscriptDone, PATIENCE)
        wire.answer("Yes?")
        done = client.wait_for(ResponseDone, PATIENCE)
        assert heard() == ({done.response_id} if words == "Wait." else set())


def test_speech_after_a_given_up_turn_that_was_cut_off_is_answered_aloud() -> None:
    """The empty turn was what is left of the text; the service does not transcribe, so that nothing else tells of the speech."""
    with scene(GeminiWire) as one, one.client as client:
        heard = sounds(client)
        wire = written(one, client)
        client.interrupt()
        wire.say({"serverContent": {"interrupted": True}}, {"serverContent": {"turnComplete": True}})
        client.wait_for(ResponseDone, PATIENCE)
        wire.answer("Yes?")
        done = client.wait_for(ResponseDone, PATIENCE)
        assert heard() == {done.response_id}


@both
def test_a_text_that_the_service_breaks_off_at_goes_out_again_once(made: type[Wire]) -> None:
    """Who asked learns it, and the conversation goes on without it instead of ending with the last attempt."""
    with scene(made) as one, one.client as client:
        failures: queue.Queue[str] = queue.Queue()

        def ask() -> None:
            with pytest.raises(ApiError) as caught:
                client.ask("poison", None)
            failures.put(str(caught.value.code))

        asking = threading.Thread(target=ask)
        asking.start()
        for _ in range(2):
            wire = one.wire()
            assert wire.hear() == "poison"
            wire.talk.drop()
        assert failures.get(timeout=PATIENCE) == "connection_lost"
        asking.join(PATIENCE)
        wire = one.wire()
        client.send_text("two")
        assert wire.hear() == "two"
        wire.answer("Second.")
        client.wait_for(ResponseDone, PATIENCE)
