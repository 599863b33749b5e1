"""One channel of a recording: pieces of sound put where they were heard, taken in order."""

from __future__ import annotations

from qai_realtime_sync.audio import AudioFormat, Converter, level

__all__ = ["Track"]

_LONGEST_HICCUP = 0.5  # seconds: a longer gap was a pause of the speaker
_SILENT = 0.003  # of full scale


class Track:
    """PCM16 at ``rate`` Hz, not written yet. Positions are samples since the recording began. Not for two threads at once.

    A piece follows the one before; if it comes more than ``late`` seconds after that has ended, it begins when it came. When a
    stream stops for a moment and then catches up, the gap is taken back at the next silence, so that later sound is where it was heard.
    """

    def __init__(self, rate: int, *, late: float = 0.0) -> None:
        self._rate, self._late = rate, late
        self._target = AudioFormat("pcm16", rate)
        self._converter: Converter | None = None
        self._pcm = bytearray()
        self._taken = 0  # samples
        self._cursor = 0.0  # seconds: where the next piece begins if it follows the last
        self._owed = 0.0  # seconds of gap to be taken back

    @property
    def end(self) -> int:
        """Where the sound ends so far."""
        return self._taken + len(self._pcm) // 2

    def put(self, audio: bytes, source: AudioFormat, at: float) -> tuple[int, int]:
        """Put a piece that came ``at`` seconds; return where it begins and ends, in samples."""
        duration = len(audio) / source.bytes_per_second
        gap = at - self._cursor
        if gap > self._late or self._converter is None or self._converter.source != source:
            if self._converter is not None and self._late < gap < _LONGEST_HICCUP:
                self._owed += gap
            self.end_segment()
            self._cursor = max(at, self._cursor, self.end / self._rate)
            self._pad(round(self._cursor * self._rate))
            self._converter = Converter(source, self._target)
        elif self._owed > 0 and -gap > duration / 2 and self._is_silent(audio, source):
            self._owed = max(0.0, self._owed - duration)
            return round(self._cursor * self._rate), round(self._cursor * self._rate)
        begins = round(self._cursor * self._rate)
        self._pcm += self._converter.convert(audio)
        self._cursor += duration
        return begins, round(self._cursor * self._rate)

    def end_segment(self) -> None:
        """What comes next does not follow on from the last piece: take out what the rate conversion still holds."""
        if self._converter is not None:
            self._pcm += self._converter.flush()
            self._converter = None

    def cut(self, position: int) -> None:
        """Forget everything from this position on."""
        self.end_segment()
        keep = max(0, position - self._taken)
        del self._pcm[2 * keep :]
        self._cursor = min(self._cursor, max(position, self._taken) / self._rate)

    def erase(self, begin: int, end: int) -> None:
        """Silence this range; if nothing comes after it, the next piece may begin where it began."""
        if round(self._cursor * self._rate) <= end:
            self.cut(begin)
            return
        first, last = (2 * max(0, position - self._taken) for position in (begin, end))
        last = min(last, len(self._pcm))
        if first < last:
            self._pcm[first:last] = bytes(last - first)

    def take(self, count: int) -> bytes:
        """Return the next ``count`` samples, with silence where there is no sound, and forget them."""
        if self.end < self._taken + count:
            self.end_segment()  # it has not gone on by now
            self._pad(self._taken + count)
        piece = bytes(self._pcm[: 2 * count])
        del self._pcm[: 2 * count]
        self._taken += count
        return piece

    def _pad(self, end: int) -> None:
        if end > self.end:
            self._pcm += bytes(2 * (end - self.end))

    def _is_silent(self, audio: bytes, source: AudioFormat) -> bool:
        return level(Converter(source, AudioFormat("pcm16", source.sample_rate)).convert(audio)) < _SILENT
