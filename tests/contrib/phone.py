"""A telephone line for tests: a Flask app on a real port whose calls go through the bridge, and a WebSocket without a network."""

from __future__ import annotations

import json
import math
import queue
import socket
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("flask", reason="the telephone's test app needs flask")
pytest.importorskip("flask_sock", reason="the telephone's test app needs flask-sock")

from flask import Flask
from flask_sock import Sock
from werkzeug.serving import make_server

from qai_realtime_sync import RealtimeConfig
from qai_realtime_sync.contrib.twilio import CallEnd, bridge

__all__ = ["PATIENCE", "TELEPHONE", "Exchange", "Line", "exchange", "speech", "telephone_config"]

PATIENCE = 20.0
TELEPHONE = {"input_format": "g711_ulaw", "output_format": "g711_ulaw"}


def telephone_config(**fields: Any) -> RealtimeConfig:
    """A configuration that speaks µ-law."""
    return RealtimeConfig(**TELEPHONE, **fields)


def speech(seconds: float) -> bytes:
    """A tone that swells and fades like syllables, which a server without ears takes for speech: PCM16 at 8000 Hz."""
    return array(
        "h", (round(9000 * abs(math.sin(n * math.pi / 1600)) * math.sin(n * 0.17)) for n in range(round(seconds * 8000)))
    ).tobytes()


class Exchange:
    """The address of the media stream, and what became of its calls."""

    def __init__(self, port: int) -> None:
        self.url = f"ws://127.0.0.1:{port}/media"
        self.ends: queue.Queue[CallEnd | BaseException] = queue.Queue()

    def ended(self) -> CallEnd:
        """Wait for the next call's end; raises what its bridge raised."""
        end = self.ends.get(timeout=PATIENCE)
        if isinstance(end, BaseException):
            raise end
        return end


@contextmanager
def exchange(make: Any, *, send_buffer: int = 0, **options: Any) -> Iterator[Exchange]:
    """Serve a Flask app whose ``/media`` bridges each call to the client that ``make(start)`` returns.

    ``send_buffer`` makes the kernel take no more than about so many bytes that the telephone does not read.
    """
    app = Flask("phone")

    @Sock(app).route("/media")  # type: ignore[untyped-decorator]
    def media(ws: Any) -> None:
        if send_buffer:
            ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        try:
            found.ends.put(bridge(ws, make, **options))
        except Exception as error:
            found.ends.put(error)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    found = Exchange(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="flask")
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Line:
    """What a web framework would give, without a network: messages are queued by the test, what is sent is kept.

    ``on_send`` is called with every message, and may block or raise.
    """

    def __init__(self, on_send: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._incoming: queue.Queue[str | bytes | BaseException | None] = queue.Queue()
        self._on_send = on_send
        self.closed = threading.Event()
        self.changed = threading.Condition()  # guards sent
        self.sent: list[dict[str, Any]] = []

    def receive(self, timeout: float | None = None) -> Any:
        """The next message; ``None`` after so many seconds."""
        try:
            message = self._incoming.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(message, BaseException):
            raise message
        return message

    def send(self, data: str) -> None:
        """Keep a message."""
        message = json.loads(data)
        if self._on_send is not None:
            self._on_send(message)
        with self.changed:
            self.sent.append(message)
            self.changed.notify_all()

    def close(self) -> None:
        """The bridge is done with it."""
        self.closed.set()

    def says(self, *messages: dict[str, Any] | str | BaseException) -> None:
        """Let the telephone say something."""
        for message in messages:
            self._incoming.put(json.dumps(message) if isinstance(message, dict) else message)

    def starts(self, **parameters: str) -> None:
        """Begin a call."""
        self.says(
            {"event": "connected", "protocol": "Call", "version": "1.0.0"},
            {"event": "start", "streamSid": "MZ1", "start": {"streamSid": "MZ1", "callSid": "CA1", "customParameters": parameters}},
        )

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many messages of a kind were sent, and return all of this kind."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self._of(event)) >= count, PATIENCE), self.sent
            return self._of(event)

    def _of(self, event: str) -> list[dict[str, Any]]:
        return [message for message in self.sent if message["event"] == event]
