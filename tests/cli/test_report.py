"""``qai-realtime report``: what it writes of a whole recording, of a broken one, and of none."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import wave
from array import array
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from qai_realtime_sync.audio import AudioFormat, Converter
from qai_realtime_sync.cli import main
from qai_realtime_sync.cli.recorded import config_of, load
from qai_realtime_sync.cli.recorded_sound import RecordedSound
from qai_realtime_sync.client.wav_in import WavIn
from tests.cli.recordings import EVIL, make
from tests.cli.running import Running
from tests.cli.test_program import without

Damage = Callable[[pathlib.Path], object]
Capture = pytest.CaptureFixture[str]
DRAWS = importlib.util.find_spec("matplotlib") is not None


class Elements(HTMLParser):
    """Counts the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


def reported(capsys: Capture, *arguments: str) -> dict[str, object]:
    """Run the command with --json; return its one line."""
    assert main(["report", *arguments, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    value: dict[str, object] = json.loads(line)
    return value


def test_of_a_whole_recording(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """It writes a page, subtitles and pictures into the recording, and tells the numbers of what was said and how fast."""
    folder = make(tmp_path / "call")
    told = reported(capsys, str(folder))
    assert (told["name"], told["command"], told["ok"], told["whole"], told["problems"]) == ("result", "report", True, True, [])
    assert (told["turns"], told["interruptions"], told["tool_calls"], told["errors"], told["tokens"]) == (3, 1, 1, 0, 12)
    assert told["latency"] == {"median": 0.3, "slowest": 0.4}
    assert told["silence_before_answer"] == {"median": 0.4, "slowest": 0.8}  # with the half second until the end was noticed
    assert told["seconds"] == 6.5
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(words in page for words in ("how are you", "All right.", "look_up", "interrupted", "data:audio/wav;base64,"))
    assert "00:00:02,000 --> 00:00:03,500\nAssistant: one two three\n" in (folder / "conversation.srt").read_text(encoding="utf-8")
    if DRAWS:
        for name in ("timeline.png", "latency.png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG"), name


def test_what_is_printed(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """Without --json a person reads the turns, the files and where to look at them."""
    folder = make(tmp_path / "call")
    assert main(["report", str(folder), "--no-pictures"]) == 0
    told = capsys.readouterr().out
    assert "3 turns, 1 interruption, 1 tool call, 0 errors" in told
    assert re.search(r"^ +1 +800 ms +how are you +one two three …$", told, re.MULTILINE)
    assert f"wrote {folder / 'report.html'}" in told
    assert (folder / "report.html").as_uri() in told


def test_the_newest_recording_is_meant(tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder it is the recording of this place that was written last; --out takes the files elsewhere."""
    make(tmp_path / "old")
    make(tmp_path / "new")
    for name in ("conversation.wav", "events.jsonl"):
        os.utime(tmp_path / "old" / name, (1, 1))
    monkeypatch.chdir(tmp_path)
    told = reported(capsys, "--out", "elsewhere", "--no-pictures")
    assert told["folder"] == "new"
    assert sorted(os.listdir("elsewhere")) == ["conversation.srt", "report.html"]
    assert not (tmp_path / "new" / "report.html").exists()


def test_nothing_of_what_was_said_is_html(tmp_path: pathlib.Path) -> None:
    """A caller who says elements adds none, in no part of the page."""
    for name, said in (("plain", "hello"), ("evil", EVIL)):
        assert main(["report", str(make(tmp_path / name, said=said)), "--no-pictures"]) == 0
    plain, evil = (Elements((tmp_path / name / "report.html").read_text(encoding="utf-8")).found for name in ("plain", "evil"))
    assert plain == evil
    assert "window.hacked" in (tmp_path / "evil" / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(not DRAWS, reason="pictures need matplotlib")
def test_half_a_character_is_drawn_as_something(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """JSON may hold half of a pair of surrogates, in what was said or in a file's name: the page and the pictures are made all the same."""
    folder = make(tmp_path / "call", said="half \ud83d of it")
    told = reported(capsys, str(folder))
    assert (folder / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert told["problems"] == []


# -- recordings that are not whole -------------------------------------------------------------------------------------------


def _cut(folder: pathlib.Path) -> None:
    """As a process that was killed while it wrote the last line leaves it."""
    path = folder / "events.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n")[:-20])


def _scribble(folder: pathlib.Path) -> None:
    path = folder / "events.jsonl"
    lines = path.read_bytes().splitlines()
    lines[3] = b'{"at": "never"}'
    lines[4] = b"\xff\xfe\x00"
    lines[5] = b'{"at": 1, "direction": "received", "name": "audio_delta", "audio": 99999999999999}'
    lines[6] = b"[" * 5000
    path.write_bytes(b"\n".join(lines) + b"\n")


def _longer_than_it_is(folder: pathlib.Path) -> None:
    path = folder / "conversation.wav"
    data = bytearray(path.read_bytes()[:-100_000])
    data[40:44] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no events": (lambda folder: (folder / "events.jsonl").unlink(), "there is no events.jsonl"),
    "no sound": (lambda folder: (folder / "conversation.wav").unlink(), "there is no conversation.wav"),
    "empty sound": (lambda folder: (folder / "conversation.wav").write_bytes(b""), "cannot be read as a WAV file (it ends too early)"),
    "sound of a header": (lambda folder: os.truncate(folder / "conversation.wav", 44), "holds no sound yet"),
    "half a header": (lambda folder: os.truncate(folder / "conversation.wav", 30), "cannot be read as a WAV file"),
    "sound that is text": (lambda folder: (folder / "conversation.wav").write_text("hello" * 100), "cannot be read as a WAV file"),
    "a cut last line": (_cut, "is cut off"),
    "broken lines": (_scribble, "4 lines of events.jsonl cannot be read"),
    "no end": (lambda folder: make(folder, end=False), "the recording has no end"),
    "empty events": (lambda folder: (folder / "events.jsonl").write_text(""), "there is no event in events.jsonl"),
    "events of something else": (lambda folder: (folder / "events.jsonl").write_text('{"a": 1}\n[]\n3\n'), "3 lines of events.jsonl"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_broken_recording_is_reported_as_far_as_it_goes(name: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    """What is left becomes a page that says what is missing; the exit code is 0."""
    damage, problem = DAMAGES[name]
    folder = make(tmp_path / "call")
    damage(folder)
    told = reported(capsys, str(folder))
    assert told["whole"] is False
    problems = told["problems"]
    assert isinstance(problems, list)
    assert any(problem in one for one in problems), problems
    assert problem.split("'")[0] in (folder / "report.html").read_text(encoding="utf-8").replace("&#x27;", "'")


def test_a_header_that_promises_too_much(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """The sound that is there is shown, whatever the header says."""
    folder = make(tmp_path / "call")
    _longer_than_it_is(folder)
    told = reported(capsys, str(folder), "--no-pictures")
    assert told["problems"] == []
    sound, _ = RecordedSound.opened(folder / "conversation.wav")
    assert sound is not None
    assert 5.0 < sound.duration < 6.0
    assert len(sound.peaks(10)[0]) in (int(sound.duration * 10), int(sound.duration * 10) + 1)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, "there is no folder"),
        (lambda folder: folder.mkdir(), "is no recording"),
        (lambda folder: (folder.mkdir(), (folder / "events.jsonl").write_text("")), "is empty"),
        (lambda folder: folder.write_text("a file"), "neither a recorded folder nor a WAV file"),
        (lambda folder: folder.with_suffix(".wav").write_text("a file"), "there is no folder"),
    ],
    ids=["no folder", "empty folder", "empty file", "a file", "another file"],
)
def test_what_is_no_recording_is_1(prepare: Damage, words: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    """Where there is nothing to report of, one line says so, with exit code 1."""
    prepare(tmp_path / "call")
    assert main(["report", str(tmp_path / "call")]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert words in told.err
    assert not (tmp_path / "call" / "report.html").exists()


def test_a_place_without_a_recording(tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder and without a recording it says what makes one; with --json the last line says it too."""
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--json"]) == 1
    told = capsys.readouterr()
    assert "qai-realtime demo" in told.err
    assert json.loads(told.out)["error"]["code"] == "invalid_path"


def test_the_sound_alone(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """A WAV file, such as `say --out` writes, has a page to listen to and a waveform."""
    folder = make(tmp_path / "call")
    shutil.move(folder / "conversation.wav", tmp_path / "answer.wav")
    told = reported(capsys, str(tmp_path / "answer.wav"), "--out", str(tmp_path / "page"))
    assert told["seconds"] == 6.5
    assert '<path class="wave user"' in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")


def test_of_a_killed_demo(start: Callable[..., Running], serving: None, tmp_path: pathlib.Path, capsys: Capture) -> None:
    """After SIGKILL in the middle the recording has a report: its sound, its turns until then, and that it has no end."""
    demo = start("demo", "--light", "--out", "call")
    demo.read_until("(the caller is heard)")
    demo.process.kill()
    demo.finish(10)
    told = reported(capsys, str(tmp_path / "call"), "--no-pictures")
    problems, turns = told["problems"], told["turns"]
    assert isinstance(problems, list)
    assert any("has no end" in one for one in problems)
    assert isinstance(turns, int)
    assert turns >= 1


def test_without_matplotlib(tmp_path: pathlib.Path) -> None:
    """The page with its own waveform and the subtitles are made all the same; the pip line for the pictures is named; exit code 0."""
    make(tmp_path / "call")
    done = without("matplotlib", "report", "call", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pip install 'qai-realtime-sync[report]'" in done.stdout
    assert '<path class="wave assistant"' in (tmp_path / "call" / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "call").glob("*.png")) == []
    assert (tmp_path / "call" / "conversation.srt").is_file()


def test_a_folder_that_cannot_be_written_to(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """A file in the place of --out is told in one line, with exit code 1."""
    folder = make(tmp_path / "call")
    (tmp_path / "file").write_text("kept")
    assert main(["report", str(folder), "--out", str(tmp_path / "file")]) == 1
    assert "no folder can be made there" in capsys.readouterr().err


# -- parts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "length", "rate", "encoding"),
    [(5760, 120, 24000, "pcm16"), (3840, 120, 16000, "pcm16"), (960, 120, 24000, "g711_ulaw"), (1920, 120, 8000, "pcm16")],
)
def test_the_format_is_known_by_the_length(size: int, length: int, rate: int, encoding: str) -> None:
    """Bytes and milliseconds of the pieces tell in which format the conversation was."""
    config = config_of([{"name": "audio_delta", "audio": size, "duration_ms": length}] * 3)
    assert (config.sample_rate, config.output_format) == (rate, encoding)
    assert config_of([{"name": "audio_delta", "audio": 0, "duration_ms": None}]).sample_rate == 24000


@pytest.mark.parametrize("channels", [1, 2])
def test_small_sound_sounds_the_same(channels: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made smaller for a page is a WAV file of the same length with the same sound, as near as 8 bits come."""
    from qai_realtime_sync.cli import recorded_sound
    from tests.cli.recordings import tone

    monkeypatch.setattr(recorded_sound, "_WHOLE", 1000)
    pcm = array("h", tone(1.0, rate=8000))
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(array("h", (value for value in pcm for _ in range(channels))).tobytes())
    sound, why = RecordedSound.opened(tmp_path / "a.wav")
    assert sound is not None, why
    made = sound.embedded()
    assert made is not None
    assert "8 bits" in made.quality
    read = WavIn(io.BytesIO(made.data))
    got = b"".join(read.pieces())
    if read.audio.encoding != "pcm16":
        got = Converter(read.audio, AudioFormat("pcm16", 8000)).convert(got)
    assert len(got) == 2 * len(pcm)
    assert max(abs(a - b) for a, b in zip(array("h", got), pcm)) < 700
    monkeypatch.setattr(recorded_sound, "_LARGEST", 1000)
    assert sound.embedded() is None


def test_a_long_conversation_has_a_small_drawing(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """Half an hour of sound becomes a page without it inside and a drawing of limited size, in seconds."""
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        for _ in range(1800):
            file.writeframes(b"\x00\x10\x00\xf0" * 8000)
    told = reported(capsys, str(tmp_path / "long.wav"), "--no-pictures")
    assert told["seconds"] == 1800
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page) < 1_500_000
    assert (tmp_path / "long.wav").as_uri() in page
    assert load(tmp_path / "long.wav").duration == 1800


@pytest.mark.parametrize("width", [1, 3])
def test_sound_of_another_width_is_told_with_what_to_do(width: int, tmp_path: pathlib.Path, capsys: Capture) -> None:
    """A WAV file of 8 or 24 bits is no recording of ours; who has one is told how to save it."""
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(24000)
        file.writeframes(bytes(24000 * width))
    assert main(["report", str(tmp_path / "a.wav")]) == 1
    assert f"a.wav has {8 * width} bits per sample; save it with 16 bits (PCM)" in capsys.readouterr().err
