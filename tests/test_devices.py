"""Microphone and loudspeaker: the clock of what is heard, files and pipes, and real devices of a sound server whose speakers are silent."""

from __future__ import annotations

import gzip
import io
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import traceback
import wave
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.audio import AudioFormat, Converter, ulaw_encode
from qai_realtime_sync.devices import Device, Microphone, Speaker, list_devices
from qai_realtime_sync.devices.engine import DeviceInput, DeviceOutput, choose
from qai_realtime_sync.devices.jitter import JitterBuffer
from qai_realtime_sync.errors import ConfigError, NotConnectedError, OutboxFullError, RealtimeError, RealtimeTimeoutError
from tests.pulse import RATE, PulseServer

ROOT = pathlib.Path(__file__).parents[1]
BLOCK = 960  # bytes in 20 ms
PATIENCE = 20.0


def tone(seconds: float, amplitude: int = 9000, rate: int = RATE) -> bytes:
    """A sine of 440 Hz as PCM16."""
    step = 2 * math.pi * 440 / rate
    return array("h", (round(amplitude * math.sin(step * n)) for n in range(round(seconds * rate)))).tobytes()


def write_wav(path: pathlib.Path, pcm: bytes, rate: int = RATE, channels: int = 1) -> str:
    """Write a WAV file and return its path."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm)
    return str(path)


def read_wav(path: pathlib.Path) -> bytes:
    """The sound of a WAV file."""
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        return file.readframes(file.getnframes())


def _samples(pcm: bytes) -> array[int]:
    return array("h", pcm)


def without_silence(pcm: bytes) -> bytes:
    """Sound without its blocks of silence."""
    return b"".join(pcm[at : at + BLOCK] for at in range(0, len(pcm), BLOCK) if any(pcm[at : at + BLOCK]))


def eventually(condition: Callable[[], bool], within: float = PATIENCE) -> None:
    """Wait until a condition holds of something that cannot be waited for, such as a clock."""
    pause, deadline = threading.Event(), time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.01)


# -- the clock of what is heard ------------------------------------------------------------------------------------------------


class Played:
    """A jitter buffer and a device that asks for a block each 20 ms of a clock that stands still in between."""

    def __init__(self, *, ahead: float = 0.06, latency: float = 0.02, most: float = 10.0) -> None:
        self.now = 100.0
        self.buffer = JitterBuffer(2 * RATE, ahead=ahead, latency=latency, most=most, clock=lambda: self.now)
        self.blocks: list[bytes] = []

    def run(self, blocks: int) -> None:
        """Let so many blocks be asked for, 20 ms apart."""
        for _ in range(blocks):
            self.blocks.append(self.buffer.take(BLOCK))
            self.now += 0.02


def test_sound_is_collected_before_it_plays() -> None:
    """Less than the jitter buffer's length does not begin to play; once so much is there, all of it plays without a hole."""
    played = Played()
    played.buffer.write(tone(0.04))
    played.run(2)
    assert not any(map(any, played.blocks))
    played.buffer.write(tone(0.04))
    played.run(4)
    assert b"".join(played.blocks[2:6]) == tone(0.04) + tone(0.04)


def test_a_short_answer_plays_too() -> None:
    """An answer that is shorter than the jitter buffer begins once the buffer's length has passed."""
    played = Played(ahead=0.05)
    played.buffer.write(tone(0.02))
    played.run(6)
    assert [any(block) for block in played.blocks] == [False, False, False, True, False, False]


def test_what_was_handed_out_is_heard_after_the_latency() -> None:
    """The clock begins when the first sample leaves the loudspeaker, and follows within a block."""
    played = Played(ahead=0.0, latency=0.1)
    played.buffer.write(tone(1.0))
    played.run(1)
    played.now = 100.1
    assert played.buffer.played_ms == 0
    played.now = 100.11
    assert played.buffer.played_ms == pytest.approx(10, abs=0.1)
    played.now = 102.0
    assert played.buffer.played_ms == 20, "nothing more was asked for, so nothing more is heard"


def test_clear_is_silence_from_the_next_block_on() -> None:
    """After clear the next block is silent, what the device holds counts as heard, and the next answer plays from its beginning."""
    played = Played(ahead=0.0)
    played.buffer.write(tone(1.0))
    played.run(10)
    before = played.buffer.played_ms
    played.buffer.clear()
    assert before == pytest.approx(180, abs=1)
    assert played.buffer.played_ms == pytest.approx(200, abs=0.1)
    played.run(5)
    assert not any(map(any, played.blocks[10:]))
    assert played.buffer.played_ms == pytest.approx(200, abs=0.1)
    second = tone(0.1, 5000)
    played.buffer.write(second)
    played.run(10)
    assert b"".join(played.blocks)[15 * BLOCK : 20 * BLOCK] == second
    assert played.buffer.played_ms == pytest.approx(300, abs=0.1)


def test_only_late_sound_is_an_underrun() -> None:
    """Sound that comes within half a second after the buffer ran dry was late; after a longer pause, or a clear, it was not."""
    played = Played(ahead=0.02)
    played.buffer.write(tone(0.04))
    played.run(5)
    assert played.buffer.underruns == 0
    played.buffer.write(tone(0.04))
    played.run(40)
    assert played.buffer.underruns == 1
    played.buffer.write(tone(0.04))
    played.run(1)
    played.buffer.clear()
    played.buffer.write(tone(0.04))
    assert played.buffer.underruns == 1


def test_too_much_is_dropped_and_counted() -> None:
    """Beyond its limit the buffer keeps what it has and counts what it drops."""
    played = Played(most=0.1)
    played.buffer.write(tone(0.1))
    played.buffer.write(tone(0.02))
    assert played.buffer.overruns == 1
    assert played.buffer.waiting == pytest.approx(0.1)


def test_an_irregular_device_does_not_shift_the_clock() -> None:
    """Blocks that are asked for early or late by some milliseconds are heard without holes, and the clock does not drift away."""
    played = Played(ahead=0.0)
    played.buffer.write(tone(4.0))
    for number in range(200):
        played.now = 100 + number * 0.02 + (0.009 if number % 3 else 0.0)
        played.buffer.take(BLOCK)
    played.now = 104.0
    assert played.buffer.played_ms == pytest.approx(3980, abs=20)
    played.now = 104.1
    assert played.buffer.played_ms == 4000


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 4000)),
        st.tuples(st.just("take"), st.integers(1, 1500)),
        st.tuples(st.just("wait"), st.integers(0, 300)),
        st.tuples(st.just("clear"), st.just(0)),
    )
)


@given(STEPS)
def test_the_clock_never_goes_back_and_never_beyond(steps: list[tuple[str, int]]) -> None:
    """Whatever happens: the clock never goes back, never counts more than was written, and in the end counts all that was not cleared."""
    now = 0.0
    buffer = JitterBuffer(48000, ahead=0.06, latency=0.02, most=600.0, clock=lambda: now)
    written = cleared = told = 0.0
    for what, number in steps:
        if what == "write":
            buffer.write(bytes(2 * number))
            written += number / 24
        elif what == "take":
            assert len(buffer.take(2 * number)) == 2 * number
            now += number / 24000
        elif what == "wait":
            now += number / 1000
        else:
            cleared += buffer.waiting * 1000
            buffer.clear()
        played = buffer.played_ms
        assert told <= played <= written - cleared + 0.1
        told = played
    for _ in range(round((written + 100) / 20)):
        buffer.take(960)
        now += 0.02
    assert buffer.waiting == 0
    now += 1
    assert buffer.played_ms == pytest.approx(written - cleared, abs=0.1)


# -- which device --------------------------------------------------------------------------------------------------------------

HERE = [Device(name=name, kind="output", backend="x") for name in ("Built-in Audio", "Monitor of Built-in Audio", "USB Headset", "Headset")]


@pytest.mark.parametrize(
    ("part", "name"),
    [("usb", "USB Headset"), ("headset", "Headset"), ("BUILT", "Built-in Audio"), ("monitor", "Monitor of Built-in Audio")],
)
def test_a_part_of_the_name_is_enough(part: str, name: str) -> None:
    """The whole name goes before its beginning, and that before a part of it, whatever the case of the letters."""
    assert choose("output", part, HERE).name == name


@pytest.mark.parametrize(
    ("part", "devices", "code", "told"),
    [
        ("audio", HERE, "invalid_device", "can be several: 'Built-in Audio', 'Monitor of Built-in Audio'"),
        ("hdmi", HERE, "invalid_device", "there is: 'Built-in Audio', 'Monitor of Built-in Audio', 'USB Headset', 'Headset'"),
        ("hdmi", [], "no_device", "no sound card"),
    ],
)
def test_a_wrong_name_is_told_with_what_is_there(part: str, devices: list[Device], code: str, told: str) -> None:
    """A name that nothing or several have is an error that lists the devices."""
    with pytest.raises(ConfigError, match=told) as caught:
        choose("output", part, devices)
    assert caught.value.code == code


WITHOUT_MINIAUDIO = """
import sys
sys.modules["miniaudio"] = None
from qai_realtime_sync.devices import Microphone, Speaker, list_devices
from qai_realtime_sync.errors import ConfigError
for what in (list_devices, Speaker().start, Microphone().start):
    try:
        what()
    except ConfigError as error:
        print(error.code, "pip install 'qai-realtime-sync[devices]'" in str(error))
"""


def test_without_miniaudio_the_pip_line_is_named() -> None:
    """Where miniaudio is not installed whoever opens a device is told how to get it; importing alone needs nothing."""
    command = [sys.executable, "-W", "error", "-c", WITHOUT_MINIAUDIO]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines() == ["missing_dependency True"] * 3, done.stderr


@pytest.mark.parametrize(
    "make",
    [
        lambda: Speaker("a", file="b.wav"),
        lambda: Microphone(file="b.wav", pipe=io.BytesIO()),
        lambda: Speaker(block_ms=1),
        lambda: Speaker(jitter_ms=-1),
        lambda: Speaker(audio=AudioFormat("opus", 48000)),
        lambda: Microphone(audio=AudioFormat("pcm16", 11025)),
        lambda: Microphone(7),  # type: ignore[arg-type]
        lambda: Microphone(pipe="a.raw"),  # type: ignore[arg-type]
        lambda: Speaker(pipe="a.raw"),  # type: ignore[arg-type]
        lambda: Speaker(pipe=io.StringIO()),  # type: ignore[arg-type]
        lambda: list_devices("inputs"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_refused_at_once(make: Callable[[], object]) -> None:
    """What cannot work is a ConfigError of the constructor, before anything is opened."""
    with pytest.raises(ConfigError):
        make()


# -- files and pipes -----------------------------------------------------------------------------------------------------------


def test_a_file_as_the_loudspeaker_holds_what_is_heard(tmp_path: pathlib.Path) -> None:
    """The file has the sound whole and in order, its pauses, and is the length of the time that passed."""
    sound = tone(0.3)
    with Speaker(file=tmp_path / "heard.wav", jitter_ms=1000) as speaker:  # so long the second half may take on a busy machine
        speaker.write(sound[:5000])
        speaker.write(sound[5000:])
        eventually(lambda: speaker.played_ms == 300)
        assert not speaker.is_heard()
    heard = read_wav(tmp_path / "heard.wav")
    assert sound in heard
    assert without_silence(heard) == without_silence(sound)
    assert speaker.underruns == speaker.overruns == 0
    assert speaker.error is None


def test_clear_stops_a_file_at_once(tmp_path: pathlib.Path) -> None:
    """Of an answer that is cleared the file has what the clock counted, and nothing after it."""
    with Speaker(file=tmp_path / "heard.wav", jitter_ms=0) as speaker:
        speaker.write(tone(5.0))
        eventually(lambda: speaker.played_ms > 100)
        assert speaker.level > 0.1
        speaker.clear()
        counted = speaker.played_ms
        assert speaker.waiting == 0
        eventually(lambda: not speaker.is_heard())
        assert speaker.level == 0
    heard = without_silence(read_wav(tmp_path / "heard.wav"))
    assert len(heard) * 1000 / 48000 == counted
    assert heard == tone(5.0)[: len(heard)]


def test_telephone_sound_is_decoded_and_encoded(tmp_path: pathlib.Path) -> None:
    """A speaker for µ-law plays PCM16 with the same clock, and a microphone for µ-law gives blocks of 160 bytes."""
    phone = AudioFormat("g711_ulaw", 8000)
    pcm = tone(0.2, rate=8000)
    with Speaker(file=tmp_path / "heard.wav", audio=phone) as speaker:
        speaker.write(ulaw_encode(pcm))
        eventually(lambda: speaker.played_ms == 200)
    with wave.open(str(tmp_path / "heard.wav"), "rb") as file:
        assert file.getframerate() == 8000
        assert Converter(phone, AudioFormat("pcm16", 8000)).convert(ulaw_encode(pcm)) in file.readframes(file.getnframes())
    with Microphone(file=write_wav(tmp_path / "said.wav", pcm, 8000), audio=phone) as microphone:
        blocks = list(microphone)
    assert {len(block) for block in blocks} == {160}
    assert b"".join(blocks) == ulaw_encode(pcm)


def test_a_file_as_the_microphone(tmp_path: pathlib.Path) -> None:
    """A WAV file comes in blocks of 20 ms, whole, as fast as it sounds, with silence after it if that is wanted, and then it ends."""
    path = write_wav(tmp_path / "said.wav", tone(0.3) + tone(0.01))
    begun = time.monotonic()
    with Microphone(file=path, silence_after=0.1) as microphone:
        blocks = list(microphone)
        assert microphone.is_over
        assert microphone.is_said
        assert microphone.read() == b""
    assert time.monotonic() - begun > 0.35
    assert {len(block) for block in blocks} == {BLOCK}
    assert b"".join(blocks) == tone(0.3) + tone(0.01) + bytes(BLOCK // 2) + bytes(5 * BLOCK)
    assert microphone.overruns == 0


def test_a_file_waits_for_whoever_takes_it(tmp_path: pathlib.Path) -> None:
    """Of a file nothing is dropped when nobody takes the blocks for a while."""
    with Microphone(file=write_wav(tmp_path / "said.wav", tone(0.4)), most_waiting=0.1) as microphone:
        threading.Event().wait(0.3)
        assert b"".join(microphone) == tone(0.4)
    assert microphone.overruns == 0


def test_a_stereo_file_of_another_rate(tmp_path: pathlib.Path) -> None:
    """Any WAV file is converted to the wanted format: 48000 Hz with two channels becomes as many seconds at 24000 Hz with one."""
    pcm = array("h", tone(0.5, rate=48000))
    both = array("h", (sample for sample in pcm for _ in range(2)))
    with Microphone(file=write_wav(tmp_path / "said.wav", both.tobytes(), 48000, 2)) as microphone:
        heard = array("h", b"".join(microphone))
    assert len(heard) == RATE // 2
    assert max(heard) == pytest.approx(9000, rel=0.05)


@pytest.mark.parametrize("content", [None, b"no sound at all"])
def test_what_is_no_wav_file_is_told(tmp_path: pathlib.Path, content: bytes | None) -> None:
    """A file that is missing, or is none, is a ConfigError of start()."""
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError):
        Microphone(file=path).start()
    with pytest.raises(ConfigError):
        Speaker(file=tmp_path / "no" / "folder.wav").start()


def test_pipes_in_place_of_devices() -> None:
    """Raw sound from a pipe comes in blocks, as slow as it is written, and ends with it; raw sound goes to a pipe without a header."""
    reader, writer = os.pipe()
    with open(reader, "rb") as source, open(writer, "wb", buffering=0) as said, Microphone(pipe=source) as microphone:
        said.write(tone(0.03))
        assert microphone.read(PATIENCE) == tone(0.03)[:BLOCK]
        with pytest.raises(RealtimeTimeoutError):
            microphone.read(0.05)
        said.write(tone(0.01))
        assert len(microphone.read(PATIENCE)) == BLOCK
        said.close()
        assert microphone.read(PATIENCE) == b""
    output = io.BytesIO()
    with Speaker(pipe=output, jitter_ms=0) as speaker:
        speaker.write(tone(0.1))
        eventually(lambda: speaker.played_ms == 100)
    assert tone(0.1) in output.getvalue()


@pytest.mark.parametrize("opened", [open, gzip.open])
def test_a_pipe_goes_on_where_the_program_has_read_to(tmp_path: pathlib.Path, opened: Callable[..., Any]) -> None:
    """What a file has read ahead, while the program read a header, is heard; a file that unpacks gives what it unpacked."""
    with opened(tmp_path / "a", "wb") as made:
        made.write(b"H" * 44 + tone(0.1))
    with opened(tmp_path / "a", "rb") as source:
        assert source.read(44) == b"H" * 44
        with Microphone(pipe=source) as microphone:
            assert b"".join(microphone) == tone(0.1)


def test_a_pipe_that_gives_nothing_can_be_stopped() -> None:
    """A microphone that waits for a pipe's sound stops at once, and leaves the pipe open."""
    reader, writer = os.pipe()
    with open(reader, "rb") as source, open(writer, "wb", buffering=0) as said:
        took = []
        for _ in range(3):  # a busy machine is late, but not each time
            microphone = Microphone(pipe=source).start()
            begun = time.monotonic()
            microphone.stop()
            took.append(time.monotonic() - begun)
        assert min(took) < 0.9
        said.write(b"x")
        assert source.read(1) == b"x"


def test_a_pipe_that_nobody_reads_is_told() -> None:
    """When the other end of the output pipe goes, on_lost is called and the next write raises; stop() still works."""
    reader, writer = os.pipe()
    os.close(reader)
    lost: list[RealtimeError] = []
    told = threading.Event()

    def on_lost(error: RealtimeError) -> None:
        lost.append(error)
        told.set()

    with open(writer, "wb", buffering=0) as pipe, Speaker(pipe=pipe, on_lost=on_lost) as speaker:
        assert told.wait(PATIENCE)
        assert lost[0].code == "device_lost"
        with pytest.raises(RealtimeError) as caught:
            speaker.write(tone(0.1))
        assert caught.value is lost[0]


class _Odd(io.RawIOBase):
    """A pipe of the user's own whose methods fail in a way of their own."""

    def write(self, block: Any) -> int:
        raise RuntimeError("not today")

    def read(self, size: int = -1) -> bytes:
        raise RuntimeError("not today")


@pytest.mark.parametrize("end", [Speaker, Microphone])
def test_a_pipe_that_fails_in_a_way_of_its_own_is_told(end: type[Speaker] | type[Microphone], caplog: pytest.LogCaptureFixture) -> None:
    """Whatever an object in place of a pipe raises is a lost device with its words, not a thread that dies silently."""
    lost: list[RealtimeError] = []
    told = threading.Event()

    def on_lost(error: RealtimeError) -> None:
        lost.append(error)
        told.set()

    with end(pipe=_Odd(), on_lost=on_lost) as line:  # type: ignore[arg-type]
        assert told.wait(PATIENCE)
        assert line.error is lost[0]
    assert lost[0].code == "device_lost"
    assert "RuntimeError: not today" in str(lost[0])


def test_a_loss_that_is_raised_often_does_not_grow(tmp_path: pathlib.Path) -> None:
    """A program that goes on writing to a lost speaker keeps no traceback of each attempt."""
    told = threading.Event()
    with Speaker(pipe=_Odd(), on_lost=lambda error: told.set()) as speaker:  # type: ignore[arg-type]
        assert told.wait(PATIENCE)
        for _ in range(50):
            with pytest.raises(RealtimeError) as caught:
                speaker.write(tone(0.02))
        assert len(traceback.extract_tb(caught.value.__traceback__)) <= 2


def test_a_lost_speaker_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A conversation whose speaker is lost goes on, and its log has one line about it, not one for every piece of sound."""
    pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")
    from qai_realtime_sync.offline import RealtimeServer

    told = threading.Event()
    with RealtimeServer(light=True, key="secret") as server, Speaker(pipe=_Odd(), on_lost=lambda error: told.set()) as speaker:  # type: ignore[arg-type]
        assert told.wait(PATIENCE)
        with RealtimeClient("secret", base_url=server.url) as client:
            client.play_to(speaker)
            for _ in range(2):
                client.ask("Hello", timeout=PATIENCE)
    assert [record.message for record in caplog.records].count("the sink of play_to failed") == 1


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"tail": "x"}, "tail"),
        ({"most_waiting": -1}, "most_waiting"),
        ({"silence_after": math.nan}, "silence_after"),
        ({"half_duplex": 5}, "Speaker"),
    ],
    ids=str,
)
def test_a_wrong_option_of_the_microphone_is_told_at_once(tmp_path: pathlib.Path, wrong: dict[str, Any], named: str) -> None:
    """An option that would break the thread of the microphone later is refused by its name when it is made."""
    with pytest.raises(ConfigError, match=named):
        Microphone(file=write_wav(tmp_path / "a.wav", tone(0.1)), **wrong)


def test_a_file_that_is_no_sound_is_named_and_nothing_waits_for_it(tmp_path: pathlib.Path) -> None:
    """The error names the file, and who reads from the microphone all the same is told that it does not listen."""
    (tmp_path / "notes.wav").write_text("these are words", encoding="utf-8")
    microphone = Microphone(file=tmp_path / "notes.wav")
    with pytest.raises(ConfigError, match=r"notes\.wav"):
        microphone.start()
    with pytest.raises(NotConnectedError):
        microphone.read(1.0)


# -- half-duplex, levels, sending ----------------------------------------------------------------------------------------------


def test_half_duplex_is_deaf_while_it_plays_and_a_moment_longer(tmp_path: pathlib.Path) -> None:
    """While the speaker is heard, and a tail after it, the blocks are silence; the level meter shows the sound all the same."""
    path = write_wav(tmp_path / "said.wav", tone(1.2))
    with (
        Speaker(file=tmp_path / "heard.wav", jitter_ms=0) as speaker,
        Microphone(file=path, half_duplex=speaker, tail=0.2, most_waiting=0.02) as microphone,
    ):
        assert any(microphone.read(PATIENCE))
        speaker.write(tone(0.3))
        blocks = []
        levels = []
        for block in microphone:
            blocks.append(any(block))
            levels.append(microphone.level)
    first = blocks.index(False)
    again = blocks.index(True, first)
    assert again - first >= 22, "it was deaf for less than 0.3 s and the tail of 0.2 s"
    assert all(blocks[again:])
    assert min(levels) == pytest.approx(9000 / math.sqrt(2) / 32768, rel=0.1)


def test_what_is_sent_to_may_end_it(tmp_path: pathlib.Path) -> None:
    """A conversation that is over ends the sending quietly, a full outbox drops a block and counts it, anything else is told."""
    path = write_wav(tmp_path / "said.wav", tone(0.2))
    ends = [OutboxFullError("full"), None, NotConnectedError("over")]

    def send(block: bytes) -> None:
        if end := ends.pop(0):
            raise end

    with Microphone(file=path, most_waiting=0.02, silence_after=5) as microphone:
        microphone.send_to(send)
        assert microphone.wait(PATIENCE)
        assert microphone.error is None
        assert (ends, microphone.overruns) == ([], 1)
        threading.Event().wait(0.2)
        assert microphone.overruns == 1, "what comes after the end is not lost"
        with pytest.raises(ConfigError):
            microphone.send_to(send)
    lost: list[RealtimeError] = []
    with Microphone(file=path, on_lost=lost.append) as microphone:
        microphone.send_to(lambda block: ends[0])
        assert microphone.wait(PATIENCE)
        assert isinstance(microphone.error, RealtimeError)
        assert lost == [microphone.error]
        assert "IndexError" in str(lost[0])


def test_what_is_not_started_says_so(tmp_path: pathlib.Path) -> None:
    """Before start() a write or a read raises and names start(); one life each."""
    speaker, microphone = Speaker(file=tmp_path / "a.wav"), Microphone(pipe=io.BytesIO())
    with pytest.raises(NotConnectedError, match="start"):
        speaker.write(b"")
    for take in (microphone.read, lambda: microphone.send_to(print)):
        with pytest.raises(NotConnectedError, match="start"):
            take()
    with speaker, microphone:
        pass
    for thing in (speaker, microphone):
        thing.stop()
        with pytest.raises(ConfigError, match="new one"):
            thing.start()
    with pytest.raises(NotConnectedError):
        speaker.write(b"")


def test_a_speaker_takes_its_format_from_the_client(tmp_path: pathlib.Path) -> None:
    """play_to tells a speaker without a format what will be written; one that was made for another format is refused."""
    speaker = Speaker(file=tmp_path / "heard.wav")
    client = RealtimeClient("k", RealtimeConfig(output_format="g711_ulaw"))
    client.play_to(speaker)
    assert speaker.audio == AudioFormat("g711_ulaw", 8000)
    with pytest.raises(ConfigError, match="24000"):
        client.play_to(Speaker(audio=AudioFormat()))
    with Speaker(file=tmp_path / "other.wav") as playing, pytest.raises(ConfigError, match="output_audio"):
        client.play_to(playing)


def test_an_answer_is_played_and_heard_to_its_end(tmp_path: pathlib.Path) -> None:
    """The file has the answer whole, and playback_stopped comes with as many milliseconds as the speaker counted."""
    pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
    from qai_realtime_sync.offline import RealtimeServer

    with RealtimeServer(light=True) as server, Speaker(file=tmp_path / "heard.wav") as speaker:
        client = RealtimeClient("k", base_url=server.url)
        client.play_to(speaker)
        sound = bytearray()
        client.on_audio_delta(lambda event: sound.extend(event.audio))
        with client:
            client.send_text("Hello!")
            stopped = client.wait_for("playback_stopped", PATIENCE)
    assert stopped.reason == "finished"
    assert stopped.heard_ms == stopped.received_ms == pytest.approx(speaker.played_ms, abs=1)
    # Sample by sample: a service that was late for a moment leaves a gap, and the answer goes on behind it.
    assert [one for one in _samples(read_wav(tmp_path / "heard.wav")) if one] == [one for one in _samples(bytes(sound)) if one]
    assert len(sound) * 1000 // 48000 == stopped.heard_ms


# -- real devices --------------------------------------------------------------------------------------------------------------


def test_the_devices_are_listed(pulse: PulseServer) -> None:
    """Every loudspeaker and microphone of the sound server is there with its name, and only of the kind that was asked for."""
    assert {(device.name, device.kind) for device in list_devices()} == {
        ("Room", "output"), ("Lips", "output"), ("Monitor of Room", "input"), ("Monitor of Lips", "input"),
    }  # fmt: skip
    (device, *_) = list_devices("output", backend="pulseaudio")
    assert device.backend == "PulseAudio"
    assert device.rates == (48000,)
    with pytest.raises(ConfigError, match="pulseaudio"):
        list_devices(backend="gramophone")
    with pytest.raises(ConfigError, match="'Room', 'Lips'"):
        Speaker("kitchen").start()


def test_a_loudspeaker_plays_what_its_clock_counts(pulse: PulseServer) -> None:
    """What comes out of the sound server is as long as played_ms says, begins when it says, and ends soon after clear."""
    with pulse.capture() as capture, Speaker("room") as speaker:
        assert speaker.name == "Room"
        begun = capture.seconds
        speaker.write(tone(3.0))
        eventually(lambda: speaker.played_ms > 500)
        assert 0.1 < speaker.level < 0.3
        looked = time.monotonic()
        played, recorded = speaker.played_ms, capture.seconds
        speaker.clear()
        counted = speaker.played_ms
        passed = (time.monotonic() - looked) * 1000  # next to nothing, but not on a busy machine
        end = capture.wait_for_silence(0.5)
        loud, samples = capture.loud(begun), capture.samples(begun)
    assert played <= counted <= played + 100 + passed
    # Samples, not time: on a busy machine the sound server leaves holes of its own between the blocks that it gets.
    assert sum(abs(sample) > 100 for sample in samples) * 1000 / RATE == pytest.approx(counted, rel=0.07)
    assert (recorded - loud[0]) * 1000 == pytest.approx(played, abs=250 + passed), "the clock is far from what was heard at that moment"
    assert end >= loud[-1]
    assert speaker.underruns == 0


def test_a_microphone_hears_what_is_said(pulse: PulseServer) -> None:
    """A tone of half a second arrives at the microphone with its loudness, in blocks of 20 ms, and nothing is dropped."""
    heard: list[bytes] = []
    enough = threading.Event()

    def keep(block: bytes) -> None:
        heard.append(block)
        if sum(any(abs(sample) > 1000 for sample in array("h", one)) for one in heard) >= 24:
            enough.set()

    with Microphone("monitor of lips") as microphone:
        microphone.read(PATIENCE)
        microphone.send_to(keep)
        pulse.say(tone(0.5))
        assert enough.wait(PATIENCE)
    assert {len(block) for block in heard} == {BLOCK}
    assert max(array("h", b"".join(heard))) == pytest.approx(9000, rel=0.2)
    assert microphone.overruns == 0


def test_blocks_that_nobody_takes_are_counted(pulse: PulseServer) -> None:
    """A microphone never waits for its reader: it keeps the newest blocks, and counts those it drops."""
    with Microphone("monitor of lips", most_waiting=0.1) as microphone:
        eventually(lambda: microphone.overruns > 5)
        assert len(microphone.read(PATIENCE)) == BLOCK
        microphone.stop()
        rest = list(microphone)
    assert len(rest) <= 5


def test_opening_and_closing_leaves_nothing(pulse: PulseServer) -> None:
    """Ten times opened and closed: no descriptor and no thread is left, whoever stops it, and however often."""

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    with Speaker("room"), Microphone("monitor of lips"):
        pass
    before = count()
    for _ in range(5):
        with Speaker("room") as speaker, Microphone("monitor of lips") as microphone:
            threads = [threading.Thread(target=thing.stop) for thing in (speaker, microphone, speaker)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
    assert count() <= before + 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qai-device")]


def test_stop_in_the_devices_own_thread_does_not_wait_for_itself(pulse: PulseServer, caplog: pytest.LogCaptureFixture) -> None:
    """A line that is stopped by what it calls back closes all the same; miniaudio alone would wait for its own thread for ever."""
    stopped = threading.Event()
    line = DeviceOutput("room", RATE, 20, "")

    def take(size: int) -> bytes:
        line.stop()
        stopped.set()
        return bytes(size)

    line.start(take, lambda error: None)
    assert stopped.wait(PATIENCE)
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("qai-device")])
    line.stop()
    assert caplog.text == ""


@pytest.mark.parametrize("kind", ["output", "input"])
def test_an_error_in_the_devices_thread_is_told(pulse: PulseServer, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong while the device asks for sound or gives it is told once, and the device lives on until it is stopped."""
    failed: list[RealtimeError] = []
    calls = threading.Semaphore(0)

    def broken(_: Any) -> bytes:
        calls.release()
        raise ValueError("a bad block")

    line: Any = DeviceOutput("room", RATE, 20, "") if kind == "output" else DeviceInput("monitor of lips", RATE, 20, "")
    line.start(*([broken, failed.append] if kind == "output" else [broken, lambda: None, failed.append]))
    try:
        for _ in range(3):
            assert calls.acquire(timeout=PATIENCE)
    finally:
        line.stop()
    assert [error.code for error in failed] == ["device_lost"]
    assert "a bad block" in str(failed[0])
    assert "could not be" in caplog.text


def test_a_device_that_is_gone_is_told(own_pulse: PulseServer) -> None:
    """When the sound server goes away both ends say so within seconds, whoever waits gets the error, and stop() returns."""
    lost: list[RealtimeError] = []
    told = threading.Semaphore(0)

    def on_lost(error: RealtimeError) -> None:
        lost.append(error)
        told.release()

    with Speaker("room", on_lost=on_lost) as speaker, Microphone("monitor of lips", on_lost=on_lost) as microphone:
        for _ in range(8):
            microphone.read(PATIENCE)
        speaker.write(tone(0.2))
        eventually(lambda: speaker.played_ms == 200)
        own_pulse.kill()
        for _ in range(2):
            assert told.acquire(timeout=PATIENCE)
        with pytest.raises(RealtimeError, match="Room is lost"):
            speaker.write(tone(0.1))
        with pytest.raises(RealtimeError, match="Lips is lost"):
            list(microphone)
    assert {error.code for error in lost} == {"device_lost"}
    with pytest.raises(RealtimeError):
        Speaker("room").start()


@pytest.mark.long
def test_a_sound_server_that_hangs_holds_up_nobody(own_pulse: PulseServer, caplog: pytest.LogCaptureFixture) -> None:
    """When the sound server stops answering, stop() returns within two seconds and says so, and opening gives up with an error."""
    with Speaker("room") as speaker:
        eventually(lambda: not speaker.is_heard())
        os.kill(own_pulse.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            speaker.stop()
            assert time.monotonic() - begun < 5
            assert "does not close" in caplog.text
            with pytest.raises(RealtimeTimeoutError, match="does not answer"):
                Microphone("monitor of lips").start()
        finally:
            os.kill(own_pulse.pid, signal.SIGCONT)
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("qai-device")])
    for kind in ("sink-inputs", "source-outputs"):
        assert "qai-realtime-sync" not in own_pulse.control("list", kind).stdout, "a device that was opened too late stayed open"
