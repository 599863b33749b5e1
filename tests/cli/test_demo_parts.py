"""The parts of the demo: words, latencies and checks, lines on the terminal, WAV files, signals."""

from __future__ import annotations

import pathlib
import signal
import struct
import subprocess
import sys
import threading
import wave
from array import array
from typing import Any

import pytest

from qai_realtime_sync import (
    AudioDelta,
    ConfigError,
    FunctionCall,
    ItemTruncated,
    PlaybackStopped,
    RealtimeClient,
    SpeechStopped,
    TranscriptDelta,
    TranscriptDone,
)
from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli import demo_report, demo_script
from qai_realtime_sync.cli.demo_report import Measured, Spoken, checks_of, checks_of_recording, latency_table
from qai_realtime_sync.cli.demo_script import wrong_words
from qai_realtime_sync.cli.interruptions import Interruptions, TerminatedError
from qai_realtime_sync.cli.live import Live
from qai_realtime_sync.cli.sound_files import read_wav, write_wav

AUDIO = AudioFormat()


# -- words -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "heard", "rate"),
    [
        ("Stop, that is enough.", "stop that is enough", 0.0),
        ("one two three four", "one too three four", 0.25),
        ("one two three four", "one three four", 0.25),
        ("one two three four", "one two and three four", 0.25),
        ("one two", "", 1.0),
        ("", "", 0.0),
        ("", "noise", 1.0),
        ("it's four o'clock", "it's four o'clock", 0.0),
    ],
)
def test_wrong_words(said: str, heard: str, rate: float) -> None:
    """Replaced, missing and added words count, case and punctuation do not."""
    assert wrong_words(said, heard) == rate


def test_every_scripted_turn_has_six_words() -> None:
    """A turn of the demo is at least six words long."""
    for sentence in (demo_script.GREETING, demo_script.QUESTION, demo_script.INTERRUPTION):
        assert len(demo_script.words(sentence)) >= 6


# -- what is measured --------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the report reads."""
    made = Clock()
    monkeypatch.setattr(demo_report, "time", made)
    return made


def conversation(clock: Clock) -> tuple[Measured, list[Spoken]]:
    """Three turns as the demo has them: end of speech at 1, 5 and 9 seconds."""
    measured = Measured()
    client = RealtimeClient("key")
    measured.follow(client)
    tell = client._call.handlers.dispatch
    story: list[tuple[float, Any]] = [
        (1.5, SpeechStopped()),
        (1.6, TranscriptDone(source="input", transcript="hello there good morning how are you today")),
        (1.7, AudioDelta(audio=b"12", response_id="r1")),
        (1.9, AudioDelta(audio=b"12", response_id="r1")),
        (5.5, SpeechStopped()),
        (5.6, TranscriptDone(source="input", transcript="what is the weather like in london today")),
        (5.7, FunctionCall(name="get_weather", call_id="c", arguments="{}")),
        (5.9, AudioDelta(audio=b"12", response_id="r3")),
        (8.0, PlaybackStopped(item_id="item_3", heard_ms=2100, reason="barge_in")),
        (9.4, SpeechStopped()),
        (9.5, TranscriptDone(source="input", transcript="stop that is enough for today thank you")),
        (9.8, AudioDelta(audio=b"12", response_id="r4")),
        (11.0, PlaybackStopped(item_id="item_4", heard_ms=1200, reason="finished")),
    ]
    for at, event in story:
        clock.now = at
        tell(event)
    texts = (demo_script.GREETING, demo_script.QUESTION, demo_script.INTERRUPTION)
    return measured, [Spoken(text, ended_at=at) for text, at in zip(texts, (1.0, 5.0, 9.0))]


def journal(truncated: int | None) -> dict[str, Any]:
    """What the server knows of the interrupted answer."""
    return {"conversations": [{"items": [{"id": "item_3", "truncated_ms": truncated, "generated_ms": 12000}]}]}


def test_latency_is_from_the_last_sound_to_the_first(clock: Clock) -> None:
    """Each turn's latency goes from the end of its speech to the first sound of the answer, and the part after speech_stopped too."""
    measured, turns = conversation(clock)
    rows = measured.rows(turns)
    assert [row.latency for row in rows] == pytest.approx([0.7, 0.9, 0.8])
    assert [row.in_service for row in rows] == pytest.approx([0.2, 0.4, 0.4])
    table = latency_table(rows)
    assert len(table) == 4
    assert "700 ms" in table[1]


def test_a_good_conversation_passes_every_check(clock: Clock) -> None:
    """Words, one tool call and the truncation are all found right."""
    measured, turns = conversation(clock)
    checks = checks_of(measured, turns, measured.rows(turns), journal(2100))
    assert [check.ok for check in checks] == [True] * 5


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda measured: measured.calls.clear(), "called once: no call"),
        (lambda measured: measured.calls.append(measured.calls[0]), "called once: get_weather({}), get_weather({})"),
        (lambda measured: measured.stops.clear(), "was not interrupted"),
        (lambda measured: measured._heard.clear(), "100 % of the words"),
        (lambda measured: measured._first_sounds.pop("r4"), "turn 3 was answered"),
    ],
)
def test_what_went_wrong_fails_a_check(clock: Clock, spoil: Any, words: str) -> None:
    """A missing or second call, no interruption, wrong words and a missing answer each fail a check that says so."""
    measured, turns = conversation(clock)
    spoil(measured)
    failed = [check.text for check in checks_of(measured, turns, measured.rows(turns), journal(2100)) if not check.ok]
    assert failed
    assert any(words in text for text in failed)


@pytest.mark.parametrize("truncated", [None, 1900])
def test_a_truncation_elsewhere_fails(clock: Clock, truncated: int | None) -> None:
    """An item that the server did not cut, or cut more than 100 ms from what was heard, fails."""
    measured, turns = conversation(clock)
    checks = checks_of(measured, turns, measured.rows(turns), journal(truncated))
    assert [check.text for check in checks if not check.ok]


def test_a_recording_has_to_be_answered(clock: Clock) -> None:
    """A recording's turns are counted from the service's speech_stopped; one that nobody hears fails."""
    measured, _ = conversation(clock)
    turns = measured.turns_heard(0.5)
    assert [turn.ended_at for turn in turns] == pytest.approx([1.0, 5.0, 8.9])
    assert checks_of_recording(measured.rows(turns))[0].ok
    assert not checks_of_recording([])[0].ok


# -- the terminal ------------------------------------------------------------------------------------------------------------


def test_both_sides_are_printed_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    """Words of an answer grow on one line, another line does not tear them apart, and each line has its time."""
    live = Live(lambda: 1.25)
    client = RealtimeClient("key")
    live.follow(client)
    live.line("caller", "Hello?")
    for event in (
        TranscriptDelta(delta="Hi", item_id="a"),
        TranscriptDelta(delta=" there.", item_id="a"),
        TranscriptDone(source="input", transcript="hello"),
        TranscriptDelta(delta=" How are", item_id="a"),
        PlaybackStopped(item_id="a", heard_ms=2100, reason="barge_in"),
        ItemTruncated(item_id="a", audio_end_ms=2100, transcript="Hi there."),
    ):
        for registration in client._call.handlers._resolve(type(event)):
            registration.function(event)
    live.end()
    live.line("", "nothing after the end")
    assert [line[10:] for line in capsys.readouterr().out.splitlines()] == [
        "caller     Hello?",
        "assistant  Hi there.",
        "heard      hello",
        "assistant  How are",
        "           (the answer stops: 2.1 s of it were heard)",
        "           (the service cuts it at 2100 ms, keeping: Hi there.)",
    ]


# -- WAV files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "width", "rate"), [(1, 2, 24000), (2, 2, 24000), (1, 1, 24000), (2, 2, 48000), (1, 2, 8000)])
def test_a_wav_file_of_any_kind_is_read(tmp_path: pathlib.Path, channels: int, width: int, rate: int) -> None:
    """One second of a constant comes out as one second of it, whatever channels, width and rate it has."""
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        sample = bytes([160]) if width == 1 else (8192).to_bytes(2, "little")
        file.writeframes(sample * channels * rate)
    samples = array("h", read_wav(tmp_path / "a.wav", AUDIO))
    assert abs(len(samples) - 24000) <= 2
    assert all(abs(sample - 8192) < 200 for sample in samples[2000:-2000])


def test_what_is_written_is_read(tmp_path: pathlib.Path) -> None:
    """A file that was written holds the same samples."""
    pcm = array("h", range(3000)).tobytes()
    write_wav(tmp_path / "a.wav", pcm, AUDIO)
    assert read_wav(tmp_path / "a.wav", AUDIO) == pcm


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all, but a text that is long enough to be one"])
def test_a_file_that_is_no_wav(tmp_path: pathlib.Path, content: bytes) -> None:
    """What is not a WAV file is told by name."""
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.wav"):
        read_wav(tmp_path / "a.wav", AUDIO)


def wav_bytes(tag: int, bits: int, sound: bytes, rate: int = 24000) -> bytes:
    """A WAV file of one channel and any kind."""
    kind = struct.pack("<HHIIHH", tag, 1, rate, rate * bits // 8, bits // 8, bits)
    if tag == 0xFFFE:  # the real tag stands in what follows, as in what many programs write
        kind += struct.pack("<HHIH", 22, bits, 4, 1) + bytes.fromhex("000000001000800000aa00389b71")
    head = struct.pack("<4sI4s4sI", b"RIFF", 20 + len(kind) + len(sound), b"WAVE", b"fmt ", len(kind))
    return head + kind + struct.pack("<4sI", b"data", len(sound)) + sound


@pytest.mark.parametrize(
    ("tag", "bits", "sample"),
    [(1, 24, b"\0\0\x20"), (1, 32, b"\0\0\0\x20"), (3, 32, struct.pack("<f", 0.25)), (0xFFFE, 16, b"\0\x20"), (7, 8, b"\x9f")],
    ids=["24 bits", "32 bits", "float", "extensible", "mu-law"],
)
def test_every_kind_of_wav_file_that_the_client_sends_is_read(tmp_path: pathlib.Path, tag: int, bits: int, sample: bytes) -> None:
    """A command takes the files that send_audio_from takes."""
    (tmp_path / "a.wav").write_bytes(wav_bytes(tag, bits, sample * 4800))
    samples = array("h", read_wav(tmp_path / "a.wav", AUDIO))
    assert len(samples) == 4800
    assert all(abs(sample - 8192) < 400 for sample in samples[200:-200])


@pytest.mark.parametrize(("tag", "bits", "sound", "words"), [(2, 4, b"abcd", "kind 2"), (1, 16, b"", "no sound"), (1, 16, b"ab", "0.1 s")])
def test_a_wav_file_that_cannot_be_used(tmp_path: pathlib.Path, tag: int, bits: int, sound: bytes, words: str) -> None:
    """Compressed sound, and a file with no sample or hardly any, are told, with the file's name."""
    (tmp_path / "a.wav").write_bytes(wav_bytes(tag, bits, sound))
    with pytest.raises(ConfigError, match=rf"a\.wav.*{words}"):
        read_wav(tmp_path / "a.wav", AUDIO)


def test_a_wav_file_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    """A folder that is not there is told."""
    with pytest.raises(ConfigError, match="cannot be written"):
        write_wav(tmp_path / "no" / "a.wav", b"", AUDIO)


# -- signals -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)])
def test_the_first_signal_raises_and_a_later_sigterm_does_not(number: signal.Signals, error: type[BaseException]) -> None:
    """One signal is one exception; what ends the program is not disturbed by a SIGTERM, and the old handlers come back."""
    before = signal.getsignal(number)
    cleaned = False
    with Interruptions():
        with pytest.raises(error):
            signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        cleaned = True
    assert cleaned
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once() -> None:
    """Whoever presses Ctrl-C again waits for nothing: the process is over, with the code of a signal."""
    program = """
import signal, threading
from qai_realtime_sync.cli.interruptions import Interruptions
with Interruptions():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        signal.raise_signal(signal.SIGINT)
        threading.Event().wait(60)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, cwd=pathlib.Path(__file__).parents[2])
    assert done.returncode == 130
    assert b"stopped at once" in done.stderr


def test_a_held_signal_raises_afterwards() -> None:
    """What must not be torn apart is finished first."""
    finished = []

    def work(interruptions: Interruptions) -> None:
        with interruptions.held():
            signal.raise_signal(signal.SIGINT)
            finished.append(True)

    with Interruptions() as interruptions:
        with pytest.raises(KeyboardInterrupt):
            work(interruptions)
    assert finished


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    """In another thread nothing is installed, because Python would refuse it."""
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def run() -> None:
        with Interruptions():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert seen == [before]


def test_long_answers_are_broken_between_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a terminal the lines of an answer stand below each other; in a pipe an answer stays one line."""
    words = [" twelve"] * 12
    for width, lines in ((0, 1), (60, 3)):
        live = Live(lambda: 1.0)
        live._width = width
        for word in words:
            live._words(TranscriptDelta(delta=word, item_id="a"))
        live.end()
        told = capsys.readouterr().out.splitlines()
        assert len(told) == lines
        assert " ".join(" ".join(told).split()) == "1.0 s assistant" + "".join(words)
        assert all(len(line) < 60 and line.startswith(" " * 21 + "twelve") for line in told[1:])
