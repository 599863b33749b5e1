"""One running `connect`: its deadline, its cancellation, and every wait between DNS and the finished upgrade."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from qai_realtime_sync.errors import ConnectError, RealtimeTimeoutError
from qai_realtime_sync.transport.readiness import READ, Interest, wait_ready

__all__ = ["Attempt", "Cancellation"]


class Cancellation:
    """Ends a `connect` that runs in another thread: hand it over as ``cancel=`` and call `cancel` when nobody wants it any more.

    Takes no lock, so it may be called from a signal handler. What was cancelled once stays cancelled.
    """

    def __init__(self) -> None:
        self._cancelled = False
        self._wakers: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        """True once `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Make the running `connect`, and every later one with this object, raise `ConnectError` with the code ``cancelled``."""
        self._cancelled = True  # first: who registers a waker from now on looks at it afterwards
        for waker in tuple(self._wakers):
            waker()

    def _register(self, waker: Callable[[], object]) -> None:
        self._wakers.append(waker)

    def _forget(self, waker: Callable[[], object]) -> None:
        self._wakers.remove(waker)


class Attempt:
    """The deadline and the cancellation of one `connect`; a context manager, for the pair of sockets that a cancellation uses.

    ``target`` is the address as it may be shown. `stage` says in words what is being done, for the message of a timeout.
    """

    def __init__(self, target: str, timeout: float, cancel: Cancellation | None = None) -> None:
        self.target = target
        self.timeout = timeout
        self.stage = "looking up the address"
        self._deadline = time.monotonic() + timeout
        self._cancel = cancel
        self._ear: socket.socket | None = None
        self._mouth: socket.socket | None = None

    def __enter__(self) -> Attempt:
        if self._cancel is not None:
            try:
                self._ear, self._mouth = socket.socketpair()
            except OSError as error:
                message = f"no socket for connecting to {self.target}: {error.strerror}. This process has too many files open."
                raise ConnectError(message, code="unreachable") from error
            self._mouth.setblocking(False)
            self._cancel._register(self._shout)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._cancel is not None and self._ear is not None and self._mouth is not None:
            self._cancel._forget(self._shout)
            self._ear.close()
            self._mouth.close()

    def _shout(self) -> None:
        with contextlib.suppress(OSError):  # closed in the meantime: nobody waits any more
            if self._mouth is not None:
                self._mouth.send(b"!")

    def left(self) -> float:
        """Seconds until the deadline. Raises: `RealtimeTimeoutError` if it has passed, `ConnectError` if cancelled."""
        if self._cancel is not None and self._cancel.cancelled:
            raise ConnectError(f"connecting to {self.target} was cancelled while {self.stage}", code="cancelled")
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise RealtimeTimeoutError(
                f"no connection to {self.target} within {self.timeout:.3g} s: the time ran out while {self.stage}. "
                "Check the address and the network, or give a longer timeout."
            )
        return left

    def wait(self, sock: socket.socket, events: int) -> None:
        """Wait until ``sock`` is ready. Raises: like `left`."""
        self.wait_any([(sock, events)])

    def wait_any(self, interests: Sequence[Interest], at_most: float | None = None) -> list[socket.socket]:
        """Wait until one of the sockets is ready, or ``at_most`` seconds, and return those that are. Raises: like `left`."""
        left = self.left()
        ears: list[Interest] = [] if self._ear is None else [(self._ear, READ)]
        ready = wait_ready([*interests, *ears], left if at_most is None else min(left, at_most))
        self.left()
        return [sock for sock in ready if sock is not self._ear]

    def within(self, seconds: float) -> Callable[[socket.socket, int], None]:
        """A `wait` that gives up after ``seconds`` from now in all. Raises: TimeoutError then, else like `left`."""
        end = time.monotonic() + seconds

        def wait(sock: socket.socket, events: int) -> None:
            if not self.wait_any([(sock, events)], max(0.0, end - time.monotonic())):
                raise TimeoutError

        return wait

    def wait_event(self, event: threading.Event) -> None:
        """Wait until ``event`` is set. Raises: like `left`."""
        if self._cancel is None:
            event.wait(self.left())
        else:
            self._cancel._register(event.set)
            try:
                event.wait(self.left())
            finally:
                self._cancel._forget(event.set)
        if self._cancel is not None or not event.is_set():
            self.left()
