"""SIGTERM closes what is open before the process ends; offered, never installed unasked."""

from __future__ import annotations

import os
import queue
import signal
import threading
from types import FrameType

from qai_realtime_sync.client.closing import close_all
from qai_realtime_sync.errors import ConfigError

__all__ = ["handles_sigterm", "install_signal_handlers"]

_AGAIN = 0.5  # seconds
_guard: _Guard | None = None


def install_signal_handlers() -> None:
    """On SIGTERM say goodbye to every service, end what is billed, and then let the process end as it would have without this.

    Takes two seconds at most, for all clients together; a second SIGTERM does not wait for them. What handled SIGTERM before (the
    system, or a handler of the program) gets it afterwards. Call it once, in the main thread; again does nothing, and so does a
    process that was forked afterwards: what it inherits passes the signal on at once.

    Raises: `ConfigError` outside the main thread, where Python lets nobody handle signals.
    """
    global _guard
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("install_signal_handlers() must be called in the main thread: Python handles signals nowhere else")
    if _guard is None or not _guard.is_installed:
        _guard = _Guard()


def handles_sigterm() -> bool:
    """True while SIGTERM closes what is open: `install_signal_handlers` was called in this process, and nobody has replaced its handler."""
    return _guard is not None and _guard.is_installed


class _Guard:
    """The handler and the thread that works for it: the handler itself takes no lock that the main thread may hold."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._main = threading.get_native_id()
        # SimpleQueue.put is safe in a signal handler, even one that interrupts another put of the same thread.
        self._told: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._asked = False
        self._thread = threading.Thread(target=self._run, name="qai-signals", daemon=True)
        self._thread.start()
        self._before = signal.signal(signal.SIGTERM, self._handle)

    @property
    def is_installed(self) -> bool:
        """True while nobody has put another handler in our place, in this process."""
        return self._pid == os.getpid() and signal.getsignal(signal.SIGTERM) == self._handle

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._asked and self._pid == os.getpid():
            self._asked = True
            self._told.put(number)
            return
        # The clients are closed, or somebody is in a hurry, or this is a fork that has none of them.
        if self._pid == os.getpid():
            self._arrived.put(number)
        before = self._before
        if callable(before):
            before(number, frame)
        elif before is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _run(self) -> None:
        number = self._told.get()
        try:
            close_all()
        finally:  # the process was told to end: no failure of ours may keep it
            self._pass_on(number)
            while not self._has_arrived() and self.is_installed:
                self._pass_on(number)

    def _has_arrived(self) -> bool:
        """A signal that comes just before the main thread begins to wait is noted, but does not wake it: then it needs another."""
        try:
            self._arrived.get(timeout=_AGAIN)
        except queue.Empty:
            return False
        return True

    def _pass_on(self, number: int) -> None:
        """Let the main thread have the signal again: only there may a handler be changed, and only a signal of its own wakes it surely."""
        main = threading.main_thread().ident
        if threading.get_native_id() == self._main:
            signal.raise_signal(number)  # gevent: our thread is a greenlet of the main thread, and no ident is one of the system
        elif main is not None and hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main, number)
        else:
            os.kill(os.getpid(), number)
