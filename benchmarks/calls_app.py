"""The app whose telephone calls are measured: a bridge, and a report of when each piece of sound passed it."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from flask import Flask
from flask_sock import Sock

from qai_realtime_sync import AudioDelta, PlaybackStopped, RealtimeClient, RealtimeConfig
from qai_realtime_sync.contrib.twilio import CallStart, bridge

__all__ = ["create_app"]

_CONNECTING = 100  # pieces of the caller that waited while the service was connected, and came all at once


class _Timed(RealtimeClient):
    """Notes when it is given each piece of the caller's sound."""

    passed: list[float]

    def send_audio(self, audio: bytes | bytearray | memoryview) -> None:
        self.passed.append(time.monotonic())
        super().send_audio(audio)


def create_app() -> Flask:
    """The app: ``/media`` takes calls, ``/report`` tells of those that are over."""
    app = Flask(__name__)
    lock = threading.Lock()  # guards calls
    calls: list[dict[str, Any]] = []

    @Sock(app).route("/media")
    def media(ws: Any) -> None:
        first: dict[str, float] = {}
        stopped: list[tuple[str, int]] = []
        config = RealtimeConfig(input_format="g711_ulaw", output_format="g711_ulaw")
        client = _Timed("any key", config, base_url=os.environ["QAI_BASE_URL"])
        client.passed = []

        def began(event: AudioDelta) -> None:
            first.setdefault(event.response_id, time.monotonic())

        def ended(event: PlaybackStopped) -> None:
            stopped.append((event.reason, event.heard_ms))

        def ask(start: CallStart) -> None:
            client.send_text("Tell me a long story.")

        client.on(AudioDelta, began)
        client.on(PlaybackStopped, ended)
        end = bridge(ws, client, on_start=ask)
        late = _lateness(client.passed[_CONNECTING:])
        with lock:
            calls.append(
                {
                    "call_sid": end.start.call_sid if end.start else "",
                    "reason": end.reason,
                    "first_delta": first,
                    "stopped": stopped,
                    "pieces": len(late),
                    "late": sum(seconds > 0.02 for seconds in late),
                    "worst": max(late, default=0.0),
                }
            )

    @app.get("/report")
    def report() -> dict[str, Any]:
        with lock:
            return {"calls": list(calls), "cpu": time.process_time(), "threads": threading.active_count()}

    return app


def _lateness(passed: list[float]) -> list[float]:
    """How much later than the most punctual one each piece passed, one being due every 20 ms."""
    due = [at - number * 0.02 for number, at in enumerate(passed)]
    earliest = min(due, default=0.0)
    return [at - earliest for at in due]
