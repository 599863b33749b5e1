"""The sound of a recording: how loud it is over time, and small enough to stand in a page."""

from __future__ import annotations

import importlib.util
import io
import pathlib
import struct
import wave
from array import array
from collections.abc import Iterator
from typing import Final

import attrs

from qai_realtime_sync.audio import AudioFormat, Converter

__all__ = ["Embedded", "RecordedSound"]

_BLOCK = 65536  # frames read at once
_MU_LAW = 7  # source: Microsoft's registry of WAVE format tags (mmreg.h)
_WHOLE: Final = 6 * 2**20  # bytes: what is smaller goes into the page as it is
_LARGEST: Final = 24 * 2**20  # of what goes into a page at all
_RATES = (16000, 8000)


@attrs.frozen
class Embedded:
    """A WAV file for a page, and how it differs from the recording."""

    data: bytes
    quality: str


@attrs.frozen(kw_only=True)
class RecordedSound:
    """A WAV file of 16 bits that can be read: caller and assistant, or one channel for both."""

    path: pathlib.Path
    channels: int
    rate: int
    frames: int

    @classmethod
    def opened(cls, path: pathlib.Path) -> tuple[RecordedSound | None, str]:
        """Look at a file; return its sound, or why there is none. What a killed process left is read as far as it goes."""
        if not path.is_file():
            return None, f"there is no {path.name}: nothing to listen to"
        try:
            with wave.open(str(path), "rb") as file:
                channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
                frames = min(file.getnframes(), (path.stat().st_size - 44) // max(1, channels * width))
        except (OSError, EOFError, wave.Error, struct.error) as error:
            return None, f"{path.name} cannot be read as a WAV file ({str(error) or 'it ends too early'}): nothing to listen to"
        if width != 2:
            return None, f"{path.name} has {8 * width} bits per sample; save it with 16 bits (PCM)"
        if channels not in (1, 2) or not 1000 <= rate <= 400_000:
            return None, f"{path.name} has {channels} channels at {rate} Hz; one or two at 1000 to 400000 Hz can be shown"
        if frames <= 0:
            return None, f"{path.name} holds no sound yet"
        return cls(path=path, channels=channels, rate=rate, frames=frames), ""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.rate

    def peaks(self, per_second: float) -> list[list[float]]:
        """Return how loud each channel is, 0 to 1, so many times per second."""
        step = max(1, round(self.rate / per_second))
        found: list[list[float]] = [[] for _ in range(self.channels)]
        rest = [array("h") for _ in range(self.channels)]
        for block in self._blocks():
            for number in range(self.channels):
                samples = rest[number] + block[number :: self.channels]
                whole = len(samples) // step * step
                found[number] += [_peak(samples[at : at + step]) for at in range(0, whole, step)]
                rest[number] = samples[whole:]
        for number, samples in enumerate(rest):
            if samples:
                found[number].append(_peak(samples))
        return found

    def embedded(self) -> Embedded | None:
        """Return it for a page: as it is if it is short, else with 8 bits (µ-law) and a lower rate; ``None`` if it is too long even so.

        Lower rates need soxr; in Python alone that would take too long.
        """
        if self.frames * self.channels * 2 <= _WHOLE:
            return Embedded(self._as_it_is(), "")
        lower = _RATES if importlib.util.find_spec("soxr") is not None else ()
        rates = (self.rate, *(rate for rate in lower if rate < self.rate))
        per_hertz = self.duration * self.channels
        rate = next((rate for rate in rates if per_hertz * rate <= _WHOLE), rates[-1])
        if per_hertz * rate > _LARGEST:
            return None
        return Embedded(self._mu_law(rate), f"the sound in this page has 8 bits at {rate} Hz; {self.path.name} is better")

    def _as_it_is(self) -> bytes:
        """The sound with a header that fits it, whatever the file's own says."""
        made = io.BytesIO()
        with wave.open(made, "wb") as file:
            file.setnchannels(self.channels)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            for block in self._blocks():
                file.writeframes(block.tobytes())
        return made.getvalue()

    def _mu_law(self, rate: int) -> bytes:
        target = AudioFormat("g711_ulaw", 8000)  # the code alone; what rate it is played at, the header says
        way = [Converter(AudioFormat("pcm16", self.rate), AudioFormat("pcm16", rate)) for _ in range(self.channels)]
        code = Converter(AudioFormat("pcm16", 8000), target)
        parts: list[bytearray] = [bytearray() for _ in range(self.channels)]
        for block in self._blocks():
            for number, converter in enumerate(way):
                parts[number] += code.convert(converter.convert(block[number :: self.channels].tobytes()))
        for number, converter in enumerate(way):
            parts[number] += code.convert(converter.flush())
        sound = bytearray(len(parts[0]) * self.channels)
        for number, part in enumerate(parts):
            sound[number :: self.channels] = part
        size = len(sound)
        head = struct.pack("<4sI4s4sIHHIIHHH", b"RIFF", 50 + size + size % 2, b"WAVE", b"fmt ", 18, _MU_LAW, self.channels, rate,
                           rate * self.channels, self.channels, 8, 0)  # fmt: skip
        return head + struct.pack("<4sII4sI", b"fact", 4, size // self.channels, b"data", size) + bytes(sound) + bytes(size % 2)

    def _blocks(self) -> Iterator[array[int]]:
        left = self.frames
        with wave.open(str(self.path), "rb") as file:
            while left > 0:
                data = file.readframes(min(_BLOCK, left))
                data = data[: len(data) // (2 * self.channels) * 2 * self.channels]
                if not data:
                    return
                left -= len(data) // (2 * self.channels)
                yield array("h", data)


def _peak(samples: array[int]) -> float:
    return min(1.0, max(max(samples), -min(samples)) / 32767)
