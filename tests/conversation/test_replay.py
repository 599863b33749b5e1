"""A recording fed back through a client: the same events in the same order, at any speed, and nothing is connected."""

from __future__ import annotations

import json
import math
import pathlib
import threading
import wave
from array import array
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import (
    AudioDelta,
    Closed,
    ConfigError,
    Event,
    NotConnectedError,
    RealtimeClient,
    RealtimeConfig,
    SendAudio,
    SpeechStarted,
    TranscriptDone,
    TurnDone,
)
from qai_realtime_sync.audio import AudioFormat, level, ulaw_encode
from qai_realtime_sync.commands import COMMANDS, command_from_dict
from qai_realtime_sync.conversation.pacing import PacedSink
from qai_realtime_sync.conversation.recorder import Recorder
from qai_realtime_sync.conversation.replay import Recording
from qai_realtime_sync.errors import RealtimeError
from qai_realtime_sync.events import EVENTS, HandlerFailed, event_from_dict
from tests.servers import Service, service

TONE = array("h", (round(9000 * math.sin(2 * math.pi * 440 * at / 24000)) for at in range(4800))).tobytes()  # 0.2 s


@pytest.fixture
def peer() -> Iterator[Service]:
    with service() as running:
        yield running


def told(client: RealtimeClient) -> list[Event]:
    events: list[Event] = []
    client.on(Event, events.append)
    return events


def record(peer: Service, folder: pathlib.Path) -> tuple[RealtimeClient, list[Event]]:
    """A conversation with a tool, an interruption, sound on both sides and a handler that fails."""
    client = peer.client()
    client.record_to(Recorder(folder))
    now = [0.0]
    client.play_to(PacedSink(clock=lambda: now[0]))

    @client.tool
    def look(place: str) -> str:
        """Look there."""
        return f"nothing in {place}"

    client.on("speech_started", lambda event: 1 / 0)
    events = told(client)
    with client:
        talk = peer.talk()
        client.send_text("Look")
        talk.expect("response.create")
        talk.created("r1")
        talk.call("r1", "c1", "look", '{"place": "Oslo"}')
        talk.done("r1")
        talk.expect("response.create")
        talk.created("r2")
        talk.audio("r2", "i2", TONE)
        talk.audio("r2", "i2", TONE * 40)
        talk.transcript("r2", "i2", "There is nothing to be seen in Oslo.")
        client.wait_for(TranscriptDone, 5)
        client.send_audio(bytes(9600))
        now[0] += 0.15
        talk.say("input_audio_buffer.speech_started", item_id="u2", audio_start_ms=100)
        client.wait_for("playback_stopped", 5)
        talk.done("r2", "cancelled")
        talk.say("strange.news", value=1)
        client.wait_for("unknown", 5)
    return client, events


def plain(events: list[Event]) -> list[dict[str, Any]]:
    return [event.to_dict() for event in events]


def test_handlers_hear_the_same_events_in_the_same_order(peer: Service, tmp_path: pathlib.Path) -> None:
    """What a recorded conversation told is told again, event for event, and the record of it is the same."""
    client, events = record(peer, tmp_path / "one")
    again = RealtimeClient("unused")
    heard = told(again)
    again.replay(tmp_path / "one")
    # Unknown events are their type alone: the frames themselves are not in the recording.
    assert plain(heard) == plain(events)
    assert again.state == "closed"
    assert [(t.user, t.assistant, t.interrupted, t.tool_calls[0].output) for t in again.conversation[:1]] == [
        ("Look", "There is nothing to be seen in Oslo.", True, "nothing in Oslo")
    ]
    assert again.conversation[0].first_sound_at == pytest.approx(client.conversation[0].first_sound_at, abs=0.05)
    assert Recording(tmp_path / "one").conversation == client.conversation
    assert again.metrics.responses == 2
    assert again.metrics.audio_down == pytest.approx(client.metrics.audio_down)


def test_the_sound_is_what_was_heard(peer: Service, tmp_path: pathlib.Path) -> None:
    """What was played sounds, in a sink too; what was cut off is silent, and no piece changes its length."""
    record(peer, tmp_path)

    class Sink:
        written = b""
        cleared = 0

        def write(self, audio: bytes) -> None:
            self.written += audio

        def clear(self) -> None:
            self.cleared += 1

    sink = Sink()
    client = RealtimeClient("unused")
    client.play_to(sink)
    client.replay(tmp_path)
    assert len(sink.written) == 41 * len(TONE)
    assert level(sink.written[: len(TONE) // 4]) > 0.1
    assert level(sink.written[-len(TONE) :]) == 0.0
    assert sink.cleared == 1


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_the_speed_is_that_of_the_recording_or_a_multiple(speed: float, tmp_path: pathlib.Path) -> None:
    """Events come at their times divided by the speed."""
    write(tmp_path, [(0.5, SpeechStarted()), (2.5, TranscriptDone(transcript="x")), (4.0, Closed())])
    now = [50.0]
    at: list[float] = []

    def wait(seconds: float) -> None:
        now[0] += seconds

    client = RealtimeClient("unused", clock=lambda: now[0])
    client.on(Event, lambda event: at.append(now[0] - 50))
    client.replay(tmp_path, speed=speed, wait=wait)
    assert at == pytest.approx([0.5 / speed, 2.5 / speed, 4.0 / speed])


def write(folder: pathlib.Path, events: list[tuple[float, Event]]) -> None:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"at": at, "direction": "received", **event.to_dict()}) for at, event in events]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")


def test_a_recording_that_was_killed_ends_all_the_same(tmp_path: pathlib.Path) -> None:
    """Without an end in the recording the handlers are told one, last."""
    write(tmp_path, [(0.0, SpeechStarted())])
    client = RealtimeClient("unused")
    events = told(client)
    client.replay(tmp_path)
    assert [event.event_name for event in events] == ["speech_started", "state_changed", "closed"]
    assert "recording ends" in events[-1].reason  # type: ignore[attr-defined]
    assert client.wait(1) is events[-1]


def test_closing_ends_it(tmp_path: pathlib.Path) -> None:
    """A handler, or another thread, that closes the client ends the replay at once, also while it waits."""
    write(tmp_path, [(0.0, SpeechStarted()), (3600.0, SpeechStarted()), (3601.0, Closed())])
    for background in (False, True):
        client = RealtimeClient("unused")
        events = told(client)
        client.on(SpeechStarted, lambda event, client=client: client.close(), background=background)  # type: ignore[misc]
        client.replay(tmp_path, speed=1.0)
        assert events[-1].event_name == "closed"
        assert [event.event_name for event in events].count("closed") == 1
        assert [event.event_name for event in events].count("speech_started") == 1
        assert client.state == "closed"


def test_handlers_may_send_and_fail(tmp_path: pathlib.Path) -> None:
    """What a handler sends is checked and goes nowhere; what it raises is told; other threads may wait for events."""
    write(tmp_path, [(0.0, SpeechStarted()), (0.0, TranscriptDone(transcript="x", source="input")), (0.1, Closed())])
    client = RealtimeClient("unused")
    events = told(client)
    waited: list[Event] = []
    thread = threading.Thread(target=lambda: waited.append(client.wait_for(Closed, 5)))

    def handler(event: Event) -> None:
        thread.start()
        client.send_text("Hello")
        client.send_audio(bytes(10))
        client.interrupt()
        raise ValueError("mine")

    client.on(SpeechStarted, handler)
    client.replay(tmp_path)
    thread.join(20)
    assert isinstance(waited[0], Closed)
    assert [event.event_name for event in events] == ["speech_started", "handler_failed", "transcript_done", "closed"]
    assert [turn.user for turn in client.conversation] == ["x"], "what the handler sent is no part of the recording"


def test_a_client_has_one_life(peer: Service, tmp_path: pathlib.Path) -> None:
    """After a replay a client cannot connect, and one that was used cannot replay."""
    write(tmp_path, [(0.0, Closed())])
    client = peer.client()
    client.replay(tmp_path)
    with pytest.raises(NotConnectedError, match="one client is one conversation"):
        client.connect()
    with pytest.raises(NotConnectedError, match="one client is one conversation"):
        client.replay(tmp_path)


def test_a_replay_can_be_recorded_again(peer: Service, tmp_path: pathlib.Path) -> None:
    """A recording of a replay has the same lines, apart from their times."""
    record(peer, tmp_path / "one")
    client = RealtimeClient("unused")
    client.record_to(Recorder(tmp_path / "two"))
    client.replay(tmp_path / "one")

    def lines(name: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in (tmp_path / name / "events.jsonl").read_text().splitlines()]
        return [{key: value for key, value in row.items() if key != "at"} for row in rows]

    assert lines("two") == lines("one")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no json", "line 2"),
        ('{"at": 1}', "line 2"),
        ('{"at": 1, "direction": "received", "name": "no_such_event"}', "no_such_event"),
        ('{"at": 1, "direction": "sent", "name": "no_such_command"}', "no_such_command"),
        ('{"at": 1, "direction": "sent", "name": "send_text"}', "send_text"),
        ('{"at": 1, "direction": "received", "name": "speech_started", "item_id": 5}', "item_id"),
        ("3", "line 2"),
    ],
)
def test_a_line_that_is_none_is_named(line: str, words: str, tmp_path: pathlib.Path) -> None:
    """A broken file says which line and why, after what was readable has been told; the client has ended."""
    write(tmp_path, [(0.0, SpeechStarted())])
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write(line + "\n")
    client = RealtimeClient("unused")
    events = told(client)
    with pytest.raises(ConfigError, match=words):
        client.replay(tmp_path)
    assert events[0].event_name == "speech_started"


@pytest.mark.parametrize("size", [1, 40, 70])
def test_a_last_line_that_is_cut_off_is_left_out(size: int, tmp_path: pathlib.Path) -> None:
    """What a killed process leaves is replayed as far as it goes, also when the cut is within a letter; the end says that it broke off."""
    write(tmp_path, [(0.0, SpeechStarted())])
    line = '{"at": 1, "direction": "received", "name": "unknown", "problem": "é"}'.encode()
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(line[: min(size, line.index("é".encode()) + 1)])
    client = RealtimeClient("unused")
    events = told(client)
    client.replay(tmp_path)
    assert [event.event_name for event in events if event.event_name != "state_changed"] == ["speech_started", "closed"]
    assert events[-1].reason == "the recording ends here"


@pytest.mark.parametrize("speed", [0, -1, True, "fast"])
def test_a_speed_that_is_none_is_refused(speed: Any, tmp_path: pathlib.Path) -> None:
    """The speed is a number above 0."""
    write(tmp_path, [])
    with pytest.raises(ConfigError, match="speed"):
        RealtimeClient("unused").replay(tmp_path, speed=speed)


def test_what_is_no_recording_is_refused(tmp_path: pathlib.Path) -> None:
    """A folder without events, and a WAV file that is none, are told as what they are."""
    with pytest.raises(ConfigError, match=r"events\.jsonl"):
        RealtimeClient("unused").replay(tmp_path)
    write(tmp_path, [(0.0, Closed())])
    (tmp_path / "conversation.wav").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="WAV"):
        RealtimeClient("unused").replay(tmp_path)


def test_other_formats_are_converted(tmp_path: pathlib.Path) -> None:
    """The sound of a recording at 24 kHz comes out as the client's µ-law, of the length that came then."""
    write(tmp_path, [(0.0, AudioDelta(audio=bytes(1600))), (0.3, Closed())])
    with wave.open(str(tmp_path / "conversation.wav"), "wb") as file:
        file.setparams((2, 2, 24000, 0, "NONE", ""))
        samples = array("h", bytes(2 * len(TONE)))
        samples[1::2] = array("h", TONE)
        file.writeframes(samples.tobytes())
    entries = list(Recording(tmp_path, RealtimeConfig(output_format="g711_ulaw")).entries())
    sound = entries[0].what.audio  # type: ignore[union-attr]
    assert len(sound) == 1600
    assert entries[0].begins == 0.0
    assert sound != ulaw_encode(bytes(3200))


# -- the plain form and back -------------------------------------------------------------------------------------------------


def test_every_event_comes_back_from_its_plain_form() -> None:
    """An event whose fields are read back from JSON says the same again, whatever its class."""
    for cls in EVENTS.values():
        event = cls(event_id="e1")
        assert event_from_dict(json.loads(json.dumps(event.to_dict()))) == event


def test_nested_values_come_back() -> None:
    """Turns, commands, usage and errors inside an event are objects again; sound is silence of the same length."""
    failed = HandlerFailed(event=AudioDelta(audio=TONE), handler="f", error=ValueError("no"))
    back = event_from_dict(json.loads(json.dumps(failed.to_dict())), AudioFormat("g711_ulaw", 8000))
    assert isinstance(back, HandlerFailed)
    assert isinstance(back.event, AudioDelta)
    assert back.event.audio == b"\xff" * len(TONE)
    assert isinstance(back.error, RealtimeError)
    assert str(back.error) == "ValueError: no"
    closed = Closed(unsent=(SendAudio(audio=b"1234"),), error=RealtimeError("x"))
    again = event_from_dict(json.loads(json.dumps(closed.to_dict())))
    assert isinstance(again, Closed)
    assert again.unsent == (SendAudio(audio=bytes(4)),)
    assert isinstance(event_from_dict({"name": "turn_done", "turn": {"number": 2, "later": 1}}), TurnDone)


def test_every_command_comes_back_from_its_plain_form() -> None:
    """Commands too; the configuration among them."""
    values: dict[str, dict[str, Any]] = {
        "configure": {"config": {"voice": "Eve"}},
        "send_audio": {"audio": 4},
        "send_image": {"image": 3, "media_type": "image/png"},
        "truncate_item": {"item_id": "i", "audio_end_ms": 5},
        "send_function_result": {"call_id": "c", "output": "o", "tool_name": "f"},
        "raw_event": {"value": {"type": "x"}},
    }
    for name, cls in COMMANDS.items():
        given = values.get(name) or {"text": "t", "item_id": "i", "approval_id": "a", "approve": True, "ping_id": 1}
        command = command_from_dict({"name": name, "event_id": "e", **given})
        assert type(command) is cls
        assert command_from_dict(command.to_dict()) == command
