"""What one thread waits for and another does, made of locks alone: `threading.Event` and `Condition` take ten times the memory, and
each of a thousand conversations has half a dozen. Nor may Ctrl-C strike while one of those waits: it gives its lock back and takes it
again in Python, and in between the exception comes out as a `RuntimeError`, or frees a lock that is another thread's by then. A lock
refuses more seconds than it can count, infinity too: these wait as long as it can then."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

__all__ = ["Bell", "Changes", "Latch"]


class Latch:
    """Something that happens once: as `threading.Event`, without ``clear``. Waited for by any number of threads."""

    __slots__ = ("_is_set", "_shut")

    def __init__(self) -> None:
        self._is_set = False
        self._shut = threading.Lock()  # no guard: held until `set`
        self._shut.acquire()

    def is_set(self) -> bool:
        """True once `set` was called."""
        return self._is_set

    def set(self) -> None:
        """Let everybody through who waits, now and later; again it does nothing. Never blocks."""
        if not self._is_set:
            self._is_set = True
            with contextlib.suppress(RuntimeError):  # another thread was faster
                self._shut.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; False if ``timeout`` seconds were not enough."""
        if not self._is_set and self._shut.acquire(timeout=_of_lock(timeout)):
            self._shut.release()  # the next one may pass
        return self._is_set


class Bell:
    """Wakes the one thread that waits for it; a ring that comes while it does not wait is kept, of several one."""

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        self._silence = threading.Lock()  # no guard: held while nobody has rung
        self._silence.acquire()

    def ring(self) -> None:
        """Wake the thread, from any other; never blocks."""
        if self._silence.locked():
            with contextlib.suppress(RuntimeError):  # another thread was faster
                self._silence.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a ring and take it; False if ``timeout`` seconds were not enough."""
        return self._silence.acquire(timeout=_of_lock(timeout))


class Changes:
    """Tells of changes to what a lock guards. As `threading.Condition`, but who waits does not hold the lock, only who tells."""

    __slots__ = ("_bells", "_lock")

    def __init__(self, lock: contextlib.AbstractContextManager[Any]) -> None:
        self._lock = lock
        self._bells: list[Bell] = []

    def tell(self) -> None:
        """Let all who wait look again; the lock is held. Never blocks."""
        for bell in self._bells:
            bell.ring()

    def wait_for(self, is_so: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until ``is_so()``, which is asked under the lock, is true; False if ``timeout`` seconds were not enough."""
        with self._lock:
            if is_so():
                return True
        deadline = None if timeout is None else monotonic() + timeout
        bell, in_time = Bell(), True
        try:
            with self._lock:
                self._bells.append(bell)
            while True:
                with self._lock:
                    if is_so():
                        return True
                if not in_time:
                    return False
                in_time = bell.wait(None if deadline is None else deadline - monotonic())
        finally:
            with self._lock:
                if bell in self._bells:
                    self._bells.remove(bell)


def _of_lock(timeout: float | None) -> float:
    """The seconds as a lock takes them: -1 for no limit, and never more than it can count."""
    return -1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
