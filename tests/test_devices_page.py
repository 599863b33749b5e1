"""docs/devices.md: every Python block runs as it stands, against the local server, with a sound server where it wants devices."""

from __future__ import annotations

import math
import pathlib
import re
import threading
import wave
from array import array
from collections.abc import Iterator

import pytest

from qai_realtime_sync.cli.program import COMMANDS
from tests.cli.running import Running
from tests.pulse import PulseServer
from tests.test_readme import run

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "devices.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TALK, LISTED, FILES = BLOCKS


def syllables(seconds: float) -> bytes:
    """What the local server in light mode takes for speech: a tone that swells and fades five times a second."""
    samples = range(round(seconds * 24000))
    return array("h", (round(9000 * abs(math.sin(n * 5 * math.pi / 24000)) * math.sin(n * 0.06)) for n in samples)).tobytes()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that `qai-realtime serve` runs in a process of its own."""
    pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
    pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")
    serve = Running(["serve", "--light"], tmp_path_factory.mktemp("serve"), [])
    try:
        yield serve.read_until("listening on ", within=30).split()[-1]
        serve.process.terminate()
        assert serve.finish(10) == 0
    finally:
        serve.kill()


@pytest.fixture
def pulse(own_pulse: PulseServer) -> PulseServer:
    """A sound server whose default microphone hears what is played to ``lips``."""
    own_pulse.control("set-default-sink", "room")
    own_pulse.control("set-default-source", "lips.monitor")
    return own_pulse


def test_talking(address: str, pulse: PulseServer, tmp_path: pathlib.Path) -> None:
    """The first block hears somebody speak, prints both sides, and its answer comes out of the loudspeaker."""
    printed: list[str] = []
    program = threading.Thread(target=lambda: printed.append(run(TALK, address, tmp_path)))
    with pulse.capture() as capture:
        program.start()
        try:
            pulse.wait_for_listener()
            for _ in range(3):  # on a busy machine the sound server loses pieces: whoever gets no answer says it again
                pulse.say(syllables(1.0))
                if capture.hears(0.5, within=15.0):
                    break
        finally:
            program.join(70)
    assert printed, "the block failed"
    assert "input: " in printed[0]
    assert "output: " in printed[0]


def test_listing(address: str, pulse: PulseServer, tmp_path: pathlib.Path) -> None:
    """The second block prints a line for each device."""
    assert "output Room (48000,) PulseAudio" in run(LISTED, address, tmp_path)


def test_files(address: str, tmp_path: pathlib.Path) -> None:
    """The third block answers one file with another, without any device."""
    with wave.open(str(tmp_path / "question.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24000)
        file.writeframes(syllables(1.0))
    assert re.search(r"\d+ ms of the answer are in answer.wav", run(FILES, address, tmp_path))
    with wave.open(str(tmp_path / "answer.wav"), "rb") as file:
        assert max(array("h", file.readframes(file.getnframes()))) > 1000


def test_the_commands_are_there() -> None:
    """Every command that the page names exists, and every option of `talk` that it shows."""
    assert set(re.findall(r"qai-realtime (\w+)", PAGE)) <= set(COMMANDS)
    import argparse

    from qai_realtime_sync.cli.talk import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert set(re.findall(r"talk (--[\w-]+)", PAGE)) <= {name for action in parser._actions for name in action.option_strings}
