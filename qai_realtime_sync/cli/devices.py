"""``qai-realtime devices``: which microphones and loudspeakers there are, and whether they work."""

from __future__ import annotations

import argparse
import math
import time
from array import array

from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli.talk_sound import advised, quiet_alsa
from qai_realtime_sync.cli.terminal import LivePanel, bar, json_line, say, table
from qai_realtime_sync.devices import Device, Microphone, Speaker, list_devices
from qai_realtime_sync.errors import ConfigError, RealtimeError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "qai-realtime devices --test --input headset"

_KINDS = {"input": "microphone", "output": "loudspeaker"}
_NOTHING = "no sound card or sound server answers here; `talk` works with --input question.wav --output answer.wav, or --pipe"
_TONE = 0.5  # seconds
_LISTENS = 1.0
_HEARD = 0.001  # of full scale: a microphone that works is never quieter for a second


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--test", action="store_true", help="play a tone, and show the level of the microphone for a second")
    parser.add_argument("--input", metavar="NAME", default="", help="with --test: the microphone, by a part of its name")
    parser.add_argument("--output", metavar="NAME", default="", help="with --test: the loudspeaker, by a part of its name")
    parser.add_argument("--json", action="store_true", help="JSON lines")


def run(arguments: argparse.Namespace) -> int:
    """List the devices, or try two of them; return 0. Raises: `ConfigError` without miniaudio; with ``--test`` `RealtimeError`."""
    quiet_alsa()
    if arguments.test:
        return _test(arguments)
    devices = list_devices()
    if arguments.json:
        for device in devices:
            json_line({"name": "device", "kind": device.kind, "device": device.name, "backend": device.backend, "rates": device.rates})
        json_line({"name": "result", "command": "devices", "ok": True, "exit_code": 0, "devices": len(devices)})
    elif devices:
        _show(devices)
    else:
        say(_NOTHING, "warning")
    return 0


def _show(devices: list[Device]) -> None:
    rows = [(_KINDS[device.kind], device.name, ", ".join(map(str, device.rates)), device.backend) for device in devices]
    table(["kind", "name", "Hz", "by"], rows)
    say("any part of a name will do: qai-realtime talk --input PART --output PART", "quiet")


def _test(arguments: argparse.Namespace) -> int:
    loudest = 0.0
    try:
        with Speaker(arguments.output) as speaker, Microphone(arguments.input) as microphone, LivePanel("devices") as panel:
            panel.line(f"a tone for {_TONE:g} s: {speaker.name}")
            speaker.write(_tone())
            panel.line(f"say something: {microphone.name}")
            listened = 0.0
            while listened < _LISTENS:
                listened += len(microphone.read(10.0)) / microphone.audio.bytes_per_second
                loudest = max(loudest, microphone.level)
                panel.show([f"{bar(microphone.level, 40)}"])
            ended = time.monotonic() + 10.0
            while speaker.is_heard() and time.monotonic() < ended:
                microphone.read(10.0)
            played = speaker.played_ms
    except ConfigError as error:
        raise advised(error) from error
    if played < _TONE * 1000:
        raise RealtimeError(f"the loudspeaker {speaker.name} played {played:.0f} ms of {_TONE * 1000:.0f}", code="device_failed")
    heard = loudest >= _HEARD
    if arguments.json:
        ends = {"input": microphone.name, "output": speaker.name, "played_ms": played, "loudest": loudest}
        json_line({"name": "result", "command": "devices", "ok": True, "exit_code": 0, "heard": heard, **ends})
    else:
        say(f"played {played:.0f} ms; the loudest was {bar(loudest)} {_decibel(loudest)}", "good" if heard else "warning")
        if not heard:
            say("the microphone gives silence: is it muted, or the wrong one?", "warning")
    return 0


def _tone() -> bytes:
    """An A that swells and fades, so that it does not click."""
    audio = AudioFormat()
    length = round(_TONE * audio.sample_rate)
    step = 2 * math.pi * 440 / audio.sample_rate
    return array("h", (round(6000 * math.sin(math.pi * n / length) * math.sin(step * n)) for n in range(length))).tobytes()


def _decibel(level: float) -> str:
    return f"{20 * math.log10(level):.0f} dB" if level > 0 else "silence"
