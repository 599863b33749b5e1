"""Waiting for events from other threads: `wait_for` with a bounded look back, and streams with a queue of their own."""

from __future__ import annotations

import collections
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TypeGuard

import attrs

from qai_realtime_sync.client.wakeup import Bell, Changes
from qai_realtime_sync.errors import ConfigError, ConnectionClosedError, NotConnectedError, RealtimeTimeoutError
from qai_realtime_sync.events import AudioDelta, Closed, Event

__all__ = ["LONGEST", "EventStream", "GivenUp", "Waiting", "check_timeout", "describe_end", "in_slices", "is_seconds"]

_KEPT = 128
_KEPT_AUDIO = 8
_STREAM_SIZE = 10_000
LONGEST = 86_400.0
"""Seconds; a day stands for more, because locks and sockets refuse what they cannot count."""

_SLICE = 1.0  # a signal that arrives just before a lock is waited for is seen only when that wait ends, on Windows always


def is_seconds(value: object) -> TypeGuard[float]:
    """True for a number that can be added to a clock: finite, and no bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float holds
        return False


def check_timeout(timeout: object, *, zero: bool = True, none: str = "sets no limit") -> None:
    """Check seconds to wait: finite, above 0, or with ``zero`` (look once) from 0; ``none`` says what None does, ``""`` = it is refused.

    Raises: `ConfigError`.
    """
    if timeout is None and none:
        return
    if not is_seconds(timeout) or timeout < 0 or (timeout == 0 and not zero):
        wanted = "a number of seconds, 0 or more" if zero else "a number of seconds above 0"
        hint = f"; None {none}" if none else ""
        raise ConfigError(f"timeout must be {wanted}, not {timeout!r}{hint}")


def in_slices(wait: Callable[[float], object], timeout: float | None) -> bool:
    """Call ``wait(seconds)`` with a second at most until it is true, so that Ctrl-C is seen; False after ``timeout`` seconds."""
    deadline = None if timeout is None else monotonic() + timeout
    while True:
        left = _SLICE if deadline is None else max(0.0, deadline - monotonic())
        if wait(min(_SLICE, left)):
            return True
        if deadline is not None and left <= _SLICE and monotonic() >= deadline:
            return False


def describe_end(closed: Closed) -> str:
    """Why the conversation ended, for messages: meaning, code and reason."""
    code = "" if closed.code is None else f", code {closed.code}"
    return f"{closed.meaning}{code}{': ' + closed.reason if closed.reason else ''}"


@attrs.define(kw_only=True, eq=False, repr=False)
class GivenUp(Event):
    """Requests that nobody will answer; only the stream of who waits for such an answer is told."""

    request_ids: list[str]
    lost: bool = False  # with the connection, and not by the program's wish


class EventStream(Iterator[Event]):
    """The events of one conversation from the moment it was made, in order; ends after `Closed`.

    Holds at most ``size`` events: when the program does not keep up, the oldest go and ``dropped`` counts them.
    """

    def __init__(self, size: int = _STREAM_SIZE) -> None:
        self._lock = threading.RLock()  # guards _queue, dropped, _over; re-entrant, because a signal's handler may speak
        self._changes = Changes(self._lock)
        self._queue: collections.deque[Event] = collections.deque()
        self._size = size
        self._over = False
        self.dropped = 0
        self.guard: Callable[[str], None] | None = None
        """Raises where waiting would wait for itself."""
        self.first = 0
        """Events up to this number are not for this stream: it was made after them, or was given them when it was made."""

    def offer(self, event: Event) -> None:
        """Append an event; called by the thread that delivers."""
        with self._lock:
            if len(self._queue) >= self._size:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(event)
            self._over = self._over or isinstance(event, Closed)
            self._changes.tell()

    def next(self, timeout: float | None = None) -> Event:
        """Return the next event. Raises: `RealtimeTimeoutError` after ``timeout`` seconds, `NotConnectedError` after the last one."""
        taken: list[Event] = []

        def take() -> bool:
            if self._queue:
                taken.append(self._queue.popleft())
            return bool(taken) or self._over

        if not in_slices(lambda seconds: self._changes.wait_for(take, seconds), timeout):
            raise RealtimeTimeoutError(f"no event came within {timeout:g} s")
        if not taken:
            raise NotConnectedError("the conversation is over: its last event was already read")
        return taken[0]

    def __next__(self) -> Event:
        if self.guard is not None:
            self.guard("events()")
        try:
            return self.next()
        except NotConnectedError:
            raise StopIteration from None


class _Waiter:
    """One thread in `wait_for`: the events of its kind that came since it began to look."""

    def __init__(self, cls: type[Event]) -> None:
        self.cls = cls
        self.found: collections.deque[tuple[int, Event]] = collections.deque()
        self.looked = 0  # the newest event that it has looked back at
        self.woken = Bell()


class Waiting:
    """Keeps the last events, so that an answer that was faster than the question's thread is not missed.

    Kept are the last 128 events, of sound the last 8 pieces: enough for "send, then wait", little enough for a thousand conversations.
    A thread sees what came since its own last ``send_*`` or ``wait_for``.
    """

    def __init__(self) -> None:
        # Guards who waits: `_waiters`, `_streams`, `_closed`, `_failure`. What was kept is written by the thread that delivers alone,
        # without the lock, because it is done for every event; an event is first kept, then numbered, then given to who waits.
        self._lock = threading.Lock()
        self._number = 0
        self._kept: collections.deque[tuple[int, Event]] = collections.deque(maxlen=_KEPT)
        self._kept_audio: collections.deque[tuple[int, Event]] = collections.deque(maxlen=_KEPT_AUDIO)
        self._watched = False  # somebody waits, or reads a stream
        self._waiters: list[_Waiter] = []
        # Weak, so that an iteration that the program has left costs nothing from then on.
        self._streams: tuple[weakref.ref[EventStream], ...] = ()
        self._closed: Closed | None = None
        self._failure: BaseException | None = None
        self._seen = threading.local()
        self.dropped = 0
        """How many events streams have lost because the program did not read them; also of streams that are gone."""

    def mark(self) -> None:
        """This thread begins something new: what came before is not its answer."""
        self._seen.number = self._number

    def offer(self, event: Event) -> None:
        """Remember an event and wake whoever waits for it; for the thread that delivers."""
        number = self._number + 1
        if event.__class__ is AudioDelta:
            self._kept_audio.append((number, event))
        else:
            self._kept.append((number, event))
        self._number = number
        if self._watched or event.__class__ is Closed:
            self._wake(number, event)

    def _wake(self, number: int, event: Event) -> None:
        with self._lock:
            if event.__class__ is Closed:
                self._closed = event
            for waiter in self._waiters:
                if number > waiter.looked and isinstance(event, (waiter.cls, Closed)):
                    waiter.found.append((number, event))
                    waiter.woken.ring()
            streams = self._streams
        for reference in streams:
            stream = reference()
            if stream is None:
                self._forget_dead()
            elif number > stream.first:
                before = stream.dropped
                stream.offer(event)
                self.dropped += stream.dropped - before

    def fail(self, error: BaseException) -> None:
        """Raise ``error`` in whoever waits now, or next."""
        with self._lock:
            self._failure = error
            for waiter in self._waiters:
                waiter.woken.ring()

    def take_failure(self) -> BaseException | None:
        """Return what `fail` left, once."""
        with self._lock:
            failure, self._failure = self._failure, None
            return failure

    def stream(self, size: int = _STREAM_SIZE, *, look_back: bool = False) -> EventStream:
        """Make a stream of the events from now on, or of those kept since this thread's mark too."""
        stream = EventStream(size)
        self.feed(stream, look_back=look_back)
        return stream

    def feed(self, stream: EventStream, *, look_back: bool = False) -> None:
        """Give a stream the events from now on, or those kept since this thread's mark too."""
        with self._lock:
            self._watched = True
            kept, stream.first = self._snapshot()
            past = [event for _, event in self._since(kept, Event)] if look_back else []
            closed = self._closed
            for event in past or ([closed] if closed is not None else []):
                stream.offer(event)
            self._streams += (weakref.ref(stream),)

    def forget(self, stream: EventStream) -> None:
        """Stop feeding a stream."""
        with self._lock:
            self._streams = tuple(kept for kept in self._streams if kept() is not stream)
            self._watched = bool(self._waiters or self._streams)

    def _forget_dead(self) -> None:
        with self._lock:
            self._streams = tuple(kept for kept in self._streams if kept() is not None)
            self._watched = bool(self._waiters or self._streams)

    def wait_for(
        self, cls: type[Event], timeout: float | None, where: Callable[[Event], bool] | None, describe: Callable[[], str]
    ) -> Event:
        """Return the first event of ``cls`` since this thread's mark for which ``where`` is true.

        Raises: `RealtimeTimeoutError`; `ConnectionClosedError` when the conversation ended first; what `fail` was given.
        """
        deadline = None if timeout is None else monotonic() + timeout
        waiter = _Waiter(cls)
        with self._lock:
            self._watched = True  # from here on each event comes by `_wake`, and waits for the lock; those before are looked at
            kept, waiter.looked = self._snapshot()
            waiter.found.extend(self._since(kept, cls))
            self._waiters.append(waiter)
        try:
            return self._look(waiter, deadline, timeout, where, describe)
        finally:
            with self._lock:
                self._waiters.remove(waiter)
                self._watched = bool(self._waiters or self._streams)

    def _look(
        self,
        waiter: _Waiter,
        deadline: float | None,
        timeout: float | None,
        where: Callable[[Event], bool] | None,
        describe: Callable[[], str],
    ) -> Event:
        while True:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            if not self._has_come(waiter) and not in_slices(waiter.woken.wait, left) and not self._has_come(waiter):
                raise RealtimeTimeoutError(f"{waiter.cls.event_name} did not come within {timeout:g} s; {describe()}")
            failure = self.take_failure()
            if failure is not None:
                raise failure
            if not waiter.found:
                closed = self._closed
                if closed is None:
                    continue
                if waiter.cls is Closed and (where is None or where(closed)):
                    return closed  # it is the last event for ever: who asks again hears it again
                raise self.ended(waiter.cls)
            number, event = waiter.found.popleft()
            if isinstance(event, waiter.cls) and (where is None or where(event)):
                self._seen.number = number
                return event
            if isinstance(event, Closed):
                raise self.ended(waiter.cls)

    def _has_come(self, waiter: _Waiter) -> bool:
        """Something is there that ends this waiting, or may."""
        return bool(waiter.found) or self._closed is not None or self._failure is not None

    def ended(self, cls: type[Event]) -> ConnectionClosedError:
        """The error for who waits for an event that will not come any more."""
        closed = self._closed or Closed()
        error = ConnectionClosedError(
            f"the conversation ended ({describe_end(closed)}) before {cls.event_name} came",
            code=closed.code,
            reason=closed.reason,
            clean=closed.clean,
        )
        error.__cause__ = closed.error
        return error

    def _snapshot(self) -> tuple[list[tuple[int, Event]], int]:
        """What is kept, in order, and the number of the newest event; `_lock` is held, and `_watched` set before."""
        newest = self._number
        kept = sorted([*self._kept.copy(), *self._kept_audio.copy()], key=lambda entry: entry[0])  # a copy is made in one go
        return kept, max(newest, kept[-1][0] if kept else 0)

    def _since(self, kept: list[tuple[int, Event]], cls: type[Event]) -> list[tuple[int, Event]]:
        mark = getattr(self._seen, "number", 0)
        return [entry for entry in kept if entry[0] > mark and isinstance(entry[1], cls)]
