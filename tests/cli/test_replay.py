"""``qai-realtime replay``: a recording told again to the screen, as JSON, and to the handlers of a program."""

from __future__ import annotations

import json
import pathlib
import sys
import time

import pytest

from qai_realtime_sync import Conversation
from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli import main
from qai_realtime_sync.cli.recorded import load
from qai_realtime_sync.cli.sound_files import read_wav
from tests.cli.recordings import make

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A recording, in the folder where the test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return make(tmp_path / "call")


def test_it_is_told_with_its_times(folder: pathlib.Path, capsys: Capture) -> None:
    """As fast as it goes, every line has the time at which it happened, what was typed too."""
    begun = time.monotonic()
    assert main(["replay", "call", "--speed", "0"]) == 0
    assert time.monotonic() - begun < 6, "it took as long as the conversation did"
    told = capsys.readouterr().out
    assert "   1.8 s  heard      how are you\n" in told
    assert '   1.9 s  tool       look_up({"what": "it"})\n' in told
    assert "   3.5 s             (the answer stops: 1.5 s of it were heard)\n" in told
    assert "   5.5 s  caller     And a typed one? (typed)\n" in told
    assert told.index("(typed)") < told.index("Typed, too.")


@pytest.mark.parametrize("speed", [5.0, 20.0])
def test_the_speed_is_kept(folder: pathlib.Path, speed: float) -> None:
    """Twice as fast takes half as long."""
    begun = time.monotonic()
    assert main(["replay", "call", "--speed", str(speed)]) == 0
    assert 6.5 / speed - 0.1 <= time.monotonic() - begun < 6.4


def test_lines_of_json(folder: pathlib.Path, capsys: Capture) -> None:
    """Each line is an event or a command of the recording, in its order and with its time, sound left out; the last is the result."""
    assert main(["replay", "call", "--speed", "0", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    recorded = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    silent = [(row["name"], round(row["at"], 3)) for row in recorded if row["name"] not in ("audio_delta", "send_audio")]
    assert sorted((line["name"], round(line["at"], 3)) for line in lines[:-1]) == sorted(silent)
    assert [line["at"] for line in lines[:-1]] == sorted(line["at"] for line in lines[:-1])
    assert (lines[-1]["name"], lines[-1]["ok"], lines[-1]["turns"]) == ("result", True, 3)


def test_what_was_heard_is_written(folder: pathlib.Path) -> None:
    """The answers' sound goes into a file, of the interrupted one only what was heard."""
    assert main(["replay", "call", "--speed", "0", "--out", "heard.wav"]) == 0
    pcm = read_wav("heard.wav", AudioFormat())
    assert len(pcm) / 48000 == pytest.approx(1.5 + 0.8 + 0.5, abs=0.02)


@pytest.mark.parametrize(("out", "words"), [("call/conversation.wav", "own sound"), ("no/heard.wav", "no folder"), ("call", "is a folder")])
def test_where_what_was_heard_cannot_go(folder: pathlib.Path, out: str, words: str, capsys: Capture) -> None:
    """A recording does not overwrite its own sound, and a place that is none is told before anything is replayed."""
    before = (folder / "conversation.wav").read_bytes()
    assert main(["replay", "call", "--speed", "0", "--out", out]) == 1
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ""
    assert (folder / "conversation.wav").read_bytes() == before


def test_a_recording_that_agrees_with_itself(folder: pathlib.Path, capsys: Capture) -> None:
    """--verify holds the turns against transcript.json: 0 if they are the same, 1 and the difference if not, 1 if there is none."""
    turns = load(folder).turns
    (folder / "transcript.json").write_text(turns.to_json(), encoding="utf-8")
    assert main(["replay", "call", "--speed", "0", "--verify"]) == 0
    turns[0].assistant = "something else"
    (folder / "transcript.json").write_text(Conversation(turns).to_json(), encoding="utf-8")
    capsys.readouterr()
    assert main(["replay", "call", "--speed", "0", "--verify"]) == 1
    assert "differs: turn 1, assistant: 'something else' in transcript.json" in capsys.readouterr().out
    (folder / "transcript.json").unlink()
    assert main(["replay", "call", "--speed", "0", "--verify"]) == 1
    assert "no transcript.json" in capsys.readouterr().err


def test_a_programs_handlers(folder: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture) -> None:
    """A function of a module gets the client, and its handlers hear the recording."""
    (tmp_path / "bot.py").write_text(
        "def register(client):\n"
        "    client.on('turn_done', lambda event: None)\n"
        "    client.on('transcript_done', lambda event: print('my bot heard', event.transcript))\n"
        "number = 1\n"
    )
    sys.modules.pop("bot", None)
    assert main(["replay", "call", "--speed", "0", "--handlers", "bot:register"]) == 0
    assert "my bot heard how are you" in capsys.readouterr().out
    for wrong in ("bot:number", "bot:nothing", "nowhere:x"):
        assert main(["replay", "call", "--speed", "0", "--handlers", wrong]) == 2
        assert "--handlers" in capsys.readouterr().err


@pytest.mark.parametrize("speed", ["-1", "fast", "nan", "inf"])
def test_a_speed_that_is_none(folder: pathlib.Path, speed: str, capsys: Capture) -> None:
    """A wrong speed is a wrong usage."""
    assert main(["replay", "call", f"--speed={speed}"]) == 2
    assert "--speed" in capsys.readouterr().err


def test_what_is_no_recording(tmp_path: pathlib.Path, folder: pathlib.Path, capsys: Capture) -> None:
    """A folder without events, and a line that is none, are told in one line, with exit code 1."""
    (tmp_path / "empty").mkdir()
    assert main(["replay", "empty", "--speed", "0"]) == 1
    assert "is no recording" in capsys.readouterr().err
    with open(folder / "events.jsonl", "a", encoding="utf-8") as file:
        file.write("nonsense\n")
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "events.jsonl").write_text("\n".join([*lines[:3], "nonsense", *lines[3:]]) + "\n", encoding="utf-8")
    assert main(["replay", "call", "--speed", "0"]) == 1
    assert "line 4" in capsys.readouterr().err


# -- what is wrong with a recording, or with handlers ------------------------------------------------------------------------

DEEP = "[" * 100_000


@pytest.mark.parametrize("at", ['"x"', "null", "[1]", "1e308", "NaN", DEEP], ids=["word", "null", "list", "huge", "nan", "deep"])
def test_a_line_that_is_none_is_named(folder: pathlib.Path, at: str, capsys: Capture) -> None:
    """A command without a time, or a line that is nested without end, is told by its number, with a result for programs."""
    path = folder / "events.jsonl"
    line = f'{{"at": {at}, "direction": "sent", "name": "send_text", "text": "hi"}}\n'
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:2], line, *lines[2:]]), encoding="utf-8")
    assert main(["replay", "call", "--speed", "0", "--json"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert told["code"] == "invalid_recording"
    assert "line 3 of 'call/events.jsonl' is not of a recording" in told["message"]


@pytest.mark.parametrize("content", ["", "garbage"])
def test_a_recording_of_nothing_is_told(folder: pathlib.Path, content: str, capsys: Capture) -> None:
    """A file without one event is no conversation that was replayed."""
    (folder / "events.jsonl").write_text(content, encoding="utf-8")
    assert main(["replay", "call"]) == 1
    assert "there is no event in" in capsys.readouterr().err


def test_a_last_line_that_is_cut_off_is_left_out(folder: pathlib.Path, capsys: Capture) -> None:
    """What a killed process left is replayed as far as it goes."""
    path = folder / "events.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"at": 6.6, "dir', encoding="utf-8")
    assert main(["replay", "call", "--speed", "0"]) == 0
    assert "Typed, too." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "why"),
    [("bad", "KeyError: 'a'"), ("two", "TypeError: two() missing"), ("T", "TypeError: T() takes no"), ("leaves", "SystemExit: 3")],
)
def test_handlers_that_cannot_be_registered(folder: pathlib.Path, name: str, why: str, capsys: Capture) -> None:
    """A function that raises, one of another shape, a class, and one that leaves are named with what they raised."""
    code = "def bad(client):\n    raise KeyError('a')\ndef two(a, b): pass\nclass T: pass\ndef leaves(client):\n    raise SystemExit(3)\n"
    pathlib.Path("unfit.py").write_text(code, encoding="utf-8")
    assert main(["replay", "call", "--speed", "0", "--handlers", f"unfit:{name}"]) == 2
    assert f"error: --handlers unfit:{name}, called with the client: {why}" in capsys.readouterr().err
