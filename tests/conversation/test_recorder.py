"""The recorder: each sound where it was heard, every event once, files that are whole at any moment."""

from __future__ import annotations

import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import wave
from array import array
from collections.abc import Callable, Iterator

import pytest

from qai_realtime_sync import (
    AudioDelta,
    AudioFormat,
    Closed,
    ConfigError,
    PlaybackStopped,
    RealtimeClient,
    RealtimeConfig,
    SendAudio,
    SendText,
    TruncateItem,
    Turn,
    TurnDone,
)
from qai_realtime_sync.audio import ulaw_encode
from qai_realtime_sync.conversation.recorder import Recorder

RATE = 24000
MULAW = AudioFormat("g711_ulaw", 8000)


def tone(seconds: float, rate: int = RATE) -> bytes:
    """A tone of 440 Hz that begins and ends at once."""
    return array("h", (round(12000 * math.sin(2 * math.pi * 440 * n / rate + 0.5)) for n in range(round(seconds * rate)))).tobytes()


def sounds(path: pathlib.Path, channel: int) -> list[tuple[float, float]]:
    """Where a channel of a recording is not silent, as (begin, end) in seconds; pauses under 30 ms do not count."""
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, RATE)
        samples = array("h", file.readframes(file.getnframes()))[channel::2]
    found: list[tuple[float, float]] = []
    for at, sample in enumerate(samples):
        if abs(sample) > 500:
            if found and at / RATE - found[-1][1] < 0.03:
                found[-1] = (found[-1][0], at / RATE)
            else:
                found.append((at / RATE, at / RATE))
    return found


def near(found: list[tuple[float, float]], *expected: tuple[float, float]) -> bool:
    """Tell whether sounds begin and end within 5 ms of where they should."""
    return len(found) == len(expected) and all(
        abs(a - b) < 0.005 for have, want in zip(found, expected) for a, b in zip(have, want)
    )


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder that does not exist yet."""
    return tmp_path / "new" / "call"


def follow(recorder: Recorder, *, plays: bool = True, config: RealtimeConfig | None = None, turns: list[Turn] | None = None) -> None:
    """Tell the recorder what a client would."""
    recorder.follow(config or RealtimeConfig(), lambda: list(turns or []), lambda: plays)


def delta(audio: bytes, item: str = "item_1") -> AudioDelta:
    """A piece of an answer."""
    return AudioDelta(audio=audio, item_id=item, response_id=f"resp_{item}")


# -- the caller --------------------------------------------------------------------------------------------------------------


def test_the_callers_sound_stands_where_it_was_sent(folder: pathlib.Path) -> None:
    """A piece sent 1.5 s after the first thing begins at 1.5 s on the left, and the right stays silent."""
    recorder = Recorder(folder)
    follow(recorder)
    recorder.sent(SendText(text="hello"), 100.0)
    for number in range(10):
        recorder.sent(SendAudio(audio=tone(0.02)), 101.5 + number * 0.02)
    recorder.told(Closed(), 103.0)
    assert near(sounds(folder / "conversation.wav", 0), (1.5, 1.7))
    assert sounds(folder / "conversation.wav", 1) == []


def test_a_recorder_has_one_conversation(folder: pathlib.Path) -> None:
    """A second client, at once or afterwards, is refused: its times are others, and would be laid out as hours of silence."""
    recorder = Recorder(folder)
    RealtimeClient("k").record_to(recorder)
    for _ in range(2):
        with pytest.raises(ConfigError, match="make a Recorder for each") as caught:
            RealtimeClient("k").record_to(recorder)
        assert caught.value.code == "already_used"
        recorder.close()


def test_jitter_leaves_no_gaps(folder: pathlib.Path) -> None:
    """Pieces of a stream that come up to 30 ms early or late follow each other without a gap."""
    recorder = Recorder(folder)
    follow(recorder)
    for number, late in enumerate([0.0, 0.03, 0.005, 0.02, -0.01, 0.0, 0.03, 0.0]):
        recorder.sent(SendAudio(audio=tone(0.02)), 50.0 + number * 0.02 + late)
    recorder.close()
    assert near(sounds(folder / "conversation.wav", 0), (0.0, 0.16))


def test_a_stream_that_stopped_for_a_moment_is_in_time_again_after_the_next_silence(folder: pathlib.Path) -> None:
    """After 200 ms without a piece and a burst that catches up, sound after a silence is where it was sent."""
    recorder = Recorder(folder)
    follow(recorder)
    at = 10.0
    for _ in range(25):
        recorder.sent(SendAudio(audio=bytes(960)), at)
        at += 0.02
    held_up = at + 0.2
    for _ in range(60):
        recorder.sent(SendAudio(audio=bytes(960)), max(at, held_up))
        at += 0.02
    recorder.sent(SendAudio(audio=tone(0.1)), at)
    recorder.close()
    assert near(sounds(folder / "conversation.wav", 0), (1.7, 1.8))


def test_a_file_sent_at_once_lies_in_real_time(folder: pathlib.Path) -> None:
    """Sound that is sent in one burst is as long in the recording as it is."""
    recorder = Recorder(folder)
    follow(recorder)
    for piece in (tone(0.5), bytes(RATE), tone(0.5)):
        recorder.sent(SendAudio(audio=piece), 7.0)
    recorder.close()
    assert near(sounds(folder / "conversation.wav", 0), (0.0, 0.5), (1.0, 1.5))


def test_telephone_sound_is_converted(folder: pathlib.Path) -> None:
    """µ-law at 8000 Hz from both sides lies within 5 ms of where it belongs."""
    recorder = Recorder(folder)
    follow(recorder, config=RealtimeConfig(input_format="g711_ulaw", output_format="g711_ulaw"))
    recorder.sent(SendText(text="x"), 0.0)
    for number in range(10):
        recorder.sent(SendAudio(audio=ulaw_encode(tone(0.02, 8000))), 0.3 + number * 0.02, MULAW)
    recorder.told(delta(ulaw_encode(tone(0.25, 8000))), 1.0)
    recorder.told(Closed(), 2.0)
    assert near(sounds(folder / "conversation.wav", 0), (0.3, 0.5))
    assert near(sounds(folder / "conversation.wav", 1), (1.0, 1.25))


# -- the assistant -----------------------------------------------------------------------------------------------------------


def test_the_answer_stands_where_it_is_played(folder: pathlib.Path) -> None:
    """Pieces that come faster than they play follow each other from when the first one came."""
    recorder = Recorder(folder)
    follow(recorder)
    recorder.sent(SendText(text="x"), 20.0)
    for number in range(5):
        recorder.told(delta(tone(0.2)), 20.4 + number * 0.05)
    recorder.told(Closed(), 22.0)
    assert near(sounds(folder / "conversation.wav", 1), (0.4, 1.4))


def test_an_interrupted_answer_ends_where_it_was_cut(folder: pathlib.Path) -> None:
    """After a barge-in at 700 ms nothing more of the answer is on the right, and the next answer begins when it comes."""
    recorder = Recorder(folder)
    follow(recorder)
    recorder.sent(SendText(text="x"), 0.0)
    recorder.told(delta(tone(4.0)), 1.0)
    recorder.sent(TruncateItem(item_id="item_1", audio_end_ms=700), 1.7)
    recorder.told(PlaybackStopped(item_id="item_1", heard_ms=700, reason="barge_in"), 1.7)
    recorder.told(delta(tone(0.5), "item_2"), 3.0)
    recorder.told(Closed(), 5.0)
    assert near(sounds(folder / "conversation.wav", 1), (1.0, 1.7), (3.0, 3.5))


def test_an_answer_that_waited_behind_the_interrupted_one_is_not_heard(folder: pathlib.Path) -> None:
    """A barge-in also drops an answer that was to follow."""
    recorder = Recorder(folder)
    follow(recorder)
    recorder.told(delta(tone(1.0)), 0.0)
    recorder.told(delta(tone(1.0), "item_2"), 0.1)
    recorder.told(PlaybackStopped(item_id="item_1", heard_ms=400, reason="barge_in"), 0.4)
    recorder.told(Closed(), 4.0)
    assert near(sounds(folder / "conversation.wav", 1), (0.0, 0.4))


def test_a_truncation_by_the_program_cuts_that_item_alone(folder: pathlib.Path) -> None:
    """Truncating one answer leaves the one that follows it where it is."""
    recorder = Recorder(folder)
    follow(recorder)
    recorder.told(delta(tone(1.0)), 0.0)
    recorder.told(delta(tone(1.0), "item_2"), 0.1)
    recorder.sent(TruncateItem(item_id="item_1", audio_end_ms=600), 0.2)
    recorder.told(Closed(), 4.0)
    assert near(sounds(folder / "conversation.wav", 1), (0.0, 0.6), (1.0, 2.0))


@pytest.mark.parametrize(("plays", "end"), [(True, 1.5), (False, 4.0)])
def test_what_nobody_had_heard_at_the_end(folder: pathlib.Path, plays: bool, end: float) -> None:
    """What a sink had not played when the conversation ended is left out; where nothing plays all of it is kept."""
    recorder = Recorder(folder)
    follow(recorder, plays=plays)
    recorder.told(delta(tone(4.0)), 0.0)
    recorder.told(Closed(), 1.5)
    assert near(sounds(folder / "conversation.wav", 1), (0.0, end))


# -- the files ---------------------------------------------------------------------------------------------------------------


def test_every_event_and_command_is_one_line_with_its_time(folder: pathlib.Path) -> None:
    """The lines name what was told and sent, in order, sound as its length, with seconds since the first."""
    recorder = Recorder(folder)
    follow(recorder)
    recorder.sent(SendText(text="caf\u00e9 \udc80"), 5.0)
    recorder.told(delta(tone(0.1)), 5.25)
    recorder.told(Closed(code=1000), 6.0)
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["at"], line["direction"], line["name"]) for line in lines] == [
        (0.0, "sent", "send_text"),
        (0.25, "received", "audio_delta"),
        (1.0, "received", "closed"),
    ]
    assert lines[0]["text"] == "caf\u00e9 \udc80"
    assert lines[1]["audio"] == 4800


def test_the_turns_are_written_when_one_is_done_and_at_the_end(folder: pathlib.Path) -> None:
    """transcript.json holds the turns as they are known at the time, with their latency."""
    turns = [Turn(number=1, user="hi", assistant="hello", speech_stopped_at=1.0, first_audio_at=1.5)]
    recorder = Recorder(folder)
    follow(recorder, turns=turns)
    recorder.told(TurnDone(turn=turns[0]), 1.0)
    assert json.loads((folder / "transcript.json").read_text())["turns"][0]["latency"] == 0.5
    turns[0].assistant = "hello you"
    recorder.told(Closed(), 2.0)
    assert json.loads((folder / "transcript.json").read_text())["turns"][0]["assistant"] == "hello you"


def test_a_wav_path_is_the_sound_alone(tmp_path: pathlib.Path) -> None:
    """A path that ends in .wav gets one file and nothing beside it."""
    with Recorder(tmp_path / "call.wav") as recorder:
        recorder.sent(SendAudio(audio=tone(0.3)), 0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["call.wav"]
    assert near(sounds(tmp_path / "call.wav", 0), (0.0, 0.3))


def test_a_path_that_cannot_be_written_is_an_error(tmp_path: pathlib.Path) -> None:
    """A folder that is a file is refused when the recorder is made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        Recorder(tmp_path / "file" / "call")


def test_long_recordings_do_not_stay_in_memory(folder: pathlib.Path) -> None:
    """Sound is in the file half a second after it was heard, and a file that was sent at once after five minutes of it."""
    recorder = Recorder(folder)
    follow(recorder)
    second = bytes(2 * RATE)
    for at in range(20):
        recorder.sent(SendAudio(audio=second), float(at))
    assert (folder / "conversation.wav").stat().st_size >= 44 + 4 * RATE * 18
    for _ in range(400):
        recorder.sent(SendAudio(audio=second), 20.0)
    assert (folder / "conversation.wav").stat().st_size >= 44 + 4 * RATE * 119
    recorder.close()


KILLED = """
import os, signal, sys
from qai_realtime_sync import SendAudio, AudioDelta
from qai_realtime_sync.conversation.recorder import Recorder
recorder = Recorder(sys.argv[1])
for number in range(150):
    recorder.sent(SendAudio(audio=b"\\x00\\x10" * 480), number * 0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL does not exist here")
def test_a_killed_process_leaves_whole_files(folder: pathlib.Path) -> None:
    """After SIGKILL the header tells exactly what is in the file, all but the last second is there, and every line can be read."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], timeout=30)
    assert done.returncode == -signal.SIGKILL
    with wave.open(str(folder / "conversation.wav"), "rb") as file:
        assert file.getnframes() * 4 + 44 == (folder / "conversation.wav").stat().st_size
        assert 2.0 <= file.getnframes() / RATE <= 3.0
    assert len([json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]) == 150


def test_a_full_disk_ends_the_recording_and_nothing_else(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that fails is logged once; what is told afterwards is ignored."""
    recorder = Recorder(folder)
    follow(recorder)

    def full(left: bytes, right: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder._wav, "append", full)
    for at in range(5):
        recorder.sent(SendAudio(audio=tone(1.0)), float(at))
    recorder.told(Closed(), 9.0)
    recorder.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "No space left on device" in caplog.text


# -- with a client -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def light_server() -> Iterator[Callable[..., str]]:
    """Give a function that starts a local server in light mode and returns its address."""
    pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
    from qai_realtime_sync.offline import RealtimeServer

    servers = []

    def start(**options: object) -> str:
        server = RealtimeServer(light=True, **options).start()  # type: ignore[arg-type]
        servers.append(server)
        return server.url

    yield start
    for server in servers:
        server.stop()



def test_record_to_wants_a_recorder(folder: pathlib.Path) -> None:
    """The name of a folder alone is no recorder, and the mend is named."""
    with pytest.raises(ConfigError, match=r"needs a Recorder, like Recorder\('folder'\)"):
        RealtimeClient("k").record_to(str(folder))  # type: ignore[arg-type]


def test_record_to_comes_before_connect(folder: pathlib.Path) -> None:
    """A client that was closed or connected refuses a recorder."""
    client = RealtimeClient("key")
    client.close()
    with Recorder(folder) as recorder, pytest.raises(ConfigError, match="before connect"):
        client.record_to(recorder)


def test_a_conversation_is_recorded_as_it_happened(folder: pathlib.Path, light_server: Callable[..., str]) -> None:
    """With a real server the answer begins on the right when its first piece came, and all that was sent and told is in the lines."""
    client = RealtimeClient("key", base_url=light_server(), reconnect=False)
    client.record_to(Recorder(folder))
    with client:
        client.ask("Hello there", 10)
        client.send_audio(tone(0.2))
        client.drain()
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    first = next(line["at"] for line in lines if line["name"] == "audio_delta")
    assert abs(sounds(folder / "conversation.wav", 1)[0][0] - first) < 0.05
    spoken = next(line["at"] for line in lines if line["name"] == "send_audio")
    assert abs(sounds(folder / "conversation.wav", 0)[0][0] - spoken) < 0.05
    names = [line["name"] for line in lines]
    assert names[0] == "state_changed"
    assert names[-1] == "closed"
    assert {"send_text", "create_response", "session_ready", "response_done", "turn_done"} <= set(names)
    turns = json.loads((folder / "transcript.json").read_text())["turns"]
    assert [turn["user"] for turn in turns][:1] == ["Hello there"]
