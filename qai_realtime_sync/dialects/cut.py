"""Sound cut straight out of a message: its base64 is decoded in place, and only the small rest is parsed as JSON.

Parsing 27 KB of base64 as a JSON string costs several times its decoding. The cut is taken only where it provably gives what the
whole parse gives: the key stands there once, nothing is escaped outside the sound, and what lies between is base64 to the last
character, of which JSON escapes none. Everything else gives ``None``, and the caller parses the whole message.
"""

from __future__ import annotations

from typing import Any, Final

from qai_realtime_sync.audio import b64decode
from qai_realtime_sync.dialects.wire import loads

__all__ = ["WORTHWHILE", "cut"]

WORTHWHILE: Final = 2560
"""Bytes of a message from which on the cut is cheaper than the whole parse."""


def cut(payload: bytes | memoryview, key: str, text: str | None = None) -> tuple[Any, bytes] | None:
    """Return the message with ``""`` for the base64 text after ``key`` (with its quotes), and the sound; ``None`` if unusual.

    ``text`` is the same message as text, if the caller has it.
    """
    try:
        if text is None:
            text = str(payload, "utf-8")
        start = text.find(key)
        if start < 0:
            return None
        start += len(key)
        if text.startswith(':"', start):
            start += 2
        elif text.startswith(': "', start):
            start += 3
        else:
            return None
        end = text.find('"', start)
        if end - start < WORTHWHILE // 2 or text.find(key, end) >= 0:
            return None
        rest = text[:start] + text[end:]
        if "\\" in rest:
            return None
        # In ASCII a character stands where its byte does, and a slice of a view is no copy.
        return loads(rest), b64decode((payload if text.isascii() else text)[start:end])
    except ValueError:
        return None
