"""An open WebSocket that one thread reads while others write, close or abort it."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import attrs

from qai_realtime_sync.errors import ConfigError, ConnectionClosedError, RealtimeTimeoutError
from qai_realtime_sync.seam import Frame
from qai_realtime_sync.transport import frames
from qai_realtime_sync.transport.frames import Close, FrameError, Parser, Ping, Pong
from qai_realtime_sync.transport.lanes import Lanes
from qai_realtime_sync.transport.readiness import WRITE, seconds_until, wait_ready
from qai_realtime_sync.transport.refusal import cleaned
from qai_realtime_sync.transport.stream import Stream, Wait
from qai_realtime_sync.transport.tls import tls_reason

__all__ = ["Connection"]

_ANSWER_SECONDS: Final = 1.0  # for our answer to a close or a violation, if the kernel does not take it at once
_DRAINED: Final = 1024 * 1024  # bytes thrown away before closing: unread bytes would make the kernel reset the connection


@attrs.frozen
class _Ending:
    """How the connection ended; every call that comes later raises an error made of it."""

    message: str
    code: int | None
    reason: str
    clean: bool
    cause: BaseException | None = None

    def error(self) -> ConnectionClosedError:
        error = ConnectionClosedError(self.message, code=self.code, reason=self.reason, clean=self.clean)
        error.__cause__ = self.cause
        return error


class Connection:
    """One open WebSocket. Made by `connect`.

    `recv` belongs to one thread at a time; everything else may be called from any thread, at any time. No call but `recv`,
    `send`, `flush` and `close` waits for the network, and `abort` ends their waiting within 100 ms.
    """

    def __init__(
        self,
        stream: Stream,
        parser: Parser,
        subprotocol: str = "",
        wake: Callable[[], None] | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        self.subprotocol = subprotocol
        self.last_received = time.monotonic()
        """When the last byte arrived, on the monotonic clock."""
        self.last_pong: float | None = None
        """When the last pong arrived, on the monotonic clock; ``None`` = none yet."""
        self.is_listening = True
        """False as soon as this side closes, and once the connection is over."""
        self._stream = stream
        self._parser = parser
        self._wake = wake
        self._secrets = secrets  # that the service got from us, and must not come back in what is told of it
        # Who holds it is in `recv`, or reads in its place: a token, not a guard. It is taken without waiting, except by `recv`
        # while a `close` reads, and then `close` has a deadline.
        self._reading = threading.Lock()
        self._over = threading.Event()  # set once `_ending` is
        self._lock = stream.lock  # guards what follows, and the writing side of the stream; never held while waiting
        self._ending: _Ending | None = None
        self._broken: OSError | None = None  # a write failed: nothing more can be sent, but what the peer said can still be read
        self._closing: Close | None = None  # our close frame is queued or sent: no data after it
        self._answered = False  # our close frame answers the peer's
        self._lanes = Lanes()
        self._flushing = 0  # threads that wait for the socket to take more
        self._disposed = False

    # -- reading -------------------------------------------------------------------------------------------------------------

    def recv(self) -> Frame:
        """Wait for the next message. Pings are answered on the way. Its payload is valid until the next call.

        Raises: `ConnectionClosedError` once the connection is over, and again on every later call.
        """
        frame: Frame = self._receive(self._parser.next)
        return frame

    def recv_all(self) -> list[Frame]:
        """Wait for messages and return those that have arrived, in order: at least one, some dozens at most.

        For who reads much: one call, and one look at what else is due, for many messages. Their payloads are valid until the next
        call. Between two of them ask `is_listening`: after a `close` or `abort` the rest is not for anybody. That a text is UTF-8
        is checked by `check`, which must be given each one that was not read successfully by a strict parser.

        Raises: as `recv`.
        """
        frames: list[Frame] = self._receive(self._parser.burst)
        return frames

    def check(self, frame: Frame) -> None:
        """End the connection with 1007 if a text message that `recv_all` returned is not UTF-8.

        For the thread that reads. Raises: `ConnectionClosedError` then.
        """
        if not frame.text:
            return
        try:
            frames.check_text(frame.payload)
        except FrameError as error:
            self._violated(error)
            self._dispose()
            assert self._ending is not None
            raise self._ending.error() from None

    def _receive(self, take: Callable[[], Any]) -> Any:
        """Return what ``take`` finds in the parser, reading until it finds messages."""
        reading = self._reading
        if not reading.acquire(False):
            reading.acquire()  # `close` reads in our place; or a second reader, which the first one's traffic feeds as well
        try:
            while self._ending is None:
                found = take()
                if found is None:
                    self._read(None)
                elif found.__class__ is not list and found.__class__ is not Frame:
                    self._react(found)
                elif self._closing is None:
                    return found
        except FrameError as error:
            self._violated(error)
        finally:
            reading.release()
            if self._ending is not None:
                self._dispose()
        assert self._ending is not None
        raise self._ending.error()

    def _read(self, wait: Wait | None) -> None:
        """Read once into the parser; the end of the stream ends the connection. Raises: what ``wait`` raises."""
        room = self._parser.room()
        if wait is None and self._wake is None and self.waiting:
            wait = self._wait_and_push
        try:
            count = self._stream.read(room, wait)
        except RealtimeTimeoutError:
            raise
        except OSError as error:
            self._lost(error)
            return
        if not count:
            self._lost(None)
            return
        self._parser.wrote(count)
        self.last_received = monotonic()
        if self._stream.pending:
            self._call_wake()

    def _wait_and_push(self, sock: socket.socket, events: int) -> None:
        """Wait to read, and write what waits meanwhile: nobody else does it if there is no ``wake``."""
        while True:
            with self._lock:
                waits = not self._pump()
            ready = wait_ready([(sock, events | (WRITE if waits and not self._broken else 0))], None)
            if not waits or self._ending is not None or (ready and wait_ready([(sock, events)], 0)):
                return

    def _react(self, incoming: Ping | Pong | Close) -> None:
        if isinstance(incoming, Ping):
            self._put_control(frames.PONG, incoming.payload)
        elif isinstance(incoming, Pong):
            self.last_pong = time.monotonic()
        else:
            self._peer_closed(incoming)

    def _peer_closed(self, close: Close) -> None:
        """The peer's close frame is here: answer it with its own code, unless it is the answer to ours, and end."""
        self._answer(Close(close.code, ""))
        reason = cleaned(close.reason, self._secrets)
        code_text = "without a code" if close.code == frames.NO_STATUS else f"with code {close.code}"
        by = "by this side, confirmed" if self._closing and not self._answered else "by the service,"
        message = f"the connection was closed {by} {code_text}" + (f": {reason}" if reason else "")
        self._finish(_Ending(message, close.code, reason, self._lanes.close_sent))

    def _violated(self, error: FrameError) -> None:
        """The peer broke the protocol or a limit: tell it why and end, without waiting for an answer."""
        self._answer(Close(error.code, error.reason))
        message = f"the connection was ended with code {error.code}, because the service broke the protocol: {error.reason}"
        self._finish(_Ending(message, error.code, error.reason, False))

    def _answer(self, close: Close) -> None:
        """Send a close frame, unless one of ours is sent already; waits at most a second for the kernel to take it."""
        with self._lock:
            if self._closing is None:
                self._answered = True
                self._queue_close(close)
            self._pump()
        deadline = time.monotonic() + _ANSWER_SECONDS
        self._push_close(deadline)

    def _lost(self, error: OSError | None) -> None:
        """The stream ended, or broke with ``error``."""
        cause = self._broken or error
        ours = self._closing
        if ours is not None:
            message = f"the connection was closed by this side with code {ours.code}; the service hung up without confirming it"
            self._finish(_Ending(message, ours.code, ours.reason, False, cause))
        elif cause is not None:
            self._finish(_Ending(f"the connection broke: {tls_reason(cause)}", None, "", False, cause))
        else:
            self._finish(_Ending("the service hung up without closing the WebSocket", None, "", False))

    # -- writing -------------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Bytes that were taken and are not in the kernel yet."""
        return self._lanes.waiting + self._stream.pending

    @property
    def gave_all(self) -> bool:
        """True if every message that was taken is in the kernel as a whole; also to be asked after the end."""
        return self._lanes.taken == self._lanes.given and not self._stream.pending

    def try_send(self, frame: Frame | str | bytes) -> bool:
        """Send a message without waiting: true if it and all before it are in the kernel.

        False = it was taken and goes out in its turn, but something waits: call `flush`.

        Raises: `ConnectionClosedError` if the connection is over or closing; the message was not sent then.
        """
        return self._put(_encode(frame))[0]

    def send(self, frame: Frame | str | bytes, timeout: float | None = None) -> None:
        """Send a message and wait until the kernel has it.

        Raises: `ConnectionClosedError` if the connection ends before; `RealtimeTimeoutError` after ``timeout`` seconds, which
        ends the connection: part of the message may be on its way.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        done, number = self._put(_encode(frame))
        if not done and not self._wait_written(deadline, lambda: self._check_sent(number)):
            message = f"a message was not taken within {timeout:g} s: the service does not read"
            self._finish(_Ending(f"the connection was ended: {message}", None, "", False))
            self._dispose()
            raise RealtimeTimeoutError(message)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until nothing waits any more.

        Raises: `RealtimeTimeoutError` after ``timeout`` seconds (the connection lives on); `ConnectionClosedError` if the
        connection is over or closing, which drops what waits.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._wait_written(deadline, self._check_open):
            raise RealtimeTimeoutError(f"{self.waiting} bytes still wait after {timeout:g} s: the service does not read")

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping, before all data that waits; never waits itself. `last_pong` tells when the answer came.

        Raises: `ConfigError` for more than 125 bytes, `ConnectionClosedError` if the connection is over or closing.
        """
        if len(payload) > 125:
            raise ConfigError("the payload of a ping holds at most 125 bytes")
        with self._lock:
            self._check_open()
        self._put_control(frames.PING, bytes(payload))

    def _put(self, data: bytes) -> tuple[bool, int]:
        """Queue a data frame and write what goes: whether nothing waits, and the frame's number."""
        with self._lock:
            self._check_open()
            done = self._pump(data)
            if self._broken is not None:
                raise self._write_error()
            return done, self._lanes.taken

    def _put_control(self, opcode: int, payload: bytes) -> None:
        with self._lock:
            if self._closing is not None:
                return
            self._lanes.put_control(opcode, frames.encode(opcode, payload))
            done = self._pump()
        if not done:
            self._call_wake()

    def _call_wake(self) -> None:
        """Tell the owner that something waits, unless a thread is writing it already."""
        if self._wake is not None and not self._flushing and self._broken is None and self._ending is None:
            self._wake()

    def _check_open(self) -> bool:
        """Raise if nothing can be sent any more, else false. `_lock` is held."""
        if self._ending is not None:
            raise self._ending.error()
        if self._closing is not None:
            raise ConnectionClosedError("the connection is closing: nothing can be sent any more", code=self._closing.code)
        if self._broken is not None:
            raise self._write_error()
        return False

    def _check_sent(self, number: int) -> bool:
        """Whether this data frame is in the kernel; raise if it will never be. `_lock` is held."""
        if self._lanes.given >= number and not self._stream.pending:
            return True
        if self._closing is None or self._lanes.is_lost(number) or self._ending is not None or self._broken is not None:
            return self._check_open()
        return False  # closing, but it went before the close frame

    def _write_error(self) -> ConnectionClosedError:
        assert self._broken is not None
        error = ConnectionClosedError(f"the connection broke while sending: {tls_reason(self._broken)}")
        error.__cause__ = self._broken
        return error

    def _pump(self, data: bytes | None = None) -> bool:
        """Write what goes without waiting, a new data frame too if given; true if nothing is left. `_lock` is held.

        A failure is kept in `_broken`: the peer's last words may still be there to read, so the reader says how it ended.
        """
        if self._broken is not None or self._ending is not None:
            return False
        try:
            return self._lanes.pump(self._stream) if data is None else self._lanes.pass_on(data, self._stream)
        except OSError as error:
            self._broken = error
            return False
        except BaseException:  # a signal handler raised: nobody knows any more how much of a frame is out
            self._broken = OSError(errno.ECANCELED, "interrupted while writing")
            with contextlib.suppress(OSError):  # the reader waits for a socket that nobody can write any more: it must see the end
                self._stream.sock.shutdown(socket.SHUT_RDWR)
            raise

    def _wait_written(self, deadline: float | None, check: Callable[[], bool]) -> bool:
        """Write until nothing waits or ``check`` is true; false if the deadline came first. Raises: what ``check`` raises."""
        with self._lock:
            self._flushing += 1
        try:
            while True:
                with self._lock:
                    if check() or self._pump():
                        return True
                ready = wait_ready([(self._stream.sock, WRITE)], seconds_until(deadline))
                if not ready and deadline is not None and time.monotonic() >= deadline:
                    return False
        finally:
            with self._lock:
                self._flushing -= 1
            if self._ending is not None:
                self._dispose()

    # -- the end -------------------------------------------------------------------------------------------------------------

    def close(self, code: int = 1000, reason: str = "", timeout: float = 3.0) -> None:
        """Close the WebSocket: send a close frame before what waits, wait ``timeout`` seconds for the peer's, then hang up.

        Does nothing if the connection is over; a second call waits for the same end. What was not given to the kernel is dropped.

        Raises: `ConfigError` for a code that must not be sent.
        """
        if not frames.sendable_close_code(code):
            raise ConfigError(f"{code} is not a close code: 1000 to 1003, 1007 to 1014 and 3000 to 4999 may be sent")
        deadline = time.monotonic() + timeout
        with self._lock:
            if self._ending is None and self._closing is None:
                self._queue_close(Close(code, reason))
            self._pump()
        if self._ending is None:
            if self._reading.acquire(False):
                try:
                    self._read_until_closed(deadline)
                finally:
                    self._reading.release()
            else:
                self._push_close(deadline)
                self._over.wait(seconds_until(deadline))
        ours = self._closing or Close(code, reason)
        message = f"the connection was closed by this side with code {ours.code}; no confirmation came within {timeout:g} s"
        self._finish(_Ending(message, ours.code, ours.reason, False))
        self._dispose()

    def abort(self) -> None:
        """End the connection at once, without a word to the peer; every call that waits raises `ConnectionClosedError`."""
        self._finish(_Ending("the connection was aborted by this side", None, "", False))
        self._dispose()

    def _queue_close(self, close: Close) -> None:
        """Put a close frame before everything that waits, and drop that. `_lock` is held."""
        self._closing = close
        self.is_listening = False
        self._lanes.put_close(frames.encode(frames.CLOSE, frames.close_payload(close.code, close.reason)))

    def _push_close(self, deadline: float) -> None:
        """Wait until our close frame is in the kernel, the connection is over, or the deadline came."""
        self._wait_written(deadline, lambda: self._ending is not None or self._broken is not None)

    def _read_until_closed(self, deadline: float) -> None:
        """Read in the reader's place until the peer closes or the deadline comes; messages are thrown away."""
        self._parser.detach()  # a handler up the stack may still look at the last message

        def wait(sock: socket.socket, events: int) -> None:
            with self._lock:
                waits = not self._pump() and not self._broken
            if not wait_ready([(sock, events | (WRITE if waits else 0))], seconds_until(deadline)):
                raise RealtimeTimeoutError("the peer's close frame did not come in time")

        try:
            while self._ending is None and time.monotonic() < deadline:
                incoming = self._parser.next()
                if incoming is None:
                    self._read(wait)
                elif not isinstance(incoming, Frame):
                    self._react(incoming)
        except FrameError as error:
            self._violated(error)
        except RealtimeTimeoutError:
            pass  # the caller ends the connection

    def _finish(self, ending: _Ending) -> None:
        """End the connection as ``ending`` says, unless it has ended: wakes every thread that waits."""
        with self._lock:
            if self._ending is not None:
                return
            self._ending = ending
            self.is_listening = False
            self._lanes.drop()
            if self._lanes.close_sent and self._broken is None:
                self._stream.farewell()
            sock = self._stream.sock
            with contextlib.suppress(OSError):  # the peer was faster
                sock.shutdown(socket.SHUT_RDWR)
        self._over.set()

    def _dispose(self) -> None:
        """Close the descriptor once the connection has ended and no thread uses it: a reused number must not be read by ours."""
        with self._lock:
            if self._disposed or self._ending is None or self._flushing or not self._reading.acquire(False):
                return
            try:
                self._disposed = True
                _drain(self._stream.sock)
                self._stream.sock.close()
            finally:
                self._reading.release()


def _drain(sock: socket.socket) -> None:
    """Throw away what has arrived: closing a socket with unread bytes makes the kernel send a reset that overtakes our close."""
    scrap = bytearray(64 * 1024)
    left = _DRAINED
    with contextlib.suppress(OSError):
        sock.setblocking(False)
        while left > 0:
            count = sock.recv_into(scrap)
            if not count:
                return
            left -= count


def _encode(frame: Frame | str | bytes) -> bytes:
    if isinstance(frame, Frame):
        return frames.encode(frames.TEXT if frame.text else frames.BINARY, frame.payload)
    if isinstance(frame, str):
        try:
            return frames.encode(frames.TEXT, frame.encode())
        except UnicodeEncodeError:
            raise ConfigError("the text cannot be sent: it holds a lone surrogate, which UTF-8 cannot express") from None
    return frames.encode(frames.BINARY, frame)
