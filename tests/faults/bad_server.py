"""Services that do wrong: openings for `tests.servers.service`, each named for its fault.

What is refused or never becomes ready stands in `NEVER_READY`; what a service says wrongly once it is ready stands in `VIOLATIONS`
(the WebSocket's rules) and `NONSENSE` (its own).
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

from tests.servers import Talk, ready, refuse
from tests.transport.peer import close_frame, frame

__all__ = ["NEVER_READY", "NONSENSE", "VIOLATIONS", "Expected", "Opening", "drips", "redirects", "then"]

Opening: TypeAlias = Callable[[Talk], None]
_LONGEST = 30.0


@attrs.frozen
class Expected:
    """What `connect()` raises: the class by name, its code (``None`` = any), and a word of its message."""

    error: str
    code: str | int | None
    words: str = ""


def silent(talk: Talk) -> None:
    """Accept, and never say anything."""
    talk.peer.wait_for_end()


def deaf_after_request(talk: Talk) -> None:
    """Read the request, and never answer it."""
    talk.peer.read_request()
    talk.peer.wait_for_end()


def hangs_up(talk: Talk) -> None:
    """Hang up at once."""
    raise EOFError


def hangs_up_after_request(talk: Talk) -> None:
    """Read the request and hang up."""
    talk.peer.read_request()
    raise EOFError


def resets(talk: Talk) -> None:
    """Read the request and reset."""
    talk.peer.read_request()
    talk.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise EOFError


def says(answer: bytes, stay: bool = False) -> Opening:
    """Answer the request with these bytes."""

    def opening(talk: Talk) -> None:
        talk.peer.read_request()
        talk.peer.sock.sendall(answer)
        if stay:
            talk.peer.wait_for_end()
        raise EOFError

    return opening


def wrong_accept(talk: Talk) -> None:
    """Upgrade with a key that was not computed from the client's."""
    talk.peer.read_request()
    right = talk.peer.acceptance()
    at = right.index(b"Sec-WebSocket-Accept: ") + 22
    talk.peer.sock.sendall(right[:at] + (b"A" if right[at : at + 1] != b"A" else b"B") + right[at + 1 :])
    talk.peer.wait_for_end()


def upgrades_with(*headers: str) -> Opening:
    """Upgrade with headers that nobody asked for."""

    def opening(talk: Talk) -> None:
        talk.peer.upgrade(*headers)
        talk.peer.wait_for_end()

    return opening


def drips(piece: bytes, every: float = 0.01, first: bytes = b"") -> Opening:
    """Send a little, for ever."""

    def opening(talk: Talk) -> None:
        talk.peer.read_request()
        talk.peer.sock.sendall(first)
        over = threading.Event()
        for _ in range(int(_LONGEST / every)):
            talk.peer.sock.sendall(piece)
            over.wait(every)

    return opening


def pours(piece: bytes, size: int, first: bytes = b"") -> Opening:
    """Send much, as fast as it goes."""

    def opening(talk: Talk) -> None:
        talk.peer.read_request()
        talk.peer.sock.sendall(first)
        for _ in range(size // len(piece)):
            talk.peer.sock.sendall(piece)

    return opening


def redirects(status: int, location: str) -> Opening:
    """Send the client elsewhere."""
    return refuse(f"{status} Moved", "", f"Location: {location}")


def upgraded(*frames: bytes, stay: bool = True) -> Opening:
    """Upgrade, send these frames, and stay or hang up."""

    def opening(talk: Talk) -> None:
        talk.peer.upgrade()
        talk.raw(*frames)
        if stay:
            talk.peer.wait_for_end()
        raise EOFError

    return opening


def refuses_the_configuration(talk: Talk) -> None:
    """Answer the configuration with an error that names it."""
    talk.peer.upgrade()
    talk.say("session.created", session={"id": "s"})
    while not talk.count("session.update"):
        talk.next_frame()
    caused_by = talk.received[-1].get("event_id")
    talk.error("invalid_value", caused_by, "the voice is not known")
    talk.peer.wait_for_end()


def then(*frames: bytes) -> Opening:
    """Become ready, say these frames, and go on as usual."""

    def opening(talk: Talk) -> None:
        ready(talk)
        talk.raw(*frames)

    return opening


def text(value: Any) -> bytes:
    """A text message of this JSON, or of this text."""
    return frame(1, (value if isinstance(value, str) else json.dumps(value)).encode())


_HTTP = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s"
_ENVELOPE = json.dumps({"error": {"code": "insufficient_balance", "message": "the account is empty"}})

NEVER_READY: dict[str, tuple[Opening, Expected]] = {
    "accepts and says nothing": (silent, Expected("RealtimeTimeoutError", "timeout")),
    "reads the request and says nothing": (deaf_after_request, Expected("RealtimeTimeoutError", "timeout")),
    "hangs up at once": (hangs_up, Expected("ConnectError", None)),
    "hangs up after the request": (hangs_up_after_request, Expected("ConnectError", None)),
    "resets after the request": (resets, Expected("ConnectError", None)),
    "speaks another protocol": (says(b"SSH-2.0-OpenSSH_9.6\r\n"), Expected("ConnectError", None)),
    "answers with binary noise": (says(bytes(range(256)) * 4), Expected("ConnectError", None)),
    "answers 200 instead of 101": (says(_HTTP % (b"200 OK", 5, b"hello")), Expected("ApiError", None, "200")),
    "computes the wrong key": (wrong_accept, Expected("ConnectError", None)),
    "upgrades with an extension nobody asked for": (
        upgrades_with("Sec-WebSocket-Extensions: permessage-deflate"),
        Expected("ConnectError", None),
    ),
    "upgrades with a subprotocol nobody asked for": (upgrades_with("Sec-WebSocket-Protocol: chat"), Expected("ConnectError", None)),
    "sends headers for ever": (pours(b"X-Pad: " + b"x" * 1000 + b"\r\n", 2**22, b"HTTP/1.1 101 S\r\n"), Expected("ConnectError", None)),
    "sends one header that never ends": (pours(b"x" * 4096, 2**22, b"HTTP/1.1 101 S\r\nX-Pad: "), Expected("ConnectError", None)),
    "drips its answer": (drips(b"X", first=b"HTTP/1.1 101 S\r\nX-Pad: "), Expected("RealtimeTimeoutError", "timeout")),
    "refuses with a body that never ends": (
        pours(b"x" * 65536, 2**24, b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: identity\r\n\r\n"),
        Expected("ApiError", None, "403"),
    ),
    "refuses and drips its body": (
        drips(b"x", first=b"HTTP/1.1 503 Unavailable\r\nContent-Length: 100000\r\n\r\n"),
        Expected("ApiError", "service_unavailable"),
    ),
    "refuses with a body shorter than promised": (
        says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5000\r\n\r\nno"),
        Expected("ApiError", None, "403"),
    ),
    "refuses with 401": (refuse("401 Unauthorized"), Expected("ApiError", "authentication_error")),
    "refuses with 402 and an envelope": (
        refuse("402 Payment Required", _ENVELOPE),
        Expected("ApiError", "insufficient_balance", "empty"),
    ),
    "refuses with 404": (refuse("404 Not Found"), Expected("ApiError", None)),
    "refuses with 429": (refuse("429 Too Many Requests", "", "Retry-After: 7"), Expected("ApiError", None)),
    "refuses with 503": (refuse("503 Unavailable"), Expected("ApiError", "service_unavailable")),
    "refuses with an envelope that is no JSON": (refuse("500 Oops", "{" * 5000), Expected("ApiError", None, "500")),
    "upgrades and says nothing": (upgraded(), Expected("RealtimeTimeoutError", "timeout")),
    "upgrades and hangs up": (upgraded(stay=False), Expected("ConnectionClosedError", None)),
    "upgrades and closes with a reason": (
        upgraded(close_frame(1008, "insufficient balance")),
        Expected("ConnectionClosedError", 1008, "insufficient balance"),
    ),
    "upgrades and closes without a code": (upgraded(close_frame(None)), Expected("ConnectionClosedError", None)),
    "upgrades and breaks the protocol": (upgraded(frame(1, b"{}", reserved=4)), Expected("ConnectionClosedError", 1002)),
    "upgrades and only pings": (upgraded(*[frame(9, b"x")] * 50), Expected("RealtimeTimeoutError", "timeout")),
    "creates a session and never confirms it": (
        upgraded(text({"type": "session.created", "session": {"id": "s"}})),
        Expected("RealtimeTimeoutError", "timeout", "did not confirm"),
    ),
    "refuses the configuration": (refuses_the_configuration, Expected("ApiError", "invalid_value", "voice")),
}

# What it says once it is ready, and the close code that the client gives it.
VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "a masked frame": (frame(1, b"{}", mask=b"abcd"), 1002),
    "a reserved bit": (frame(1, b"{}", reserved=1), 1002),
    "an opcode that does not exist": (frame(3, b"{}"), 1002),
    "a control opcode that does not exist": (frame(11), 1002),
    "a ping of 126 bytes": (frame(9, b"x" * 126), 1002),
    "a ping in fragments": (frame(9, b"x", fin=False), 1002),
    "a continuation of nothing": (frame(0, b"{}"), 1002),
    "a message inside a message": (frame(1, b"{", fin=False) + frame(1, b"}"), 1002),
    "text that is not UTF-8": (frame(1, b"\xff\xfe"), 1007),
    "text that ends inside a character": (frame(1, b'{"a":"\xc3'), 1007),
    "a message of 2^40 bytes": (frame(2, b"x", length=2**40), 1009),
    "a message of 2^63 bytes": (frame(2, b"x", length=2**63), 1002),
    "a message over the limit in fragments": (frame(2, bytes(9 * 2**20), fin=False) + frame(0, bytes(9 * 2**20)), 1009),
    "fragments without end": (frame(1, b"", fin=False) + frame(0, b"", fin=False) * 140_000, 1009),
    "a close frame of one byte": (frame(8, b"x"), 1002),
    "a close code that must not be sent": (frame(8, struct.pack("!H", 1006)), 1002),
    "a close reason that is not UTF-8": (frame(8, struct.pack("!H", 1000) + b"\xff"), 1007),
}

# Wrong in the service's own language: the conversation goes on.
NONSENSE: dict[str, bytes] = {
    "text that is not JSON": text("hello?"),
    "no text at all": text(""),
    "JSON that is a list": text([1, 2]),
    "JSON that is null": text("null"),
    "JSON without a type": text({"hello": 1}),
    "a type that is a number": text({"type": 17}),
    "a type that is an object": text({"type": {"a": 1}}),
    "a type that nobody knows": text({"type": "response.surprise", "x": 1}),
    "nesting a hundred thousand deep": text("[" * 100_000),
    "a number of ten thousand digits": text('{"type":"response.done","response":{"id":"r","n":%s}}' % ("9" * 10_000)),
    "not a number": text('{"type":"response.done","response":NaN}'),
    "a lone surrogate": text('{"type":"error","error":{"message":"\\ud800"}}'),
    "a NUL": text('{"type":"error","error":{"message":"\\u0000"}}'),
    "sound that is not base64": text({"type": "response.output_audio.delta", "response_id": "r", "item_id": "i", "delta": "!!!"}),
    "sound that is null": text({"type": "response.output_audio.delta", "response_id": "r", "item_id": "i", "delta": None}),
    "an answer that is a list": text({"type": "response.done", "response": []}),
    "an answer nobody asked for is over": text({"type": "response.done", "response": {"id": "never", "status": "completed"}}),
    "an error without words": text({"type": "error"}),
    "an error that is text": text({"type": "error", "error": "oops"}),
    "a call without an id": text({"type": "response.function_call_arguments.done", "name": "f", "arguments": "{}"}),
    "a call whose arguments are no JSON": text(
        {"type": "response.function_call_arguments.done", "response_id": "r", "call_id": "c9", "name": "nobody", "arguments": "{{"}
    ),
    "a session that is confirmed twice": text({"type": "session.updated", "session": {"id": "other"}}),
    "a binary message": frame(2, b"\x00\x01" * 500),
    "a binary message of JSON": frame(2, b'{"type":"response.surprise"}'),
    "an empty binary message": frame(2),
    "a key that is there twice": text('{"type":"error","type":"response.surprise"}'),
    "ten thousand unknown keys": text({"type": "response.surprise", **{f"k{n}": n for n in range(10_000)}}),
}
