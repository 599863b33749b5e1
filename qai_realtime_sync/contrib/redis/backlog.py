"""What an owner has to publish: numbered when it happens, bounded, and forgotten only once Redis has it."""

from __future__ import annotations

import collections
import threading
import time

import attrs

from qai_realtime_sync.audio import b64encode
from qai_realtime_sync.client.wakeup import Changes
from qai_realtime_sync.dialects import wire
from qai_realtime_sync.events import AudioDelta, Closed, Event

__all__ = ["Backlog", "Due"]

_MOST = 10_000
_MOST_BYTES = 16 * 1024 * 1024
_BATCH = 100
_BATCH_BYTES = 512 * 1024


@attrs.frozen
class Due:
    """One event that waits: its number, when it happened (unix seconds), and itself or what is left of it."""

    number: int
    at: float
    event: Event | dict[str, object]
    audio: bytes = b""

    def spelled(self) -> bytes:
        """The JSON of its line; sound, if it is kept, as ``audio_base64``."""
        value = self.event.to_dict() if isinstance(self.event, Event) else dict(self.event)
        if self.audio:
            value["audio_base64"] = b64encode(self.audio).decode()
        try:
            return wire.dumps(value)
        except ValueError as error:  # a service may say what JSON cannot
            return wire.dumps({"name": value["name"], "problem": f"has no JSON form: {error}"})


class Backlog:
    """The client's thread puts events in and never waits; the publisher takes them out. When it is full, the oldest go and are counted."""

    def __init__(self, *, audio: bool, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._audio, self._most, self._most_bytes = audio, most, most_bytes
        self._lock = threading.RLock()  # guards everything below; re-entrant, because a signal's handler may speak
        self._changes = Changes(self._lock)
        self._due: collections.deque[Due] = collections.deque()
        self._bytes = 0
        self._woken = False
        self.number = 0
        self.dropped = 0
        self.over = False
        self.last = b""  # the last event of all, once it is published

    def put(self, event: Event) -> None:
        """Number an event and queue it; nothing is taken after `Closed`. Raises nothing, waits for nothing."""
        is_audio = event.__class__ is AudioDelta
        kept = event.audio if is_audio and self._audio else b""  # type: ignore[attr-defined]
        # What nobody asked for is let go at once; all else is spelled by the publisher, not by the client's thread.
        value = event.to_dict() if is_audio else event
        with self._lock:
            if self.over:
                return
            self.number += 1
            self._due.append(Due(self.number, time.time(), value, kept))
            self._bytes += len(kept)
            while len(self._due) > self._most or self._bytes > self._most_bytes:
                self._bytes -= len(self._due.popleft().audio)
                self.dropped += 1
            self.over = isinstance(event, Closed)
            self._changes.tell()

    def wake(self) -> None:
        """Let who waits in `first` look up."""
        with self._lock:
            self._woken = True
            self._changes.tell()

    def first(self, seconds: float) -> list[Due]:
        """The oldest events, without taking them out; waits for one up to ``seconds``."""
        self._changes.wait_for(lambda: bool(self._due) or self._woken, seconds)
        with self._lock:
            self._woken = False
            found, size = [], 0
            for due in self._due:
                found.append(due)
                size += len(due.audio)
                if len(found) == _BATCH or size > _BATCH_BYTES:
                    break
            return found

    def published(self, number: int) -> None:
        """Redis has everything up to this number."""
        with self._lock:
            while self._due and self._due[0].number <= number:
                due = self._due.popleft()
                self._bytes -= len(due.audio)
                if self.over and not self._due:
                    self.last = due.spelled()
            self._changes.tell()

    def drain(self, seconds: float) -> bool:
        """Wait until nothing is left to publish; False after ``seconds``."""
        return self._changes.wait_for(lambda: not self._due, seconds)

    def end(self) -> None:
        """Forget what waits, and take nothing more."""
        with self._lock:
            self.over = True
            self._due.clear()
            self._bytes = 0
            self._changes.tell()

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return len(self._due)

    @property
    def is_done(self) -> bool:
        """True when everything is published and nothing more will come."""
        with self._lock:
            return self.over and not self._due
