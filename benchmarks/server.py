"""The server all are measured against: plain sockets, frames encoded beforehand, nothing parsed that need not be.

What a connection gets stands in its query: ``flow`` (kind of events, as fast as they are taken), ``rate`` with it (events per second),
``echo`` (one event for each message), ``sink`` (nothing), ``sessions`` (all begin together, each event says when it was sent).
Run as a program it prints its two ports: plain and TLS.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BLOB = 256 * 1024


def frame(payload: bytes) -> bytes:
    """One unmasked text frame."""
    size = len(payload)
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big") if size < 65536 else b""
    if not head:
        head = b"\x81\x7f" + size.to_bytes(8, "big")
    return head + payload


def text_event(size: int = 235) -> bytes:
    """A text delta of exactly ``size`` bytes, as OpenAI writes it."""
    event = {
        "type": "response.output_text.delta",
        "event_id": "event_CcQXoB4ohY8kTGeMUXcCZ",
        "response_id": "resp_CcQXoZ0sbkpEiqFYZsW3u",
        "item_id": "item_CcQXodDqBVi5rBrKHzjmX",
        "output_index": 0,
        "content_index": 0,
        "delta": "",
    }
    event["delta"] = "x" * (size - len(json.dumps(event, separators=(",", ":"))))
    return json.dumps(event, separators=(",", ":")).encode()


def audio_event(size: int, event_id: str = "event_CcQXoB4ohY8kTGeMUXcCZ") -> bytes:
    """An audio delta of about ``size`` bytes: whole samples of noise."""
    event = {
        "type": "response.output_audio.delta",
        "event_id": event_id,
        "response_id": "resp_CcQXoZ0sbkpEiqFYZsW3u",
        "item_id": "item_CcQXodDqBVi5rBrKHzjmX",
        "output_index": 0,
        "content_index": 0,
        "delta": "",
    }
    room = size - len(json.dumps(event, separators=(",", ":")))
    event["delta"] = base64.b64encode(random.Random(size).randbytes(room // 4 * 3 // 6 * 6)).decode()
    return json.dumps(event, separators=(",", ":")).encode()


def eleven_event(size: int) -> bytes:
    """ElevenLabs' audio event of about ``size`` bytes."""
    sound = base64.b64encode(random.Random(size).randbytes((size - 80) // 4 * 3 // 6 * 6)).decode()
    return json.dumps({"type": "audio", "audio_event": {"audio_base_64": sound, "event_id": 1}}).encode()


FLOWS = {
    "text": [text_event()],
    "audio6": [audio_event(6500)],
    "audio27": [audio_event(27000)],
    "mix": [text_event(), audio_event(6500)],
    "eleven6": [eleven_event(6500)],
    "eleven27": [eleven_event(27000)],
}
READY = [
    {"type": "session.created", "event_id": "event_1", "session": {"type": "realtime", "id": "sess_1", "object": "realtime.session"}},
    {"type": "session.updated", "event_id": "event_2", "session": {"type": "realtime", "id": "sess_1", "object": "realtime.session"}},
]
CREATED, UPDATED = (frame(json.dumps(event).encode()) for event in READY)
RESPONSE = {"id": "resp_CcQXoZ0sbkpEiqFYZsW3u", "object": "realtime.response", "status": "in_progress", "output": []}
BEGUN = frame(json.dumps({"type": "response.created", "event_id": "event_3", "response": RESPONSE}).encode())
ELEVEN = frame(
    json.dumps(
        {
            "type": "conversation_initiation_metadata",
            "conversation_initiation_metadata_event": {
                "conversation_id": "conv_1",
                "agent_output_audio_format": "pcm_16000",
                "user_input_audio_format": "pcm_16000",
            },
        }
    ).encode()
)


class Line:
    """One accepted connection: its upgrade, then messages in."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.early = b""

    def upgrade(self) -> dict[str, str]:
        """Accept the WebSocket; return its query, with the path as ``path``."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError
            head += data
        head, _, self.early = head.partition(b"\r\n\r\n")
        key = next(line.split(b":", 1)[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        self.sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        target = urlsplit(head.split(b" ")[1].decode())
        return {**dict(parse_qsl(target.query)), "path": target.path}

    def messages(self) -> Iterator[bytes]:
        """The payloads of a client's frames, unmasked."""
        data = self.early
        while True:
            head = 6 if len(data) > 1 and data[1] & 0x7F < 126 else 8
            while len(data) < head:
                data += self._more()
                head = 6 if data[1] & 0x7F < 126 else 8
            size = data[1] & 0x7F
            if size == 126:
                size = int.from_bytes(data[2:4], "big")
            while len(data) < head + size:
                data += self._more()
            if data[0] & 0x0F == 8:
                with contextlib.suppress(OSError):
                    self.sock.sendall(b"\x88\x02\x03\xe8")
                return
            key, body = data[head - 4 : head], data[head : head + size]
            data = data[head + size :]
            whole = (key * (size // 4 + 1))[:size]
            yield (int.from_bytes(body, "little") ^ int.from_bytes(whole, "little")).to_bytes(size, "little")

    def _more(self) -> bytes:
        data = self.sock.recv(262144)
        if not data:
            raise ConnectionError
        return data


class Pacer:
    """Many sessions that begin together: each is due ``rate`` times a second, spread over the second; never waits for a slow one."""

    def __init__(self, number: int, rate: float, seconds: float) -> None:
        self._number, self._rate, self._seconds = number, rate, seconds
        self._lines: list[Line] = []
        self._lock = threading.Lock()  # guards _lines

    def join(self, line: Line) -> None:
        """One more; the last one starts the run."""
        line.sock.setblocking(False)
        with self._lock:
            self._lines.append(line)
            full = len(self._lines) == self._number
        if full:
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        payload = bytearray(frame(audio_event(3400, "evt_" + "0" * 20)))
        at = payload.index(b"evt_") + 4
        behind: dict[int, bytes] = {}
        gone: set[int] = set()
        threading.Event().wait(1.5)
        began = time.monotonic()
        due = int(self._number * self._rate * self._seconds)
        sent = 0
        while sent < due:
            ought = min(due, int((time.monotonic() - began) * self._number * self._rate))
            for number in range(sent, ought):
                who = number % self._number
                if who in gone:
                    continue
                if rest := behind.pop(who, b""):
                    rest = self._give(who, rest, gone)
                    if rest:
                        behind[who] = rest
                    continue  # what was due is not delivered
                payload[at : at + 20] = b"%020d" % time.monotonic_ns()
                if rest := self._give(who, payload, gone):
                    if len(rest) < len(payload):
                        behind[who] = rest
            sent = max(sent, ought)
            threading.Event().wait(0.0005)

    def _give(self, who: int, data: bytes | bytearray, gone: set[int]) -> bytes:
        try:
            return bytes(data[self._lines[who].sock.send(data) :])
        except (BlockingIOError, ssl.SSLWantWriteError):
            return bytes(data)
        except OSError:
            gone.add(who)
            return b""


class Server:
    """Serves until its standard input ends."""

    def __init__(self, certificate: str = "") -> None:
        self._context: ssl.SSLContext | None = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._lock = threading.Lock()  # guards _pacers
        self._pacers: dict[str, Pacer] = {}

    def listen(self, secure: bool) -> int:
        """Accept on a new port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        threading.Thread(target=self._accept, args=(listener, secure), daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    def _accept(self, listener: socket.socket, secure: bool) -> None:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock, secure), daemon=True).start()

    def _serve(self, sock: socket.socket, secure: bool) -> None:
        keep = False
        try:
            if secure:
                assert self._context is not None
                sock = self._context.wrap_socket(sock, server_side=True)
            line = Line(sock)
            keep = self._play(line, line.upgrade())
        except (OSError, ValueError):
            pass
        finally:
            if not keep:
                sock.close()

    def _play(self, line: Line, query: dict[str, str]) -> bool:
        sock = line.sock
        if "convai" in query["path"]:
            sock.sendall(ELEVEN)
        else:
            sock.sendall(CREATED)
        reply = frame(FLOWS[query["echo"]][0]) if "echo" in query else b""
        for message in line.messages():
            if message.startswith((b'{"type":"input_audio', b'{"type": "input_audio', b'{"audio"')):
                if reply:
                    sock.sendall(reply)
                elif "sink" in query:
                    break
                continue
            if b'"session.update"' in message:
                sock.sendall(UPDATED)
                if "sessions" in query:
                    with self._lock:
                        key = query["run"]
                        if key not in self._pacers:
                            self._pacers[key] = Pacer(int(query["sessions"]), float(query["rate"]), float(query["seconds"]))
                    self._pacers[key].join(line)
                    return True
            elif "flow" in query:
                self._flow(sock, query)
        scrap = bytearray(BLOB)
        while "sink" in query and sock.recv_into(scrap):
            pass
        return False

    def _flow(self, sock: socket.socket, query: dict[str, str]) -> None:
        frames = [frame(payload) for payload in FLOWS[query["flow"]]]
        count = int(query["count"])
        if "eleven" not in query["flow"]:
            sock.sendall(BEGUN)
        if "rate" in query:
            gap = 1 / float(query["rate"])
            began = time.monotonic()
            for number in range(count):
                threading.Event().wait(max(0.0, began + number * gap - time.monotonic()))
                sock.sendall(frames[number % len(frames)])
            return
        group = b"".join(frames)
        blob = group * max(1, BLOB // len(group))
        each = len(blob) // len(group) * len(frames)
        while count >= each:
            sock.sendall(blob)
            count -= each
        sock.sendall(b"".join(frames[number % len(frames)] for number in range(count)))


def main() -> None:
    """Print the ports, and serve until standard input ends."""
    server = Server(sys.argv[1] if len(sys.argv) > 1 else "")
    threading.stack_size(256 * 1024)
    print(server.listen(False), server.listen(True) if len(sys.argv) > 1 else 0, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
