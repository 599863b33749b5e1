"""The assistant's voice on its way to a telephone: pieces of 20 ms a little ahead of time, and what was heard of them by marks."""

from __future__ import annotations

import collections
import json
import threading
import time
from collections.abc import Callable

from qai_realtime_sync.audio import AudioFormat, b64encode

__all__ = ["TELEPHONE", "TwilioSink"]

TELEPHONE = AudioFormat("g711_ulaw", 8000)

_PER_MS = TELEPHONE.bytes_per_second // 1000
_PIECE_MS = 20
_PIECE = _PIECE_MS * _PER_MS
_MARK_EVERY = 5  # pieces: a mark tells every 100 ms, and at the end of what there is, how far the telephone is
_ROUNDING = 0.0001
_OVERDUE = 1.0  # seconds that a mark may come late before the clock is believed instead


class TwilioSink:
    """A sink of `RealtimeClient.play_to` that sends to one media stream; `run` does the sending, in a thread of its own.

    ``send`` is given text frames and may block. Up to ``ahead`` seconds of sound wait at the telephone's side, so that a stall here is
    not heard there; what waits there is forgotten by ``clear``. `played_ms` follows the marks that come back: between two of them the
    clock is believed, but never past a mark that has not come; only when marks stay away altogether the clock alone.
    """

    def __init__(
        self, send: Callable[[str], object], stream_sid: str, *, ahead: float = 0.4, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock, self._ahead_ms = send, clock, ahead * 1000
        sid = json.dumps(stream_sid)
        self._media = f'{{"event":"media","streamSid":{sid},"media":{{"payload":"', '"}}'
        self._mark = f'{{"event":"mark","streamSid":{sid},"mark":{{"name":"', '"}}'
        self._forget = f'{{"event":"clear","streamSid":{sid}}}'
        self._changed = threading.Condition()  # guards everything below; never held while sending
        self._pending = bytearray()
        self._control: collections.deque[str] = collections.deque()  # goes before sound
        # The telephone's time line, in milliseconds of sound:
        self._written = self._sent = self._heard = 0.0
        self._base, self._base_at = 0.0, clock()  # it was here, then
        self._marks: collections.deque[tuple[str, float]] = collections.deque()  # on their way, and where each stands
        self._marks_made = self._unmarked = 0
        self._marks_come = True
        self._finishing = self._stopped = False
        self._sending_since: float | None = None
        self.over = threading.Event()
        self.error: Exception | None = None
        """What ``send`` raised."""

    # -- what a client calls ---------------------------------------------------------------------------------------------------

    def write(self, audio: bytes) -> None:
        """Queue µ-law sound."""
        with self._changed:
            self._pending += audio
            self._written += len(audio) / _PER_MS
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget what is not heard yet, here and at the telephone's side."""
        with self._changed:
            now = self._clock()
            self._written = self._sent = self._base = self._played(now)
            self._base_at = now
            self._pending.clear()
            self._marks.clear()  # they come back at once, and mean nothing
            self._unmarked = 0
            self._control.clear()
            self._control.append(self._forget)
            self._changed.notify_all()

    @property
    def played_ms(self) -> float:
        """Milliseconds of all that was written that have been heard."""
        with self._changed:
            return self._played(self._clock())

    # -- what the bridge calls -------------------------------------------------------------------------------------------------

    def marked(self, name: str) -> None:
        """A mark came back: all that was sent before it has been heard, unless it was cleared meanwhile."""
        with self._changed:
            if not any(name == waiting for waiting, _ in self._marks):
                return
            while True:
                found, position = self._marks.popleft()
                if found == name:
                    break
            self._base, self._base_at = position, self._clock()
            self._heard = max(self._heard, position)
            self._marks_come = True
            self._changed.notify_all()

    def finish(self) -> None:
        """Nothing more will be written: `run` returns when all of it was heard."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Make `run` return, as soon as ``send`` does."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def blocked_for(self) -> float:
        """Seconds since ``send`` was called that has not returned; 0.0 = none."""
        since = self._sending_since
        return 0.0 if since is None else self._clock() - since

    def run(self) -> None:
        """Send until `stop`, until `finish` is done, or until ``send`` raises."""
        try:
            while (message := self._next()) is not None:
                self._sending_since = self._clock()
                self._send(message)
                self._sending_since = None
        except Exception as error:  # whatever the socket raises means that it is gone; the bridge tells it
            self.error = error
        finally:
            self._sending_since = None
            self.over.set()

    def _next(self) -> str | None:
        """Wait until something is due and return it; ``None`` at the end."""
        with self._changed:
            while not self._stopped:
                if self._control:
                    return self._control.popleft()
                now = self._clock()
                lead = self._sent - self._estimate(now)
                wait: float | None = None
                if self._pending:
                    # What is no whole piece yet may still grow, while the telephone has something to play.
                    wait = (lead - (self._ahead_ms - _PIECE_MS if len(self._pending) >= _PIECE else 2 * _PIECE_MS)) / 1000
                    if wait <= _ROUNDING:
                        return self._piece(now)
                elif self._finishing:
                    if self._played(now) >= self._written and not (self._marks and self._marks_come):
                        return None
                    wait = max(lead / 1000, 0.1)
                self._changed.wait(wait)
            return None

    def _piece(self, now: float) -> str:
        if self._estimate(now) >= self._sent:
            self._base, self._base_at = self._sent, now  # the telephone is silent and plays this at once
        piece = bytes(self._pending[:_PIECE])
        del self._pending[:_PIECE]
        self._sent += len(piece) / _PER_MS
        self._unmarked += 1
        if self._unmarked >= _MARK_EVERY or not self._pending:
            self._unmarked = 0
            self._marks_made += 1
            name = f"qai-{self._marks_made}"
            self._marks.append((name, self._sent))
            self._control.append(name.join(self._mark))
        return b64encode(piece).decode("ascii").join(self._media)

    # -- where the telephone is ------------------------------------------------------------------------------------------------

    def _estimate(self, now: float) -> float:
        """Where it is by the clock."""
        return min(self._sent, self._base + (now - self._base_at) * 1000)

    def _played(self, now: float) -> float:
        """Where it is for certain, as far as that can be known; never goes back."""
        played = self._estimate(now)
        if self._marks:
            next_mark = self._marks[0][1]
            if now > self._base_at + (next_mark - self._base) / 1000 + _OVERDUE:
                self._marks_come = False
            if self._marks_come:
                played = min(played, next_mark)
        self._heard = max(self._heard, played)
        return self._heard
