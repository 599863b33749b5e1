"""The demo: a conversation of three turns, measured by what it leaves behind, and its end at any moment."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import wave
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from qai_realtime_sync.cli.demo_script import GREETING, INTERRUPTION, QUESTION, words, wrong_words
from tests.cli.running import Running, children_of, ended

Start = Callable[..., Running]
RATE = 24000
LOUD = 300


class Left:
    """What a demo left in its folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.names = sorted(path.name for path in folder.iterdir())
        self.events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
        self.transcript = json.loads((folder / "transcript.json").read_text(encoding="utf-8"))
        with wave.open(str(folder / "conversation.wav"), "rb") as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, RATE)
            samples = array("h", file.readframes(file.getnframes()))
        self.left, self.right = samples[0::2], samples[1::2]

    def times(self, name: str, **fields: Any) -> list[float]:
        """When events of this name and fields happened."""
        return [event["at"] for event in self.events if event["name"] == name and fields.items() <= event.items()]

    @property
    def heard(self) -> list[str]:
        """What the service heard, turn by turn."""
        return [event["transcript"] for event in self.events if event["name"] == "transcript_done" and event.get("source") == "input"]


def sound_in(channel: array[int], begin: float, end: float) -> float:
    """How many seconds between two times are not silent, in steps of 10 ms."""
    step = RATE // 100
    starts = range(round(begin * RATE), min(round(end * RATE), len(channel)), step)
    return sum(max(map(abs, channel[at : at + step]), default=0) > LOUD for at in starts) / 100


def assert_three_turns(left: Left, output: str) -> None:
    """Everything that a whole demo must show."""
    assert left.names == ["conversation.wav", "events.jsonl", "transcript.json"]
    assert len(left.heard) == 3
    for said, heard in zip((GREETING, QUESTION, INTERRUPTION), left.heard):
        assert len(words(said)) >= 6
        assert wrong_words(said, heard) <= 0.2, f"{said!r} was heard as {heard!r}"
    assert_one_tool_call(left)
    stopped = [event for event in left.events if event["name"] == "playback_stopped" and event.get("reason") == "barge_in"]
    assert len(stopped) == 1
    cut = [event["audio_end_ms"] for event in left.events if event["name"] == "item_truncated"]
    assert cut == [stopped[0]["heard_ms"]]
    items = [item for conversation in left.transcript["demo"]["server"]["conversations"] for item in conversation["items"]]
    interrupted = next(item for item in items if item["id"] == stopped[0]["item_id"])
    speech_started = left.times("speech_started")[2]
    answer_began = left.times("audio_delta", item_id=interrupted["id"])[0]
    played_ms = (speech_started - answer_began) * 1000
    assert abs(interrupted["truncated_ms"] - played_ms) <= 100, "the server's item was not truncated at what was heard"
    assert interrupted["truncated_ms"] < interrupted["generated_ms"]
    next_answer = min(at for at in left.times("audio_delta") if at > speech_started + 0.5)
    assert sound_in(left.right, speech_started, next_answer) < 0.3, "the answer went on after the caller spoke"
    assert sound_in(left.right, answer_began, speech_started) > 1.0, "the answer was not being spoken when it was interrupted"
    assert sound_in(left.right, next_answer, next_answer + 3) > 0.5, "the interruption was not answered"
    for number, began in enumerate(left.times("speech_started")):
        assert sound_in(left.left, began, began + 2.0) > 0.8, f"turn {number + 1} of the caller is not where it was sent"
    assert "FAIL" not in output
    assert output.count(" ms  ") >= 3, "the latency table has no three rows"


def assert_one_tool_call(left: Left) -> None:
    """The tool was called once, answered once, and its words were spoken."""
    assert len(left.times("send_function_result")) == 1
    calls = [call for turn in left.transcript["turns"] for call in turn["tool_calls"]]
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [("get_weather", {"city": "London"})]


def test_the_whole_demo(start: Start, voices: None, tmp_path: pathlib.Path) -> None:
    """The demo ends within 60 s with exit code 0, and what it leaves shows three understood turns, one call and a cut answer."""
    demo = start("demo", "--out", "call")
    demo.read_until("demo", within=30)  # at once, but a busy machine takes its time to start a program
    first_line = time.monotonic() - demo.started
    assert demo.finish(60) == 0, demo.output
    assert time.monotonic() - demo.started < 60
    assert first_line < 20
    assert_three_turns(Left(tmp_path / "call"), demo.output)


@pytest.mark.long
def test_without_pacing(start: Start, voices: None, tmp_path: pathlib.Path) -> None:
    """`--fast` plays the first two turns faster than they are spoken, and the recording is laid out as if they had taken their time."""
    demo = start("demo", "--fast", "--out", "call")
    assert demo.finish(60) == 0, demo.output
    left = Left(tmp_path / "call")
    assert [wrong_words(said, heard) <= 0.2 for said, heard in zip((GREETING, QUESTION), left.heard)] == [True, True]
    assert_one_tool_call(left)
    assert len(left.left) / RATE > 15
    assert left.transcript["demo"]["paced"] is False


@pytest.mark.long
def test_over_tls(start: Start, voices: None, tmp_path: pathlib.Path) -> None:
    """With `--tls` the conversation goes over wss to the server's own certificate."""
    pytest.importorskip("trustme", reason="a certificate made on the fly needs trustme")
    demo = start("demo", "--tls", "--fast", "--out", "call")
    assert demo.finish(60) == 0, demo.output
    assert "connected to https://127.0.0.1:" in demo.output
    assert_one_tool_call(Left(tmp_path / "call"))


@pytest.mark.parametrize("more", [[], pytest.param(["--tls"], marks=pytest.mark.long)], ids=["plain", "tls"])
def test_in_light_mode(start: Start, serving: None, tmp_path: pathlib.Path, more: list[str]) -> None:
    """Without voices the same conversation happens in tones: one call, and an answer that is cut where the caller began."""
    if more:
        pytest.importorskip("trustme", reason="a certificate made on the fly needs trustme")
    demo = start("demo", "--light", "--out", "call", *more)
    assert demo.finish(60) == 0, demo.output
    left = Left(tmp_path / "call")
    assert_one_tool_call(left)
    speech_started = left.times("speech_started")[-1]
    next_answer = min(at for at in left.times("audio_delta") if at > speech_started + 0.5)
    assert sound_in(left.right, speech_started, next_answer) < 0.3


@pytest.fixture
def alone() -> list[str]:
    """What to put before a command so that it runs in a network namespace that has loopback and nothing else."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("a network namespace needs Linux, root, unshare and ip")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, timeout=10).returncode:
        pytest.skip("this system gives no network namespace")
    return ["unshare", "-n", "sh", "-c", 'ip link set lo up && test -z "$(ip -o link | grep -v " lo: ")" && exec "$@"', "sh"]


def test_two_turns_without_a_network(start: Start, voices: None, alone: list[str], tmp_path: pathlib.Path) -> None:
    """Without pacing, over wss, in a network namespace without a network: understood, one call, laid out as if spoken in real time."""
    pytest.importorskip("trustme", reason="a certificate made on the fly needs trustme")
    demo = start("demo", "--tls", "--fast", "--out", "call", prefix=alone)
    assert demo.finish(60) == 0, demo.output
    assert "connected to https://127.0.0.1:" in demo.output
    left = Left(tmp_path / "call")
    assert [wrong_words(said, heard) <= 0.2 for said, heard in zip((GREETING, QUESTION), left.heard)] == [True, True]
    assert_one_tool_call(left)
    assert len(left.left) / RATE > 15


@pytest.mark.long
def test_the_whole_demo_without_a_network(start: Start, voices: None, alone: list[str], tmp_path: pathlib.Path) -> None:
    """The whole conversation runs over wss in a network namespace that has loopback and nothing else."""
    pytest.importorskip("trustme", reason="a certificate made on the fly needs trustme")
    demo = start("demo", "--tls", "--out", "call", prefix=alone)
    assert demo.finish(60) == 0, demo.output
    assert_three_turns(Left(tmp_path / "call"), demo.output)


@pytest.mark.long
def test_a_recording_as_the_caller(start: Start, voices: None, tmp_path: pathlib.Path) -> None:
    """`--wav` plays a recording at another rate, and says that it may be misheard."""
    from qai_realtime_sync.audio import AudioFormat, Converter
    from qai_realtime_sync.cli.sound_files import write_wav
    from qai_realtime_sync.offline import caller_voice

    pcm, rate = caller_voice("What time is it now, please?")
    converter = Converter(AudioFormat("pcm16", rate), AudioFormat("pcm16", 44100))
    write_wav(tmp_path / "me.wav", converter.convert(pcm) + converter.flush(), AudioFormat("pcm16", 44100))
    demo = start("demo", "--wav", "me.wav", "--out", "call")
    assert demo.finish(60) == 0, demo.output
    assert "may mishear" in demo.output
    assert len(Left(tmp_path / "call").heard) == 1


@pytest.mark.parametrize(
    ("words_before", "number", "code"),
    [
        ("qai-realtime demo", signal.SIGINT, 130),
        ("starting the local server", signal.SIGINT, 130),
        ("connected to", signal.SIGINT, 130),
        ("(the caller is heard)", signal.SIGINT, 130),
        ("get_weather", signal.SIGTERM, 143),
        ("(the answer stops", signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_it_cleanly(
    start: Start, serving: None, tmp_path: pathlib.Path, words_before: str, number: signal.Signals, code: int
) -> None:
    """SIGINT or SIGTERM at any moment ends the demo within 3 s, with its exit code, without a traceback and without an orphan."""
    demo = start("demo", "--light", "--out", "call")
    demo.read_until(words_before)
    children = children_of(demo.process.pid)
    at = time.monotonic()
    demo.process.send_signal(number)
    assert demo.finish(10) == code, demo.output
    assert time.monotonic() - at < 5  # promised: 3 s
    assert "Traceback" not in demo.output
    assert all(ended(child, 10) for child in children)
    if words_before == "(the answer stops":
        assert len(Left(tmp_path / "call").transcript["turns"]) >= 2


def test_a_killed_demo_leaves_no_server(start: Start, serving: None, tmp_path: pathlib.Path) -> None:
    """After SIGKILL of the demo its server ends by itself, and the recording until then can be read."""
    demo = start("demo", "--light", "--out", "call")
    demo.read_until("(the caller is heard)")
    children = children_of(demo.process.pid)
    assert children
    demo.process.kill()
    demo.finish(10)
    assert all(ended(child, 10) for child in children)
    with wave.open(str(tmp_path / "call" / "conversation.wav"), "rb") as file:
        assert file.getnchannels() == 2


def test_a_new_folder_each_time(
    serving: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without `--out` a recording that is there stays, with `--out` it is replaced and that is said; where nothing can be written
    it goes to a temporary folder."""
    from qai_realtime_sync.cli.demo import _folder

    monkeypatch.chdir(tmp_path)
    assert [str(_folder(None)) for _ in range(3)] == ["qai-demo", "qai-demo-2", "qai-demo-3"]
    assert str(_folder("mine")) == "mine"
    assert capsys.readouterr().out == ""
    (tmp_path / "qai-demo" / "events.jsonl").write_text("")
    assert str(_folder("qai-demo")) == "qai-demo"
    assert "replacing the recording" in capsys.readouterr().out
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    elsewhere = _folder(None)
    assert elsewhere.is_dir()
    elsewhere.rmdir()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--wav", "no.wav"], 2), (["--url", "http://127.0.0.1:1"], 2), (["--url", "http://127.0.0.1:1", "--key", "k", "--wav", "a.wav"], 1)],
)
@pytest.mark.parametrize("out", [[], ["--out", "mine"]])
def test_what_never_began_leaves_no_folder(
    start: Start, serving: None, tmp_path: pathlib.Path, arguments: list[str], code: int, out: list[str]
) -> None:
    """A missing file or key, or nobody at the address: no folder is left of a conversation that there was not."""
    from qai_realtime_sync.audio import AudioFormat
    from qai_realtime_sync.cli.sound_files import write_wav

    write_wav(tmp_path / "a.wav", bytes(4800), AudioFormat())
    demo = start("demo", *arguments, *out)
    assert demo.finish(30) == code, demo.output
    assert "Traceback" not in demo.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_stopped_before_anything_was_recorded(start: Start, serving: None, tmp_path: pathlib.Path) -> None:
    """Ctrl-C before the call: no promise of a recording, and no folder."""
    demo = start("demo", "--light")
    demo.read_until("starting the local server")
    demo.process.send_signal(signal.SIGINT)
    assert demo.finish(10) == 130
    assert "nothing was recorded" in demo.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(start: Start, serving: None, tmp_path: pathlib.Path) -> None:
    """A file in the folder's place is told at once, with exit code 1, and stays."""
    (tmp_path / "mine").write_text("kept")
    demo = start("demo", "--light", "--out", "mine")
    assert demo.finish(30) == 1
    assert "error: --out mine: nothing can be written there" in demo.output
    assert "starting the local server" not in demo.output
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.parametrize(
    "arguments", [["--url", "http://127.0.0.1:1", "--tls"], ["--wav", "x.wav", "--fast"], ["--wav", "no.wav"], ["--nope"]]
)
def test_wrong_usage(start: Start, serving: None, arguments: list[str]) -> None:
    """Options that cannot go together, or a file that is not there, are told in one line with exit code 2."""
    demo = start("demo", *arguments)
    assert demo.finish(30) == 2
    assert "Traceback" not in demo.output
    assert "error: " in demo.output
