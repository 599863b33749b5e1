"""A WebSocket by hand, for the floor: the upgrade, a masked frame, and a walk along frame headers."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit


def upgrade(url: str) -> socket.socket:
    """Connect and upgrade; what the server says first is left in the socket."""
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname or "", parts.port or 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if parts.scheme == "wss":
        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=parts.hostname)
    resource = parts.path + ("?" + parts.query if parts.query else "")
    sock.sendall(
        f"GET {resource} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    return sock


def masked(payload: bytes) -> bytes:
    """One text frame of a client."""
    key = os.urandom(4)
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    whole = (key * (size // 4 + 1))[:size]
    return head + key + (int.from_bytes(payload, "little") ^ int.from_bytes(whole, "little")).to_bytes(size, "little")


def frame_sizes(sock: socket.socket, room: int = 65536) -> Iterator[int]:
    """Payload sizes of the frames that arrive: one `recv_into` at a time into one buffer, nothing looked at but headers."""
    buffer = bytearray(room)
    view = memoryview(buffer)
    start = end = 0
    while True:
        while end - start >= 4:
            size = buffer[start + 1]
            head = 2
            if size == 126:
                size = buffer[start + 2] << 8 | buffer[start + 3]
                head = 4
            if end - start < head + size:
                break
            start += head + size
            yield size
        if start:
            view[: end - start] = view[start:end]
            end -= start
            start = 0
        count = sock.recv_into(view[end:])
        if not count:
            return
        end += count
