"""One WebSocket as the spellings see it: frames are queued under any lock and written outside of all (the owner of simple-websocket)."""

from __future__ import annotations

import collections
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from qai_realtime_sync.errors import ConfigError

try:
    import simple_websocket
    import wsproto.events
    import wsproto.utilities
    from wsproto.connection import ConnectionState
except ImportError as error:
    raise ConfigError(
        f"the local server needs werkzeug and simple-websocket ({error}); pip install 'qai-realtime-sync[serve]'",
        code="missing_dependency",
    ) from error

__all__ = ["Line", "NoUpgradeError", "StreamSocket", "WholeSocket"]

_log = logging.getLogger(__name__)
_MOST_QUEUED = 20_000  # frames; a client that reads nothing for so long is gone
_LARGEST_MESSAGE = 24 * 1024 * 1024  # 15 MiB of audio as base64, and the JSON around it
_CLOSE_GRACE = 1.0  # seconds for the other side to answer a close frame
_LINGER = 2.0  # seconds for the other side to stop writing, when it was ended in the middle of a message
_MOST_THROWN_AWAY = 64 * 1024 * 1024  # bytes of that message
_GONE = (OSError, simple_websocket.ConnectionClosed, wsproto.utilities.LocalProtocolError)


class NoUpgradeError(Exception):
    """The request is no WebSocket upgrade, whatever it says."""


class StreamSocket(Protocol):
    """What is read and written, plain or TLS."""

    def recv(self, size: int) -> bytes:
        """Return some bytes, ``b""`` at the end."""
        ...

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        ...

    def shutdown(self, how: int) -> None:
        """Wake everybody who waits."""
        ...

    def close(self) -> None:
        """Close the descriptor."""
        ...


class WholeSocket:
    """Makes every ``send`` whole: simple-websocket does not look at how much was taken, and answers pings from another thread."""

    def __init__(self, inner: StreamSocket) -> None:
        self._inner = inner
        self._lock = threading.Lock()  # one frame at a time

    def send(self, data: bytes) -> int:
        """Send all of ``data`` before anything else is sent."""
        with self._lock:
            self._inner.sendall(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        """Return what came."""
        return self._inner.recv(size)

    def finish(self) -> None:
        """End this direction; the other side reads what is on its way, and then the end."""
        with contextlib.suppress(OSError):
            self._inner.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Do nothing: simple-websocket has done its part, but the other side may not have read its close frame; see `Line.run`."""

    def abort(self) -> None:
        """Wake whoever waits; the request's own thread closes the descriptor."""
        with contextlib.suppress(OSError):
            self._inner.shutdown(socket.SHUT_RDWR)


class _Here:
    """A thread class that starts nothing: the receiving loop runs in the thread of the request."""

    def __init__(self, target: Callable[[], None]) -> None:
        self.run = target
        self.name = ""

    def start(self) -> None:
        """Do nothing; `Line.run` calls ``run``."""


class _Inbox(list):  # type: ignore[type-arg]
    """Hands each message on as it is appended, so that none is queued and a busy server slows its client down."""

    def __init__(self, receive: Callable[[str | bytes], None]) -> None:
        super().__init__()
        self._receive = receive

    def append(self, message: str | bytes) -> None:
        self._receive(message)


class Line:
    """An accepted WebSocket. `put` may be called anywhere, also under a lock; `flush` writes, and may wait for the network."""

    def __init__(self, environ: dict[str, Any], inner: StreamSocket, *, subprotocol: str, name: str) -> None:
        self.name = name
        self._socket = WholeSocket(inner)
        # Without its offer of compression the client's extension is not negotiated: it costs more than it saves on audio.
        bare = {key: value for key, value in environ.items() if key != "HTTP_SEC_WEBSOCKET_EXTENSIONS"}
        bare["werkzeug.socket"] = self._socket
        try:
            self._ws: Any = simple_websocket.Server(
                bare,
                subprotocols=[subprotocol] if subprotocol else None,
                receive_bytes=65536,
                max_message_size=_LARGEST_MESSAGE,
                thread_class=_Here,
            )
        except (simple_websocket.ConnectionError, wsproto.utilities.RemoteProtocolError) as error:
            raise NoUpgradeError(str(error)) from error
        self._lock = threading.Lock()  # guards the four below
        self._queue: collections.deque[str | bytes | tuple[int, str] | None] = collections.deque()  # None: the line breaks here
        self._writing = False
        self._over = False
        self._grace: threading.Timer | None = None

    def run(self, receive: Callable[[str | bytes], None]) -> None:
        """Hand every message to ``receive``, in this thread, until the connection is over; none after a close frame of ours."""
        self._ws.input_buffer = _Inbox(lambda message: None if self._over else receive(message))
        try:
            self._ws.thread.run()
        except (*_GONE, wsproto.utilities.RemoteProtocolError) as error:  # a broken connection, or frames that are none
            _log.debug("connection %s ended: %s", self.name, error)
        finally:
            if self._ws.ws.state is ConnectionState.LOCAL_CLOSING:
                self._throw_away()
            self._socket.abort()
            with self._lock:
                self._over = True
                self._queue.clear()
                grace = self._grace
            if grace is not None:
                grace.cancel()
                grace.join(1.0)

    def put(self, frame: str | bytes) -> None:
        """Queue a frame; what comes after the end is dropped."""
        with self._lock:
            if not self._over:
                self._queue.append(frame)
                if len(self._queue) > _MOST_QUEUED:
                    self._queue.clear()
                    self._queue.append((1008, "the client does not read"))

    def hang_up(self, code: int, reason: str) -> None:
        """Queue a close frame behind what waits; call `flush` after it."""
        with self._lock:
            if not self._over:
                self._queue.append((code, reason))

    def cut(self) -> None:
        """Queue the loss of the connection, without a close frame, behind what waits; call `flush` after it."""
        with self._lock:
            if not self._over:
                self._queue.append(None)

    def flush(self) -> None:
        """Write what waits, unless another thread is at it: then that one writes ours too."""
        while True:
            with self._lock:
                if self._writing or not self._queue:
                    return
                self._writing = True
                batch = list(self._queue)
                self._queue.clear()
            try:
                for frame in batch:
                    if frame is None:
                        self._break_off()
                        break
                    if isinstance(frame, tuple):
                        self._close(*frame)
                        break
                    self._ws.send(frame)
            except _GONE as error:
                _log.debug("connection %s is gone: %s", self.name, error)
                self._lost()
            finally:
                with self._lock:
                    self._writing = False

    def _close(self, code: int, reason: str) -> None:
        self._give_grace(_CLOSE_GRACE)
        # Not with the library's close(), which ends the receiving loop at once: what the client has sent must be read, or the
        # reset that follows an unread byte takes our last frames with it.
        self._socket.send(self._ws.ws.send(wsproto.events.CloseConnection(code, reason)))

    def _break_off(self) -> None:
        """Hang up without a word; what was sent before is still read by the other side."""
        self._give_grace(_CLOSE_GRACE)
        self._socket.finish()

    def _throw_away(self) -> None:
        """Read on after a close frame of ours: a socket that is closed with bytes unread is reset, and the frame lost with it."""
        self._give_grace(_LINGER)
        self._socket.finish()
        deadline, left = time.monotonic() + _LINGER, _MOST_THROWN_AWAY
        with contextlib.suppress(OSError):
            while left > 0 and time.monotonic() < deadline:
                data = self._socket.recv(65536)
                if not data:
                    return
                left -= len(data)

    def _give_grace(self, seconds: float) -> None:
        """Say nothing more, and end the connection soon if the other side does not."""
        with self._lock:
            self._over = True
            self._queue.clear()
            if self._grace is not None:
                return
            self._grace = threading.Timer(seconds, self._socket.abort)
            self._grace.name = f"qai-offline-close-{self.name}"
            self._grace.daemon = True
            self._grace.start()

    @property
    def ending(self) -> tuple[int, str]:
        """The close code and reason that came from the client, 1005 or 1006 if there was none."""
        return int(self._ws.close_reason or 1006), str(self._ws.close_message or "")

    def abort(self) -> None:
        """End the connection at once, without a close frame; wakes its thread."""
        with self._lock:
            self._over = True
            self._queue.clear()
        self._socket.abort()

    def _lost(self) -> None:
        """Nothing more can be written. A closing handshake that has begun ends by itself, and must not be cut off."""
        if self._ws.ws.state is ConnectionState.OPEN:
            self.abort()
            return
        with self._lock:
            self._over = True
            self._queue.clear()
