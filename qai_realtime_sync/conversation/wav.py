"""A stereo WAV file that can be played at any moment while it is written."""

from __future__ import annotations

import os
import struct
from array import array
from typing import Final

__all__ = ["StereoWav"]

_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")
_LARGEST: Final = 0xFFFFFFFF
_SIZES: Final = struct.Struct("<I")


class StereoWav:
    """PCM16, two channels, at ``rate`` Hz. The sizes in the header follow each piece, so that a killed process leaves a whole file.

    Not for two threads at once. Beyond 4 GiB (12 hours at 24000 Hz) the header tells the largest size it can.

    Raises: `OSError`.
    """

    def __init__(self, path: str | os.PathLike[str], rate: int) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._size = 0  # bytes of sound
        header = _HEADER.pack(b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 2, rate, rate * 4, 4, 16, b"data", 0)
        self._file.write(header)
        self._file.flush()

    def append(self, left: bytes, right: bytes) -> None:
        """Write a piece; both channels have the same length in whole samples."""
        frames = array("H", bytes(2 * len(left)))  # samples are moved, never calculated with: their byte order does not matter
        frames[0::2] = array("H", left)
        frames[1::2] = array("H", right)
        self._file.write(frames.tobytes())
        self._size += 2 * len(left)
        for position, size in ((4, self._size + 36), (40, self._size)):
            self._file.flush()  # the sound first: a header must not promise what is not there
            self._file.seek(position)
            self._file.write(_SIZES.pack(min(size, _LARGEST)))
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
