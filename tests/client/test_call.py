"""How events reach handlers in a real conversation: order, failures, threads, and exactly one end."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.errors import ConnectionClosedError, NotConnectedError, RealtimeError
from qai_realtime_sync.events import Closed, Event, HandlerFailed, PlaybackStopped, ResponseDone, StateChanged, Unknown
from tests.servers import Talk, service
from tests.transport.peer import frame


def names(events: list[Event]) -> list[str]:
    return [event.event_name for event in events]


class Log:
    """Every event of a client, in the order in which a handler of all events heard it."""

    def __init__(self, client: RealtimeClient) -> None:
        self.events: list[Event] = []
        client.on(Event, self.events.append)

    def of(self, cls: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, cls)]


def test_events_reach_handlers_in_order_on_the_readers_thread() -> None:
    """What the service says is heard as it was said, one event at a time."""
    with service() as peer, peer.client() as client:
        talk, log, threads = peer.talk(), Log(client), set()
        client.on("unknown", lambda event: threads.add(threading.current_thread().name))
        for number in range(200):
            talk.say("new.kind", number=number)
        client.wait_for("unknown", 20.0, where=lambda event: event.raw["number"] == 199)
        assert [event.raw["number"] for event in log.of(Unknown)] == list(range(200))
        assert threads == {"qai-reader"}


def test_what_is_not_understood_is_an_event_and_not_the_end() -> None:
    """Unknown kinds, broken JSON, JSON of another shape, binary garbage: each is told, and the conversation lives."""
    with service() as peer, peer.client() as client:
        talk, log = peer.talk(), Log(client)
        talk.raw(
            frame(1, b'{"type": "brand.new", "event_id": "e"}'),
            frame(1, b'{"type": '),
            frame(1, b"[1, 2]"),
            frame(1, b"7"),
            frame(1, b"null"),
            frame(1, b""),
            frame(1, b'{"type": 5}'),
            frame(1, b'{"kind": "x"}'),
            frame(1, b'{"type": "response.output_audio.delta", "delta": "!!!"}'),
            frame(1, b'{"type": "response.done"}'),
            frame(2, bytes(range(256))),
            frame(2, b"\xff\xfe\x00"),
            frame(1, b"[" * 5000),
        )
        talk.say("last.one")
        client.wait_for("unknown", 20.0, where=lambda event: event.type == "last.one")
        told = log.of(Unknown)
        assert told[0].type == "brand.new"
        assert told[0].problem is None
        assert all(event.problem for event in told[1:6])
        assert len(told) >= 12
        assert client.is_connected


def test_the_clients_own_part_comes_before_every_handler() -> None:
    """A handler of response.done already sees a client that has no answer running."""
    seen: list[bool] = []
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        client.on("response_created", lambda event: seen.append(client._call.is_busy))
        client.on("response_done", lambda event: seen.append(client._call.is_busy))
        talk.created("r1")
        talk.done("r1")
        client.wait_for("response_done", 20.0)
        talk.fence(client)
    assert seen == [True, False]


def test_background_handlers_keep_their_order_and_do_not_hold_the_reader() -> None:
    """A slow one delays only the lane; it may wait for events, which a handler on the reader may not."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        order: list[tuple[int, str]] = []
        waited: list[Event] = []

        def slow(event: Event) -> None:
            if not order:
                waited.append(client.wait_for("unknown", 20.0, where=lambda event: event.type == "go.on"))
            order.append((event.raw["number"], threading.current_thread().name))

        client.on("unknown", slow, background=True)
        for number in range(5):
            talk.say("new.kind", number=number)
        client.wait_for("unknown", 20.0, where=lambda event: event.raw.get("number") == 4)
        assert order == []
        talk.say("go.on", number=5)
        client.wait_for("unknown", 20.0, where=lambda event: event.type == "go.on")
    assert order == [(number, "qai-lane") for number in range(6)]
    assert len(waited) == 1


def test_a_background_handler_that_does_not_keep_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Once a thousand events wait for it the log says so, with its name, and once for all of them."""
    with service() as peer, peer.client() as client:
        talk, gate = peer.talk(), threading.Event()

        def crawls(event: Event) -> None:
            gate.wait(30.0)

        client.on("unknown", crawls, background=True)
        for number in range(1500):
            talk.say("new.kind", number=number)
        client.wait_for("unknown", 30.0, where=lambda event: event.raw["number"] == 1499)
        assert client.metrics.background_waiting >= 1000
        gate.set()
    (record,) = [record for record in caplog.records if "wait for background handlers" in record.message]
    assert "crawls" in record.message
    assert record.levelname == "WARNING"


def test_a_handler_that_fails_is_logged_told_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    """Its name and traceback are logged, HandlerFailed tells the program, and the next handler and event still come."""
    with service() as peer, peer.client() as client:
        talk, log = peer.talk(), Log(client)

        def broken(event: Event) -> None:
            raise LookupError("oops")

        client.on("unknown", broken)
        heard: list[Event] = []
        client.on("unknown", heard.append)
        talk.say("one")
        talk.say("two")
        failed = client.wait_for("handler_failed", 20.0)
        client.wait_for("handler_failed", 20.0)
        talk.fence(client)
        assert failed.handler.endswith("broken")
        assert isinstance(failed.error, LookupError)
        assert failed.event is heard[0]
        assert len(heard) == 2
        assert names(log.events)[-4:] == ["unknown", "handler_failed", "unknown", "handler_failed"]
        assert client.is_connected
    records = [record for record in caplog.records if "broken failed on unknown" in record.message]
    assert len(records) == 2
    assert records[0].exc_info is not None


def test_a_handler_of_failures_that_fails_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Its failure is not told to itself again."""

    def broken(event: Event) -> None:
        raise LookupError("oops")

    with service() as peer, peer.client() as client:
        talk, log = peer.talk(), Log(client)
        client.on("unknown", broken)
        client.on("handler_failed", broken)
        talk.say("one")
        client.wait_for("handler_failed", 20.0)
        talk.say("two")
        client.wait_for("handler_failed", 20.0)
        talk.fence(client)
        assert len(log.of(HandlerFailed)) == 2
    assert len([record for record in caplog.records if "broken failed on handler_failed" in record.message]) == 2


def fail(event: Event) -> None:
    raise LookupError("oops")


def leave(event: Event) -> None:
    raise SystemExit(3)


def test_the_policy_raise_hands_the_failure_to_whoever_waits() -> None:
    """The conversation lives on; who waits next gets what the handler raised."""
    with service() as peer, peer.client(on_handler_error="raise") as client:
        talk = peer.talk()
        client.on("unknown", fail)
        talk.say("one")
        with pytest.raises(LookupError, match="oops"):
            client.wait_for("response_done", 20.0)
        assert client.is_connected


def test_the_policy_close_ends_the_conversation() -> None:
    """In an orderly way, and it is told before the end."""
    with service() as peer, peer.client(on_handler_error="close") as client:
        talk, log = peer.talk(), Log(client)
        client.on("unknown", fail)
        talk.say("one")
        closed = client.wait(20.0)
        assert (closed.by, closed.code, closed.clean) == ("client", 1000, True)
        assert names(log.events)[-4:] == ["handler_failed", "state_changed", "state_changed", "closed"] or "handler_failed" in names(
            log.events
        )
        assert talk.over.wait(20.0)


def test_a_handler_that_wants_to_exit_ends_the_conversation_and_the_wait() -> None:
    """sys.exit in a handler means the program: it closes, and comes out of wait()."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        client.on("unknown", leave)
        talk.say("one")
        with pytest.raises(SystemExit) as caught:
            client.wait(20.0)
        assert caught.value.code == 3
        assert client.wait(20.0).by == "client"


def test_a_slow_handler_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """More than 100 ms on the reader's thread delay everybody."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        gate = threading.Event()

        def dawdle(event: Event) -> None:
            gate.wait(0.15)

        client.on("unknown", dawdle)
        with caplog.at_level(logging.WARNING):
            talk.say("one")
            client.wait_for("unknown", 20.0)
            talk.say("two")
            client.wait_for("unknown", 20.0)
    assert any("dawdle for unknown held up the conversation" in record.message for record in caplog.records)


def test_what_ended_the_conversation_is_told_with_its_end() -> None:
    """With on_handler_error='close' the last event names the handler's exception."""
    with service() as peer, peer.client(on_handler_error="close") as client:

        @client.on("unknown")
        def broken(event: Event) -> None:
            raise LookupError("mine")

        peer.talk().say("one")
        closed = client.wait(20.0)
        assert (closed.by, closed.meaning, repr(closed.error)) == ("client", "normal", "LookupError('mine')")


def test_before_connect_nobody_waits_for_nothing() -> None:
    """A stream may be made early; what would wait says at once what is missing."""
    client = RealtimeClient("qai_x")
    stream = client.events()
    for wait in (lambda: next(stream), lambda: client.wait_for("closed", 20.0), client.next_event, client.wait):
        with pytest.raises(NotConnectedError, match=r"call connect\(\) first"):
            wait()


@pytest.mark.parametrize("what", ["wait_for", "wait", "next_event", "ask", "drain"])
def test_waiting_in_a_handler_raises_at_once_and_names_the_way_out(what: str) -> None:
    """It would wait for what comes on its own thread."""
    calls = {
        "wait_for": lambda c: c.wait_for("response_done", 5.0),
        "wait": lambda c: c.wait(5.0),
        "next_event": lambda c: c.next_event(5.0),
        "ask": lambda c: c.ask("hello", 5.0),
        "drain": lambda c: c.drain(5.0),
    }
    with service() as peer, peer.client() as client:
        talk, raised = peer.talk(), []

        def handler(event: Event) -> None:
            started = time.monotonic()
            try:
                calls[what](client)
            except RealtimeError as error:
                raised.append((error, time.monotonic() - started))

        client.on("unknown", handler)
        talk.say("one")
        client.wait_for("unknown", 20.0)
        talk.fence(client)
        ((error, took),) = raised
        assert error.code == "called_in_handler"
        assert "background=True" in str(error)
        assert took < 4.0


def test_a_handler_may_do_everything_else() -> None:
    """Send, register, remove, look: nothing waits for the reader."""
    with service() as peer, peer.client() as client:
        talk, done = peer.talk(), threading.Event()

        def handler(event: Event) -> None:
            client.off("unknown", handler)
            client.on("unknown", lambda event: done.set())
            client.once("error", print)
            client.send_text("hello")
            client.send_audio(b"\0\0")
            client.interrupt()
            assert client.state == "open"
            assert client.outbox.failed == 0
            assert client.conversation is not None

        client.on("unknown", handler)
        talk.say("one")
        talk.expect("response.create")
        talk.say("two")
        assert done.wait(20.0)


def test_handlers_never_run_on_a_thread_of_the_program() -> None:
    """A lock that the program holds around a call cannot lock out a handler that wants it: the call returns first."""
    lock = threading.Lock()
    ran: list[str] = []

    def handler(event: Event) -> None:
        with lock:
            ran.append(threading.current_thread().name)

    with service() as peer:
        client = peer.client()
        client.connect()
        peer.talk()
        client.on("state_changed", handler)
        client.on("playback_stopped", handler)
        with lock:
            client._call.announce(PlaybackStopped(response_id="r", item_id="i", heard_ms=0, reason="interrupt"))
        client.wait_for("playback_stopped", 20.0)
        with lock:
            client.abort()
        client.wait(20.0)
    assert len(ran) >= 3
    assert set(ran) <= {"qai-teller", "qai-reader"}


def test_states_are_told_once_numbered_and_in_order() -> None:
    """Each transition's old state is the one before, however it came about."""
    with service() as peer:
        client = peer.client()
        log = Log(client)
        with client:
            peer.talk()
        states = log.of(StateChanged)
        assert [(s.old, s.new) for s in states] == [
            ("idle", "connecting"),
            ("connecting", "handshaking"),
            ("handshaking", "open"),
            ("open", "closing"),
            ("closing", "closed"),
        ]
        assert [s.number for s in states] == [1, 2, 3, 4, 5]
        assert isinstance(log.events[-1], Closed)


# -- the end ---------------------------------------------------------------------------------------------------------------------


def by_close(client: RealtimeClient, talk: Talk) -> None:
    client.close(4001, "done here")


def by_abort(client: RealtimeClient, talk: Talk) -> None:
    client.abort()


def by_service(client: RealtimeClient, talk: Talk) -> None:
    talk.close(1000, "bye")


def by_policy(client: RealtimeClient, talk: Talk) -> None:
    talk.close(1008, "session duration limit reached")


def by_drop(client: RealtimeClient, talk: Talk) -> None:
    talk.drop()


def by_garbage(client: RealtimeClient, talk: Talk) -> None:
    talk.raw(frame(1, b"x", reserved=7))


@pytest.mark.parametrize(
    ("way", "code", "reason", "clean", "by", "meaning", "state"),
    [
        (by_close, 4001, "done here", True, "client", "normal", "closed"),
        (by_abort, 1006, "", False, "client", "normal", "closed"),
        (by_service, 1000, "bye", True, "service", "normal", "closed"),
        (by_policy, 1008, "session duration limit reached", True, "service", "session_cap", "failed"),
        (by_drop, None, "", False, "network", "lost", "failed"),
        (by_garbage, 1002, None, False, "service", "bad_request", "failed"),
    ],
)
def test_there_is_exactly_one_end_however_it_comes(
    way: Any, code: int | None, reason: str | None, clean: bool, by: str, meaning: str, state: str
) -> None:
    """Closed is the last event, tells code, reason, who and what it means, and everything raises or returns from then on."""
    with service() as peer:
        client = peer.client(reconnect=False)
        log = Log(client)
        client.connect()
        talk = peer.talk()
        stream = client.events()
        way(client, talk)
        closed = client.wait(20.0)
        assert client.wait(1.0) is closed
        assert (closed.code, closed.clean, closed.by, closed.meaning) == (code, clean, by, meaning)
        if reason is not None:
            assert closed.reason == reason
        assert closed.unsent == ()
        assert list(stream)[-1] is closed
        for thread in (client._call.reader, client._call.lane.thread):
            if thread is not None:
                thread.join(20.0)
        assert log.of(Closed) == [closed]
        assert log.events[-1] is closed
        assert client.state == state
        with pytest.raises(ConnectionClosedError, match="before response_done came"):
            client.wait_for(ResponseDone, 1.0)
        with pytest.raises(NotConnectedError):
            client.send_text("too late")
        client.close()
        assert log.of(Closed) == [closed]


def test_what_never_left_is_in_the_end() -> None:
    """Commands that waited when the client was aborted come back to the program."""
    with service() as peer:
        client = peer.client()
        client.connect()
        peer.talk()
        client._call.outbox.pause(client._call.connection)
        client.send_text("hello", respond=False)
        client.send_audio(bytes(48000))
        client.abort()
        closed = client.wait(20.0)
        assert [command.to_dict()["text"] for command in closed.unsent] == ["hello"]
        assert closed.dropped_audio == 1.0


def test_nothing_comes_after_the_end() -> None:
    """A tool that fails later, and a handler of the end that fails, are logged, not told."""
    with service() as peer:
        client = peer.client()
        log = Log(client)
        started, leave = threading.Event(), threading.Event()

        @client.tool
        def late() -> None:
            """Be late."""
            started.set()
            leave.wait(5.0)
            raise LookupError("too late")

        client.on("closed", fail)
        client.connect()
        talk = peer.talk()
        talk.created("r1")
        talk.call("r1", "c1", "late")
        assert started.wait(20.0)
        client.abort()
        client.wait(20.0)
        leave.set()
        for thread in client._call.pool.threads:
            thread.join(20.0)
        if client._call.teller.thread is not None:
            client._call.teller.thread.join(20.0)
        assert isinstance(log.events[-1], Closed)
        assert log.of(HandlerFailed) == []


def test_a_bug_of_our_own_does_not_keep_an_event_from_the_program(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the client's own part in an event fails, that is logged, and its handlers run."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        monkeypatch.setattr(client._call.turns, "told", lambda event, at: 1 / 0)
        talk.say("input_audio_buffer.speech_started", item_id="u1")
        client.wait_for("speech_started", 20.0)
        monkeypatch.undo()
        client._call.observers += (lambda what, at: 1 / 0,)  # type: ignore[arg-type, return-value]
        talk.say("two")
        talk.say("three")
        client.wait_for("unknown", 20.0, where=lambda event: event.type == "three")
        client._call.observers = ()
    messages = [record.message for record in caplog.records]
    assert "the client's own part in the event speech_started failed" in messages
    assert "the event unknown could not be delivered" in messages
