"""A WebSocket server on a loopback socket that does exactly what a test tells it, right or wrong; its framing is its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import trustme

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PATIENCE = 10.0
_POLL = select.poll  # a test may take it away from the client


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, mask: bytes = b"", length: int | None = None) -> bytes:
    """A frame as a server writes it, or deliberately not; ``length`` lies about the size."""
    size = len(payload) if length is None else length
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    masked = 0x80 if mask else 0
    if size < 126:
        header = struct.pack("!BB", first, masked | size)
    elif size < 65536:
        header = struct.pack("!BBH", first, masked | 126, size)
    else:
        header = struct.pack("!BBQ", first, masked | 127, size)
    return header + mask + payload


def close_frame(code: int | None = 1000, reason: str = "") -> bytes:
    return frame(8, b"" if code is None else struct.pack("!H", code) + reason.encode())


class Peer:
    """One accepted connection, from the side of the server."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.request = b""

    def read_request(self) -> bytes:
        while b"\r\n\r\n" not in self.request:
            data = self.sock.recv(4096)
            if not data:
                raise EOFError
            self.request += data
        return self.request

    def header(self, name: str) -> str | None:
        for line in self.request.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def acceptance(self, *extra: str) -> bytes:
        key = (self.header("Sec-WebSocket-Key") or "").encode()
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}", *extra]
        return "\r\n".join([*lines, "", ""]).encode()

    def upgrade(self, *extra: str, early: bytes = b"") -> None:
        self.read_request()
        self.sock.sendall(self.acceptance(*extra) + early)

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def read_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the client's next frame, which must be masked and whole. Raises: EOFError."""
        first, second = self.read_exactly(2)
        assert first & 0xF0 == 0x80, "the client's frames are whole and have no reserved bits"
        assert second & 0x80, "the client's frames are masked"
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(self.read_exactly(2 if size == 126 else 8), "big")
        key = self.read_exactly(4)
        payload = self.read_exactly(size)
        return first & 0x0F, bytes(byte ^ key[i % 4] for i, byte in enumerate(payload)) if size < 4096 else _unmask(payload, key)

    def read_close(self) -> tuple[int | None, str]:
        """Code and reason of the client's close frame; everything before it is read and forgotten."""
        while True:
            opcode, payload = self.read_frame()
            if opcode == 8:
                return (struct.unpack("!H", payload[:2])[0], payload[2:].decode()) if payload else (None, "")

    def wait_without_reading(self) -> None:
        """Leave everything unread until the client hangs up."""
        poll = _POLL()
        poll.register(self.sock.fileno(), getattr(select, "POLLRDHUP", 0))
        poll.poll(PATIENCE * 1000)

    def wait_for_end(self) -> None:
        """Read until the client hangs up."""
        with contextlib.suppress(OSError, ssl.SSLError):
            while self.sock.recv(65536):
                pass


def _unmask(payload: bytes, key: bytes) -> bytes:
    out = bytearray(payload)
    for lane in range(4):
        table = bytes(value ^ key[lane] for value in range(256))
        out[lane::4] = payload[lane::4].translate(table)
    return bytes(out)


class _SharedTls:
    """A server's TLS socket that one thread may read while another writes, which Python's own must not be: one lock, waiting outside."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._lock = threading.Lock()  # guards every call into OpenSSL
        sock.setblocking(False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        while True:
            with self._lock, contextlib.suppress(ssl.SSLWantReadError):
                return self._sock.recv(size)
            self._wait(select.POLLIN)

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while len(left):
            sent = 0
            with self._lock, contextlib.suppress(ssl.SSLWantWriteError):
                sent = self._sock.send(left)
            left = left[sent:]
            if not sent:
                self._wait(select.POLLOUT)

    def _wait(self, event: int) -> None:
        poll = _POLL()
        poll.register(self._sock.fileno(), event)
        if not poll.poll(PATIENCE * 1000):
            raise TimeoutError


class Server:
    """Listens on a free port and runs ``serve`` for each connection, each in a thread; its errors are kept in `failures`."""

    def __init__(self, serve: Callable[[Peer], None], context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._serve = serve
        self._context = context
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # so that a peer that does not read is soon full
        self.host, self.port = host, self._listener.getsockname()[1]
        self.failures: list[BaseException] = []
        self.accepted = 0
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._acceptor = threading.Thread(target=self._accept, name="test-server", daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        return f"{'wss' if self._context else 'ws'}://localhost:{self.port}/talk"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._sockets.append(sock)
            thread = threading.Thread(target=self._run, args=(sock,), name="test-peer", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True)
                self._sockets.append(sock)
                self._serve(Peer(_SharedTls(sock)))  # type: ignore[arg-type]
            else:
                self._serve(Peer(sock))
        except (EOFError, OSError):
            pass  # the client went away: what it should have seen is the client's test to say
        except BaseException as error:
            self.failures.append(error)
        finally:
            sock.close()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(PATIENCE)
        for thread in self._threads:
            thread.join(1.0)
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's own makes its reader see ciphertext
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a thread of the test server is stuck"
        for sock in self._sockets:
            sock.close()


class Certificates:
    """A certificate authority of the test run and what each side needs of it."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.server)
        self.client = ssl.create_default_context()
        self.authority.configure_trust(self.client)


@contextlib.contextmanager
def serving(serve: Callable[[Peer], None], context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A `Server` that is stopped at the end, and whose failures fail the test."""
    server = Server(serve, context)
    try:
        yield server
    finally:
        server.stop()
    if server.failures:
        raise server.failures[0]
