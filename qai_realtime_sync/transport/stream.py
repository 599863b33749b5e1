"""A byte stream over a connected socket: reading blocks, writing never does. `PlainStream` here, `TlsStream` in ``tls``.

One thread reads; any thread may write while it holds `Stream.lock`. Both may happen at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Protocol, TypeAlias

from qai_realtime_sync.transport.readiness import READ, wait_ready

__all__ = ["PlainStream", "RawSocket", "Stream", "Wait"]

Wait: TypeAlias = Callable[[socket.socket, int], None]
"""Blocks until the socket can be read or written (`READ`, `WRITE`), or raises because a deadline passed or somebody cancelled."""


class RawSocket:
    """The socket below a stream, with the two calls that behave alike on every system: a read that waits, a send that does not.

    Where the system can send without blocking on a blocking socket (MSG_DONTWAIT), reading is one plain call. Where it cannot
    (Windows), and under gevent and eventlet, whose sockets wait in spite of the flag, the socket is non-blocking and reads poll.
    """

    __slots__ = ("_flag", "_polls", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._flag: int = getattr(socket, "MSG_DONTWAIT", 0)
        self._polls = True
        sock.setblocking(False)

    def settle(self) -> None:
        """From now on reads have no deadline: block in the kernel, if that leaves sends free not to."""
        if self._flag and type(self.sock).__module__ == "socket":
            self.sock.setblocking(True)
            self._polls = False

    def read(self, room: memoryview, wait: Wait | None) -> int:
        """Read at least one byte into ``room``; 0 at the end of the stream. Raises: OSError, and what ``wait`` raises."""
        if wait is None and not self._polls:
            return self.sock.recv_into(room)
        while True:
            try:
                return self.sock.recv_into(room, 0, self._flag)
            except BlockingIOError:
                (wait or _wait_for_ever)(self.sock, READ)

    def send(self, data: bytes | memoryview) -> int:
        """Give the kernel what it takes now; 0 = nothing. Raises: OSError if the connection is broken."""
        try:
            return self.sock.send(data, self._flag)
        except BlockingIOError:
            return 0


def _wait_for_ever(sock: socket.socket, events: int) -> None:
    wait_ready([(sock, events)], None)


class Stream(Protocol):
    """What a connection needs of a byte stream."""

    lock: threading.Lock
    """Guards `write`, `push`, `farewell` and, of a TLS stream, the SSL object; held for calls that never wait."""

    @property
    def sock(self) -> socket.socket: ...

    @property
    def pending(self) -> int:
        """Bytes that `write` took and the kernel has not."""

    def settle(self) -> None: ...

    def read(self, room: memoryview, wait: Wait | None = None) -> int:
        """Read at least one byte into ``room``; 0 at the end. Takes `lock` itself. Raises: OSError, and what ``wait`` raises."""

    def write(self, data: bytes | memoryview) -> int:
        """Take as much of ``data`` as fits, without waiting, and say how much. `lock` must be held. Raises: OSError."""

    def push(self) -> bool:
        """Give the kernel what is `pending`; true if nothing is left. `lock` must be held. Raises: OSError."""

    def farewell(self) -> None:
        """Say at the stream's own level that no more will be written. `lock` must be held. Never raises OSError."""


class PlainStream:
    """A stream that is the socket itself."""

    __slots__ = ("_raw", "lock")

    pending = 0  # what `write` took is in the kernel

    def __init__(self, sock: socket.socket) -> None:
        self._raw = RawSocket(sock)
        self.lock = threading.Lock()

    @property
    def sock(self) -> socket.socket:
        return self._raw.sock

    def settle(self) -> None:
        self._raw.settle()

    def read(self, room: memoryview, wait: Wait | None = None) -> int:
        raw = self._raw
        return raw.read(room, wait) if raw._polls or wait is not None else raw.sock.recv_into(room)

    def write(self, data: bytes | memoryview) -> int:
        return self._raw.send(data)

    def push(self) -> bool:
        return True

    def farewell(self) -> None:
        with contextlib.suppress(OSError):
            self._raw.sock.shutdown(socket.SHUT_WR)
