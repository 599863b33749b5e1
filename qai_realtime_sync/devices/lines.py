"""What moves blocks of sound at the pace they sound: a line from a microphone or to a loudspeaker, whatever stands at its end."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Protocol, TypeAlias

from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.errors import ConfigError, RealtimeError

__all__ = ["Failed", "InputLine", "OutputLine", "check_block", "check_one_end", "lost"]

Failed: TypeAlias = Callable[[RealtimeError], None]


class OutputLine(Protocol):
    """Asks for sound: ``take(size)`` is called in time, in a thread of the line, and returns exactly ``size`` bytes of PCM16."""

    name: str
    """What stands at the end, for people."""

    @property
    def latency(self) -> float:
        """Seconds from ``take`` until its sound is heard."""

    def start(self, take: Callable[[int], bytes], failed: Failed) -> None:
        """Begin. ``failed`` is called once, in a thread of the line, if it breaks. Raises: `RealtimeError`."""

    def stop(self) -> None:
        """End; returns within about a second, and may be called from any thread, any number of times."""


class InputLine(Protocol):
    """Gives sound: ``give(pcm)`` is called in time, in a thread of the line, with PCM16; ``ended()`` after the last of it."""

    name: str
    """What stands at the beginning, for people."""

    said: threading.Event
    """Set when the last of the sound was given, silence after it apart."""

    def start(self, give: Callable[[bytes], None], ended: Callable[[], None], failed: Failed) -> None:
        """Begin. ``failed`` is called once, in a thread of the line, if it breaks. Raises: `RealtimeError`."""

    def stop(self) -> None:
        """End; returns within about a second, and may be called from any thread, any number of times."""


def lost(what: str, why: str) -> RealtimeError:
    """Return the error of a line that broke."""
    return RealtimeError(f"{what} is lost: {why}", code="device_lost")


def check_block(audio: AudioFormat, block_ms: int) -> None:
    """Raise `ConfigError` for a block that is no whole number of samples, or too short or too long to be of use."""
    if isinstance(block_ms, bool) or not isinstance(block_ms, int) or not 5 <= block_ms <= 200 or audio.sample_rate * block_ms % 1000:
        raise ConfigError(f"block_ms must be 5 to 200 whole milliseconds of whole samples, not {block_ms!r}; use 20", code="invalid_audio")
    audio.sample_width  # noqa: B018 - raises for a compressed encoding


def check_one_end(device: str, file: object, pipe: object, needed: str) -> None:
    """Raise `ConfigError` if more than one of them is given, or ``pipe`` is no binary file that has the ``needed`` method."""
    if not isinstance(device, str):
        raise ConfigError(f"device must be a part of the device's name, not {type(device).__name__}", code="invalid_device")
    if (bool(device), file is not None, pipe is not None).count(True) > 1:
        raise ConfigError("give one of device=, file= and pipe=, not several", code="invalid_device")
    is_text = needed == "write" and isinstance(pipe, io.TextIOBase)
    if pipe is not None and (is_text or not callable(getattr(pipe, needed, None))):
        example = "sys.stdout.buffer" if needed == "write" else "sys.stdin.buffer"
        raise ConfigError(f"pipe must be an open binary file, like {example}, not {type(pipe).__name__}", code="invalid_device")
