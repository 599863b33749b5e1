"""A caller without a microphone: sends silence and sentences in pieces of 20 ms, as a telephone would, or as fast as it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qai_realtime_sync.audio import AudioFormat, level
from qai_realtime_sync.errors import RealtimeError, RealtimeTimeoutError

__all__ = ["Caller", "RealTime", "SkippingTime", "spoken_length"]

_PIECE = 0.02
_VOICED = 0.004  # of full scale


class RealTime:
    """The clock of a conversation that takes as long as it takes."""

    skips = False

    def now(self) -> float:
        """Seconds, monotonic."""
        return time.monotonic()

    def skip(self, seconds: float) -> None:
        """Real time cannot be skipped."""


class SkippingTime(RealTime):
    """A clock that jumps over what need not be waited for, so that a recording looks as if everything had taken its time."""

    skips = True

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _skipped
        self._skipped = 0.0

    def now(self) -> float:
        """Seconds, with what was skipped."""
        with self._lock:
            return time.monotonic() + self._skipped

    def skip(self, seconds: float) -> None:
        """Jump ahead."""
        with self._lock:
            self._skipped += seconds


def spoken_length(pcm: bytes, audio: AudioFormat) -> float:
    """Return when the last sound of a piece of speech ends, in seconds: what follows is silence."""
    size = round(audio.sample_rate * _PIECE) * 2
    for start in range((len(pcm) - 1) // size * size, -1, -size):
        if level(pcm[start : start + size]) > _VOICED:
            return min(len(pcm), start + size) / audio.bytes_per_second
    return 0.0


class Caller:
    """Speaks into ``send``: pieces of 20 ms on time, silence between the sentences. With a skipping clock all of a sentence at once.

    ``with Caller(…) as caller`` runs a thread; what goes wrong in it is raised by the next call.
    """

    def __init__(self, send: Callable[[bytes], None], audio: AudioFormat, clock: RealTime, silence_after: float = 1.0) -> None:
        self._send, self._audio, self._clock = send, audio, clock
        self._silence_after = silence_after
        self._size = round(audio.sample_rate * _PIECE) * 2
        self._stop = threading.Event()
        self._lock = threading.Lock()  # guards the three below
        self._pause = 0.0  # seconds of silence before what is to be said
        self._rest = b""
        self._speech_left = 0.0  # seconds until the last sound of what is being said
        self._begun = threading.Event()
        self._said = threading.Event()
        self._said.set()
        self.ended_at = 0.0
        self.error: RealtimeError | None = None
        self._thread = threading.Thread(target=self._run, name="qai-demo-caller", daemon=True)

    def __enter__(self) -> Caller:
        if not self._clock.skips:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(1.0)

    def say(self, pcm: bytes, *, after: float = 0.0, timeout: float = 30.0) -> None:
        """Begin to say something ``after`` seconds and return when it has begun; with a skipping clock say all of it at once.

        Raises: `RealtimeError` when the conversation ended meanwhile.
        """
        length = spoken_length(pcm, self._audio)
        if self._clock.skips:
            self._say_at_once(pcm, length)
            return
        with self._lock:
            self._pause, self._rest, self._speech_left = after, pcm, length
            self._begun.clear()
            self._said.clear()
        self._wait(self._begun, after + timeout)

    def wait(self, timeout: float) -> float:
        """Wait until it is said; return when the last sound of it was sent, in seconds of the monotonic clock.

        Raises: `RealtimeError` when the conversation ended meanwhile.
        """
        self._wait(self._said, timeout)
        return self.ended_at

    def _wait(self, event: threading.Event, timeout: float) -> None:
        came = event.wait(timeout)
        if self.error is not None:
            raise self.error
        if not came:
            raise RealtimeTimeoutError(f"the caller's sound could not be sent within {timeout:g} s")

    def _say_at_once(self, pcm: bytes, length: float) -> None:
        self._send(pcm[: self._bytes(length)])
        self._clock.skip(length)
        self.ended_at = time.monotonic()
        rest = pcm[self._bytes(length) :] + bytes(self._bytes(self._silence_after))
        self._send(rest)
        self._clock.skip(len(rest) / self._audio.bytes_per_second)

    def _bytes(self, seconds: float) -> int:
        return round(seconds * self._audio.sample_rate) * 2

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                piece = self._next_piece()
                self._send(piece + bytes(self._size - len(piece)))
                if piece:
                    self._was_spoken()
                due += _PIECE
        except RealtimeError as error:
            self.error = error
            self._begun.set()
            self._said.set()

    def _next_piece(self) -> bytes:
        with self._lock:
            if self._pause > 0:
                self._pause -= _PIECE
                return b""
            piece, self._rest = self._rest[: self._size], self._rest[self._size :]
            return piece

    def _was_spoken(self) -> None:
        self._begun.set()
        with self._lock:
            self._speech_left -= _PIECE
            if self._speech_left <= 0 and not self._said.is_set():
                self.ended_at = time.monotonic()  # a telephone sends a piece when it was spoken
                self._said.set()
