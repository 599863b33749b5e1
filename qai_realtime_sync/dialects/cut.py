"""Sound cut straight out of a message: its base64 is decoded in place, and only the small rest is parsed as JSON.

Parsing 27 KB of base64 as a JSON string costs several times its decoding. The cut is taken only where it provably gives what the
whole parse gives: the key stands there once, nothing is escaped outside the sound, and base64 has no character that JSON escapes.
Everything else gives ``None``, and the caller parses the whole message.
"""

from __future__ import annotations

from typing import Any, Final

from qai_realtime_sync.audio import b64decode
from qai_realtime_sync.dialects.wire import loads

__all__ = ["WORTHWHILE", "cut"]

WORTHWHILE: Final = 8192
"""Bytes of a message from which on the cut is cheaper than the whole parse."""


def cut(payload: bytes | memoryview, key: bytes) -> tuple[Any, bytes] | None:
    """Return the message with ``""`` for the base64 text after ``key`` (with its quotes), and the sound; ``None`` if unusual."""
    data = payload if type(payload) is bytes else bytes(payload)
    start = data.find(key)
    if start < 0:
        return None
    start += len(key)
    opening = data[start : start + 3]
    if opening.startswith(b':"'):
        start += 2
    elif opening == b': "':
        start += 3
    else:
        return None
    end = data.find(b'"', start)
    if end - start < WORTHWHILE // 2:
        return None
    rest = data[:start] + data[end:]
    if b"\\" in rest or rest.count(key) != 1:
        return None
    try:
        return loads(rest), b64decode(memoryview(data)[start:end])
    except ValueError:
        return None
