"""Telephone calls over real sockets: a caller, a Flask app with the bridge, and the local server."""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import socket
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import ApiError, ConfigError, ConnectionClosedError, NotConnectedError, RealtimeClient, transport
from qai_realtime_sync.audio import level, ulaw_encode
from qai_realtime_sync.contrib import twilio_call
from qai_realtime_sync.contrib.twilio import CallEnd, CallStart, bridge
from qai_realtime_sync.testing.telephone import FakeCaller
from tests.contrib.phone import PATIENCE, Line, exchange, speech, telephone_config

pytest.importorskip("werkzeug", reason="the local server needs werkzeug")

from qai_realtime_sync.offline import RealtimeServer, Script

KEY = "qai_phone"
STORY = " ".join(f"Sentence number {number} of a story that nobody will hear to its end." for number in range(1, 30))


@pytest.fixture
def server() -> Iterator[RealtimeServer]:
    """A server without voices that tells a long story when it is asked for one."""
    script = Script()
    script.on_text("story").say(STORY)
    script.on_text("short").say("Yes, of course, that is no problem at all, and thank you for your call.")
    with RealtimeServer(light=True, key=KEY, script=script) as running:
        yield running


class Clients:
    """Makes a client for each call, and has the newest."""

    def __init__(self, server: RealtimeServer, **options: Any) -> None:
        self._server, self._options = server, options
        self._ready: queue.Queue[RealtimeClient] = queue.Queue()
        self.starts: list[CallStart] = []

    def make(self) -> RealtimeClient:
        """A client that speaks µ-law with the server."""
        client = RealtimeClient(KEY, telephone_config(), base_url=self._server.url, **self._options)
        client.once("session_ready", lambda event: self._ready.put(client))
        return client

    def __call__(self, start: CallStart) -> RealtimeClient:
        self.starts.append(start)
        return self.make()

    def newest(self) -> RealtimeClient:
        """The client of the call, once the service is ready."""
        return self._ready.get(timeout=PATIENCE)


class OnLine:
    """A bridge in a thread of its own, and what came of it."""

    def __init__(self, line: Line, client: Any, **options: Any) -> None:
        self.end: CallEnd | None = None
        self.error: BaseException | None = None
        self._arguments = (line, client, options)
        self._thread = threading.Thread(target=self._run, name="bridge")
        self._thread.start()

    def _run(self) -> None:
        line, client, options = self._arguments
        try:
            self.end = bridge(line, client, **options)
        except Exception as error:
            self.error = error

    def ended(self) -> CallEnd:
        """Wait for the end; raises what the bridge raised."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        assert self.end is not None
        return self.end


# -- talking -----------------------------------------------------------------------------------------------------------------------


def test_a_question_gets_an_answer(server: RealtimeServer) -> None:
    """What the caller says reaches the service as it is, in µ-law, and its answer is heard at once, without a gap in it."""
    clients, deltas = Clients(server), []
    with exchange(clients) as phone, FakeCaller(phone.url) as caller:
        caller.say(speech(1.0))
        client = clients.newest()
        client.on_audio_delta(lambda event: deltas.append(time.monotonic()))
        answer = caller.wait_for_sound(0.5, after=caller.wait_until_said())
        assert answer.arrived - deltas[0] < 3.0  # 0.3 is promised to a machine that has nothing else to do
        client.wait_for("playback_stopped", PATIENCE)
        caller.hang_up()
        end = phone.ended()
    assert caller.problems == []
    assert (end.reason, end.closed is not None) == ("hung_up", True)
    assert end.heard_ms == pytest.approx(caller.heard_seconds * 1000, abs=1)
    assert level(caller.recording()) > 0.01
    assert (client.config.output_format, client._call.sound.converts_incoming) == ("g711_ulaw", False)


def test_a_spoken_question_gets_a_spoken_answer() -> None:
    """Words that were said over 8 kHz µ-law are understood and answered in words."""
    for name in ("hibari", "pocketsphinx"):
        pytest.importorskip(name, reason=f"no voice without {name}")
    from qai_realtime_sync.offline import caller_voice

    said: list[tuple[str, str]] = []
    with RealtimeServer(key=KEY) as server, exchange(Clients(server)) as phone:
        caller = FakeCaller(phone.url).dial()
        try:
            caller.say(*caller_voice("What can you do for me this morning?"))
            caller.wait_for_sound(1.0, after=caller.wait_until_said())
        finally:
            caller.hang_up()
        phone.ended()
        for item in server.conversations[0]["items"]:
            said.append((item["role"], item["text"]))
    assert said[0][0] == "user"
    assert "what can you do" in said[0][1]
    assert "answer small questions" in said[1][1]


@pytest.mark.parametrize("marks", [True, False])
def test_barge_in_clears_and_cuts_at_what_was_heard(server: RealtimeServer, marks: bool) -> None:
    """The caller speaks: what waits at Twilio is cleared, and the service keeps what was heard; by the clock where no marks come."""
    clients = Clients(server)
    with exchange(clients) as phone, FakeCaller(phone.url, marks=marks) as caller:
        client = clients.newest()
        client.send_text("Tell me the story")
        caller.wait_for_sound(1.2)
        assert caller.clears == []
        caller.say(speech(0.5))
        stopped = client.wait_for("playback_stopped", PATIENCE)
        truncated = client.wait_for("item_truncated", PATIENCE)
        caller.wait_for_clear()
        heard_ms = caller.heard_seconds * 1000
        caller.hang_up()
        phone.ended()
    (story,) = [item for item in server.conversations[0]["items"] if item.get("truncated_ms") is not None]
    assert stopped.reason == "barge_in"
    assert story["truncated_ms"] == truncated.audio_end_ms == stopped.heard_ms
    # A fifth of it is promised to a machine that has nothing else to do.
    assert stopped.heard_ms == pytest.approx(heard_ms, abs=1500)
    assert caller.problems == []


def test_nothing_of_a_cleared_answer_is_heard(server: RealtimeServer) -> None:
    """What had been queued here when the caller spoke is not sent after the clear; the next answer is heard from its beginning."""
    clients = Clients(server)
    line = Line()
    on_line = OnLine(line, clients)
    line.starts()
    client = clients.newest()
    client.send_text("Tell me the story")
    line.wait_for("media", 10)
    client.interrupt()
    line.wait_for("clear")
    with line.changed:
        assert line.sent[-1]["event"] == "clear"
    client.wait_for("response_done", PATIENCE)
    before = len(line.wait_for("media"))
    client.send_text("A short one")
    client.wait_for("response_done", PATIENCE)
    line.wait_for("media", before + 1)
    line.says({"event": "stop", "stop": {}})
    on_line.ended()
    at = next(at for at, message in enumerate(line.sent) if message["event"] == "clear")
    assert line.sent[at + 1]["event"] == "media"
    assert {message["streamSid"] for message in line.sent} == {"MZ1"}


def test_where_the_service_has_no_u_law_the_client_converts() -> None:
    """Gemini sends 24 kHz and takes 16 kHz PCM: the caller speaks and hears µ-law all the same."""
    with RealtimeServer(light=True, dialect="gemini") as server:
        client = RealtimeClient.direct(server.ws_url, "any", telephone_config(), dialect="gemini")
        with exchange(client) as phone, FakeCaller(phone.url) as caller:
            caller.say(speech(1.0))
            caller.wait_for_sound(0.5, after=caller.wait_until_said())
            caller.hang_up()
            phone.ended()
    assert caller.problems == []
    assert level(caller.recording()) > 0.01
    assert client._call.sound.converts_incoming


# -- what Twilio tells -------------------------------------------------------------------------------------------------------------


def test_a_call_tells_who_it_is(server: RealtimeServer) -> None:
    """The ids and the parameters of the TwiML are known before the client is made, and when both are connected."""
    clients = Clients(server)
    begun: list[CallStart] = []
    with exchange(clients, on_start=begun.append) as phone, FakeCaller(phone.url, parameters={"caller": "+1 555 <0100>"}) as caller:
        clients.newest()
        caller.hang_up()
        end = phone.ended()
    assert clients.starts == begun == [end.start]
    assert begun[0] == CallStart(
        stream_sid=caller.stream_sid, call_sid=caller.call_sid, account_sid=caller.account_sid, parameters={"caller": "+1 555 <0100>"}
    )


def test_keys_go_to_the_handler_and_numbers_to_the_model(
    server: RealtimeServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key is told at once, a handler that raises ends nothing, and the keys of one number are one message."""
    monkeypatch.setattr(twilio_call, "_BETWEEN_DIGITS", 2.0)
    pressed: list[str] = []
    told = threading.Event()

    def on_digit(digit: str) -> None:
        pressed.append(digit)
        if digit == "#":
            raise RuntimeError("the program's own mistake")

    clients = Clients(server)
    with exchange(clients, on_digit=on_digit, tell_digits=True) as phone, FakeCaller(phone.url) as caller:
        client = clients.newest()
        client.on("response_done", lambda event: told.set())
        caller.press("42#")
        assert told.wait(PATIENCE)
        caller.hang_up()
        phone.ended()
    assert pressed == ["4", "2", "#"]
    assert server.conversations[0]["items"][0]["text"] == "I pressed these keys on the telephone: 4 2 #"
    assert "on_digit failed" in caplog.text
    assert "the program's own mistake" in caplog.text


def test_what_is_no_message_does_not_end_the_call(server: RealtimeServer, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown events, wrong shapes, broken base64 and marks nobody asked for are passed over; what is wrong is logged once."""
    clients, line = Clients(server), Line()
    line.says({"event": "media", "media": {"payload": "before the start"}}, {"event": "stop"}, "nonsense")
    on_line = OnLine(line, clients)
    line.starts()
    clients.newest()
    wrong: list[Any] = ["{", "[" * 100_000, "[]", "null", "7", b"\xff\xfe", "{}"]
    wrong += ['{"event": []}', '{"event": "media"}', '{"event": "media", "media": 7}']
    line.says(*wrong * 2)
    for payload in ("***", "abc", None, 7, ["x"], "ÿÿÿÿ"):
        line.says({"event": "media", "media": {"payload": payload}})
    line.says({"event": "mark", "mark": {"name": "never sent"}}, {"event": "mark"}, {"event": "dtmf", "dtmf": {}}, {"event": "hold"})
    line.says({"event": "media", "media": {"track": "outbound", "payload": "not ours"}}, {"event": "start"})
    spoken = ulaw_encode(speech(0.8)) + b"\xff" * 12000
    line.says(*media(spoken))
    line.wait_for("media")  # the answer
    line.says({"event": "stop", "stop": {}})
    assert on_line.ended().reason == "hung_up"
    assert len([record for record in caplog.records if "no message of a media stream" in record.message]) == 1


def media(line: bytes) -> list[dict[str, Any]]:
    """Sound as Twilio sends it."""
    return [
        {"event": "media", "media": {"track": "inbound", "payload": base64.b64encode(line[at : at + 160]).decode()}}
        for at in range(0, len(line), 160)
    ]


def test_a_burst_is_not_lost(server: RealtimeServer) -> None:
    """Twenty seconds of sound that come at once, and before the service is connected, all reach it."""
    clients, line = Clients(server), Line()
    line.starts()
    line.says(*media(b"\xff" * 20 * 8000), {"event": "stop", "stop": {}})
    end = OnLine(line, clients).ended()
    assert end.reason == "hung_up"
    (sound,) = [entry for entry in server.journal if entry["name"] == "input_audio_buffer.append"]
    assert sound["audio"] == 20 * 8000


# -- ends --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "reason"), [("hang up", "hung_up"), ("drop", "lost"), ("close", "closed"), ("service", "closed"), ("stop alone", "hung_up")]
)
def test_however_a_call_ends_it_is_billed_once(how: str, reason: str) -> None:
    """Hanging up, a lost socket, a client that is closed and a service that goes away: the session is settled exactly once."""
    with RealtimeServer(light=True, key=KEY, session_cap=3.0 if how == "service" else None) as server:
        clients = Clients(server, mint=True, provider="xai", reconnect=False)
        with exchange(clients) as phone, FakeCaller(phone.url) as caller:
            client = clients.newest()
            if how == "hang up":
                caller.hang_up()
            elif how == "drop":
                caller.drop()
            elif how == "close":
                client.close()
            elif how == "stop alone":
                caller.send_raw(json.dumps({"event": "stop", "streamSid": caller.stream_sid}))
            end = phone.ended()
            caller.wait_for_end()
        assert end.reason == reason
        assert [session["ended"] for session in server.ledger.sessions()] == [1]
        assert len([request for request in server.ledger.requests() if request["path"].endswith("/end")]) == 1


def test_what_was_said_last_is_heard(server: RealtimeServer) -> None:
    """A client that closes itself after its goodbye does not cut it off: the stream is closed when the caller has heard it."""
    clients = Clients(server)
    with exchange(clients) as phone, FakeCaller(phone.url) as caller:
        client = clients.newest()
        answer = client.ask("A short one", timeout=PATIENCE)
        before = caller.heard_seconds
        client.close()
        end = phone.ended()
        caller.wait_for_end()
    assert (end.reason, end.closed.by if end.closed else "") == ("closed", "client")
    assert before + 0.2 < caller.heard_seconds == pytest.approx(len(answer.audio) / 8000)
    assert end.heard_ms == pytest.approx(caller.heard_seconds * 1000, abs=1)


def test_last_words_are_bounded(server: RealtimeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long story a caller does not hear minutes after the conversation has ended; and nothing once the process is told to end."""
    monkeypatch.setattr(twilio_call, "_LAST_WORDS", 0.5)
    clients = Clients(server)
    with exchange(clients) as phone:
        for code in (1000, 1001):
            with FakeCaller(phone.url) as caller:
                client = clients.newest()
                client.send_text("Tell me the story")
                caller.wait_for_sound(0.2)
                client.close(code)
                closed = time.monotonic()
                assert phone.ended().reason == "closed"
                caller.wait_for_end()
                assert time.monotonic() - closed < 6.0
                assert caller.heard_seconds < 6.0


def test_a_client_that_is_closed_while_it_connects(server: RealtimeServer) -> None:
    """It is the end of the call, and no error of the bridge."""
    client = RealtimeClient(KEY, telephone_config(), base_url=server.url)
    client.on("session_ready", lambda event: client.close())
    line = Line()
    line.starts()
    on_line = OnLine(line, client, on_start=lambda start: client.send_text("Hello"))
    end = on_line.ended()
    assert (end.reason, end.closed.by if end.closed else "") == ("closed", "client")


def test_what_on_start_does_with_others_is_its_own(server: RealtimeServer) -> None:
    """An error about another client comes out of the bridge; only one about the call's own is its end."""
    line, other, clients = Line(), RealtimeClient(KEY), Clients(server)
    other.close()
    call = OnLine(line, clients, on_start=lambda start: other.send_text("Somebody calls."))
    line.starts()
    with pytest.raises(NotConnectedError):
        call.ended()
    assert clients.newest().state == "closed"
    assert line.closed.is_set()


def test_a_client_that_ends_while_it_is_greeted(server: RealtimeServer) -> None:
    """A client takes nothing more a moment before its state says so: what it refuses then is the end of the call, not an error."""
    line, clients = Line(), Clients(server)

    def greet(start: CallStart) -> None:
        threading.Timer(0.2, clients.newest().close).start()
        raise NotConnectedError("send_text cannot be sent: the conversation is over")

    call = OnLine(line, clients, on_start=greet)
    line.starts()
    end = call.ended()
    assert (end.reason, end.closed.by if end.closed else "") == ("closed", "client")


def test_a_refused_client_ends_the_call(server: RealtimeServer) -> None:
    """What `connect` raises reaches the program, and the WebSocket is closed, so that Twilio goes on."""
    line = Line()
    line.starts()
    with pytest.raises(ApiError):
        bridge(line, RealtimeClient("another key", telephone_config(), base_url=server.url))
    assert line.closed.is_set()


def test_a_client_of_another_format_is_refused(server: RealtimeServer) -> None:
    """A telephone speaks µ-law: a client that does not is told how to be made, before anything is connected."""
    line = Line()
    line.starts()
    client = RealtimeClient(KEY, base_url=server.url)
    with pytest.raises(ConfigError, match='input_format="g711_ulaw"'):
        bridge(line, client)
    assert line.closed.is_set()
    assert server.conversations == []


@pytest.mark.parametrize(
    ("client", "options", "words"),
    [
        (lambda start: None, {}, "returns one, not NoneType"),
        (lambda start: RealtimeClient(KEY, telephone_config()), {"ahead": 0.0}, "ahead must be 0.02"),
        (lambda start: RealtimeClient(KEY, telephone_config()), {"ahead": float("nan")}, "ahead must be 0.02"),
        (lambda start: RealtimeClient(KEY, telephone_config()), {"patience": 0.0}, "patience above 0"),
    ],
)
def test_what_could_never_be_heard_is_refused(client: Any, options: dict[str, Any], words: str) -> None:
    """A function that returns no client, and times with which nothing would ever be sent, are named; the WebSocket is closed."""
    line = Line()
    line.starts()
    with pytest.raises(ConfigError, match=words):
        bridge(line, client, **options)
    assert line.closed.is_set()


def test_a_client_that_is_over_is_refused(server: RealtimeServer) -> None:
    """One client is one call."""
    client = RealtimeClient(KEY, telephone_config(), base_url=server.url)
    client.connect()
    client.close()
    line = Line()
    line.starts()
    with pytest.raises(NotConnectedError):
        bridge(line, client)


def test_a_connected_client_is_taken(server: RealtimeServer) -> None:
    """A client may be connected before the call, so that the caller does not wait for it; it is closed with the call."""
    with RealtimeClient(KEY, telephone_config(), base_url=server.url) as client:
        line = Line()
        line.starts()
        line.says({"event": "stop", "stop": {}})
        assert bridge(line, client).reason == "hung_up"
        assert client.state == "closed"


def test_closing_is_no_part_of_the_call(server: RealtimeServer) -> None:
    """What a call lasted and what was heard of it are counted to the moment it ended, however long its client takes to close."""
    clients, now = Clients(server), [100.0]

    def make(start: CallStart) -> RealtimeClient:
        client = clients(start)
        client.on_closed(lambda event: now.append(now[-1] + 2.5))  # the time that a handler takes
        return client

    line = Line()
    waiting: Any = types.SimpleNamespace(receive=lambda: line.receive(), send=line.send, close=line.close)  # the clock stands still
    call = OnLine(waiting, make, clock=lambda: now[-1])
    line.starts()
    clients.newest().send_text("Tell me a story.")
    line.wait_for("media", 20)
    now.append(now[-1] + 0.1)
    line.says({"event": "stop", "stop": {}})
    end = call.ended()
    assert end.reason == "hung_up"
    assert end.seconds == pytest.approx(0.1)
    assert end.heard_ms == pytest.approx(100)


def test_who_hangs_up_in_the_middle_of_an_answer_has_hung_up(server: RealtimeServer) -> None:
    """That sending fails then does not make a lost line of it: the goodbye was said before."""
    clients = Clients(server)
    with exchange(clients) as phone:
        for _ in range(3):
            with FakeCaller(phone.url) as caller:
                clients.newest().send_text("Tell me the story")
                caller.wait_for_sound(0.2)
            assert phone.ended().reason == "hung_up"


@pytest.mark.parametrize("began", [True, False])
def test_a_silent_line_is_dead(server: RealtimeServer, began: bool) -> None:
    """Twilio sends something every 20 ms: when nothing comes any more, or never a call, the bridge does not wait for ever."""
    line = Line()
    if began:
        line.starts()
    end = OnLine(line, Clients(server), patience=0.6).ended()
    assert (end.reason, end.start is not None) == ("silent", began)
    assert line.closed.is_set()


def test_a_dead_line_keeps_no_thread(server: RealtimeServer) -> None:
    """A telephone that has vanished does not answer the goodbye: the WebSocket's own thread is over all the same."""

    def readers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if "simple_websocket" in thread.name]

    before = readers()
    with exchange(Clients(server), patience=0.6) as phone:
        connection = transport.connect(phone.url, proxy=False)
        try:
            connection.send(json.dumps({"event": "start", "start": {"streamSid": "MZ", "callSid": "CA"}}))
            assert phone.ended().reason == "silent"
            for thread in readers():
                if thread not in before:
                    thread.join(PATIENCE)
                    assert not thread.is_alive()
        finally:
            connection.abort()


def test_a_socket_without_timeouts_works(server: RealtimeServer) -> None:
    """Of a WebSocket only receive, send and close are asked; `None` from it means that it is closed."""

    class Plain(Line):
        def receive(self) -> Any:  # type: ignore[override]
            return super().receive()

    line = Plain()
    line.starts()
    line.says("null")
    on_line = OnLine(line, Clients(server))
    line._incoming.put(None)
    assert on_line.ended().reason == "lost"


def test_a_socket_that_raises_ends_the_call(server: RealtimeServer) -> None:
    """What sending raises is the end of the call, and is told; the client is closed."""

    def broken(message: dict[str, Any]) -> None:
        raise BrokenPipeError("gone")

    clients, line = Clients(server), Line(broken)
    on_line = OnLine(line, clients)
    line.starts()
    client = clients.newest()
    client.send_text("A short one")
    end = on_line.ended()
    assert (end.reason, type(end.error)) == ("lost", BrokenPipeError)
    assert client.state == "closed"


@pytest.mark.parametrize("closing_helps", [True, False])
def test_a_socket_that_blocks_ends_the_call(server: RealtimeServer, closing_helps: bool) -> None:
    """A line that takes nothing any more holds up neither what is heard nor the end: the client is closed within its time."""
    free = threading.Event()

    def block(message: dict[str, Any]) -> None:
        assert free.wait(PATIENCE)

    class Blocked(Line):
        def close(self) -> None:
            super().close()
            if closing_helps:
                free.set()
            else:
                assert free.wait(PATIENCE)

    clients, line = Clients(server), Blocked(block)
    on_line = OnLine(line, clients, patience=3.0)
    line.starts()
    stop = threading.Event()
    talking = threading.Thread(target=talk, args=(line, stop))
    talking.start()
    try:
        client = clients.newest()
        client.send_text("A short one")
        end = on_line.ended()
        assert end.reason == "stalled"
        assert client.state == "closed"
    finally:
        stop.set()
        talking.join()
        free.set()


def test_a_telephone_that_does_not_read_ends_the_call(server: RealtimeServer) -> None:
    """The same over a real socket whose buffers are full, so that the other direction stops as well: the thread that sends is woken."""
    clients = Clients(server)
    with exchange(clients, send_buffer=4096, ahead=60.0, patience=3.0) as phone:
        connection = transport.connect(phone.url, proxy=False)
        try:
            connection._stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.send(json.dumps({"event": "start", "start": {"streamSid": "MZ", "callSid": "CA"}}))
            client = clients.newest()
            client.send_text("Tell me the story")
            stop = threading.Event()
            with contextlib.suppress(ConnectionClosedError):
                while phone.ends.empty() and not stop.wait(0.02):
                    connection.send(json.dumps(media(b"\xff" * 160)[0]))
            assert phone.ended().reason in ("silent", "stalled")
            assert client.state == "closed"
            assert [thread.name for thread in threading.enumerate() if thread.name == "qai-telephone"] == []
        finally:
            connection.abort()
            with contextlib.suppress(ConnectionClosedError):
                while True:
                    connection.recv()


def talk(line: Line, stop: threading.Event) -> None:
    """Send silence as a telephone does."""
    while not stop.wait(0.02):
        line.says(*media(b"\xff" * 160))
