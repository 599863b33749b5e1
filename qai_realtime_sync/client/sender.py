"""The thread that may block on the network, and that owns the timers."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from typing import TypeAlias

from qai_realtime_sync.client.wakeup import Bell
from qai_realtime_sync.errors import ConnectionClosedError, RealtimeTimeoutError

__all__ = ["Sender", "Timer"]

_log = logging.getLogger("qai_realtime_sync")

Flush: TypeAlias = Callable[[float], None]
_FLUSH_SLICE = 0.05


class Timer:
    """Something to do at a time of the client's clock; `cancel` forgets it."""

    __slots__ = ("action", "cancelled")

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action
        self.cancelled = False

    def cancel(self) -> None:
        """Do not run it any more."""
        self.cancelled = True


class Sender:
    """Flushes what could not be written without blocking, and runs timers, in one thread named ``qai-sender``.

    ``flush(timeout)`` blocks until the connection has given everything to the kernel, and raises `RealtimeTimeoutError` when that took
    longer: a full socket must not keep the timers, which notice a dead peer, from running.
    """

    def __init__(self, clock: Callable[[], float], flush: Flush) -> None:
        self._clock = clock
        self._flush = flush
        self._bell = Bell()  # rung when anything below has changed
        self._lock = threading.Lock()  # guards everything below
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._wanted = False
        self._stopping = False
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Raises: RuntimeError where no more can be had."""
        self.thread = threading.Thread(target=self._run, name="qai-sender", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:
            self.thread = None
            raise

    def wake(self) -> None:
        """Something waits to be flushed; never blocks."""
        with self._lock:
            self._wanted = True
        self._bell.ring()

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run ``action`` in this thread in ``seconds``; it must not block."""
        timer = Timer(action)
        with self._lock:
            heapq.heappush(self._timers, (self._clock() + seconds, next(self._order), timer))
        self._bell.ring()
        return timer

    def stop(self) -> None:
        """End the thread once what it does now is done; never blocks."""
        with self._lock:
            self._stopping = True
        self._bell.ring()

    def _run(self) -> None:
        while True:
            with self._lock:
                due = self._next()
                wanted, self._wanted = self._wanted, False
                idle = due is None and not wanted
                if idle and self._stopping:
                    return
                seconds = self._seconds_to_next()
            if idle:
                self._bell.wait(seconds)
                continue
            if due is not None and not due.cancelled:
                self._attempt(due.action)
            if wanted:
                self._attempt(self._flush_for_now)

    def _next(self) -> Timer | None:
        while self._timers and (self._timers[0][2].cancelled or self._timers[0][0] <= self._clock()):
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                return timer
        return None

    def _seconds_to_next(self) -> float | None:
        return max(0.0, self._timers[0][0] - self._clock()) if self._timers else None

    def _flush_for_now(self) -> None:
        with self._lock:
            next_timer = self._seconds_to_next()
        # In slices: what is to be done at once, like a close, may be put among the timers while the socket is full.
        seconds = _FLUSH_SLICE if next_timer is None else min(_FLUSH_SLICE, next_timer)
        try:
            self._flush(seconds)
        except RealtimeTimeoutError:
            with self._lock:
                self._wanted = True

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ConnectionClosedError:
            pass  # the reader sees the end of the connection and tells it
        except Exception:
            _log.exception("a timer of the conversation failed")
