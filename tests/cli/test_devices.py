"""``devices``: what is listed and tried, with a sound server and without."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from qai_realtime_sync.cli import main
from tests.pulse import PulseServer


@pytest.fixture
def no_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sound server is found, and there is no sound card."""
    pytest.importorskip("miniaudio", reason="sound devices need miniaudio")
    if os.path.exists("/dev/snd"):
        pytest.skip("this machine has a sound card")
    monkeypatch.setenv("PULSE_SERVER", "unix:/nonexistent")


def test_devices_are_listed(pulse: PulseServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A table with a row for each device, and a word on how to choose one."""
    assert main(["devices"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].split() == ["kind", "name", "Hz", "by"]
    assert "microphone   Monitor of Lips  48000  PulseAudio" in lines
    assert "loudspeaker  Room             48000  PulseAudio" in lines
    assert lines[-1].endswith("talk --input PART --output PART")
    assert told.err == ""


def test_devices_as_json(pulse: PulseServer, capsys: pytest.CaptureFixture[str]) -> None:
    """One line of JSON for each device, and a last one with their number."""
    assert main(["devices", "--json"]) == 0
    *devices, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"name": "device", "kind": "output", "device": "Room", "backend": "PulseAudio", "rates": [48000]} in devices
    assert (last["name"], last["ok"], last["devices"]) == ("result", True, len(devices))


def test_a_loop_is_heard(pulse: PulseServer, capsys: pytest.CaptureFixture[str]) -> None:
    """--test plays a tone that the monitor of the same loudspeaker hears; a microphone that is silent is told as such."""
    assert main(["devices", "--test", "--output", "room", "--input", "monitor of room"]) == 0
    told = capsys.readouterr().out
    assert "played 500 ms" in told
    assert "silence" not in told
    assert main(["devices", "--test", "--output", "room", "--input", "monitor of lips"]) == 0
    assert "the microphone gives silence" in capsys.readouterr().out
    assert main(["devices", "--test", "--output", "room", "--input", "monitor of room", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["heard"], result["played_ms"], result["output"]) == (True, 500, "Room")
    assert result["loudest"] > 0.05


def test_a_name_that_nothing_has(pulse: PulseServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name is wrong usage, and what there is is listed."""
    assert main(["devices", "--test", "--output", "kitchen"]) == 2
    assert "there is: 'Room', 'Lips'" in capsys.readouterr().err


def test_nothing_is_there(no_sound: None, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a sound card the list is empty and says what works all the same; --test fails; ALSA's complaints are not seen."""
    assert main(["devices"]) == 0
    told = capfd.readouterr()
    assert "--input question.wav --output answer.wav" in told.out
    assert told.err == ""
    assert main(["devices", "--test"]) == 1
    told = capfd.readouterr()
    assert told.err.startswith("error: there is no loudspeaker here")
    assert "ALSA" not in told.err


def test_a_file_is_no_device(pulse: PulseServer, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`devices` knows devices only: a file's name is one that nothing has."""
    assert main(["devices", "--test", "--output", str(tmp_path / "a.wav")]) == 2
    assert not (tmp_path / "a.wav").exists()
    assert "there is no loudspeaker" in capsys.readouterr().err
