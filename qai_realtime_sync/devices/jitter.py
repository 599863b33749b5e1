"""Sound that waits to be played: kept until enough is there, handed out in blocks, and counted when it was heard. Pure but for a lock."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

__all__ = ["JitterBuffer"]

_UNDERRUN = 0.5  # seconds: sound that comes so soon after the buffer ran dry belongs to what was being said, and came too late
_FOLLOW = 0.05  # how fast the time line of what is heard follows the pace at which blocks are asked for
_STILL_COUNTS = 64  # handed-out pieces that may still be on their way to the ear


class JitterBuffer:
    """PCM16 between whoever writes it as it comes and a line that asks for a block at a time; safe for several threads.

    ``ahead`` seconds are collected before a pause ends, unless that takes longer than they last; ``latency`` is the seconds from
    `take` to the ear; beyond ``most`` seconds what is written is dropped and counted. ``clock`` returns seconds.
    """

    def __init__(self, bytes_per_second: int, *, ahead: float, latency: float, most: float, clock: Callable[[], float]) -> None:
        self._rate = bytes_per_second
        self._ahead = round(ahead * bytes_per_second)
        self._patience = ahead
        self._most = round(most * bytes_per_second)
        self.latency = latency
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._queue: collections.deque[memoryview] = collections.deque()
        self._queued = 0  # bytes
        self._collecting_since: float | None = None  # the first sound after a pause came then
        self._is_playing = False
        self._dry_at: float | None = None  # when sound ran out that nobody cleared
        self._heard = 0  # bytes that are certainly heard
        self._on_their_way: collections.deque[tuple[float, int]] = collections.deque()  # when a piece begins to be heard, and its bytes
        self._free_at = 0.0  # when the ear will have heard all that was handed out, silence too
        self._last_sound = -1e9  # when the last sound that was handed out ends
        self._told = 0.0
        self._last = b""
        self.underruns = 0
        """How often sound came too late: the buffer ran dry, and what belonged there came within half a second."""
        self.overruns = 0
        """How many pieces were dropped since too much waited."""

    def write(self, pcm: bytes) -> None:
        """Queue whole samples behind what waits."""
        if not pcm:
            return
        with self._lock:
            if self._queued + len(pcm) > self._most:
                self.overruns += 1
                return
            now = self._clock()
            if not self._is_playing and self._collecting_since is None:
                self._collecting_since = now
                if self._dry_at is not None and now - self._dry_at < _UNDERRUN:
                    self.underruns += 1
                self._dry_at = None
            self._queue.append(memoryview(pcm))
            self._queued += len(pcm)

    def clear(self) -> None:
        """Forget what waits: the next block is silence. What the line already has cannot be called back and counts as heard."""
        with self._lock:
            self._queue.clear()
            self._queued = 0
            self._is_playing = False
            self._collecting_since = self._dry_at = None
            now = self._clock()
            self._last_sound = min(self._last_sound, now + self.latency)
            self._heard += sum(size for _, size in self._on_their_way)
            self._on_their_way.clear()

    def take(self, size: int) -> bytes:
        """Return the next block: ``size`` bytes of sound, or of silence where there is none."""
        with self._lock:
            now = self._clock()
            begins = self._begins(now)
            block = self._next(size, now)
            if block:
                self._settle(now)
                self._on_their_way.append((begins, len(block)))
                self._last_sound = begins + len(block) / self._rate
            self._free_at = begins + size / self._rate
            self._last = block = block + bytes(size - len(block))
            return block

    def _begins(self, now: float) -> float:
        """When the block that is asked for now begins to be heard: behind the last one, or after the latency if there was a gap."""
        expected = now + self.latency
        away = expected - self._free_at
        if abs(away) > max(0.1, 2 * self.latency):  # it begins, or nothing was asked for in between
            return expected
        return self._free_at + away * _FOLLOW

    def _next(self, size: int, now: float) -> bytes:
        if not self._is_playing:
            if self._collecting_since is None:
                return b""
            if self._queued < self._ahead and now - self._collecting_since < self._patience:
                return b""
            self._is_playing, self._collecting_since = True, None
        parts = []
        left = size
        while left and self._queue:
            piece = self._queue.popleft()
            if len(piece) > left:
                self._queue.appendleft(piece[left:])
                piece = piece[:left]
            parts.append(piece)
            left -= len(piece)
        self._queued -= size - left
        if not self._queue:
            self._is_playing, self._dry_at = False, now
        return b"".join(parts)

    @property
    def played_ms(self) -> float:
        """Milliseconds of what was written that were heard; never goes back."""
        with self._lock:
            now = self._clock()
            self._settle(now)
            heard = self._heard
            if self._on_their_way:
                begins, size = self._on_their_way[0]
                heard += min(size, max(0, round((now - begins) * self._rate)))
            self._told = max(self._told, heard * 1000 / self._rate)
            return self._told

    def _settle(self, now: float) -> None:
        """Count what was heard completely."""
        while self._on_their_way:
            begins, size = self._on_their_way[0]
            if now < begins + size / self._rate and len(self._on_their_way) < _STILL_COUNTS:
                return
            self._on_their_way.popleft()
            self._heard += size

    @property
    def waiting(self) -> float:
        """Seconds of sound that were not handed out yet."""
        with self._lock:
            return self._queued / self._rate

    def is_heard(self, tail: float = 0.0) -> bool:
        """True while there is sound to be heard, waits to be, or ended less than ``tail`` seconds ago."""
        with self._lock:
            return self._queued > 0 or self._clock() < self._last_sound + tail

    @property
    def last(self) -> bytes:
        """The block that was handed out last."""
        with self._lock:
            return self._last
