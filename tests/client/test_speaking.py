"""What the program says: checked in its own thread, in order, and never waiting for the network."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.commands import CancelResponse, CreateResponse, SendAudio, SendFunctionResult, SendImage, SendText, TruncateItem
from qai_realtime_sync.errors import (
    ApiError,
    ConfigError,
    ConnectionClosedError,
    NotConnectedError,
    OutboxFullError,
    RealtimeError,
    RealtimeTimeoutError,
    UnsupportedCommandError,
)
from tests.servers import Service, Talk, service
from tests.transport.peer import frame

SENDS: dict[str, Any] = {
    "send_audio": lambda c: c.send_audio(b"\0\0"),
    "send_audio_base64": lambda c: c.send_audio_base64("AAAA"),
    "commit_audio": lambda c: c.commit_audio(),
    "clear_audio": lambda c: c.clear_audio(),
    "send_text": lambda c: c.send_text("hello"),
    "send_context": lambda c: c.send_context("hello"),
    "say": lambda c: c.say("hello"),
    "send_function_result": lambda c: c.send_function_result("c1", "ok"),
    "create_response": lambda c: c.create_response(),
    "cancel_response": lambda c: c.cancel_response(),
    "truncate_item": lambda c: c.truncate_item("i", 5),
    "delete_item": lambda c: c.delete_item("i"),
    "update_session": lambda c: c.update_session(instructions="x"),
    "send_event": lambda c: c.send_event({"type": "x"}),
    "ask": lambda c: c.ask("hello", 1.0),
}


@pytest.mark.parametrize("name", SENDS)
def test_before_connect_and_after_the_end_everything_raises(name: str) -> None:
    """The error says what to do before, and why it is too late after; nothing hangs."""
    client = RealtimeClient("qai_x")
    with pytest.raises(NotConnectedError, match=r"connect\(\)|there is no conversation"):
        SENDS[name](client)
    client.close()
    with pytest.raises((NotConnectedError, ConnectionClosedError)):
        SENDS[name](client)


@pytest.fixture(scope="module")
def open_client() -> Any:
    """One open conversation for all tests that send only what is refused."""
    with service() as peer, peer.client() as client:
        yield client


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (lambda c: c.send_audio("AAAA"), "takes bytes, not str; for base64 text use send_audio_base64"),
        (lambda c: c.send_audio(None), "takes bytes, not NoneType"),
        (lambda c: c.send_audio([0, 0]), "takes bytes, not list"),
        (lambda c: c.send_audio_base64("!!"), "the sound is not base64"),
        (lambda c: c.send_audio_base64(5), "the sound is not base64"),
        (lambda c: c.send_text(""), "send_text takes text that is not empty, not ''"),
        (lambda c: c.send_text("  \n"), "send_text takes text that is not empty"),
        (lambda c: c.send_text(None), "send_text takes text that is not empty, not NoneType"),
        (lambda c: c.send_text(b"hello"), "not bytes"),
        (lambda c: c.ask(""), "takes text that is not empty"),
        (lambda c: c.send_context("", role="user"), "send_context takes text"),
        (lambda c: c.send_context("x", role="tool"), "role must be one of system, user, assistant, not 'tool'"),
        (lambda c: c.say(""), "say takes text"),
        (lambda c: c.send_image("x.png", "image/png"), "send_image takes the bytes of a picture file"),
        (lambda c: c.send_image(b"", "image/png"), "send_image takes the bytes"),
        (lambda c: c.send_image(b"x", "text/plain"), "media_type must be like 'image/png', not 'text/plain'"),
        (lambda c: c.send_function_result("", "x"), "call_id must be the call_id of a FunctionCall event"),
        (lambda c: c.send_function_result(None, "x"), "call_id must be"),
        (lambda c: c.send_function_result("c", b"x"), "returned bytes"),
        (lambda c: c.send_function_result("c", object()), "no JSON form"),
        (lambda c: c.truncate_item("", 5), "an id must be text that is not empty, not ''"),
        (lambda c: c.truncate_item("i", -1), "must not be negative, not -1"),
        (lambda c: c.truncate_item("i", "5"), "audio_end_ms must be a number of milliseconds, not '5'"),
        (lambda c: c.truncate_item("i", float("nan")), "audio_end_ms must be a number of milliseconds, not nan"),
        (lambda c: c.truncate_item("i", True), "audio_end_ms must be a number of milliseconds, not True"),
        (lambda c: c.delete_item(None), "an id must be text"),
        (lambda c: c.approve_mcp_call("", True), "an id must be text"),
        (lambda c: c.update_session(voice=5), "RealtimeConfig.voice must be text"),
        (lambda c: c.update_session(turn_detection="none"), "turn_detection must be a TurnDetection"),
        (lambda c: c.send_event(5), "send_event takes a command, dict, str or bytes, not int"),
        (lambda c: c.send_event({"x": object()}), "JSON"),
        (lambda c: c.send_event({"x": float("nan")}), "JSON"),
        (lambda c: c.close(code=1005), "1005 is not a close code that may be sent"),
        (lambda c: c.close(code=2000), "2000 is not a close code that may be sent"),
        (lambda c: c.close(code=5000), "5000 is not a close code that may be sent"),
    ],
)
def test_what_is_wrong_is_refused_in_the_callers_thread(open_client: RealtimeClient, send: Any, words: str) -> None:
    """The message names what was wrong, nothing goes out, and the conversation lives."""
    with pytest.raises(ConfigError, match=words):
        send(open_client)
    assert open_client.is_connected
    assert open_client.outbox.waiting == 0


def test_what_the_service_has_no_word_for_is_refused(open_client: RealtimeClient) -> None:
    """The error comes from the call, and nothing is left behind for it."""
    before = open_client.outbox
    for send in (lambda c: c.retrieve_item("i"), lambda c: c.send_image(b"x", "image/png"), lambda c: c.approve_mcp_call("a", True)):
        with pytest.raises(UnsupportedCommandError):
            send(open_client)
    assert open_client.outbox == before
    assert not open_client._call.is_busy


def test_odd_bytes_are_joined_with_the_next_piece() -> None:
    """A sample may be cut anywhere; what goes out are whole samples, and all of them."""
    sound = bytes(range(200))
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        for start in range(0, 200, 7):
            client.send_audio(memoryview(sound)[start : start + 7])
        client.send_audio_base64(base64.b64encode(b"\1\2").decode())
        client.send_audio(b"")
        talk.fence(client)
        pieces = [base64.b64decode(v["audio"]) for v in talk.received if v["type"] == "input_audio_buffer.append"]
        assert b"".join(pieces) == sound + b"\1\2"
        assert all(len(piece) % 2 == 0 and piece for piece in pieces)


def test_half_a_sample_at_the_end_is_a_mistake_that_is_told() -> None:
    """commit_audio says that a byte is missing; clear_audio forgets it; the next sound starts clean."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        client.send_audio(b"\1\2\3")
        with pytest.raises(ConfigError, match="ends in the middle of a sample"):
            client.commit_audio()
        client.send_audio(b"\4\5\6")
        client.clear_audio()
        client.send_audio(b"\7\7")
        client.commit_audio()
        talk.expect("input_audio_buffer.commit")
        pieces = [base64.b64decode(v["audio"]) for v in talk.received if v["type"] == "input_audio_buffer.append"]
        assert pieces == [b"\1\2", b"\4\5", b"\7\7"]


def test_a_megabyte_of_text_goes_through() -> None:
    """Size is the service's matter."""
    text = "ø" * 500_000 + "end"
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        client.send_text(text)
        assert talk.expect("conversation.item.create")["item"]["content"][0]["text"] == text


def test_text_asks_for_an_answer_unless_it_is_told_not_to() -> None:
    """The id that is returned is that of the text."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        event_id = client.send_text("one", respond=False)
        client.send_text("two")
        assert talk.expect("conversation.item.create")["event_id"] == event_id
        talk.expect("conversation.item.create")
        talk.expect("response.create")
        talk.fence(client)
        assert talk.count("response.create") == 1


def test_every_word_has_its_frame() -> None:
    """Each method says what it means, in the order of the calls."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        client.send_context("History.", role="assistant")
        client.say("Welcome.")
        client.truncate_item("i1", 120.9)  # type: ignore[arg-type]
        client.delete_item("i2")
        client.cancel_response("r1")
        client.update_session(instructions="Be brief.", extra={"temperature": 0.5})
        client.send_event('{"type": "raw.text"}')
        client.send_event(CancelResponse())
        client.create_response(instructions="x", metadata={"a": "b"}, out_of_band=True)
        client.send_event(b"{}")
        client.clear_audio()
        talk.expect("input_audio_buffer.clear")
        assert talk.kinds()[1:] == [
            "conversation.item.create",
            "conversation.item.create",
            "conversation.item.truncate",
            "conversation.item.delete",
            "response.cancel",
            "session.update",
            "raw.text",
            "response.cancel",
            "response.create",
            "binary",
            "input_audio_buffer.clear",
        ]
        assert talk.received[3]["audio_end_ms"] == 120
        assert client.config.instructions == "Be brief."
        client.drain(20.0)


def test_an_error_is_tied_to_the_command_it_names() -> None:
    """ErrorReceived.command is what the program said."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        event_id = client.delete_item("i9")
        talk.error("item_not_found", event_id)
        error = client.wait_for("error", 20.0)
        assert error.command is not None
        assert error.command.to_dict() == {"name": "delete_item", "event_id": event_id, "item_id": "i9"}
        talk.error("other", "evt_unknown")
        assert client.wait_for("error", 20.0).command is None


def test_only_the_newest_commands_are_remembered() -> None:
    """A long conversation does not grow."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        first = client.delete_item("i0")
        for number in range(300):
            client.delete_item(f"i{number}")
        talk.error("x", first)
        assert client.wait_for("error", 20.0).command is None
        assert len(client._call.posting._commands) == 256


def test_pictures_that_were_sent_do_not_stay_in_memory() -> None:
    """Of the commands that an error may still name only the newest pictures are kept, the older ones without their bytes."""
    with service() as peer, RealtimeClient.direct(peer.base_url.replace("http", "ws") + "/v1/realtime", "key", dialect="openai") as client:
        talk = peer.talk()
        ids = [client.send_image(bytes(100_000), "image/png", text=f"{number}", respond=False) for number in range(10)]
        for event_id in (ids[0], ids[-1]):
            talk.error("x", event_id)
        first, last = (client.wait_for("error", 20.0).command for _ in ids[:2])
        assert isinstance(first, SendImage)
        assert isinstance(last, SendImage)
        assert (first.text, len(first.image), last.text, len(last.image)) == ("0", 0, "9", 100_000)


# -- ask -------------------------------------------------------------------------------------------------------------------------


class Answers:
    """A service that answers each request by a function of its number, in a thread of its own."""

    def __init__(self, talk: Talk, answer: Any) -> None:
        self._thread = threading.Thread(target=self._run, args=(talk, answer))
        self._thread.start()

    @staticmethod
    def _run(talk: Talk, answer: Any) -> None:
        for number in range(1, 100):
            try:
                talk.expect("response.create")
            except AssertionError:
                return  # the conversation is over
            with contextlib.suppress(OSError):  # it may end while it is being answered
                answer(talk, number)

    def end(self) -> None:
        self._thread.join(10.0)
        assert not self._thread.is_alive()


def plain(talk: Talk, number: int) -> None:
    talk.created(f"r{number}")
    talk.audio(f"r{number}", f"i{number}", bytes(48))
    talk.transcript(f"r{number}", f"i{number}", f"Answer {number}.")
    talk.done(f"r{number}", usage={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7})


def asking(answer: Any, peer: Service, client: RealtimeClient, *questions: str, timeout: float = 5.0) -> list[Any]:
    client.connect()
    answers = Answers(peer.talk(), answer)
    found: list[Any] = []
    try:
        for question in questions:
            try:
                found.append(client.ask(question, timeout=timeout))
            except RealtimeError as error:
                found.append(error)
    finally:
        client.close()
        answers.end()
    return found


def test_ask_returns_the_finished_answer() -> None:
    """Text, sound, status and tokens of the answer to this question."""
    with service() as peer:
        first, second = asking(plain, peer, peer.client(), "One?", "Two?")
        assert (first.text, first.audio, first.status, first.total_tokens) == ("Answer 1.", bytes(48), "completed", 7)
        assert (second.text, second.response_ids) == ("Answer 2.", ["r2"])


def test_ask_goes_on_through_the_rounds_of_tools() -> None:
    """The answer is that of the last round, with the sound and tokens of all; a tool that is fast or slow makes no difference."""

    def answer(talk: Talk, number: int) -> None:
        talk.created(f"r{number}")
        if number <= 2:
            talk.call(f"r{number}", f"c{number}", "look", '{"city": "Oslo"}')
        else:
            talk.transcript(f"r{number}", "i", "It rains.")
        talk.done(f"r{number}", usage={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2})

    with service() as peer:
        client = peer.client()
        calls: list[str] = []

        @client.tool
        def look(city: str) -> str:
            """Look."""
            calls.append(city)
            return "rain"

        (found,) = asking(answer, peer, client, "Rain?")
        assert (found.text, found.response_ids, found.total_tokens) == ("It rains.", ["r1", "r2", "r3"], 6)
        assert calls == ["Oslo", "Oslo"]


@pytest.mark.parametrize("status", ["failed", "incomplete"])
def test_ask_goes_on_after_an_answer_that_broke_off_behind_its_call(status: str) -> None:
    """A call whose item is complete is answered, and the answer that its result asks for is the one that counts."""

    def answer(talk: Talk, number: int) -> None:
        talk.created(f"r{number}")
        if number == 1:
            talk.call("r1", "c1", "look", "{}")
            talk.done("r1", status=status)
        else:
            talk.transcript("r2", "i", "It rains.")
            talk.done("r2")

    with service() as peer:
        client = peer.client()
        client.tool(lambda: "rain", name="look")
        (found,) = asking(answer, peer, client, "Rain?")
        assert (found.text, found.status, found.response_ids) == ("It rains.", "completed", ["r1", "r2"])


def test_ask_takes_written_answers_and_several_items() -> None:
    """Pieces are joined in the order of their items."""

    def answer(talk: Talk, number: int) -> None:
        talk.created("r1")
        for item, text in (("i1", "One."), ("i2", "Two.")):
            talk.say("response.output_text.done", response_id="r1", item_id=item, text=text, content_index=0)
        talk.done("r1", status="incomplete")

    with service() as peer:
        (found,) = asking(answer, peer, peer.client(), "What?")
        assert (found.text, found.status) == ("One. Two.", "incomplete")


def test_ask_joins_the_pieces_of_an_answer_that_has_no_items() -> None:
    """Some services tell an answer's words in several finished pieces, before and after a tool, without ids: none is lost."""

    def answer(talk: Talk, number: int) -> None:
        talk.created("r1")
        for text in ("Let me look.", "It rains."):
            talk.say("response.output_audio_transcript.done", response_id="r1", item_id="", transcript=text, content_index=0)
        talk.say("response.output_text.done", response_id="r1", item_id="", text="Let me look. It rains.", content_index=0)
        talk.done("r1")

    with service() as peer:
        (found,) = asking(answer, peer, peer.client(), "Rain?")
        assert found.text == "Let me look. It rains."


def test_ask_does_not_take_the_answer_that_runs_already() -> None:
    """The question waits for the end of that answer, and gets its own."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        talk.created("r0")
        client.wait_for("response_created", 20.0)

        def serve() -> None:
            talk.expect("conversation.item.create")
            talk.transcript("r0", "i0", "Old.")
            talk.done("r0")
            talk.expect("response.create")
            plain(talk, 1)

        server = threading.Thread(target=serve)
        server.start()
        assert client.ask("New?", 20.0).text == "Answer 1."
        server.join(20.0)


def test_an_answer_that_fails_is_an_api_error() -> None:
    """With the service's own words and code."""

    def answer(talk: Talk, number: int) -> None:
        talk.created("r1")
        talk.done(
            "r1", status="failed", status_details={"type": "failed", "error": {"code": "rate_limit_exceeded", "message": "Slow down."}}
        )

    with service() as peer:
        (error,) = asking(answer, peer, peer.client(), "What?")
        assert isinstance(error, ApiError)
        assert "Slow down." in str(error)
        assert error.code == "rate_limit_exceeded"


@pytest.mark.parametrize("of", ["conversation.item.create", "response.create", None])
def test_a_question_that_is_refused_is_an_api_error_at_once(of: str | None) -> None:
    """Whether the error names the text, the request, or nothing."""

    def answer(talk: Talk, number: int) -> None:
        cause = next((v["event_id"] for v in talk.received if v["type"] == of), None)
        talk.error("rate_limit_exceeded", cause, "Slow down.", kind="rate_limit_error")

    with service() as peer:
        client = peer.client()
        started = time.monotonic()
        (error,) = asking(answer, peer, client, "What?")
        assert isinstance(error, ApiError)
        assert error.code == "rate_limit_exceeded"
        assert time.monotonic() - started < 4.0
        if of != "conversation.item.create":
            assert not client._call.responses.is_busy


def test_a_harmless_error_is_no_failure_of_the_question() -> None:
    """A late cancel, or an answer of the user's own speech, does not concern it."""

    def answer(talk: Talk, number: int) -> None:
        talk.error("response_cancel_not_active")
        if number == 1:
            talk.created("vad")
            talk.error("conversation_already_has_active_response", talk.received[-1]["event_id"])
            talk.done("vad")
        else:
            plain(talk, number)

    with service() as peer:
        (found,) = asking(answer, peer, peer.client(), "What?")
        assert (found.text, found.response_ids) == ("Answer 2.", ["r2"]), "the answer to the user's speech is not the question's"


def test_an_answer_that_does_not_come_in_time_is_a_timeout() -> None:
    """The error says how long and in which state; the next question still works."""

    def answer(talk: Talk, number: int) -> None:
        talk.created(f"r{number}")
        if number == 2:
            plain(talk, 2)

    with service() as peer, peer.client() as client:
        talk = peer.talk()
        with pytest.raises(RealtimeTimeoutError, match=r"no finished answer within 0\.1 s; the conversation is open"):
            client.ask("One?", timeout=0.1)
        talk.expect("response.create")
        plain(talk, 1)
        client.wait_for("response_done", 20.0)
        server = threading.Thread(target=lambda: (talk.expect("response.create"), plain(talk, 2)))
        server.start()
        assert client.ask("Two?", timeout=20.0).text == "Answer 2."
        server.join(20.0)


def test_a_question_that_was_given_up_does_not_spoil_the_next() -> None:
    """Its answer is cancelled when it begins late, and no answer to earlier texts is taken for the next question's."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        with pytest.raises(RealtimeTimeoutError):
            client.ask("One?", timeout=0.1)
        talk.expect("response.create")
        talk.created("r1")
        assert talk.expect("response.cancel")["response_id"] == "r1"
        talk.transcript("r1", "i1", "Late.")
        talk.done("r1", status="cancelled")
        client.wait_for("response_done", 20.0)
        client.send_text("Two?")
        client.send_text("Three?")
        answers = Answers(talk, plain)
        found = client.ask("Four?", timeout=20.0)
        assert (found.text, found.response_ids) == ("Answer 3.", ["r3"])
        client.close()
        answers.end()


def test_a_question_that_is_given_up_while_it_is_held_is_never_asked() -> None:
    """Behind another answer the request still waits: it is dropped, and that answer, which is not its own, runs on."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        talk.created("r0")
        client.wait_for("response_created", 20.0)
        with pytest.raises(RealtimeTimeoutError):
            client.ask("One?", timeout=0.1)
        talk.done("r0")
        client.wait_for("response_done", 20.0)
        talk.fence(client)
        assert not [v for v in talk.received if v["type"] in ("response.create", "response.cancel")]
        assert not client._call.is_busy


def test_a_question_that_is_given_up_takes_its_running_answer_and_its_tools_along() -> None:
    """The answer is cancelled; the result of a tool that is still at work asks for no further answer."""
    gate = threading.Event()
    with service() as peer:
        client = peer.client()

        @client.tool
        def look() -> str:
            """Look."""
            gate.wait(5.0)
            return "rain"

        with client:
            talk = peer.talk()
            server = threading.Thread(
                target=lambda: (talk.expect("response.create"), talk.created("r1"), talk.call("r1", "c1", "look"), talk.done("r1"))
            )
            server.start()
            with pytest.raises(RealtimeTimeoutError):
                client.ask("Rain?", timeout=2.5)
            server.join(20.0)
            gate.set()
            talk.expect("conversation.item.create")
            client.drain(20.0)
            talk.fence(client)
            assert [v["type"] for v in talk.received].count("response.create") == 1


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "3", True])
def test_a_wrong_timeout_is_refused_before_anything_is_sent(timeout: Any) -> None:
    """ask needs time or no limit; the others may look once with 0."""
    with service() as peer, peer.client() as client:
        with pytest.raises(ConfigError, match="timeout must be a number of seconds above 0, not"):
            client.ask("One?", timeout=timeout)
        if timeout != 0 or timeout is True:
            for wait in (client.drain, client.next_event, client.wait, lambda given: client.close(timeout=given)):
                with pytest.raises(ConfigError, match="timeout must be a number of seconds, 0 or more, not"):
                    wait(timeout)
        talk = peer.talk()
        talk.fence(client)
        assert not [v for v in talk.received if v["type"] == "response.create"]


def test_after_the_end_sending_says_why_it_ended() -> None:
    """Meaning, code and reason of the end are in the error of every later command."""
    with service() as peer, peer.client() as client:
        peer.talk().close(1008, "insufficient balance")
        client.wait(20.0)
        with pytest.raises(NotConnectedError, match=r"send_text cannot be sent: the conversation is over \(\w+, code 1008: insuff"):
            client.send_text("One?")


def test_a_question_that_the_end_overtakes_raises_why() -> None:
    """ConnectionClosedError with code and reason of the end."""

    def answer(talk: Talk, number: int) -> None:
        talk.close(1008, "insufficient balance")

    with service() as peer:
        (error,) = asking(answer, peer, peer.client(), "What?")
        assert isinstance(error, ConnectionClosedError)
        assert (error.code, error.reason) == (1008, "insufficient balance")


def test_what_a_tool_raises_comes_out_of_the_question_if_that_is_chosen() -> None:
    """With on_handler_error='raise' the thread that waits for the answer gets it at once."""

    def answer(talk: Talk, number: int) -> None:
        talk.created(f"r{number}")
        talk.call(f"r{number}", f"c{number}", "broken")
        talk.done(f"r{number}")

    with service() as peer:
        client = peer.client(on_handler_error="raise")

        @client.tool
        def broken() -> None:
            """Break."""
            raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            asking(answer, peer, client, "What?")


def test_questions_of_several_threads_come_one_after_the_other() -> None:
    """Each gets its own answer; one whose time is up before its turn says so."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        found: dict[int, Any] = {}

        def ask(number: int) -> None:
            found[number] = client.ask(f"Question {number}", timeout=20.0)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for number in range(4):
            question = talk.expect("conversation.item.create")["item"]["content"][0]["text"]
            talk.expect("response.create")
            if number == 0:
                with pytest.raises(RealtimeTimeoutError, match="another thread's ask"):
                    client.ask("Me too", timeout=0.05)
            talk.created(f"r{number}")
            talk.transcript(f"r{number}", "i", question)
            talk.done(f"r{number}")
        for thread in threads:
            thread.join(20.0)
        assert {number: answer.text for number, answer in found.items()} == {n: f"Question {n}" for n in range(4)}


# -- order, and never waiting ------------------------------------------------------------------------------------------------------


def test_threads_keep_their_own_order_on_the_wire() -> None:
    """Eight threads send 60 texts each: nothing is lost, nothing is doubled, each thread's order holds."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()

        def work(name: int) -> None:
            for number in range(60):
                client.send_text(f"{name}.{number:02}", respond=False)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20.0)
        talk.fence(client)
        texts = [v["item"]["content"][0]["text"] for v in talk.received if v["type"] == "conversation.item.create"]
        assert len(texts) == len(set(texts)) == 480
        for name in range(8):
            mine = [text for text in texts if text.startswith(f"{name}.")]
            assert mine == sorted(mine)


def test_a_service_that_does_not_read_never_blocks_the_program() -> None:
    """Every send returns at once while the socket is full; the sender has the rest, and it arrives in order when the service reads."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        talk.stall()
        longest, count = 0.0, 0
        while client.outbox.waiting < 5:
            started = time.monotonic()
            client.send_event({"type": "big", "n": count, "text": "x" * 200_000})
            longest = max(longest, time.monotonic() - started)
            count += 1
            assert count < 500
        with pytest.raises(RealtimeTimeoutError, match="commands still wait to be sent after 0.05 s"):
            client.drain(0.05)
        assert longest < 5.0
        talk.resume()
        client.drain(20.0)
        talk.fence(client)
        assert [v["n"] for v in talk.received if v["type"] == "big"] == list(range(count))


def test_a_full_outbox_tells_the_caller_and_recovers() -> None:
    """The limit of commands raises in the caller; a request that did not go out does not count as asked for."""
    with service() as peer, peer.client(max_commands=5) as client:
        talk = peer.talk()
        talk.stall()

        def fill() -> None:
            for _ in range(500):
                client.send_event({"type": "big", "text": "x" * 200_000})

        with pytest.raises(OutboxFullError):
            fill()
        with pytest.raises(OutboxFullError):
            client.create_response()
        assert not client._call.is_busy
        talk.resume()
        client.drain(20.0)
        client.create_response()
        talk.expect("response.create")


def test_sound_is_bounded_and_the_oldest_goes_when_that_is_chosen() -> None:
    """With overflow='drop_oldest' the microphone never gets an error, and what was dropped is counted in seconds."""
    with service() as peer, peer.client(overflow="drop_oldest", max_audio=2.0) as client:
        talk = peer.talk()
        talk.stall()
        second = bytes(48_000)
        for _ in range(400):
            client.send_audio(second)
            if client.outbox.dropped_audio >= 5.0:
                break
        counts = client.outbox
        assert counts.dropped_audio == counts.dropped >= 5.0
        client.cancel_response()
        talk.resume()
        talk.expect("response.cancel")
        client.drain(20.0)
        assert client.outbox.waiting == 0


def test_sound_from_before_readiness_is_held_and_sent() -> None:
    """A handler of the handshake may already give sound; it goes out, whole, when the service is ready."""
    with service() as peer:
        client = peer.client()
        client.on("session_created", lambda event: (client.send_audio(b"\1\2"), client.send_text("early", respond=False)))
        with client:
            talk = peer.talk()
            talk.fence(client)
            assert talk.kinds() == ["session.update", "input_audio_buffer.append", "conversation.item.create", "fence"]


def test_requests_are_held_one_after_the_other() -> None:
    """Three texts at once give three answers, one at a time."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        for _ in range(3):
            client.send_text("hello")
        for number in range(3):
            talk.expect("response.create")
            talk.fence(client)
            assert talk.count("response.create") == number + 1
            talk.created(f"r{number}")
            talk.done(f"r{number}")
            client.wait_for("response_done", 20.0)
        talk.fence(client)
        assert talk.count("response.create") == 3


def test_a_raw_frame_that_the_service_sends_between_does_not_disturb() -> None:
    """A ping of the WebSocket is answered while nothing else happens."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        talk.raw(frame(9, b"hi"))
        talk.say("ping", timestamp=1)
        client.wait_for("ping", 20.0)  # the frame before it was read, and its answer goes out before what is said now
        talk.fence(client)
        assert talk.pongs == [b"hi"]


def test_an_application_ping_is_not_answered_where_there_is_no_word_for_it() -> None:
    """xAI's ping wants no answer."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        talk.say("ping", timestamp=1)
        client.wait_for("ping", 20.0)
        talk.fence(client)
        assert talk.kinds() == ["session.update", "fence"]


def test_commands_may_be_given_as_objects() -> None:
    """send_event takes the vocabulary's own classes, and keeps the book for them too."""
    with service() as peer, peer.client(RealtimeConfig(model="grok")) as client:
        talk = peer.talk()
        client.send_event(SendText(text="hello"))
        client.send_event(CreateResponse(instructions="Sing."))
        assert talk.expect("response.create")["response"]["instructions"] == "Sing."
        assert client._call.is_busy


def test_a_picture_goes_to_a_service_that_takes_one() -> None:
    """With its words, and with a request for an answer unless told otherwise."""
    with service() as peer:
        url = f"ws://127.0.0.1:{peer.server.port}/v1/realtime?model=gpt-realtime"
        client = RealtimeClient.direct(url, "sk-test", dialect="openai")
        peer.clients.append(client)
        with client:
            talk = peer.talk()
            client.send_image(b"picture", "image/png", respond=False)
            client.send_image(bytearray(b"picture"), "image/png", text="What is it?")
            client.approve_mcp_call("a1", True)
            client.retrieve_item("i1")
            talk.expect("response.create")
            talk.fence(client)
            contents = [v["item"].get("content", []) for v in talk.received if v["type"] == "conversation.item.create"]
            assert contents[0][0]["image_url"] == "data:image/png;base64,cGljdHVyZQ=="
            assert {part["type"] for part in contents[1]} == {"input_image", "input_text"}
            assert talk.count("response.create") == 1
            assert talk.count("conversation.item.retrieve") == 1


def test_what_the_client_says_by_itself_may_fail_without_a_word_to_the_program(caplog: pytest.LogCaptureFixture) -> None:
    """A cut that does not fit into the outbox is logged; a held request whose turn has come makes room for the next."""
    with service() as peer, peer.client(max_commands=1) as client:
        talk = peer.talk()
        client.create_response()
        talk.expect("response.create")
        talk.created("r1")
        client.wait_for("response_created", 20.0)
        client.create_response(instructions="second")
        client.create_response(instructions="third")
        client._call.outbox.pause(client._call.connection)
        client.clear_audio()
        client._call.submit_quietly([TruncateItem(item_id="i1", audio_end_ms=1)])
        talk.done("r1")
        client.wait_for("response_done", 20.0)
        talk.say("mark")
        client.wait_for("unknown", 20.0)
        assert not client._call.responses.is_busy
    messages = [record.message for record in caplog.records]
    assert sum("a held request for an answer was not sent" in message for message in messages) == 2
    assert any("truncate_item was not sent" in message for message in messages)


def test_sound_and_results_given_as_objects_go_the_usual_way() -> None:
    """Sound is cut into whole samples, and the call is answered in the book: one intent, so nothing is asked for."""
    with service() as peer, peer.client(RealtimeConfig(tools=[{"type": "function", "name": "mine"}])) as client:
        talk = peer.talk()
        assert client.send_event(SendAudio(audio=b"\1\2\3")) == ""
        talk.created("r1")
        talk.call("r1", "c1", "mine")
        talk.done("r1")
        client.wait_for("response_done", 20.0)
        assert client._call.is_busy
        assert client.send_event(SendFunctionResult(call_id="c1", output="x"))
        assert not client._call.is_busy
        client.send_event(SendFunctionResult(call_id="c1", output="again"))
        talk.fence(client)
        assert [v["audio"] for v in talk.received if v["type"] == "input_audio_buffer.append"] == ["AQI="]
        assert talk.outputs() == {"c1": "x"}
        assert talk.count("response.create") == 0


@pytest.mark.parametrize("wrong", [{"modalities": "text"}, {"tools": {"type": "function"}}, {"input": "hello"}])
def test_what_must_be_a_list_is_refused_as_anything_else(wrong: dict[str, Any]) -> None:
    """By its name and before anything is sent: letters of a word would go out as modalities."""
    with service() as peer, peer.client() as client:
        (name,) = wrong
        with pytest.raises(ConfigError, match=f"{name} must be a list"):
            client.create_response(**wrong)
        with pytest.raises(ConfigError, match="extra must be a dict"):
            client.update_session(extra="x")  # type: ignore[arg-type]
        talk = peer.talk()
        talk.fence(client)
        assert talk.count("response.create") == 0
        assert talk.count("session.update") == 1


def test_every_second_sample_of_something_can_be_sent() -> None:
    """A view with gaps has no bytes of its own; also behind an odd byte that waits for its other half."""
    with service() as peer, peer.client() as client:
        stereo = memoryview(bytes(range(16))).cast("B")
        client.send_audio(b"\x63")
        client.send_audio(stereo[::2])
        client.send_audio(b"\x64")
        talk = peer.talk()
        talk.fence(client)
        sent = b"".join(base64.b64decode(v["audio"]) for v in talk.received if v["type"] == "input_audio_buffer.append")
        assert sent == b"\x63" + bytes(range(0, 16, 2)) + b"\x64"
