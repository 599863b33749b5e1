"""Losing a connection and going on: when, how often, what is held, what is dropped, what is told."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.errors import ApiError, ConnectionClosedError, RealtimeTimeoutError
from qai_realtime_sync.events import (
    Event,
    ItemAdded,
    Reconnected,
    Reconnecting,
    ResponseDone,
    StateChanged,
    TranscriptDone,
)
from qai_realtime_sync.turns import Turn
from tests.servers import Talk, ready, refuse, service
from tests.transport.peer import frame

QUICK = ReconnectPolicy(base=0.01, cap=0.01)


class Log:
    def __init__(self, client: RealtimeClient) -> None:
        self.events: list[Event] = []
        client.on(Event, self.events.append)

    def of(self, cls: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, cls)]

    def names(self) -> list[str]:
        return [event.event_name for event in self.events]


def without_resumption(**fields: Any) -> RealtimeConfig:
    return RealtimeConfig(resumption=False, **fields)


def by_drop(talk: Talk) -> None:
    talk.drop()


def by_code(code: int, reason: str = "") -> Callable[[Talk], None]:
    def lose(talk: Talk) -> None:
        talk.close(code, reason)

    lose.__name__ = f"by_{code}"
    return lose


@pytest.mark.parametrize("lose", [by_drop, *(by_code(code) for code in (1001, 1011, 1012, 1013, 1014))], ids=lambda f: f.__name__)
def test_a_loss_is_told_and_mended(lose: Callable[[Talk], None]) -> None:
    """Reconnecting, then SessionReady and Reconnected on the new connection; the state goes through backoff."""
    with service() as peer, peer.client(reconnect=QUICK) as client:
        log = Log(client)
        lose(peer.talk())
        told = client.wait_for(Reconnected, 20.0)
        peer.talk().fence(client)
        (trying,) = log.of(Reconnecting)
        assert (trying.attempt, trying.delay) == (1, 0.0)
        assert told.attempts == 1
        assert 0.0 <= told.downtime < 20.0
        assert [s.new for s in log.of(StateChanged)] == ["backoff", "connecting", "handshaking", "open"]
        names = log.names()
        assert names.index("reconnecting") < names.index("session_ready") < names.index("reconnected")
        assert client.is_connected


@pytest.mark.parametrize(
    "lose",
    [
        by_code(1000, "bye"),
        by_code(1002),
        by_code(1003),
        by_code(1007),
        by_code(1008, "policy"),
        by_code(1009),
        by_code(3000, "invalid_request_error.invalid_api_key"),
        by_code(4001),
        by_code(1011, "insufficient balance"),
        by_code(1001, "session duration limit reached"),
        lambda talk: talk.raw(frame(1, b"x", reserved=7)),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),
)
def test_what_would_not_do_better_next_time_is_not_tried_again(lose: Callable[[Talk], None]) -> None:
    """A normal end, a refusal, a violation: the words of the reason decide before the code."""
    with service() as peer, peer.client(reconnect=QUICK) as client:
        log = Log(client)
        lose(peer.talk())
        client.wait(20.0)
        assert log.of(Reconnecting) == []
        assert peer.server.accepted == 1


def test_without_reconnect_a_loss_is_the_end() -> None:
    """reconnect=False means that the program decides."""
    with service() as peer, peer.client(reconnect=False) as client:
        peer.talk().drop()
        closed = client.wait(20.0)
        assert (closed.meaning, closed.by) == ("lost", "network")
        assert isinstance(closed.error, ConnectionClosedError)
        assert client.state == "failed"
        assert peer.server.accepted == 1


def test_the_budget_of_tries_ends_it() -> None:
    """Each failed try is told with its number; after the last the conversation has failed, and says why."""
    with service(ready, refuse("503 No")) as peer:
        client = peer.client(reconnect=ReconnectPolicy(attempts=3, base=0.01, cap=0.01))
        log = Log(client)
        client.connect()
        peer.talk().drop()
        closed = client.wait(20.0)
        assert [event.attempt for event in log.of(Reconnecting)] == [1, 2, 3]
        assert peer.server.accepted == 4
        assert closed.meaning == "lost"
        assert isinstance(closed.error, ApiError)
        assert closed.error.status_code == 503
        assert client.state == "failed"


def test_retry_after_is_waited_for() -> None:
    """The service's wish bounds the delay from below; a refusal without one does not."""
    with service(ready, refuse("503 No", "", "Retry-After: 7"), ready) as peer:
        client = peer.client(reconnect=QUICK)
        log = Log(client)
        client.connect()
        waiting = threading.Event()
        client.on("reconnecting", lambda event: waiting.set() if event.attempt == 2 else None)
        peer.talk().drop()
        assert waiting.wait(20.0)
        assert [event.delay for event in log.of(Reconnecting)] == [0.0, 7.0]
        assert isinstance(log.of(Reconnecting)[1].error, ApiError)


@pytest.mark.parametrize(("status", "meaning"), [(401, "auth"), (402, "quota"), (404, "bad_request")])
def test_a_refusal_of_a_reconnect_is_final(status: int, meaning: str) -> None:
    """A key that is not valid any more is not tried ten times."""
    with service(ready, refuse(f"{status} No")) as peer, peer.client(without_resumption(), reconnect=QUICK) as client:
        peer.talk().drop()
        assert client.wait(20.0).meaning == meaning
        assert peer.server.accepted == 2


def test_words_are_held_and_sound_is_dropped_while_there_is_no_connection() -> None:
    """What the program says during the loss goes out after it, once and in order; sound is dropped and counted."""
    with service(ready, refuse("503 No"), refuse("503 No"), ready) as peer:
        client = peer.client(without_resumption(), reconnect=ReconnectPolicy(base=0.01, cap=0.01))
        talks: list[str] = []

        def on_try(event: Reconnecting) -> None:
            client.send_text(f"text {event.attempt}")
            client.send_audio(bytes(48_000))

        client.on("reconnecting", on_try)
        client.on("reconnected", lambda event: talks.append(client.state))
        client.connect()
        peer.talk().drop()
        client.wait_for(Reconnected, 20.0)
        talk = peer.talk()
        for number in range(3):
            talk.expect("response.create")
            talk.created(f"r{number}")
            talk.done(f"r{number}")
        talk.fence(client)
        texts = [v["item"]["content"][0]["text"] for v in talk.received if v["type"] == "conversation.item.create"]
        assert texts == ["text 1", "text 2", "text 3"]
        assert talk.count("response.create") == 3
        assert talk.count("input_audio_buffer.append") == 0
        assert client.outbox.dropped_audio == 3.0
        client.drain(20.0)  # the service may have read the last one before it is counted here
        assert client.outbox.waiting == 0
        assert talks == ["open"]


def test_a_request_that_was_not_answered_is_asked_for_again() -> None:
    """It had left, and its answer had not begun: the new connection is asked, once."""
    with service() as peer, peer.client(without_resumption(), reconnect=QUICK) as client:
        talk = peer.talk()
        client.send_text("hello")
        talk.expect("response.create")
        talk.drop()
        client.wait_for(Reconnected, 20.0)
        talk = peer.talk()
        talk.expect("response.create")
        talk.fence(client)
        assert talk.count("response.create") == 1


def asks(client: RealtimeClient, timeout: float) -> tuple[threading.Thread, list[BaseException]]:
    """Ask in a thread; what it raises comes into the list."""
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            client.ask("hello", timeout)
        except Exception as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    return asking, failed


def test_an_answer_that_the_loss_cut_off_has_failed() -> None:
    """Who waits for its end gets it from the client, and the next question goes at once."""
    with service() as peer, peer.client(without_resumption(), reconnect=QUICK) as client:
        talk = peer.talk()
        asking, failed = asks(client, 20.0)
        talk.expect("response.create")
        talk.created("r1")
        client.wait_for("response_created", 20.0)
        talk.drop()
        done = client.wait_for(ResponseDone, 20.0)
        assert (done.response_id, done.status, done.error_code) == ("r1", "failed", "connection_lost")
        asking.join(20.0)
        assert isinstance(failed[0], ApiError)
        client.send_text("again")
        peer.talk().expect("response.create")


def test_a_question_whose_tool_runs_during_the_loss_has_failed() -> None:
    """The answer after the tool will never come: ``ask`` says so at once, instead of waiting for its timeout."""
    go = threading.Event()
    with service() as peer:
        client = peer.client(without_resumption(), reconnect=QUICK)

        @client.tool
        def slow() -> str:
            """Take a while."""
            go.wait(10.0)
            return "done"

        client.connect()
        talk = peer.talk()
        asking, failed = asks(client, 30.0)
        talk.expect("response.create")
        talk.created("r1")
        talk.call("r1", "c1", "slow")
        talk.done("r1")
        client.wait_for(ResponseDone, 20.0)
        talk.drop()
        asking.join(20.0)
        go.set()
        client.close()
        assert isinstance(failed[0], ApiError)
        assert failed[0].code == "connection_lost"


def test_a_resumable_conversation_goes_on_with_its_handle() -> None:
    """The default asks for resumption where the service has it: the conversation's id goes into the address, history is not told."""
    with service() as peer, peer.client(reconnect=QUICK) as client:
        talk = peer.talk()
        client.send_text("hello", respond=False)
        talk.fence(client)
        talk.drop()
        told = client.wait_for(Reconnected, 20.0)
        second = peer.talk()
        second.fence(client)
        assert told.resumed == (b"conversation_id=conv_1" in second.peer.request)
        assert ("conversation.item.create" in second.kinds()) == (not told.resumed)


def resumed(talk: Talk) -> None:
    """Open as xAI does a conversation that is continued: the items come first."""
    talk.peer.upgrade()
    talk.say("conversation.created", conversation={"id": "conv_1"})
    item = {"id": "i1", "type": "message", "role": "user", "status": "completed", "content": [{"type": "input_text", "text": "hello"}]}
    talk.say("conversation.item.added", item=item)
    while not talk.count("session.update"):
        talk.next_frame()
    talk.say("session.updated", session={"id": "sess_2"})


def test_replayed_items_are_marked_as_such() -> None:
    """They come before the session is ready, and open no turn."""
    config = RealtimeConfig(session={"resumption": {"enabled": True}})
    with service(ready, resumed) as peer, peer.client(config, reconnect=QUICK) as client:
        log = Log(client)
        peer.talk().drop()
        told = client.wait_for(Reconnected, 20.0)
        second = peer.talk()
        assert told.resumed
        assert b"conversation_id=conv_1" in second.peer.request
        assert [event.replayed for event in log.of(ItemAdded)] == [True]


def test_a_handle_that_the_service_does_not_know_any_more_is_given_up() -> None:
    """A 404 of a resumption is not the end: the conversation goes on without the handle, and its history is given again."""
    config = RealtimeConfig(session={"resumption": {"enabled": True}})
    with service(ready, refuse("404 No"), ready) as peer, peer.client(config, reconnect=QUICK) as client:
        talk = peer.talk()
        client.send_text("hello", respond=False)
        talk.fence(client)
        talk.drop()
        told = client.wait_for(Reconnected, 20.0)
        last = peer.talk()
        last.fence(client)
        assert not told.resumed
        assert b"conversation_id" not in last.peer.request
        assert [v["item"]["content"][0]["text"] for v in last.received if v["type"] == "conversation.item.create"] == ["hello"]


def by_handles(talk: Talk) -> None:
    """Open as Gemini does."""
    talk.peer.upgrade()
    talk.next_frame()
    talk.raw(frame(1, b'{"setupComplete": {}}'))


def refused_handle(talk: Talk) -> None:
    """Say of a handle what Gemini says of one that is too old."""
    talk.peer.upgrade()
    talk.next_frame()
    talk.close(1008, "BidiGenerateContent session not found")


@pytest.mark.parametrize("refused", [False, True], ids=["known", "refused"])
def test_a_handle_stays_good_while_the_service_gives_no_newer_one(refused: bool) -> None:
    """Between two handles Gemini says that it cannot be resumed at this point: the newest one is used, until it is refused."""
    openings = [by_handles, refused_handle, by_handles] if refused else [by_handles]
    with service(*openings) as peer:
        address = peer.base_url.replace("http", "ws") + "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
        client = RealtimeClient.direct(address, "key", RealtimeConfig(resumption=True), dialect="gemini", reconnect=QUICK)
        peer.clients.append(client)
        told: list[Any] = []
        client.on(Reconnected, told.append)
        client.connect()
        talk = peer.talk()
        for update in ({"newHandle": "h1", "resumable": True}, {"resumable": False}):
            talk.raw(frame(1, json.dumps({"sessionResumptionUpdate": update}).encode()))
        client.wait_for("resumption_update", 20.0, where=lambda event: not event.resumable)
        talk.drop()
        talk = peer.talk()
        client.wait_for(Reconnected, 20.0)
        handles = [one.received[0]["setup"]["sessionResumption"].get("handle") for one in peer.all]
        assert handles == ([None, "h1", None] if refused else [None, "h1"])
        assert [event.resumed for event in told] == [not refused]


def test_what_was_written_into_a_dead_connection_is_said_once() -> None:
    """It stands in the history that the new service is given, and does not go out a second time behind it; its answer is asked for."""
    with service() as peer, peer.client(without_resumption(), reconnect=QUICK) as client:
        talk, held, go_on = peer.talk(), threading.Event(), threading.Event()

        def holds(event: Event) -> None:
            held.set()
            go_on.wait(5.0)

        client.on("unknown", holds)
        talk.say("hold.the.reader")
        assert held.wait(20.0)
        connection = client._call.connection
        assert connection is not None
        connection.abort()  # the reader learns of it when its handler returns
        client.send_text("Book the flight.")
        go_on.set()
        client.wait_for(Reconnected, 20.0)
        second = peer.talk()
        second.expect("response.create")
        items = [v["item"]["content"][0]["text"] for v in second.received if v["type"] == "conversation.item.create"]
        assert items == ["Book the flight."]


def test_a_text_that_is_its_own_request_goes_out_again_and_is_no_history() -> None:
    """Where the service answers a text by itself, history would bring no answer: the text itself is said again, and that once."""
    with service(by_handles) as peer:
        address = peer.base_url.replace("http", "ws") + "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
        client = RealtimeClient.direct(address, "key", without_resumption(), dialect="gemini", reconnect=QUICK)
        peer.clients.append(client)
        held, go_on = threading.Event(), threading.Event()
        client.on("unknown", lambda event: (held.set(), go_on.wait(5.0)))
        client.connect()
        peer.talk().raw(frame(1, b'{"holdTheReader": {}}'))
        assert held.wait(20.0)
        connection = client._call.connection
        assert connection is not None
        connection.abort()
        client.send_text("Book the flight.")
        go_on.set()
        client.wait_for(Reconnected, 20.0)
        second = peer.talk()
        client.send_event({"fence": {}})
        with second._changed:
            assert second._changed.wait_for(lambda: {"fence": {}} in second.received, 20.0)
        said = [json.dumps(value) for value in second.received if "Book the flight." in json.dumps(value)]
        assert len(said) == 1
        assert '"turnComplete": false' not in said[0]


def test_a_key_that_comes_back_in_a_close_reason_is_told_nobody() -> None:
    """Whatever the service puts into its goodbye, Closed and the errors after it say it without the credentials that it was given."""
    with service() as peer, peer.client(reconnect=False) as client:
        peer.talk().close(1008, "no such key: qai_test, sorry")
        closed = client.wait(20.0)
        assert closed.reason == "no such key: <redacted>, sorry"
        assert "qai_test" not in repr(closed)


def test_an_interrupted_write_is_noticed_at_once() -> None:
    """Nobody knows how much of the frame is out, so the connection is given up there and then, and the next one is made."""
    with service() as peer, peer.client(without_resumption(), reconnect=QUICK, ping_interval=None) as client:
        peer.talk()
        connection = client._call.connection
        assert connection is not None
        stream, write = connection._stream, connection._stream.write

        class Interrupted:
            """The stream, whose next write a signal interrupts."""

            def __getattr__(self, name: str) -> Any:
                return getattr(stream, name)

            def write(self, data: bytes) -> int:
                connection._stream = stream
                write(data[:5])
                raise KeyboardInterrupt

        connection._stream = Interrupted()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            client.send_text("Half of")
        client.wait_for(Reconnected, 20.0)


def test_history_is_given_to_a_service_that_kept_nothing() -> None:
    """Before anything that was held: what both sides said, as context, without asking for an answer."""
    with service() as peer, peer.client(without_resumption(), reconnect=QUICK) as client:
        talk = peer.talk()
        client.send_text("Hello.")
        talk.expect("response.create")
        talk.created("r1")
        talk.transcript("r1", "i1", "Hi!")
        talk.done("r1")
        client.wait_for("turn_done", 20.0)
        client.once("reconnecting", lambda event: client.send_text("And now?", respond=False))
        talk.drop()
        client.wait_for(Reconnected, 20.0)
        second = peer.talk()
        second.fence(client)
        items = [(v["item"]["role"], v["item"]["content"][0]["text"]) for v in second.received if v["type"] == "conversation.item.create"]
        assert items == [("user", "Hello."), ("assistant", "Hi!"), ("user", "And now?")]
        assert second.count("response.create") == 0


def test_an_earlier_conversation_can_be_gone_on_with() -> None:
    """connect(history=…) gives its turns as context."""
    with service() as peer:
        client = peer.client()
        client.connect(history=[Turn(number=1, user="My name is Anna.", assistant="Hello Anna.")])
        talk = peer.talk()
        talk.fence(client)
        assert [v["item"]["role"] for v in talk.received if v["type"] == "conversation.item.create"] == ["user", "assistant"]


def test_late_results_of_the_old_connection_are_dropped() -> None:
    """A tool that ends after the loss has nobody to answer: the new service does not know its call."""
    with service() as peer:
        client = peer.client(without_resumption(), reconnect=QUICK)
        started, leave = threading.Event(), threading.Event()

        @client.tool
        def slow() -> str:
            """Be slow."""
            started.set()
            leave.wait(5.0)
            return "late"

        client.connect()
        talk = peer.talk()
        talk.created("r1")
        talk.call("r1", "c1", "slow")
        talk.done("r1")
        assert started.wait(20.0)
        talk.drop()
        client.wait_for(Reconnected, 20.0)
        leave.set()
        for thread in client._call.pool.threads:
            client._call.pool.stop()
            thread.join(20.0)
        second = peer.talk()
        second.fence(client)
        assert second.outputs() == {}
        assert second.count("response.create") == 0


def test_a_service_that_is_not_ready_after_a_reconnect_is_given_up() -> None:
    """The time to readiness holds for each connection; the next try follows."""

    def deaf_once(talk: Talk) -> None:
        talk.peer.upgrade()

    with service(ready, deaf_once, ready) as peer, peer.client(reconnect=QUICK, connect_timeout=3.0) as client:
        log = Log(client)
        peer.talk().drop()
        told = client.wait_for(Reconnected, 20.0)
        assert told.attempts == 2
        assert isinstance(log.of(Reconnecting)[1].error, RealtimeTimeoutError)


def test_a_healthy_connection_renews_the_budget() -> None:
    """With a healthy time of nothing every loss has its whole budget."""
    policy = ReconnectPolicy(attempts=1, healthy=0.0)
    with service() as peer, peer.client(reconnect=policy) as client:
        for _ in range(4):
            peer.talk().drop()
            client.wait_for(Reconnected, 20.0)
        assert client.is_connected


def test_losses_in_quick_succession_use_up_one_budget() -> None:
    """A service that drops every connection at once is not dialled for ever."""
    with service() as peer, peer.client(reconnect=ReconnectPolicy(attempts=3, base=0.01, cap=0.01)) as client:
        client.on("session_ready", lambda event: peer.all[-1].drop())
        peer.talk().drop()
        closed = client.wait(20.0)
        assert closed.meaning == "lost"
        assert peer.server.accepted <= 5


def test_a_handler_may_close_when_it_hears_of_the_loss() -> None:
    """Then nothing is dialled any more."""
    with service() as peer, peer.client(reconnect=QUICK) as client:
        client.on("reconnecting", lambda event: client.close())
        peer.talk().drop()
        assert client.wait(20.0).by == "client"
        assert peer.server.accepted == 1


def test_handlers_and_their_registrations_survive() -> None:
    """What was registered before hears the new connection too, with the same ids in the turns."""
    with service() as peer, peer.client(without_resumption(), reconnect=QUICK) as client:
        heard: list[str] = []
        client.on("transcript_done", lambda event: heard.append(event.transcript))
        talk = peer.talk()
        talk.created("r1")
        talk.transcript("r1", "i1", "One.")
        talk.done("r1")
        client.wait_for("response_done", 20.0)
        talk.drop()
        client.wait_for(Reconnected, 20.0)
        talk = peer.talk()
        talk.created("r2")
        talk.transcript("r2", "i2", "Two.")
        talk.done("r2")
        client.wait_for(TranscriptDone, 20.0, where=lambda event: event.transcript == "Two.")
        assert heard == ["One.", "Two."]


@pytest.mark.parametrize("moment", ["idle", "answer", "speech"])
def test_a_connection_that_dies_in_any_moment_comes_back(moment: str) -> None:
    """By a reset of the network, while nothing happens, while it answers, while the user speaks."""
    with service() as peer, peer.client(without_resumption(), reconnect=QUICK) as client:
        talk = peer.talk()
        if moment == "answer":
            talk.created("r1")
            talk.audio("r1", "i1", bytes(480))
            client.wait_for("audio_delta", 20.0)
        if moment == "speech":
            talk.say("input_audio_buffer.speech_started", item_id="u1")
            client.wait_for("speech_started", 20.0)
            client.send_audio(bytes(9600))
        talk.drop()
        client.wait_for(Reconnected, 20.0)
        talk = peer.talk()
        client.send_text("still here")
        talk.expect("response.create")
        assert client.is_connected


def test_many_losses_leave_nothing() -> None:
    """Thirty connections, one after the other: the same three threads, one socket."""
    with service() as peer, peer.client(without_resumption(), reconnect=ReconnectPolicy(healthy=0.0)) as client:
        threads = {t.name for t in threading.enumerate() if t.name.startswith("qai-")}
        for number in range(30):
            talk = peer.talk()
            client.send_text(f"text {number}", respond=False)
            talk.expect("conversation.item.create")
            talk.drop()
            client.wait_for(Reconnected, 20.0)
        assert {t.name for t in threading.enumerate() if t.name.startswith("qai-")} <= threads | {"qai-lane"}
        assert client.outbox.waiting == 0


def test_what_came_together_with_the_last_wanted_event_is_not_told() -> None:
    """A handler that aborts ends the conversation at that event, also if others had arrived in the same packet."""
    with service() as peer:
        client = peer.client(reconnect=False)
        heard: list[str] = []

        @client.on(TranscriptDone)
        def last(event: TranscriptDone) -> None:
            heard.append(event.transcript)
            if event.transcript == "7":
                client.abort()

        client.connect()
        kind = "response.output_audio_transcript.done"
        said = [{"type": kind, "response_id": "r", "item_id": f"i{n}", "content_index": 0, "transcript": str(n)} for n in range(20)]
        peer.talk().raw(b"".join(frame(1, json.dumps(event).encode()) for event in said))
        client.wait(10.0)
    assert heard == [str(n) for n in range(8)]
