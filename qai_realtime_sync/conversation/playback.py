"""What the assistant's sound is played to, how much of it was heard, and how it is stopped when the user speaks."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Callable, Collection
from typing import Literal, Protocol

import attrs

from qai_realtime_sync.commands import Command, TruncateItem
from qai_realtime_sync.config import AudioFormat
from qai_realtime_sync.events import AudioDelta, Event, PlaybackStopped, ResponseDone
from qai_realtime_sync.fields import FrozenByFields

__all__ = ["Began", "Playback", "Sink", "Stopped"]

_log = logging.getLogger("qai_realtime_sync")
_REMEMBERED = 64
_ROUNDING_MS = 1.0  # a sink may count whole milliseconds, and two sums of the same pieces differ in their last digits


class Sink(Protocol):
    """What plays the assistant's sound; none of its methods may block.

    ``write(audio)`` queues bytes in the session's output format. ``clear()`` forgets what is not played yet, at once. ``played_ms`` is
    how many milliseconds of all that was written have come out of the speaker; it never goes back. A sink without ``played_ms``
    (an attribute or a method) is taken to play in real time.
    """

    def write(self, audio: bytes) -> object: ...

    def clear(self) -> object: ...


@attrs.define(kw_only=True, eq=False, repr=False)
class _Piece:
    """The sound of one item, or what of it came in one go: where it begins on the sink's time line, and how long it is so far."""

    response_id: str
    item_id: str
    content_index: int
    begins: float
    before: float = 0.0  # of the same item, in earlier pieces: another answer's sound came between
    length: float = 0.0
    is_of_lost: bool = False  # its connection is gone: it cannot be cut any more, and its ids may come again for something else

    def is_of(self, item_id: str, response_id: str) -> bool:
        """It is a piece of this item, over the connection there is."""
        return not self.is_of_lost and self.item_id == item_id and self.response_id == response_id


@attrs.frozen(eq=False, repr=False)
class Began(FrozenByFields):
    """An answer's sound will be heard at ``at``; what plays before it ends at ``silent_at``. Seconds of the client's clock."""

    at: float
    silent_at: float


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Stopped(FrozenByFields):
    """What came of stopping: what to tell, the commands that cut the answer at what was heard, and the answers that are void now."""

    event: PlaybackStopped
    cuts: list[Command]
    void: list[str]
    error: Exception | None = None
    """What the sink's ``clear()`` raised."""


class Playback:
    """Feeds a sink and keeps the time line of what was written to it, in milliseconds of sound."""

    def __init__(self, sink: Sink, audio: AudioFormat, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._audio = audio
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below; the sink's methods are called under it: they must not block or call back
        self._pieces: collections.deque[_Piece] = collections.deque(maxlen=_REMEMBERED)
        self._written = 0.0
        self._ended: collections.deque[str] = collections.deque(maxlen=_REMEMBERED)
        self._running_dry = 0.0
        self._clock_failed = False

    def told(self, event: Event) -> Began | None:
        """Follow the service: sound is written to the sink. Return when an item is heard whose first sound this is."""
        if isinstance(event, AudioDelta):
            return self._write(event)
        if isinstance(event, ResponseDone):
            with self._lock:
                self._ended.append(event.response_id)
        return None

    @property
    def silent_at(self) -> float:
        """When the last sound that was written ends, or ended; seconds of the client's clock."""
        with self._lock:
            return self._running_dry

    @property
    def seconds_left(self) -> float:
        """How long the sink still plays what it was given."""
        with self._lock:
            return max(0.0, self._written - self._played()) / 1000

    @property
    def is_playing(self) -> bool:
        """True while the sink has sound left, or the answer it plays still grows."""
        with self._lock:
            return self._current() is not None

    def stop(self, reason: Literal["barge_in", "interrupt"], *, unkept: Collection[str] = ()) -> Stopped | None:
        """Silence the sink now; ``None`` if nothing played. Items of ``unkept`` answers, which the service forgets, are not cut."""
        with self._lock:
            played = self._played()
            piece = self._current()
            if piece is None:
                return None
            error = self._clear()
            cuts: dict[tuple[str, str], Command] = {}
            void: list[str] = []
            for unheard in self._pieces:
                heard = min(max(0.0, played - unheard.begins), unheard.length)
                void.append(unheard.response_id)
                if not unheard.item_id or unheard.is_of_lost or unheard.response_id in unkept:
                    continue
                item = (unheard.item_id, unheard.response_id)
                if (heard < unheard.length or unheard.response_id not in self._ended) and (heard > 0.0 or item not in cuts):
                    end = int(unheard.before + heard)
                    cuts[item] = TruncateItem(item_id=unheard.item_id, audio_end_ms=end, content_index=unheard.content_index)
            heard_ms = int(piece.before + min(max(0.0, played - piece.begins), piece.length))
            pieces = [piece, *(one for one in self._pieces if one.is_of(piece.item_id, piece.response_id))]
            received = max(one.before + one.length for one in pieces)
            self._written = played
            self._pieces.clear()
            self._running_dry = 0.0
        event = PlaybackStopped(
            response_id=piece.response_id,
            item_id=piece.item_id,
            heard_ms=heard_ms,
            received_ms=int(received),
            reason=reason,
        )
        return Stopped(event=event, cuts=list(cuts.values()), void=void, error=error)

    def lost(self) -> None:
        """The connection is gone: what came is played to its end, nothing comes after it, and no item can be cut any more."""
        with self._lock:
            for piece in self._pieces:
                piece.is_of_lost = True
            self._ended.clear()

    def _clear(self) -> Exception | None:
        try:
            self._sink.clear()
        except Exception as error:  # told by the caller, when the lock is free; the service must learn what was heard all the same
            return error
        return None

    def finished(self) -> PlaybackStopped | None:
        """If an answer is over and was played to its end, forget it and return what to tell."""
        with self._lock:
            if not self._pieces or self._played() + _ROUNDING_MS < self._written:
                return None
            piece = self._pieces[-1]
            if not self._is_over(piece):
                return None
            self._pieces.clear()
            return PlaybackStopped(
                response_id=piece.response_id,
                item_id=piece.item_id,
                heard_ms=int(piece.before + piece.length),
                received_ms=int(piece.before + piece.length),
                reason="finished",
            )

    def _write(self, event: AudioDelta) -> Began | None:
        began = None
        with self._lock:
            played = self._played()
            if played > self._written:
                self._written = played
            piece = self._pieces[-1] if self._pieces else None
            if piece is None or not piece.is_of(event.item_id, event.response_id):
                began = Began(self._clock() + (self._written - played) / 1000, self._running_dry)
                earlier = (one for one in reversed(self._pieces) if one.is_of(event.item_id, event.response_id))
                before = next((one.before + one.length for one in earlier), 0.0)
                piece = _Piece(
                    response_id=event.response_id,
                    item_id=event.item_id,
                    content_index=event.content_index,
                    begins=self._written,
                    before=before,
                )
                self._pieces.append(piece)
            milliseconds = len(event.audio) * 1000 / self._audio.bytes_per_second
            self._sink.write(event.audio)
            self._running_dry = max(self._running_dry, self._clock()) + milliseconds / 1000
            piece.length += milliseconds
            self._written += milliseconds
        return began

    def _current(self) -> _Piece | None:
        """The item that is heard now: the one the played time falls into, or the last if the answer is still being made."""
        played = self._played()
        for piece in self._pieces:
            if played < piece.begins + piece.length:
                return piece
        last = self._pieces[-1] if self._pieces else None
        return last if last is not None and not self._is_over(last) else None

    def _is_over(self, piece: _Piece) -> bool:
        return piece.is_of_lost or piece.response_id in self._ended

    def _played(self) -> float:
        try:
            played = getattr(self._sink, "played_ms", None)
            if played is not None:
                return float(played() if callable(played) else played)
        except Exception as error:  # a sink that cannot say is treated like one that has no clock, and said once
            if not self._clock_failed:
                self._clock_failed = True
                _log.error("played_ms of the sink of play_to failed: what was heard is estimated", exc_info=error)
        # No clock of its own: what was written plays in real time from when it came.
        return self._written - max(0.0, self._running_dry - self._clock()) * 1000
