"""The scripted server: what a test expects of a conversation happens, and what does not happen is told in words."""

from __future__ import annotations

import re
import threading
import time
import unittest
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import ApiError, ConfigError, ConnectionClosedError, RealtimeClient, RealtimeConfig, RealtimeTimeoutError
from qai_realtime_sync.testing import ScriptedServer

DIALECTS = ["xai", "openai", "elevenlabs", "gemini"]
PATIENCE = 20.0


def order(size: str) -> str:
    """Order a pizza of this size."""
    return f"a {size} pizza"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server with tones, whose completeness each test asserts by itself."""
    with ScriptedServer(light=True, must_complete=False) as made:
        yield made


def report_of(server: ScriptedServer) -> str:
    """What `assert_complete` says."""
    with pytest.raises(AssertionError) as caught:
        server.assert_complete(timeout=0.2)
    return str(caught.value)


# -- what goes as expected ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tool_round(dialect: str) -> None:
    """Question, call, result and answer happen as written, in every dialect."""
    with ScriptedServer(dialect=dialect, light=True) as server:
        server.on_text("pizza").call_tool("order", {"size": "large"}, result="large pizza").then_say("Ordered!")
        answer = server.client(tools=[order]).ask("I want a pizza.", timeout=PATIENCE)
        assert answer.text == "Ordered!"
        assert len(answer.audio) > 1000
        results = server.journal.sent("send_function_result")
    assert [one["output"] for one in results] == ["a large pizza"]


def test_several_rounds_and_calls_at_once(server: ScriptedServer) -> None:
    """Calls that stand together are made together; `then_` waits for all their results."""
    pizzas = server.on_text("(one|two) pizzas").say("Let me see.").call_tool("order", {"size": "{1}"}).call_tool("order", {"size": "b"})
    pizzas.then_call_tool("order", {"size": "c"}).then_say("That was {0}.")
    answer = server.client(tools=[order]).ask("Two pizzas please.", timeout=PATIENCE)
    assert answer.text.endswith("That was Two pizzas.")
    assert [one["output"] for one in server.journal.sent("send_function_result")] == ["a Two pizza", "a b pizza", "a c pizza"]
    server.assert_complete()


def test_placeholders_reach_into_lists_and_objects(server: ScriptedServer) -> None:
    """The words of the match take their places also deep inside arguments."""
    seen: list[Any] = []

    def keep(items: list[dict[str, str]]) -> str:
        """Keep items."""
        seen.append(items)
        return "kept"

    server.on_text("buy (?P<what>.+)").call_tool("keep", {"items": [{"name": "{what}", "count": "{nothing}"}]}).then_say("Done.")
    server.client(tools=[keep]).ask("Buy milk", timeout=PATIENCE)
    assert seen == [[{"name": "milk", "count": "{nothing}"}]]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_spoken_words_are_understood(dialect: str) -> None:
    """What `speech` says is recognised word by word by every dialect's server, without any recogniser."""
    with ScriptedServer(dialect=dialect, light=True) as server:
        server.on_audio(seconds=1, words="pizza").say("Heard.")
        client = server.client()
        client.send_audio(server.speech("Good evening, one large pizza please"))
        assert client.wait_for("response_done", timeout=PATIENCE).status == "completed"
        (heard,) = [one for one in server.conversations[0]["items"] if one["role"] == "user"]
    assert heard["text"] == "Good evening, one large pizza please"


def test_what_sounds_alike_is_heard_in_the_order_it_was_made(server: ScriptedServer) -> None:
    """Two sentences of the same rhythm are not taken for each other as long as they are sent in order."""
    server.on_text("red").say("Roses.")
    server.on_text("blue").say("Violets.")
    red, blue = server.speech("a red one"), server.speech("a blue one")
    client = server.client()
    for sound, answer in ((red, "Roses."), (blue, "Violets.")):
        client.send_audio(sound)
        assert client.wait_for("transcript_done", timeout=PATIENCE, where=lambda event: event.source == "output").transcript == answer
        client.wait_for("response_done", timeout=PATIENCE)


def test_sound_of_nobody_known_is_speech_without_words(server: ScriptedServer) -> None:
    """Sound that the test did not have spoken fits `on_audio()`, and no pattern of words."""
    server.on_text("hello").say("Hi.")
    server.on_audio(words=1).say("Words.")
    server.on_audio().say("Somebody spoke.")
    other = ScriptedServer(light=True).speech("hello")
    client = server.client()
    client.send_audio(other)
    done = client.wait_for("transcript_done", timeout=PATIENCE, where=lambda event: event.source == "output")
    assert done.transcript == "Somebody spoke."


def test_a_greeting(server: ScriptedServer) -> None:
    """`on_connect` speaks as soon as the client is ready, once for each connection that is expected."""
    server.on_connect(times=2).say("Welcome!")
    for _ in range(2):
        client = server.client(connect=False)
        events = client.events()
        with client:
            text = next(event.transcript for event in events if event.event_name == "transcript_done")
        assert text == "Welcome!"
    server.assert_complete()


def test_say_waits_for_the_running_answer(server: ScriptedServer) -> None:
    """What the service says unasked comes behind the answer that is being made, not into it."""
    server.on_text("hello").say("First.").slow(0.2)
    client = server.client()
    client.send_text("hello")
    server.journal.wait_for("create_response")
    server.say("Second.")
    texts = [
        client.wait_for("transcript_done", timeout=PATIENCE, where=lambda event, wanted=wanted: event.transcript == wanted).transcript
        for wanted in ("First.", "Second.")
    ]
    assert texts == ["First.", "Second."]


def test_say_without_anybody_says_what_to_use(server: ScriptedServer) -> None:
    """Speaking to nobody is a mistake of the test, and is told at once."""
    with pytest.raises(ConfigError, match="on_connect"):
        server.say("Hello?")


def test_an_answer_that_is_asked_for_without_a_question(server: ScriptedServer) -> None:
    """`on_request` answers a client that lets the model begin."""
    server.on_request("greet").say("Good morning.")
    client = server.client()
    client.create_response(instructions="Greet the caller.")
    assert client.wait_for("transcript_done", timeout=PATIENCE).transcript == "Good morning."
    server.assert_complete()


@pytest.mark.parametrize("dialect", ["xai", "openai", "elevenlabs", "gemini"])
def test_an_interruption(dialect: str) -> None:
    """An answer that is held open until somebody speaks is met by the caller's voice."""
    with ScriptedServer(dialect=dialect, light=True) as server:
        server.on_text("story").say("Once upon a time.").until_interrupted()
        server.on_audio(words="stop").say("All right.")
        client = server.client()
        client.send_text("a story")
        client.wait_for("audio_delta", timeout=PATIENCE)
        client.send_audio(server.speech("please stop it"))
        client.wait_for("transcript_done", timeout=PATIENCE, where=lambda event: event.source == "output" and "right" in event.transcript)
        server.assert_complete()
        assert client.conversation[0].interrupted


def test_the_usual_answers_without_any_expectation(server: ScriptedServer) -> None:
    """A test that expects nothing gets the local server's own answers, and reports nothing."""
    assert "Hello" in server.client().ask("Hello!", timeout=PATIENCE).text
    server.assert_complete()


def test_not_strict(server: ScriptedServer) -> None:
    """Without strictness what nobody expected gets the usual answer, and is not reported."""
    with ScriptedServer(light=True, strict=False) as lenient:
        lenient.on_text("pizza").say("Yes.")
        client = lenient.client()
        assert "You said" in client.ask("Water is wet.", timeout=PATIENCE).text
        assert client.ask("pizza", timeout=PATIENCE).text == "Yes."


def test_any_number_of_times(server: ScriptedServer) -> None:
    """`times=None` is met by none and by many."""
    server.on_text("never", times=None).say("No.")
    server.on_text("again", times=None).say("Yes.")
    client = server.client()
    assert [client.ask("again", timeout=PATIENCE).text for _ in range(3)] == ["Yes."] * 3
    server.assert_complete()


def test_one_expectation_after_the_other(server: ScriptedServer) -> None:
    """The same question may be expected several times, with other answers."""
    server.on_text("next").say("One.")
    server.on_text("next").say("Two.")
    client = server.client()
    assert [client.ask("next", timeout=PATIENCE).text for _ in range(2)] == ["One.", "Two."]


def test_speech_takes_no_time() -> None:
    """A minute of speech comes in a moment with the fast clock, also where the service waits until it was heard."""
    sentence = "This is a sentence of some length, spoken again and again and again. "
    for dialect in ("xai", "gemini"):
        with ScriptedServer(dialect=dialect, light=True) as server:
            server.on_text("long").say(sentence * 12)
            began = time.monotonic()
            answer = server.client().ask("long", timeout=PATIENCE)
            took = time.monotonic() - began
        assert len(answer.audio) / 48000 > 40
        assert took < 8


def test_slow_takes_real_time(server: ScriptedServer) -> None:
    """Slowness is real, so that a program's own patience can be tested."""
    server.slow(0.3)
    server.on_text("x", times=None).say("Here.")
    client = server.client()
    began = time.monotonic()
    client.ask("x", timeout=PATIENCE)
    assert time.monotonic() - began >= 0.3
    server.slow(0)
    with pytest.raises(ConfigError):
        server.slow(-1)


# -- what does not --------------------------------------------------------------------------------------------------------------


def test_a_question_that_was_never_asked(server: ScriptedServer) -> None:
    """The report names the first step, and what the client sent instead."""
    server.on_text("pizza").call_tool("order", {"size": "large"}).then_say("Ordered!")
    server.client().send_text("Hello", respond=False)
    server.journal.wait_for("send_text")
    assert 'step 1 of 3, on_text("pizza"): nobody said that; the client sent: configure, send_text("Hello")' in report_of(server)


def test_nobody_connected(server: ScriptedServer) -> None:
    """The report says so if there was no client at all."""
    server.on_text("pizza").say("Yes.")
    assert "no client connected" in report_of(server)


def test_a_result_that_never_came(server: ScriptedServer) -> None:
    """The report names the call whose result is missing."""
    server.on_text("pizza").call_tool("order", {"size": "large"}).then_say("Ordered!")
    tool = {"type": "function", "name": "order", "parameters": {"type": "object", "properties": {}}}
    client = server.client(RealtimeConfig(tools=[tool]), connect=False)
    client.on_function_call(lambda event: None)  # and nobody answers
    with client, pytest.raises(RealtimeTimeoutError):
        client.ask("a pizza", timeout=0.5)
    report = report_of(server)
    assert 'step 2 of 3, on_text("pizza") -> call_tool("order"): the tool\'s result never came back; the client sent: ' in report
    assert 'send_text("a pizza"), create_response' in report


def test_a_result_after_which_nothing_was_asked(server: ScriptedServer) -> None:
    """A client that sends the result and asks for no answer has not met the step behind it."""
    server.on_text("pizza").call_tool("order").then_say("Ordered!")
    tool = {"type": "function", "name": "order", "parameters": {"type": "object", "properties": {}}}
    client = server.client(RealtimeConfig(tools=[tool]), connect=False)
    client.on_function_call(lambda event: client.send_function_result(event.call_id, "fine", respond=False))
    with client:
        client.send_text("a pizza")
        server.journal.wait_for("send_function_result")
        assert "step 3 of 3" in (report := report_of(server))
    assert 'then_say("Ordered!"): no answer was asked for after the tool\'s result' in report


def test_a_tool_that_the_client_does_not_have(server: ScriptedServer) -> None:
    """A misspelt tool is named, with those that there are."""
    server.on_text("pizza").call_tool("oder", {"size": "large"}).then_say("Ordered!")
    server.client(tools=[order]).ask("a pizza", timeout=PATIENCE)
    assert 'the client has no tool "oder"; it declared: order' in report_of(server)


def test_a_tool_that_failed(server: ScriptedServer) -> None:
    """What a tool raised is in the report, unless it may fail."""

    def broken() -> str:
        """Fail."""
        raise RuntimeError("the oven is cold")

    server.on_text("pizza").call_tool("broken").then_say("Sorry.")
    client = server.client(tools=[broken])
    client.ask("a pizza", timeout=PATIENCE)
    assert "the tool failed: " in (report := report_of(server))
    assert "the oven is cold" in report
    with ScriptedServer(light=True) as forgiving:
        forgiving.on_text("pizza").call_tool("broken", may_fail=True).then_say("Sorry.")
        forgiving.client(tools=[broken]).ask("a pizza", timeout=PATIENCE)


@pytest.mark.parametrize(
    ("wanted", "fits"), [("large", True), (re.compile("^a LARGE"), False), ({"size": "large"}, False), ("a large pizza", True)]
)
def test_the_result_of_a_tool(server: ScriptedServer, wanted: Any, fits: bool) -> None:
    """A result is held against a pattern or a value."""
    server.on_text("pizza").call_tool("order", {"size": "large"}, result=wanted).then_say("Ordered!")
    server.client(tools=[order]).ask("a pizza", timeout=PATIENCE)
    if fits:
        server.assert_complete()
    else:
        assert "the tool's result was 'a large pizza', not " in report_of(server)


def test_the_result_of_a_tool_as_a_value(server: ScriptedServer) -> None:
    """A JSON result is compared as a value, whatever the order of its keys."""

    def count() -> dict[str, int]:
        """Count."""
        return {"b": 2, "a": 1}

    server.on_text("count").call_tool("count", result={"a": 1, "b": 2}).then_say("Three.")
    server.client(tools=[count]).ask("count", timeout=PATIENCE)
    server.assert_complete()


def test_an_unexpected_question(server: ScriptedServer) -> None:
    """The client is told at once what was expected, and so is the report."""
    server.on_text("pizza").say("Yes.")
    client = server.client()
    with pytest.raises(ApiError, match='did not expect "pasta"; it expects: on_text\\("pizza"\\)'):
        client.ask("pasta", timeout=PATIENCE)
    client.ask("pizza", timeout=PATIENCE)
    assert 'unexpected: "pasta"; expected at that moment: on_text("pizza")' in report_of(server)


def test_once_too_often(server: ScriptedServer) -> None:
    """What is expected once must not be asked twice."""
    server.on_text("pizza").say("Yes.")
    client = server.client()
    client.ask("pizza", timeout=PATIENCE)
    with pytest.raises(ApiError, match="nothing more"):
        client.ask("pizza", timeout=PATIENCE)
    assert "unexpected" in report_of(server)


def test_once_too_rarely(server: ScriptedServer) -> None:
    """What is expected twice must not be asked only once."""
    server.on_text("pizza", times=2).say("Yes.")
    server.client().ask("pizza", timeout=PATIENCE)
    assert "nobody said that (1 of 2 times so far)" in report_of(server)


def test_the_wrong_order() -> None:
    """With `in_order` what comes too early is unexpected."""
    with ScriptedServer(light=True, in_order=True, must_complete=False) as server:
        server.on_text("one").say("1")
        server.on_text("two").say("2")
        with pytest.raises(ApiError, match="did not expect"):
            server.client().ask("two", timeout=PATIENCE)


def test_an_answer_that_the_client_cancels(server: ScriptedServer) -> None:
    """An answer that was cut off was not said, and the report says who cut it."""
    server.on_text("story").say("Once upon a time.").slow(PATIENCE).say("The end.")
    client = server.client()
    client.send_text("a story")
    client.wait_for("audio_done", timeout=PATIENCE)
    client.cancel_response()
    client.wait_for("response_done", timeout=PATIENCE)
    assert "step 3 of 4" in (report := report_of(server))
    assert "the client cancelled the answer" in report


def test_nobody_interrupted(server: ScriptedServer) -> None:
    """An interruption that is expected and does not come is reported, and the answer goes on to its end."""
    server.on_text("story").say("Once upon a time.").until_interrupted(timeout=0.1)
    assert server.client().ask("a story", timeout=PATIENCE).text == "Once upon a time."
    assert "nobody interrupted the answer within 0.1 s" in report_of(server)


def test_every_step_is_named_once(server: ScriptedServer) -> None:
    """Two unmet expectations make two lines."""
    server.on_text("one").say("1")
    server.on_audio(seconds=2.5, words=3).say("2")
    report = report_of(server)
    assert report.startswith("the conversation did not go as the test expects:\n")
    assert report.count("\n  - ") == 2
    assert "on_audio(seconds=2.5, words=3)" in report


def test_it_waits_for_what_is_under_way(server: ScriptedServer) -> None:
    """`assert_complete` gives an answer that is being made the time to end."""
    server.on_text("pizza").slow(0.3).say("Yes.")
    client = server.client()
    client.send_text("pizza")
    server.journal.wait_for("create_response")
    server.assert_complete(timeout=PATIENCE)


def test_it_does_not_wait_when_nobody_is_there(server: ScriptedServer) -> None:
    """Without a connection nothing can come any more, and nothing is waited for."""
    server.on_text("pizza").say("Yes.")
    began = time.monotonic()
    with pytest.raises(AssertionError):
        server.assert_complete(timeout=PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2


# -- ends and refusals in a story ---------------------------------------------------------------------------------------------


def test_a_close_in_the_story(server: ScriptedServer) -> None:
    """The service closes with a reason where the story says so."""
    server.on_text("pizza").say("One moment.").close(1008, "insufficient balance")
    client = server.client()
    client.send_text("pizza")
    closed = client.wait_for("closed", timeout=PATIENCE)
    assert (closed.code, closed.reason, closed.meaning) == (1008, "insufficient balance", "quota")
    server.assert_complete()


def test_a_loss_in_the_story(server: ScriptedServer) -> None:
    """The connection is lost where the story says so, and the client connects again."""
    server.on_text("pizza").drop()
    server.on_text("again").say("Back.")
    client = server.client()
    client.send_text("pizza")
    client.wait_for("reconnected", timeout=PATIENCE)
    assert client.ask("again", timeout=PATIENCE).text == "Back."
    server.assert_complete()


def test_a_failure_in_the_story(server: ScriptedServer) -> None:
    """An answer can fail with any code, or because there were too many."""
    server.on_text("pizza").fail("server_overloaded", "Come back later.")
    server.on_text("pasta").rate_limit()
    client = server.client()
    with pytest.raises(ApiError, match="Come back later") as failed:
        client.ask("pizza", timeout=PATIENCE)
    assert failed.value.code == "server_overloaded"
    with pytest.raises(ApiError) as limited:
        client.ask("pasta", timeout=PATIENCE)
    assert limited.value.code == "rate_limit_exceeded"
    server.assert_complete()


def test_a_message_as_it_is(server: ScriptedServer) -> None:
    """A test can have the service say what no service should."""
    server.on_text("pizza").send({"type": "odd.event", "x": 1}).say("Yes.")
    client = server.client()
    unknown: list[Any] = []
    client.on("unknown", unknown.append)
    client.ask("pizza", timeout=PATIENCE)
    server.send("this is no JSON")
    client.wait_for("unknown", timeout=PATIENCE, where=lambda event: event.problem)
    assert unknown[0].raw == {"type": "odd.event", "x": 1}


def test_close_at_any_moment(server: ScriptedServer) -> None:
    """The test closes all connections when it wants to."""
    client = server.client(reconnect=False)
    server.close(1011, "internal")
    assert client.wait_for("closed", timeout=PATIENCE).code == 1011


def test_drop_at_any_moment(server: ScriptedServer) -> None:
    """The test loses all connections when it wants to, without a word."""
    client = server.client(reconnect=False)
    server.drop()
    assert client.wait_for("closed", timeout=PATIENCE).meaning == "lost"


# -- money ------------------------------------------------------------------------------------------------------------------------


def test_minted_sessions_are_in_the_ledger() -> None:
    """A client that mints its session leaves it ended and paid in the ledger."""
    with ScriptedServer(light=True) as server:
        server.on_text("pizza").say("Yes.")
        with server.client(mint=True) as client:
            assert client.ask("pizza", timeout=PATIENCE).text == "Yes."
        (session,) = server.sessions
    assert session["ended"] == 1
    assert session["connections"] == 1
    assert [request["path"] for request in server.ledger.requests()] == ["/qai/v1/realtime/session", "/qai/v1/realtime/end"]


def test_no_money() -> None:
    """Options of the local server pass through: without a balance nothing is minted."""
    with ScriptedServer(light=True, balance_ticks=0) as server:
        with pytest.raises(ApiError) as refused:
            server.client(mint=True)
    assert refused.value.is_insufficient_balance


# -- the server itself --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["xai", "openai"])
def test_with_tls(dialect: str) -> None:
    """With TLS the clients of `client` trust the server, and a connection is lost at a byte as without."""
    pytest.importorskip("trustme")
    with ScriptedServer(dialect=dialect, light=True, tls=True) as server:
        server.on_text("pizza").say("Yes.")
        assert server.url.startswith("https://")
        lost = server.client(reconnect=False)
        assert lost.ask("pizza", timeout=PATIENCE).text == "Yes."
        server.fault.drop_after(bytes=1000)
        server.send({"type": "long.event", "text": "x" * 5000})
        assert lost.wait_for("closed", timeout=PATIENCE).meaning == "lost"


def test_its_key_counts(server: ScriptedServer) -> None:
    """A wrong key is refused, so that a program that loses its key is found out."""
    with pytest.raises(ApiError) as refused:
        server.client(api_key="wrong")
    assert refused.value.is_auth


def test_a_program_that_reads_its_environment(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`environ` is all that such a program needs."""
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    with RealtimeClient() as client:
        assert client.is_connected


def test_clients_are_closed_with_it() -> None:
    """A client that a test forgot does not outlive the server."""
    with ScriptedServer(light=True) as server:
        client = server.client()
    assert client.state == "closed"
    assert threading.active_count() < 50


def test_a_connected_client_in_a_with_statement(server: ScriptedServer) -> None:
    """`with server.client()` is no second connect."""
    with server.client() as client:
        assert client.is_connected
    assert client.state == "closed"


@pytest.mark.parametrize("options", [{"dialect": "klingon"}, {"colour": "red"}, {"pace": 0}])
def test_wrong_options(options: dict[str, Any]) -> None:
    """Wrong options are told when the server is made."""
    with pytest.raises(ConfigError):
        ScriptedServer(**options)


def test_wrong_expectations(server: ScriptedServer) -> None:
    """A pattern, a number or arguments that cannot be are told in the line that writes them."""
    with pytest.raises(ConfigError, match="no regular expression"):
        server.on_text("(")
    with pytest.raises(ConfigError, match="times"):
        server.on_text("x", times=0)
    with pytest.raises(ConfigError, match="JSON"):
        server.on_text("x").call_tool("y", {"z": object()})
    with pytest.raises(ConfigError, match="nothing can follow drop"):
        server.on_text("x").drop().then_say("y")
    with pytest.raises(ConfigError, match="what is said goes into words="):
        server.on_audio("stop")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no regular expression"):
        server.on_audio(words=True)
    with pytest.raises(ConfigError, match="no regular expression"):
        server.on_text("x").call_tool("y", result="(")
    with pytest.raises(ConfigError, match=r"1006, which stands for an end without one: drop\(\)"):
        server.on_text("x").close(1006)


def test_what_cannot_be_said_or_sent_at_once(server: ScriptedServer) -> None:
    """Wrong arguments are told before anybody is looked for to hear them."""
    with pytest.raises(ConfigError, match="takes text, not 5"):
        server.say(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes a dict, text or bytes, not 5"):
        server.send(5)  # type: ignore[arg-type]


def test_an_exception_in_the_block_goes_first() -> None:
    """The end of a `with` block reports nothing over an exception of the test."""

    def test() -> None:
        with ScriptedServer(light=True) as server:
            server.on_text("pizza").say("Yes.")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        test()
    assert any('on_text("pizza")' in note for note in getattr(caught.value, "__notes__", ['on_text("pizza")']))


def test_the_check_can_be_switched_off() -> None:
    """`must_complete=False` leaves the report to the test."""
    with ScriptedServer(light=True, must_complete=False) as server:
        server.on_text("pizza").say("Yes.")
    assert 'on_text("pizza")' in server.report()


class ServerInUnittest(unittest.TestCase):
    """The server without pytest's fixture."""

    def setUp(self) -> None:
        self.server = self.enterContext(ScriptedServer(light=True)) if hasattr(self, "enterContext") else ScriptedServer(light=True).start()
        self.addCleanup(self.server.stop)

    def test_as_a_context_manager(self) -> None:
        """It serves a unittest as well."""
        self.server.on_text("pizza").say("Yes.")
        self.assertEqual(self.server.client().ask("pizza", timeout=PATIENCE).text, "Yes.")
        self.server.assert_complete()


def test_a_closed_conversation_is_reported_as_such(server: ScriptedServer) -> None:
    """A client that hangs up in the middle of an answer has not heard it."""
    server.on_text("story").slow(PATIENCE).say("The end.")
    client = server.client()
    client.send_text("a story")
    server.journal.wait_for("create_response")
    client.close()
    assert "it was not done to the end" in report_of(server)
    with pytest.raises(ConnectionClosedError):
        client.wait_for("response_done", timeout=1)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda expected: expected.slow(-1), r"slow\(\) needs a number of seconds, not -1"),
        (lambda expected: expected.slow("1"), r"slow\(\) needs a number of seconds, not '1'"),
        (lambda expected: expected.until_interrupted(float("nan")), r"until_interrupted\(\) needs"),
        (lambda expected: expected.say(5), r"say\(\) takes text, not 5"),
        (lambda expected: expected.call_tool(5), r"call_tool\(\) needs the name of a tool, not 5"),
        (lambda expected: expected.call_tool("t").then_call_tool("t", 5), "must be a dict of names and values, like .*, not 5"),
        (lambda expected: expected.fail(5), r"fail\(\) takes a code and a message as text, not 5"),
        (lambda expected: expected.send(5), r"send\(\) takes a dict, text or bytes, not 5"),
        (lambda expected: expected.send({"x": object()}), r"send\(\) takes a dict of JSON values"),
        (lambda expected: expected.close(99999), r"close\(\) needs a code from 1000 to 4999, not 99999"),
        (lambda expected: expected.close(1008, "x" * 124), "at most 123 bytes"),
    ],
)
def test_a_step_that_cannot_be_done_is_told_where_it_is_written(wrong: Any, told: str) -> None:
    """A wrong argument fails in the line of the test that has it, not later in a thread of the server."""
    server = ScriptedServer(light=True)
    with pytest.raises(ConfigError, match=told):
        wrong(server.on_text("pizza"))


def test_a_second_question_that_did_not_come_is_told_from_the_first() -> None:
    """Where the same is expected twice and said once, the report does not say that nobody said it."""
    with ScriptedServer(light=True, must_complete=False) as server:
        for answer in ("One.", "Two."):
            server.on_text("next").say(answer)
        assert server.client().ask("next", timeout=20).text == "One."
        assert 'on_text("next"): nobody said that once more' in server.report()


def test_a_report_has_no_keys_in_it() -> None:
    """What a tool or a program lets slip does not go into the log of a build machine."""
    with ScriptedServer(light=True, must_complete=False) as server:
        server.on_text("pizza").say("Ordered!")
        client = server.client()
        client.send_text("my key is sk-proj-abcdefghijklmnop")
        server.journal.wait_for("create_response", timeout=20)
        client.wait_for("response_done", timeout=20)
        report = server.report()
    assert "sk-proj" not in report
    assert "my key is <redacted>" in report
