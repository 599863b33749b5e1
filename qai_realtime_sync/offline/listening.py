"""The ear of a conversation: cuts the sent audio into turns, and lets what is spoken be recognised as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias

import attrs

from qai_realtime_sync.audio import AudioFormat, Converter, duration_ms
from qai_realtime_sync.offline.items import Detection
from qai_realtime_sync.offline.vad import Detector

__all__ = ["Began", "Ear", "Ended", "Guess", "Listener"]

_SLICE = 0.1  # seconds
_MOST_KEPT = 120.0  # seconds of sound that wait for a commit; what is older is dropped, so that nobody fills the memory


class Listener(Protocol):
    """Recognises one utterance while it is fed."""

    def feed(self, pcm: bytes) -> str | None:
        """Take PCM16 at 16 kHz; return what was said so far if that changed."""
        ...

    def finish(self) -> str:
        """Return what was said, for good."""
        ...

    def abandon(self) -> None:
        """Forget the utterance."""
        ...


class Voice(Protocol):
    """What an ear needs to listen."""

    def rate(self, rate: int) -> int:
        """Return the sample rate that detectors and listeners want for a stream of ``rate`` Hz."""
        ...

    def detector(self, rate: int) -> Detector:
        """Return a detector for one stream of such a rate."""
        ...

    def release(self, detector: Detector) -> None:
        """Take a detector back whose stream is over."""
        ...

    def listener(self, rate: int) -> Listener | None:
        """Return a listener for one utterance of a stream sent at ``rate`` Hz, or ``None`` if words are not recognised."""
        ...


@attrs.frozen
class Began:
    """Speech began; ms into all audio sent, the padding before it included."""

    at_ms: int


@attrs.frozen
class Guess:
    """What is recognised so far."""

    text: str


@attrs.frozen
class Ended:
    """Speech ended; ms into all audio sent, the trailing silence included."""

    at_ms: int


Noticed: TypeAlias = Began | Guess | Ended


class Ear:
    """Takes the audio of one session as it comes; for one thread.

    With a `Detection`, `feed` notices when speech begins and ends; without one everything since the last `take` is one turn.
    """

    def __init__(self, voice: Voice, audio_format: AudioFormat, detection: Detection | None, *, position_ms: float = 0.0) -> None:
        self._voice, self._format, self._detection = voice, audio_format, detection
        self._rate = voice.rate(audio_format.sample_rate)
        self._detector = voice.detector(self._rate) if detection is not None else None
        self._window = self._detector.window if self._detector is not None else self._rate // 50  # samples
        self._converter = Converter(audio_format, AudioFormat("pcm16", self._rate))
        self._offset_ms = position_ms  # where this ear began in all audio of the session
        self._received = 0  # bytes
        self._pending = bytearray()  # PCM that is no whole window yet
        self._windows = 0
        self._wire = bytearray()  # the audio since the last take, as it was sent
        self._recent = bytearray()  # PCM before speech, for the recogniser
        self._listener: Listener | None = None
        self.speaking = False
        self._run = 0  # windows of speech (or of silence, while speaking) in a row

    @property
    def position_ms(self) -> float:
        """Milliseconds of all audio sent in this session."""
        return self._offset_ms + self._received * 1000 / self._format.bytes_per_second

    @property
    def waiting_ms(self) -> int:
        """Milliseconds of audio that a commit would take."""
        return duration_ms(len(self._wire), self._format)

    def feed(self, data: bytes) -> Iterator[Noticed]:
        """Take audio in the session's format and yield what is noticed, in order, while it is worked through."""
        # Slice by slice: what is kept before speech, and what belongs to a turn, must not depend on how large the pieces are.
        step = max(1, int(self._format.sample_rate * _SLICE)) * self._format.sample_width
        for at in range(0, len(data), step):
            yield from self._feed(data[at : at + step])

    def _feed(self, data: bytes) -> Iterator[Noticed]:
        self._received += len(data)
        self._wire += data
        self._pending += self._converter.convert(data)
        self._forget(_MOST_KEPT)
        size = self._window * 2
        at = 0
        while at + size <= len(self._pending):
            window = bytes(self._pending[at : at + size])
            at += size
            self._windows += 1
            if self._detector is None or self._detection is None:
                yield from self._manual(window)
            else:
                yield from self._automatic(window, self._detector, self._detection)
        del self._pending[:at]

    def _manual(self, window: bytes) -> Iterator[Noticed]:
        if self._listener is None:
            self._listener = self._voice.listener(self._format.sample_rate)
        yield from self._recognise(window)

    def _automatic(self, window: bytes, detector: Detector, detection: Detection) -> Iterator[Noticed]:
        likelihood = detector.likelihood(window)
        window_ms = self._window * 1000 / self._rate
        now_ms = self._offset_ms + self._windows * window_ms
        if self.speaking:
            yield from self._recognise(window)
            # Below the threshold for as long as the session says; a little less strict than the beginning, so that words stay whole.
            self._run = self._run + 1 if likelihood < max(0.15, detection.threshold - 0.15) else 0
            if self._run * window_ms >= detection.silence_duration_ms and self._run:
                self.speaking, self._run = False, 0
                yield Ended(round(now_ms))
            return
        self._recent += window
        keep = int((detection.prefix_padding_ms / 1000) * self._rate) * 2 + detector.patience * len(window)
        del self._recent[: max(0, len(self._recent) - keep)]
        self._run = self._run + 1 if likelihood >= detection.threshold else 0
        if self._run >= detector.patience:
            self.speaking, self._run = True, 0
            start_ms = now_ms - detector.patience * window_ms - detection.prefix_padding_ms
            self._listener = self._voice.listener(self._format.sample_rate)
            yield Began(max(round(self._offset_ms), round(start_ms)))
            recent, self._recent = bytes(self._recent), bytearray()
            yield from self._recognise(recent)
        else:
            self._forget((detection.prefix_padding_ms + 200) / 1000)

    def _recognise(self, pcm: bytes) -> Iterator[Noticed]:
        if self._listener is not None:
            text = self._listener.feed(pcm)
            if text:
                yield Guess(text)

    def _forget(self, seconds: float) -> None:
        keep = int(seconds * self._format.sample_rate) * self._format.sample_width
        if len(self._wire) > keep:
            del self._wire[: len(self._wire) - keep]

    def take(self) -> bytes:
        """Return the audio since the last take (or since a little before the speech began), as it was sent, and start anew."""
        wire, self._wire = bytes(self._wire), bytearray()
        self.speaking, self._run = False, 0
        return wire

    def transcribe(self) -> str | None:
        """Return what was said in the turn that was taken; ``None`` if this ear recognises no words."""
        listener, self._listener = self._listener, None
        return listener.finish() if listener is not None else None

    def forget(self) -> None:
        """Drop what waits, without a turn."""
        self.take()
        self._recent.clear()
        if self._listener is not None:
            self._listener.abandon()
            self._listener = None

    def close(self) -> None:
        """Forget everything and give the parts back; the ear is of no use afterwards."""
        self.forget()
        detector, self._detector = self._detector, None
        if detector is not None:
            self._voice.release(detector)
