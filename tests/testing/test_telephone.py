"""The fake caller: it sends what Twilio sends and plays as Twilio plays; against a server that knows nothing of our bridge."""

from __future__ import annotations

import base64
import json
import pathlib
import queue
import threading
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("flask", reason="the telephone's test app needs flask")
pytest.importorskip("flask_sock", reason="the telephone's test app needs flask-sock")

from flask import Flask, Response, request
from flask_sock import Sock
from werkzeug.serving import make_server

from qai_realtime_sync import ApiError, ConfigError, RealtimeTimeoutError
from qai_realtime_sync.audio import level, ulaw_decode
from qai_realtime_sync.contrib.twilio import is_from_twilio, stream_twiml
from qai_realtime_sync.testing.telephone import FakeCaller
from qai_realtime_sync.testing.telephone_ear import Ear

PATIENCE = 20.0
TOKEN = "an auth token"


def media(ms: float, byte: bytes = b"\x10", sid: str = "MZ") -> dict[str, Any]:
    return {"event": "media", "streamSid": sid, "media": {"payload": base64.b64encode(byte * round(ms * 8)).decode()}}


def mark(name: str, sid: str = "MZ") -> dict[str, Any]:
    return {"event": "mark", "streamSid": sid, "mark": {"name": name}}


# -- the ear, on a clock of its own ------------------------------------------------------------------------------------------------


def take(ear: Ear, now: float, *messages: dict[str, Any]) -> None:
    for message in messages:
        ear.take(json.dumps(message).encode(), now)


def test_sound_is_heard_in_real_time_and_marks_come_back_behind_it() -> None:
    """What comes at once is heard one after the other; a mark is due when all before it was heard, one without sound at once."""
    ear = Ear("MZ")
    take(ear, 10.0, mark("zero"), media(100), mark("one"), media(50), mark("two"))
    assert ear.due_marks(10.0) == ["zero"]
    assert ear.due_marks(10.099) == []
    assert ear.due_marks(10.1) == ["one"]
    assert ear.due_marks(11.0) == ["two"]
    assert [(one.at, round(one.ends, 3)) for one in ear.heard] == [(10.0, 10.1), (10.1, 10.15)]
    assert sum(one.heard_by(10.12) for one in ear.heard) == pytest.approx(0.12)


def test_clear_cuts_what_is_heard_and_returns_its_marks() -> None:
    """What was not heard yet is gone, of the piece that plays the rest too, and every mark that waits comes back at once."""
    ear = Ear("MZ")
    take(ear, 10.0, media(20), media(20), media(20), mark("one"))
    take(ear, 10.03, {"event": "clear", "streamSid": "MZ"})
    assert ear.due_marks(10.03) == ["one"]
    assert [len(one.sound) for one in ear.heard] == [160, 80]
    take(ear, 10.04, media(20))
    assert (ear.heard[-1].at, ear.heard[-1].gap, ear.heard[-1].behind) == (10.04, 0.0, 0.0)


def test_what_comes_late_is_told() -> None:
    """A piece after a silence has a gap; behind its time are all that the silence has moved; after a pause a new sound begins."""
    ear = Ear("MZ")
    take(ear, 10.0, media(20))
    take(ear, 10.07, media(20))
    take(ear, 10.08, media(20), media(20))
    take(ear, 12.0, media(20))
    assert [round(one.gap, 3) for one in ear.heard] == [0, 0.05, 0, 0, 0]
    assert [round(one.behind, 3) for one in ear.heard] == [0, 0.05, 0.04, 0.02, 0]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "JSON"),
        (b"\xff", "UnicodeDecodeError"),
        (b"7", "TypeError"),
        (b"{}", "KeyError"),
        (json.dumps(media(20, sid="other")).encode(), "another stream"),
        (b'{"event": "media", "streamSid": "MZ", "media": {"payload": "*"}}', "base64"),
        (b'{"event": "media", "streamSid": "MZ"}', "KeyError"),
        (b'{"event": "mark", "streamSid": "MZ", "mark": {}}', "KeyError"),
        (b'{"event": "stop", "streamSid": "MZ"}', "media, mark and clear"),
    ],
)
def test_what_twilio_would_not_understand_is_a_problem(message: bytes, why: str) -> None:
    """The message is told with its reason, and the call goes on."""
    ear = Ear("MZ")
    ear.take(message, 1.0)
    take(ear, 1.0, media(20))
    (problem,) = ear.problems
    assert why in problem
    assert len(ear.heard) == 1


def test_a_recording_has_the_silences() -> None:
    """Sound stands in it where it was heard."""
    ear = Ear("MZ")
    take(ear, 11.0, media(100))
    take(ear, 14.0, media(100))
    pcm = ear.recording(10.0)
    assert len(pcm) == 2 * round(4.1 * 8000)
    assert level(pcm[: 2 * 8000]) == 0 == level(pcm[2 * 9000 : 2 * 31000])
    assert level(pcm[2 * 8000 : 2 * 8800]) == level(pcm[-1600:]) > 0.1


# -- the caller, over a socket -----------------------------------------------------------------------------------------------------


class Operator:
    """The other end: what came, and a way to answer."""

    def __init__(self) -> None:
        self.came: queue.Queue[dict[str, Any]] = queue.Queue()
        self.headers: dict[str, str] = {}

    def next(self, event: str) -> dict[str, Any]:
        """Wait for the next message of a kind."""
        while True:
            message = self.came.get(timeout=PATIENCE)
            if message["event"] == event:
                return message


@contextmanager
def served(answer: Callable[[Any, dict[str, Any]], None] | None = None) -> Iterator[tuple[str, Operator]]:
    """Serve ``/media``, where ``answer(ws, message)`` is called for each message, and ``/voice``."""
    app, operator = Flask("operator"), Operator()

    @Sock(app).route("/media")  # type: ignore[untyped-decorator]
    def stream(ws: Any) -> None:
        operator.headers = dict(request.headers)
        while True:
            message = json.loads(ws.receive())
            operator.came.put(message)
            if answer is not None:
                answer(ws, message)

    @app.post("/voice")
    def voice() -> Response:
        signed = is_from_twilio(TOKEN, request.url, request.headers.get("X-Twilio-Signature"), request.form)
        twiml = stream_twiml(request.host_url.replace("http", "ws") + "media", {"from": request.form["From"], "signed": str(signed)})
        return Response("<Response><Hangup/></Response>" if request.form["To"] == "busy" else twiml)

    @app.post("/broken")
    def broken() -> str:
        return "<Response>"

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="operator")
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", operator
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_call_is_told_as_twilio_tells_it(tmp_path: pathlib.Path) -> None:
    """connected, start with ids, format and parameters, media every 20 ms with chunk and timestamp, keys, stop; all numbered."""
    with wave.open(str(tmp_path / "said.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(b"\x00\x20" * 1600)
    with served() as (address, operator):
        with FakeCaller(f"ws://{address}/media", parameters={"from": "Anna"}, auth_token=TOKEN) as caller:
            assert caller.say(tmp_path / "said.wav") == pytest.approx(0.1)
            caller.wait_until_said()
            caller.press("4#")
        messages = [operator.came.get(timeout=PATIENCE)]
        while messages[-1]["event"] != "stop":
            messages.append(operator.came.get(timeout=PATIENCE))
    assert messages[0] == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert messages[1]["start"] == {
        "streamSid": caller.stream_sid,
        "accountSid": caller.account_sid,
        "callSid": caller.call_sid,
        "tracks": ["inbound"],
        "customParameters": {"from": "Anna"},
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
    }
    assert [message["sequenceNumber"] for message in messages[1:]] == [str(number) for number in range(1, len(messages))]
    assert {message["streamSid"] for message in messages[1:]} == {caller.stream_sid}
    pieces = [message["media"] for message in messages if message["event"] == "media"]
    assert [piece["chunk"] for piece in pieces] == [str(number) for number in range(1, len(pieces) + 1)]
    times = [int(piece["timestamp"]) for piece in pieces]
    assert {later - earlier for earlier, later in zip(times, times[1:])} <= {19, 20, 21}
    sound = b"".join(base64.b64decode(piece["payload"]) for piece in pieces)
    assert {len(base64.b64decode(piece["payload"])) for piece in pieces} == {160}
    assert level(ulaw_decode(sound)) > 0.05
    assert [message["dtmf"] for message in messages if message["event"] == "dtmf"] == [
        {"track": "inbound_track", "digit": "4"},
        {"track": "inbound_track", "digit": "#"},
    ]
    assert is_from_twilio(TOKEN, f"ws://{address}/media", operator.headers["X-Twilio-Signature"])


def test_marks_and_clear_over_the_wire() -> None:
    """A mark comes back after its sound was heard, at once after a clear, and never for a caller that returns none."""

    def answer(ws: Any, message: dict[str, Any]) -> None:
        if message["event"] == "start":
            sid = message["streamSid"]
            for one in (media(200, sid=sid), mark("heard", sid), media(60_000, sid=sid), mark("cleared", sid)):
                ws.send(json.dumps(one))
        elif message["event"] == "mark" and message["mark"]["name"] == "heard":
            ws.send(json.dumps({"event": "clear", "streamSid": message["streamSid"]}))

    with served(answer) as (address, operator), FakeCaller(f"ws://{address}/media") as caller:
        first = caller.wait_for_sound()
        assert operator.next("mark")["mark"] == {"name": "heard"}
        cleared = caller.wait_for_clear()
        assert operator.next("mark")["mark"] == {"name": "cleared"}
        caller.wait_for_silence(0.2)
        assert cleared - first.at >= 0.2
        assert caller.heard_seconds == pytest.approx(cleared - first.at, abs=0.01)
        assert caller.problems == []

    with served(answer) as (address, operator), FakeCaller(f"ws://{address}/media", marks=False) as caller:
        caller.wait_for_sound(0.5)
        assert caller.clears == []


def test_the_telephone_rings() -> None:
    """The address is asked with a signed form, as Twilio asks, and the stream of its answer is dialed, with its parameters."""
    with served() as (address, operator):
        with FakeCaller.ring(f"http://{address}/voice", auth_token=TOKEN, caller="+15550123") as caller:
            start = operator.next("start")["start"]
        assert start["customParameters"] == {"from": "+15550123", "signed": "True"}
        assert start["callSid"] == caller.call_sid
        with pytest.raises(ConfigError, match="connects no media stream"):
            FakeCaller.ring(f"http://{address}/voice", called="busy")
        with pytest.raises(ConfigError, match="no TwiML"):
            FakeCaller.ring(f"http://{address}/broken")


def test_a_stream_that_is_refused_or_closed() -> None:
    """A refused upgrade raises; what is waited for in a call that the other side ends raises at once and says so."""

    def hang_up(ws: Any, message: dict[str, Any]) -> None:
        if message["event"] == "start":
            ws.close()

    with served(hang_up) as (address, _):
        with pytest.raises(ApiError):
            FakeCaller(f"ws://{address}/nothing").dial()
        with FakeCaller(f"ws://{address}/media") as caller:
            caller.wait_for_end()
            with pytest.raises(RealtimeTimeoutError, match="the stream was closed"):
                caller.wait_for_sound()
            caller.press("1")
            assert caller.is_over


def test_a_caller_dials_once() -> None:
    """A caller that was dialled by hand is hung up by its `with` block like any other; dialling twice would leave a call behind."""
    with served() as (address, _):
        with FakeCaller(f"ws://{address}/media").dial() as caller, pytest.raises(ConfigError, match="make another"):
            caller.dial()
        assert caller.is_over


def test_a_dropped_call_says_nothing() -> None:
    """The other side sees a connection that is gone, and no stop."""
    with served() as (address, operator):
        caller = FakeCaller(f"ws://{address}/media").dial()
        operator.next("media")
        caller.drop()
        assert caller.is_over
        caller.hang_up()
        events = []
        while not operator.came.empty():
            events.append(operator.came.get()["event"])
        assert "stop" not in events


def test_what_does_not_come_is_not_waited_for_for_ever() -> None:
    """A wait has a deadline, and says what did not happen."""
    with served() as (address, _), FakeCaller(f"ws://{address}/media") as caller:
        with pytest.raises(RealtimeTimeoutError, match=r"0\.02 s of sound were not heard within 0\.1 s"):
            caller.wait_for_sound(timeout=0.1)
