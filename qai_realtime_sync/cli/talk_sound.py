"""Where the sound of a conversation comes from and goes to, as options: a device by a part of its name, a WAV file, or a pipe."""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from qai_realtime_sync.cli.sound_files import is_same_file
from qai_realtime_sync.config import RealtimeConfig
from qai_realtime_sync.devices import Microphone, Speaker
from qai_realtime_sync.errors import ConfigError, RealtimeError

__all__ = ["add_sound", "advised", "microphone_for", "quiet_alsa", "speaker_for"]

_ADVICE = "without a sound card: --input question.wav --output answer.wav, or --pipe; `qai-realtime devices` lists what is here"


def add_sound(parser: argparse.ArgumentParser) -> None:
    """Add the options of both ends."""
    for which, device in (("input", "microphone"), ("output", "loudspeaker")):
        parser.add_argument(f"--{which}", metavar="NAME", help=f"{device} (part of its name), FILE.wav or -")
        parser.add_argument(f"--{which}-file", dest=which, help=argparse.SUPPRESS)  # says the same
    parser.add_argument("--pipe", action="store_true", help="raw PCM16, mono, 24 kHz: --input - --output -")
    parser.add_argument("--half-duplex", action="store_true", help="deaf while it plays: no echo, no interruption")


def speaker_for(arguments: argparse.Namespace, config: RealtimeConfig, lost: Callable[[RealtimeError], object]) -> Speaker:
    """Return the loudspeaker that was asked for; not started. Raises: `ConfigError` for options that contradict each other."""
    name = _end(arguments, "output")
    given: dict[str, Any] = {"audio": config.output_audio, "on_lost": lost}
    if name == "-":
        if sys.__stdout__ is None:
            raise ConfigError("standard output is closed, so nobody would hear it; give --output FILE.wav")
        pipe: Any = sys.__stdout__.buffer  # also where what is printed goes elsewhere
        return Speaker(pipe=pipe, **given)
    if _is_file(name) and is_same_file(name, _end(arguments, "input")):
        raise ConfigError(f"--input and --output are the same file, {name!r}: what is said would be overwritten before it is heard")
    return Speaker(file=name, **given) if _is_file(name) else Speaker(name, **given)


def microphone_for(
    arguments: argparse.Namespace, config: RealtimeConfig, speaker: Speaker, lost: Callable[[RealtimeError], object]
) -> Microphone:
    """Return the microphone that was asked for; not started. Raises: `ConfigError` for options that contradict each other."""
    name = _end(arguments, "input")
    half_duplex = speaker if arguments.half_duplex else None
    given: dict[str, Any] = {"audio": config.input_audio, "on_lost": lost, "half_duplex": half_duplex, "silence_after": math.inf}
    if name == "-":
        if sys.stdin is None:
            raise ConfigError("standard input is closed, so nothing can be heard; give --input FILE.wav")
        return Microphone(pipe=sys.stdin.buffer, **given)
    return Microphone(file=name, **given) if _is_file(name) else Microphone(name, **given)


def _end(arguments: argparse.Namespace, which: str) -> str:
    named: str | None = getattr(arguments, which)
    if arguments.pipe and named not in (None, "-"):
        raise ConfigError(f"--pipe and --{which} say two different places")
    return "-" if arguments.pipe else named or ""


def _is_file(name: str) -> bool:
    return name.lower().endswith((".wav", ".wave")) or (os.sep in name and bool(name))


def advised(error: ConfigError) -> ConfigError:
    """Return the error of a device that is not there with what can be done on the command line."""
    if error.code not in ("no_device", "missing_dependency"):
        return error
    return ConfigError(f"{error}; {_ADVICE}", code=str(error.code))


def quiet_alsa() -> None:
    """Keep ALSA's library from writing to standard error, as it does where there is no sound card; for this whole process.

    Its error handler is replaced by a function of the C library that takes no notice of what it is given and does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        alsa, c = ctypes.CDLL("libasound.so.2"), ctypes.CDLL(None)
        alsa.snd_lib_error_set_handler(ctypes.cast(c.getpid, ctypes.c_void_p))
    except (OSError, AttributeError):
        return  # no such library, so nothing that writes
