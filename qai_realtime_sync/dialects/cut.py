"""Sound cut straight out of a message: its base64 is decoded in place, and only the small rest is parsed as JSON.

Parsing 27 KB of base64 as a JSON string costs several times its decoding. The cut is taken only where it provably gives what the
whole parse gives: the key stands there once, nothing is escaped outside the sound, and what lies between is base64 to the last
character, of which JSON escapes none. Everything else gives ``None``, and the caller parses the whole message.
"""

from __future__ import annotations

from typing import Any, Final

from qai_realtime_sync.audio import b64decode
from qai_realtime_sync.dialects.wire import loads_usual

__all__ = ["WORTHWHILE", "cut"]

WORTHWHILE: Final = 2560
"""Bytes of a message from which on the cut is cheaper than the whole parse."""


def cut(payload: bytes | memoryview, key: bytes, at: int | None = None) -> tuple[Any, bytes] | None:
    """Return the message with ``""`` for the base64 text after ``key`` (with its quotes), and the sound; ``None`` if unusual.

    ``at`` is where a memoryview begins in its ``obj``: bytes or a bytearray, which is then searched in place. What comes out was
    UTF-8 as a whole: the sound is ASCII by its alphabet, and the parser checks the rest.
    """
    data: Any
    if at is None or not isinstance(payload, memoryview):
        data, at = bytes(payload), 0
    else:
        data = payload.obj
    stop = at + len(payload)
    start = data.find(key + b':"', at, stop)
    if start >= 0:
        start += len(key) + 2
    else:
        start = data.find(key + b': "', at, stop) + len(key) + 3
        if start < at + len(key) + 3:
            return None
    end = data.find(b'"', start, stop)
    if end - start < WORTHWHILE // 2:
        return None
    start -= at
    end -= at
    rest = b"".join((payload[:start], payload[end:]))
    if rest.find(b"\\") >= 0 or rest.count(key) > 1:
        return None
    try:
        return loads_usual(rest), b64decode(payload[start:end])
    except ValueError:
        return None
