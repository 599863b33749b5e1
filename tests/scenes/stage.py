"""What scenes are made of: the local server without voices in each of its dialects, a client whose wire is watched, a room to hear in."""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from qai_realtime_sync import AudioDelta, RealtimeClient, RealtimeConfig, ReconnectPolicy, TurnDetection, transport
from qai_realtime_sync.audio import silence
from qai_realtime_sync.config import AudioFormat
from qai_realtime_sync.conversation.pacing import PacedSink
from qai_realtime_sync.seam import Frame

pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")

from qai_realtime_sync.offline import RealtimeServer, Script
from qai_realtime_sync.offline.server import DIALECTS

__all__ = ["DIALECT_NAMES", "PATIENCE", "Room", "Stage", "Wire", "speech", "stage"]

DIALECT_NAMES = sorted(DIALECTS)
PATIENCE = 15.0
AT_ONCE = ReconnectPolicy(attempts=400, seconds=PATIENCE, base=0.02, cap=0.1)
_AUDIO = AudioFormat()


class Wire:
    """A dialer whose connections note when frames with certain words passed, in seconds of the monotonic clock."""

    def __init__(self, *words: bytes) -> None:
        self._words = words
        self._changed = threading.Condition()  # guards the two below
        self.passed: list[tuple[float, bytes]] = []
        self.connections: list[Any] = []

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        connection = transport.connect(*arguments, **options)
        self.connections.append(connection)
        return _Watched(connection, self)

    def note(self, payload: bytes | memoryview) -> None:
        """A frame passes."""
        now, data = time.monotonic(), bytes(payload[:400])
        for word in self._words:
            if word in data:
                with self._changed:
                    self.passed.append((now, word))
                    self._changed.notify_all()

    def when(self, word: bytes) -> float:
        """Return when the first frame with this word passed, waiting for it."""
        with self._changed:
            found = self._changed.wait_for(lambda: [at for at, passed in self.passed if passed == word], PATIENCE)
        assert found, f"no frame with {word!r} passed"
        return found[0]

    def cut(self) -> None:
        """Break the newest connection."""
        self.connections[-1].abort()


class _Watched:
    """A real connection, looked at from outside."""

    def __init__(self, connection: Any, wire: Wire) -> None:
        self._connection, self._wire = connection, wire

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def recv_all(self) -> list[Frame]:
        frames: list[Frame] = self._connection.recv_all()
        for frame in frames:
            self._wire.note(frame.payload)
        return frames

    def try_send(self, frame: Frame) -> bool:
        done: bool = self._connection.try_send(frame)
        self._wire.note(frame.payload if isinstance(frame, Frame) else frame)
        return done


class Room(PacedSink):
    """A speaker in a room: plays in real time, notes when it was silenced, and says when so much was heard."""

    def __init__(self) -> None:
        super().__init__()
        self._clears = threading.Condition()  # guards cleared_at, heard_ms
        self.cleared_at: list[float] = []
        self.heard_ms: list[float] = []

    def clear(self) -> None:
        super().clear()
        now, heard = time.monotonic(), self.played_ms
        with self._clears:
            self.cleared_at.append(now)
            self.heard_ms.append(heard)
            self._clears.notify_all()

    def listen(self, seconds: float) -> None:
        """Wait until this much more was heard."""
        target = self.played_ms + seconds * 1000
        deadline = time.monotonic() + PATIENCE
        while self.played_ms < target:
            with self._clears:
                self._clears.wait(max(0.01, (target - self.played_ms) / 1000))
            assert time.monotonic() < deadline, "nothing more is heard"


class Stage:
    """A server and clients of it, in one dialect."""

    def __init__(self, server: RealtimeServer, dialect: str) -> None:
        self.server, self.dialect = server, dialect

    def client(self, config: RealtimeConfig | None = None, **options: Any) -> RealtimeClient:
        """A client that goes straight to the server."""
        options.setdefault("reconnect", AT_ONCE)
        options.setdefault("connect_timeout", PATIENCE)
        options.setdefault("dialect", self.dialect)
        return RealtimeClient.direct(self.server.ws_url, "any key", config or quick(), **options)

    def items(self, **fields: Any) -> list[dict[str, Any]]:
        """The items of all conversations as the server has them."""
        found = [item for conversation in self.server.conversations for item in conversation["items"]]
        return [item for item in found if all(item.get(name) == value for name, value in fields.items())]

    def received(self, kind: str) -> int:
        """How many frames of this type the server was sent."""
        return sum(1 for e in self.server.journal if e["direction"] == "received" and e["name"] == kind)


def quick(**fields: Any) -> RealtimeConfig:
    """A session that takes a fifth of a second of silence for the end of speech."""
    return RealtimeConfig(turn_detection=TurnDetection(prefix_padding_ms=100, silence_duration_ms=200), **fields)


@contextmanager
def stage(dialect: str, script: Callable[[Script], object] = lambda script: None, **options: Any) -> Iterator[Stage]:
    """A light server with a script of its own."""
    rules = Script()
    script(rules)
    with RealtimeServer(light=True, dialect=dialect, script=rules, **options) as server:
        yield Stage(server, dialect)


def speech(seconds: float, quiet: float = 0.5) -> bytes:
    """A sound with the loudness of a voice, four syllables a second, with silence before and after it."""
    count = round(seconds * 24000)
    loud = array(
        "h",
        (
            round(9000 * (0.55 + 0.45 * math.sin(2 * math.pi * 4 * at / 24000)) * math.sin(2 * math.pi * 180 * at / 24000))
            for at in range(count)
        ),
    )
    return silence(0.2, _AUDIO) + loud.tobytes() + silence(quiet, _AUDIO)


def hear_something(client: RealtimeClient, room: Room, seconds: float) -> None:
    """Wait for an answer to begin, and hear that much of it."""
    client.wait_for(AudioDelta, PATIENCE)
    room.listen(seconds)
