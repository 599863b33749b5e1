"""Which voice parts this installation has, and what is used instead of the missing ones."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import attrs

from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline.hearing import Hearing
from qai_realtime_sync.offline.listening import Listener
from qai_realtime_sync.offline.speech import HibariSpeech, Speech, ToneSpeech
from qai_realtime_sync.offline.vad import Detector, EnergyDetector, SileroDetector

__all__ = ["Voice", "assemble", "caller_voice"]

_PIP = "pip install 'qai-realtime-sync[offline]'"


@attrs.define
class Voice:
    """How a server hears and speaks. ``light`` means tones and no words; ``description`` is one line for people."""

    speech: Speech
    hearing: Hearing | None
    silero: bool
    light: bool
    description: str
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)  # guards _idle
    _idle: list[SileroDetector] = attrs.field(factory=list, init=False, repr=False)

    def rate(self, rate: int) -> int:
        """Return the sample rate that detectors and listeners want for a stream of ``rate`` Hz."""
        return 16000 if self.hearing is not None or self.silero else rate

    def detector(self, rate: int) -> Detector:
        """Return a detector of speech for one stream of ``rate`` Hz; one that was used before if there is one, for they load slowly."""
        if not self.silero:
            return EnergyDetector(rate)
        with self._lock:
            return self._idle.pop() if self._idle else SileroDetector()

    def release(self, detector: Detector) -> None:
        """Take a detector back whose stream is over."""
        if isinstance(detector, SileroDetector):
            detector.reset()
            with self._lock:
                self._idle.append(detector)

    def listener(self, rate: int) -> Listener | None:
        """Return a listener for one utterance of a stream sent at ``rate`` Hz, or ``None`` if words are not recognised here."""
        return self.hearing.listener(rate) if self.hearing is not None else None


def assemble(light: bool = False) -> Voice:
    """Return the best voice this installation can have; without speaking or hearing parts, or if asked, a light one with its reason."""
    if light:
        return _light("asked for")
    parts: list[Callable[[], Any]] = [HibariSpeech, Hearing]
    names = ["hibari-tts", "pocketsphinx"]
    made: list[Any] = []  # in the order of the names
    for name, part in zip(names, parts):
        try:
            made.append(part())
        except (ImportError, OSError) as error:
            return _light(f"no voice because {name} cannot be used ({error}); {_PIP}")
    speech, hearing = made
    try:
        SileroDetector()
    except (ImportError, OSError, RuntimeError) as error:
        return Voice(
            speech,
            hearing,
            False,
            False,
            f"voice: hibari and pocketsphinx; an energy gate because silero cannot be used ({error})",
        )
    return Voice(speech, hearing, True, False, "voice: hibari, pocketsphinx and silero")


def _light(reason: str) -> Voice:
    said = f"light: {reason}; answers are tones, spoken words are not recognised"
    return Voice(ToneSpeech(), None, False, True, said)


@functools.cache
def _caller() -> HibariSpeech:
    return HibariSpeech()


def caller_voice(text: str) -> tuple[bytes, int]:
    """Return ``text`` as spoken by another person than the server's voice: PCM16 and its rate, 24000 Hz.

    Raises: `ConfigError` without hibari-tts.
    """
    try:
        return _caller().caller(text), 24000
    except ImportError as error:
        raise ConfigError(f"a spoken caller needs hibari-tts, which is not installed; {_PIP}", code="missing_dependency") from error
