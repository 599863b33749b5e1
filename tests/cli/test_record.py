"""``qai-realtime record``: sentences, files and lines of standard input become a recording that can be replayed and reported of."""

from __future__ import annotations

import io
import json
import pathlib
import signal
import sys
import time
import wave
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli import main
from qai_realtime_sync.cli.recorded import load
from qai_realtime_sync.cli.sound_files import write_wav
from tests.cli.recordings import tone
from tests.cli.running import Running, children_of, ended
from tests.pulse import PulseServer

Capture = pytest.CaptureFixture[str]
Start = Callable[..., Running]

TOOLS = '''
def get_weather(city: str) -> str:
    """Current weather in a city."""
    return f"It is sunny in {city}."

def get_time_of_opening(day: str) -> str:
    """When the shop opens."""
    return "nine"

both = [get_weather, get_time_of_opening]
twice = [get_weather, get_weather]
number = 5
'''


pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def server(serving: None) -> Iterator[Any]:
    """A local server in light mode."""
    from qai_realtime_sync.offline import RealtimeServer

    with RealtimeServer(light=True, key="secret") as running:
        yield running


def at(server: Any) -> list[str]:
    """The options that lead to the server."""
    return ["--url", server.url, "--key", "secret"]


def test_sentences_are_asked_in_turn(server: Any, capsys: Capture) -> None:
    """Each is answered, the recording is laid out as if all had taken its time, and its files agree with each other."""
    begun = time.monotonic()
    assert main(["record", "Hello!", "What can you do?", "--out", "call", *at(server)]) == 0
    took = time.monotonic() - begun
    told = capsys.readouterr()
    assert "caller     What can you do?" in told.out
    assert "qai-realtime report call" in told.err
    found = load(pathlib.Path("call"))
    assert found.problems == []
    assert [turn.user for turn in found.turns] == ["Hello!", "What can you do?"]
    assert "Hello!" in found.turns[0].assistant
    first, second = found.turns
    assert first.sound_ended_at is not None
    assert second.first_sound_at is not None
    assert second.first_sound_at > first.sound_ended_at, "the second answer would be heard over the first"
    assert found.duration > 2.0
    assert took < found.duration + 15
    assert main(["replay", "call", "--speed", "0", "--verify"]) == 0


def test_a_file_is_said_aloud(server: Any, capsys: Capture) -> None:
    """The sound of a WAV file is the caller's channel, and is answered."""
    write_wav("question.wav", tone(1.2), AudioFormat())
    assert main(["record", "question.wav", "--out", "call", "--json", *at(server)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == {"name": "result", "command": "record", "ok": True, "exit_code": 0, "folder": "call", "turns": 1}
    assert {"session_ready", "response_done", "closed"} <= {line["name"] for line in lines}
    with wave.open("call/conversation.wav") as file:
        left = file.readframes(file.getnframes())[0::4]
    assert sum(byte != 0 for byte in left) > 20_000, "the caller's channel is silent"


def test_lines_of_standard_input(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments every line that comes is a turn; empty ones are none; a new folder is made each time."""
    for number in range(2):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"Hello!\n\nNumber {number}\n"))
        assert main(["record", *at(server)]) == 0
    assert [turn.user for turn in load(pathlib.Path("qai-recording-2")).turns] == ["Hello!", "Number 1"]


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_lines_that_are_no_text(server: Any, errors: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """A line in another encoding than the one that is set ends it with words, whatever the locale does with such bytes; it is not sent."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Grüße\n".encode("latin-1")), encoding="utf-8", errors=errors))
    assert main(["record", *at(server)]) == 2
    assert "is no text" in capsys.readouterr().err
    assert server.journal == []


def test_as_slow_as_it_is_spoken(server: Any) -> None:
    """With --pace a conversation takes as long as its recording says."""
    begun = time.monotonic()
    assert main(["record", "Hello!", "--out", "call", "--pace", *at(server)]) == 0
    found = load(pathlib.Path("call"))
    assert found.sound is not None
    assert time.monotonic() - begun >= found.sound.duration - 0.3


@pytest.mark.parametrize("named", ["shop:get_weather", "shop:both", "shop"])
def test_tools_come_from_a_module(named: str, server: Any, place: pathlib.Path) -> None:
    """A function, a list of them, or all functions of a module that lies here are tools of the conversation, and run."""
    (place / "shop.py").write_text(TOOLS)
    sys.modules.pop("shop", None)
    assert main(["record", "What is the weather like in Oslo?", "--out", "call", "--tools", named, *at(server)]) == 0
    (turn,) = load(place / "call").turns
    assert [(call.name, call.output) for call in turn.tool_calls] == [("get_weather", "It is sunny in Oslo.")]
    assert "sunny in Oslo" in turn.assistant


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("nowhere:x", "no module 'nowhere'"),
        ("shop:nothing", "it has: get_time_of_opening, get_weather"),
        ("shop:number", "must be a function"),
        ("shop:twice", "two tools are called get_weather"),
        ("broken:x", "ZeroDivisionError"),
        ("", "there is no module"),
    ],
)
def test_tools_that_are_none(named: str, words: str, place: pathlib.Path, capsys: Capture) -> None:
    """What cannot be a tool is said before anything begins, with exit code 2 and without a traceback."""
    (place / "shop.py").write_text(TOOLS)
    (place / "broken.py").write_text("1 / 0\n")
    sys.modules.pop("shop", None)
    assert main(["record", "Hello!", "--tools", named, "--local"]) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert "Traceback" not in told.err
    assert not (place / "qai-recording").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mic", "Hello!"], "--mic"),
        (["Hello!", "--seconds", "3"], "are for --mic"),
        (["no-such.wav"], "there is no file"),
        ([], "nothing to say"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, place: pathlib.Path) -> None:
    """What cannot be recorded is said at once, with exit code 2, and leaves no folder."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["record", *arguments, "--url", "http://127.0.0.1:1", "--key", "k"]) == 2
    assert words in capsys.readouterr().err
    assert list(place.iterdir()) == []


def test_nobody_there(place: pathlib.Path, capsys: Capture) -> None:
    """Where nothing listens it fails with exit code 1 and leaves no folder of a conversation that there was not."""
    assert main(["record", "Hello!", "--url", "http://127.0.0.1:1", "--key", "k"]) == 1
    assert "nothing listens there" in capsys.readouterr().err
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words_before"),
    [
        (["record", "Tell me a long story", "--pace", "--out", "call"], "assistant"),
        (["say", "Tell me a long story", "--local"], ""),
        (["transcribe", "long.wav", "--local"], ""),
        (["replay", "call"], "assistant"),
        (["doctor"], "starting the local server"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_ctrl_c_ends_within_three_seconds(
    arguments: list[str], words_before: str, start: Start, server: Any, place: pathlib.Path
) -> None:
    """Whatever a command does when Ctrl-C comes, it is over within three seconds, with exit code 130, no traceback and no orphan."""
    from tests.cli.recordings import make

    if arguments[0] == "record":
        arguments = [*arguments, *at(server)]
    if arguments[0] == "replay":
        make(place / "call")
    write_wav("long.wav", tone(1.0) * 30, AudioFormat())
    command = start(*arguments)
    if words_before:
        command.read_until(words_before, whole=False)  # of `record`: not in the very write of the question, which Ctrl-C would tear
    else:
        wait_for_child(command)
    children = children_of(command.process.pid)
    begun = time.monotonic()
    command.process.send_signal(signal.SIGINT)
    code = command.finish(10)
    assert code == 130, command.output
    assert time.monotonic() - begun < 5, "three seconds are promised, and a busy machine takes its time to end a program"
    assert "Traceback" not in command.output
    assert "interrupted" in command.output
    assert all(ended(child, 10) for child in children)
    if arguments[0] == "record":
        end = load(place / "call").events[-1]
        assert (end["name"], end["by"], end["clean"]) == ("closed", "client", True), "the service was not told"


def wait_for_child(command: Running) -> None:
    """Wait until the command has started its server."""
    deadline = time.monotonic() + 60
    while not children_of(command.process.pid):
        assert time.monotonic() < deadline
        assert command.process.poll() is None, command.output


def test_the_microphone(start: Start, server: Any, own_pulse: PulseServer, place: pathlib.Path) -> None:
    """With --mic what the microphone hears is the caller's channel, and it ends by itself after --seconds."""
    command = start("record", "--mic", "--input", "lips", "--output", "room", "--seconds", "8", "--out", "call", *at(server))
    command.read_until("listening to")
    own_pulse.say(tone(1.5))
    assert command.finish(30) == 0, command.output
    found = load(place / "call")
    assert found.sound is not None
    assert 7.5 < found.sound.duration < 20.0  # the eight seconds, and what of an answer is still heard then
    caller, _ = found.sound.peaks(10)
    assert 8 <= sum(peak > 0.05 for peak in caller) <= 22
    assert found.events[-1]["name"] == "closed"
