"""What the server received and sent, by name and time; sound as its length."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["Journal"]

_MOST_ENTRIES = 50_000
_LONGEST_TEXT = 4000  # characters; an image or a book in a frame is not kept
_SOUND_NAMES = frozenset({"input_audio_buffer.append", "response.output_audio.delta", "response.audio.delta"})


class Journal:
    """A bounded list of entries, oldest first; safe for several threads.

    An entry is ``{"at": seconds since the server started, "connection": number, "direction": "received" | "sent", "name": …}`` and the
    frame's fields. Sound that is received piece by piece stands in one entry: ``audio`` bytes of wire text in ``count`` pieces.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._lock = threading.Lock()  # guards the two below
        self._entries: collections.deque[dict[str, Any]] = collections.deque(maxlen=_MOST_ENTRIES)
        self._sound: dict[int, dict[str, Any]] = {}

    def received_sound(self, connection: int, size: int) -> None:
        """Note a piece of sound of ``size`` bytes that a client sent."""
        with self._lock:
            entry = self._sound.get(connection)
            if entry is None:
                entry = {
                    "at": self._now(),
                    "connection": connection,
                    "direction": "received",
                    "name": "input_audio_buffer.append",
                    "audio": 0,
                    "count": 0,
                }
                self._sound[connection] = entry
                self._entries.append(entry)
            entry["audio"] += size
            entry["count"] += 1

    def note(self, connection: int, direction: str, name: str, frame: Mapping[str, Any] | None = None) -> None:
        """Note a frame, or an event of the connection itself (``connected``, ``closed``)."""
        fields = {key: _short(name, key, value) for key, value in (frame or {}).items() if key != "type"}
        with self._lock:
            if direction == "received":
                self._sound.pop(connection, None)
            self._entries.append({"at": self._now(), "connection": connection, "direction": direction, "name": name, **fields})

    def entries(self) -> list[dict[str, Any]]:
        """Return a copy of all entries."""
        with self._lock:
            return [dict(entry) for entry in self._entries]

    def _now(self) -> float:
        return round(time.monotonic() - self._started, 3)


def _short(name: str, key: str, value: Any) -> Any:
    if name in _SOUND_NAMES and key in ("delta", "audio") and isinstance(value, str):
        return len(value) * 3 // 4
    if key == "audio" and isinstance(value, str):
        return len(value) * 3 // 4
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"{value[:_LONGEST_TEXT]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {inner: _short(name, inner, one) for inner, one in value.items()}
    if isinstance(value, list):
        return [_short(name, "", one) for one in value]
    return value
