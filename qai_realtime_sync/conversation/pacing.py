"""A speaker without a device: what is written to it plays in real time, by a clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.errors import ConfigError

__all__ = ["PacedSink"]


class PacedSink:
    """For `RealtimeClient.play_to` where no sound card is: sound takes as long as it would in a room, and can be interrupted.

    ``audio`` is the format of what is written; without it, that of the client it is given to (pcm16 at 24000 Hz until then). ``clock``
    returns seconds, monotonic by default.
    """

    def __init__(self, audio: AudioFormat | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._audio = audio
        self._bytes_per_second = (audio or AudioFormat()).bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._written = 0.0  # seconds of sound
        self._dry_at = 0.0  # when all of it will have been played

    def adopt(self, audio: AudioFormat) -> None:
        """Learn the format of what will be written. Raises: `ConfigError` if it was made for another one: it would play at a wrong pace."""
        if self._audio is not None and self._audio != audio:
            raise ConfigError(
                f"this PacedSink was made for {self._audio.encoding} at {self._audio.sample_rate} Hz, and the client's sound is "
                f"{audio.encoding} at {audio.sample_rate} Hz: make it without a format, or with client.config.output_audio",
                code="invalid_audio",
            )
        self._bytes_per_second = audio.bytes_per_second

    def write(self, audio: bytes) -> None:
        """Queue sound behind what still plays."""
        seconds = len(audio) / self._bytes_per_second
        with self._lock:
            self._dry_at = max(self._dry_at, self._clock()) + seconds
            self._written += seconds

    def clear(self) -> None:
        """Stop playing at once and forget the rest."""
        with self._lock:
            left = self._left()
            self._written -= left
            self._dry_at -= left

    @property
    def seconds_left(self) -> float:
        """How long it still plays."""
        with self._lock:
            return self._left()

    @property
    def played_ms(self) -> float:
        """Milliseconds of all that was written that have been played."""
        with self._lock:
            return (self._written - self._left()) * 1000

    def _left(self) -> float:
        return max(0.0, self._dry_at - self._clock())
