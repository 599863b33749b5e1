"""Reads WAV files as they come: PCM of 8 to 32 bits, floats and G.711, any rate, several channels mixed to one."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from typing import Any

from qai_realtime_sync.audio import AudioFormat, Converter
from qai_realtime_sync.errors import ConfigError

__all__ = ["WavIn"]

# Source: Microsoft's registry of WAVE format tags (mmreg.h).
_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_G711 = {_ALAW: "g711_alaw", _ULAW: "g711_ulaw"}
_READABLE = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64), (_ALAW, 8), (_ULAW, 8)}
_FRAMES = 4096


class WavIn:
    """A WAV file that is read from its beginning; ``audio`` is the format of what `pieces` yields.

    ``file`` needs only ``read``; ``start`` is what of it was read before.

    Raises: `ConfigError` for a file that is none, or is compressed.
    """

    def __init__(self, file: Any, start: bytes = b"") -> None:
        self._file = file
        head = start + self._exactly(12 - len(start))
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            raise _wrong("it does not begin as one")
        kind = self._format()
        self._tag, self._channels, rate, self._bits = kind
        if (self._tag, self._bits) not in _READABLE or not self._channels or not rate:
            found = f"kind {self._tag} with {self._bits} bits, {self._channels} channels at {rate} Hz"
            raise _wrong(f"its sound is of {found}; save it as PCM with 16 bits")
        single = self._channels == 1 and self._tag in _G711
        self.audio = AudioFormat(_G711[self._tag] if single else "pcm16", rate)
        self._as_it_is = single or (self._tag, self._bits, self._channels) == (_PCM, 16, 1)

    def pieces(self) -> Iterator[bytes]:
        """Yield the sound, piece by piece."""
        size = self._bits // 8 * self._channels
        left = self._left
        while left > 0:
            data = self._file.read(min(left, size * _FRAMES))
            while data and len(data) % size:  # a pipe may give part of a sample
                more = self._file.read(size - len(data) % size)
                if not more:
                    break
                data += more
            data = data[: len(data) - len(data) % size]
            if not data:
                return
            left -= len(data)
            yield data if self._as_it_is else self._mixed(data)

    def _format(self) -> tuple[int, int, int, int]:
        """Read chunks up to the sound; return its kind, channels, rate and bits."""
        found: tuple[int, int, int, int] | None = None
        while True:
            name, size = struct.unpack("<4sI", self._exactly(8))
            if name == b"data":
                if found is None:
                    raise _wrong("its sound comes before its format")
                self._left = size or sys.maxsize  # a stream whose writer did not know yet
                return found
            if name != b"fmt ":
                self._skip(size + size % 2)
                continue
            if not 16 <= size <= 64:
                raise _wrong(f"its format takes {size} bytes")
            chunk = self._exactly(size + size % 2)
            tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
            if tag == _EXTENSIBLE and size >= 26:
                (tag,) = struct.unpack("<H", chunk[24:26])
            found = tag, channels, rate, bits

    def _mixed(self, data: bytes) -> bytes:
        samples = self._samples(data)
        count = self._channels
        if count > 1:
            samples = array("h", (sum(samples[at : at + count]) // count for at in range(0, len(samples), count)))
        return _little(samples).tobytes()

    def _samples(self, data: bytes) -> array[int]:
        if self._tag in _G711:
            one = AudioFormat(_G711[self._tag], 8000)
            return _little(array("h", Converter(one, AudioFormat("pcm16", 8000)).convert(data)))
        if self._tag == _FLOAT:
            floats = array("d" if self._bits == 64 else "f", data)
            if sys.byteorder == "big":  # pragma: no cover - needs such a machine
                floats.byteswap()
            return array("h", map(_of_float, floats))
        if self._bits == 8:
            return array("h", (256 * (value - 128) for value in data))
        if self._bits == 16:
            return _little(array("h", data))
        width = self._bits // 8  # of wider samples the two upper bytes are kept
        upper = bytearray(len(data) // width * 2)
        upper[0::2], upper[1::2] = data[width - 2 :: width], data[width - 1 :: width]
        return _little(array("h", bytes(upper)))

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._file.read(count - len(data))
            if not more:
                raise _wrong("it ends before its sound begins")
            data += more
        return data

    def _skip(self, count: int) -> None:
        while count > 0:
            count -= len(self._exactly(min(count, 65536)))


def _little(samples: array[int]) -> array[int]:
    if sys.byteorder == "big":  # pragma: no cover - needs such a machine
        samples.byteswap()
    return samples


def _wrong(why: str) -> ConfigError:
    return ConfigError(f"this is no WAV file that can be read: {why}", code="invalid_wav")


def _of_float(value: float) -> int:
    """A sample of -1 to 1 in 16 bits; what is louder, infinity too, is cut, and what is no number is silence."""
    return max(-32768, min(32767, round(max(-2.0, min(2.0, value)) * 32767))) if value == value else 0
