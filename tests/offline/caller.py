"""A client of another maker for the local server: websocket-client, plain JSON, nothing of the package."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import websocket

DEADLINE = 60.0


class Caller:
    """One open conversation; every wait has a deadline."""

    def __init__(self, url: str, **options: Any) -> None:
        self.socket = websocket.create_connection(url, timeout=DEADLINE, enable_multithread=True, **options)
        self.seen: list[dict[str, Any]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def receive(self) -> dict[str, Any]:
        frame = self.socket.recv()
        assert frame, "the server closed the connection"
        event: dict[str, Any] = {"type": "binary", "audio": frame} if isinstance(frame, bytes) else json.loads(frame)
        self.seen.append(event)
        return event

    def until(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """Return all events up to the first of this type (and these fields), which is the last one."""
        events = []
        while True:
            events.append(self.receive())
            if events[-1]["type"] == kind and all(events[-1].get(name) == value for name, value in fields.items()):
                return events

    def expect(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the next event of this type, skipping others."""
        return self.until(kind, **fields)[-1]

    def error(self) -> dict[str, Any]:
        """Return the body of the next error."""
        body: dict[str, Any] = self.expect("error")["error"]
        return body

    def close_frame(self) -> tuple[int, str]:
        """Read until the server's close frame; return its code and reason."""
        while True:
            opcode, data = self.socket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return struct.unpack(">H", data[:2])[0], data[2:].decode()

    # -- whole exchanges -----------------------------------------------------------------------------------------------------

    def configure(self, **session: Any) -> dict[str, Any]:
        self.send("session.update", session=session)
        body: dict[str, Any] = self.expect("session.updated")["session"]
        return body

    def write(self, text: str, **fields: Any) -> None:
        self.send(
            "conversation.item.create",
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}], **fields},
        )

    def ask(self, text: str, **response: Any) -> list[dict[str, Any]]:
        """Write a message, ask for an answer, and return all events up to its end."""
        self.write(text)
        self.send("response.create", **({"response": response} if response else {}))
        return self.until("response.done")

    def append(self, audio: bytes, size: int = 960) -> None:
        for at in range(0, len(audio), size):
            self.send("input_audio_buffer.append", audio=base64.b64encode(audio[at : at + size]).decode())

    def close(self) -> None:
        try:
            self.socket.close(timeout=2)
        except (OSError, websocket.WebSocketException):
            pass  # the server was faster
        finally:
            self.socket.shutdown()

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def types(events: list[dict[str, Any]], squeeze: bool = True) -> list[str]:
    """Return the types of events in order, repetitions of one or two alternating deltas left out."""
    names: list[str] = []
    for event in events:
        if squeeze and event["type"] in names[-2:] and event["type"].endswith(".delta"):
            continue
        names.append(event["type"])
    return names


def spoken(events: list[dict[str, Any]]) -> bytes:
    """Return the sound of all audio deltas."""
    return b"".join(base64.b64decode(event["delta"]) for event in events if event["type"] == "response.output_audio.delta")


def tone(seconds: float, rate: int = 24000, level: int = 9000) -> bytes:
    """Return a sound that an energy gate takes for speech."""
    return b"".join(struct.pack("<h", int(level * math.sin(2 * math.pi * 220 * at / rate))) for at in range(int(seconds * rate)))


def silence(seconds: float, rate: int = 24000) -> bytes:
    return bytes(2 * int(seconds * rate))


WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Current weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
