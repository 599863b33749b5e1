"""One ordered lane for what is slow by nature (handlers, REST calls); its thread is started on first use."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

from qai_realtime_sync.client.wakeup import Bell

__all__ = ["Lane"]


class Lane:
    """Runs what it is given one after the other in a thread of its own, called ``name``.

    `stop` lets what is queued finish: a database write that was promised is made. The thread is a daemon, so a handler that hangs cannot
    keep the process.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()  # guards everything below
        self._queue: collections.deque[Callable[[], None]] | None = None  # made when it is first needed: many conversations never do
        self._stopping = False
        self._bell = Bell()
        self.thread: threading.Thread | None = None

    def post(self, action: Callable[[], None]) -> None:
        """Queue ``action``; never blocks. Actions must not raise.

        Where no thread can be started any more, because the interpreter is ending, it runs in the caller's.
        """
        with self._lock:
            if self._queue is None:
                self._queue = collections.deque()
            self._queue.append(action)
            if self.thread is not None:
                self._bell.ring()
                return
            self.thread = thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self.thread = None
                left, self._queue = self._queue, None
            for one in left or ():
                one()

    @property
    def waiting(self) -> int:
        """How much is queued."""
        return len(self._queue or ())

    def stop(self) -> None:
        """End the thread once the queue is empty; never blocks."""
        with self._lock:
            self._stopping = True
            self._bell.ring()

    def _run(self) -> None:
        while True:
            with self._lock:
                action = self._queue.popleft() if self._queue else None
                if action is None and self._stopping:
                    return
            if action is None:
                self._bell.wait()
            else:
                action()
