"""What one thread waits for and another does, each made of a single lock: `threading.Event` and `Condition` take ten times the memory,
and each of a thousand conversations has half a dozen. A lock refuses more seconds than it can count, infinity too: both wait as long
as it can then."""

from __future__ import annotations

import contextlib
import threading

__all__ = ["Bell", "Latch"]


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


def _of_lock(timeout: float | None) -> float:
    """The seconds as a lock takes them: -1 for no limit, and never more than it can count."""
    return -1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
