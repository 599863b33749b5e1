"""One ordered lane for what is slow by nature (handlers, REST calls); its thread is started on first use."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

__all__ = ["Lane"]


class Lane:
    """Runs what it is given one after the other in a thread of its own, called ``name``.

    `stop` lets what is queued finish: a database write that was promised is made. The thread is a daemon, so a handler that hangs cannot
    keep the process.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work = threading.Condition()  # guards everything below
        self._queue: collections.deque[Callable[[], None]] = collections.deque()
        self._stopping = False
        self.thread: threading.Thread | None = None

    def post(self, action: Callable[[], None]) -> None:
        """Queue ``action``; never blocks. Actions must not raise.

        Where no thread can be started any more, because the interpreter is ending, it runs in the caller's.
        """
        with self._work:
            self._queue.append(action)
            self._work.notify()
            if self.thread is not None:
                return
            self.thread = thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            with self._work:
                self.thread = None
                left, self._queue = self._queue, collections.deque()
            for one in left:
                one()

    @property
    def waiting(self) -> int:
        """How much is queued."""
        return len(self._queue)

    def stop(self) -> None:
        """End the thread once the queue is empty; never blocks."""
        with self._work:
            self._stopping = True
            self._work.notify()

    def _run(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._queue or self._stopping)
                if not self._queue:
                    return
                action = self._queue.popleft()
            action()
