"""A realtime service on a loopback socket that a test drives line by line, right or wrong; its framing is the transport tests' own.

The service's thread opens each connection (`ready` by default) and then only listens; what it says, the test says:

    with service() as peer, peer.client() as client:
        talk = peer.talk()
        talk.say("response.created", response={"id": "r1"})
        assert talk.expect("response.create")
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import queue
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from tests.transport.peer import Peer, Server, close_frame, frame

__all__ = ["PATIENCE", "Service", "Talk", "deaf", "ready", "refuse", "service"]

PATIENCE = 20.0


class Talk:
    """One conversation from the side of the service."""

    def __init__(self, peer: Peer, number: int) -> None:
        self.peer = peer
        self.number = number
        self.answers_close = True
        self.answers_pings = True
        self.over = threading.Event()
        self.closed_with: tuple[int | None, str] | None = None
        self._reading = threading.Event()
        self._reading.set()
        self._changed = threading.Condition()  # guards received and _looked_at
        self.received: list[dict[str, Any]] = []
        self.pongs: list[bytes] = []
        self._looked_at = 0
        self._sending = threading.Lock()
        self._ids = itertools.count(1)

    # -- what the service says ---------------------------------------------------------------------------------------------

    def say(self, kind: str, **fields: Any) -> None:
        """Send one event."""
        self.raw(frame(1, json.dumps({"type": kind, "event_id": f"event_{next(self._ids)}", **fields}).encode()))

    def raw(self, *frames: bytes) -> None:
        """Send frames as they are."""
        with self._sending:
            self.peer.send(*frames)

    def created(self, response: str, **fields: Any) -> None:
        """An answer begins."""
        self.say("response.created", response={"id": response, "status": "in_progress", **fields})

    def audio(self, response: str, item: str, pcm: bytes) -> None:
        """A piece of an answer's sound."""
        delta = base64.b64encode(pcm).decode()
        self.say("response.output_audio.delta", response_id=response, item_id=item, output_index=0, content_index=0, delta=delta)

    def transcript(self, response: str, item: str, text: str) -> None:
        """What was said in an answer."""
        self.say("response.output_audio_transcript.done", response_id=response, item_id=item, content_index=0, transcript=text)

    def call(self, response: str, call_id: str, name: str, arguments: str = "{}", *, done: bool = True) -> None:
        """The model calls a function."""
        item = f"item_{call_id}"
        self.say(
            "response.function_call_arguments.done",
            response_id=response,
            item_id=item,
            output_index=0,
            call_id=call_id,
            name=name,
            arguments=arguments,
        )
        if done:
            self.call_done(response, call_id, name, arguments)

    def call_done(self, response: str, call_id: str, name: str, arguments: str = "{}", status: str = "completed") -> None:
        """The item of a function call is complete."""
        item = {
            "id": f"item_{call_id}",
            "type": "function_call",
            "status": status,
            "call_id": call_id,
            "name": name,
            "arguments": arguments,
        }
        self.say("response.output_item.done", response_id=response, output_index=0, item=item)

    def done(self, response: str, status: str = "completed", **fields: Any) -> None:
        """An answer is over."""
        self.say("response.done", response={"id": response, "status": status, "output": [], **fields})

    def error(self, code: str, caused_by: str | None = None, message: str = "no", kind: str = "invalid_request_error") -> None:
        """Report an error."""
        self.say("error", error={"type": kind, "code": code, "message": message, "event_id": caused_by})

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send a close frame; the client's answer ends the connection."""
        self.raw(close_frame(code, reason))

    def drop(self) -> None:
        """Hang up without a close frame."""
        with contextlib.suppress(OSError):
            self.peer.sock.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Break the connection: the client's kernel sees a reset."""
        sock = self.peer.sock
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # The listening thread holds the descriptor in a read; a shutdown of the reading side lets go of it, unlike close().
            sock.shutdown(socket.SHUT_RD)
        self.over.wait(PATIENCE)

    def stall(self) -> None:
        """Read nothing more."""
        self._reading.clear()

    def resume(self) -> None:
        """Read again."""
        self._reading.set()

    # -- what the client said ----------------------------------------------------------------------------------------------

    def expect(self, kind: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """Return the next event of this type behind the one that was expected last."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for at in range(self._looked_at, len(self.received)):
                    if self.received[at]["type"] == kind:
                        self._looked_at = at + 1
                        return self.received[at]
                left = deadline - time.monotonic()
                if left <= 0 or (self.over.is_set() and not self._changed.wait(0.05)):
                    break
                self._changed.wait(left)
        raise AssertionError(f"no {kind} came; since the last one: {self.kinds()[self._looked_at :]}")

    def kinds(self) -> list[str]:
        """The types of all that was received, in order."""
        with self._changed:
            return [value["type"] for value in self.received]

    def count(self, kind: str) -> int:
        """How many of this type were received."""
        return self.kinds().count(kind)

    def outputs(self) -> dict[str, str]:
        """The results of function calls by call id, each at most once."""
        with self._changed:
            items = [v["item"] for v in self.received if v["type"] == "conversation.item.create"]
        found: dict[str, str] = {}
        for item in items:
            if item.get("type") == "function_call_output":
                assert item["call_id"] not in found, "a call was answered twice"
                found[item["call_id"]] = item["output"]
        return found

    def fence(self, client: RealtimeClient) -> None:
        """Wait until all that the client has sent so far was received."""
        client.send_event({"type": "fence"})
        self.expect("fence")

    # -- listening ---------------------------------------------------------------------------------------------------------

    def next_frame(self) -> tuple[int, bytes]:
        """Read one frame, and keep it if it is data."""
        opcode, payload = self.peer.read_frame()
        if opcode in (1, 2):
            value = json.loads(payload) if opcode == 1 else {"type": "binary", "data": payload}
            with self._changed:
                self.received.append(value)
                self._changed.notify_all()
        return opcode, payload

    def listen(self) -> None:
        """Read until the client is gone; in the service's thread."""
        try:
            while True:
                self._reading.wait(PATIENCE)
                opcode, payload = self.next_frame()
                if opcode == 9 and self.answers_pings:
                    self.raw(frame(10, payload))
                if opcode == 10:
                    self.pongs.append(payload)
                if opcode == 8:
                    self.closed_with = (struct.unpack("!H", payload[:2])[0], payload[2:].decode()) if payload else (None, "")
                    if self.answers_close:
                        self.raw(close_frame(self.closed_with[0]))
                        return
        finally:
            self.over.set()
            with self._changed:
                self._changed.notify_all()


def ready(talk: Talk) -> None:
    """Open a session as the gateway does."""
    talk.peer.upgrade()
    talk.say("session.created", session={"id": f"sess_{talk.number}"})
    talk.say("conversation.created", conversation={"id": f"conv_{talk.number}"})
    while not talk.count("session.update"):
        talk.next_frame()
    talk.say("session.updated", session={"id": f"sess_{talk.number}"})


def deaf(talk: Talk) -> None:
    """Upgrade, and never become ready."""
    talk.peer.upgrade()


def refuse(status: str, body: str = "", *headers: str) -> Callable[[Talk], None]:
    """Answer the upgrade with an HTTP error."""

    def opening(talk: Talk) -> None:
        talk.peer.read_request()
        data = body.encode()
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Content-Type: application/json", *headers, "", ""]
        talk.peer.sock.sendall("\r\n".join(lines).encode() + data)
        raise EOFError

    return opening


class Service:
    """Accepts connections; ``opening`` is run for each in a thread of its own, or one after the other from a list (the last stays)."""

    def __init__(self, *opening: Callable[[Talk], None], context: ssl.SSLContext | None = None) -> None:
        self._openings = list(opening or (ready,))
        self._talks: queue.Queue[Talk] = queue.Queue()
        self.all: list[Talk] = []
        self._numbers = itertools.count(1)
        self.server = Server(self._serve, context)
        self.base_url = f"{'https' if context else 'http'}://127.0.0.1:{self.server.port}"
        self.clients: list[RealtimeClient] = []

    def _serve(self, peer: Peer) -> None:
        talk = Talk(peer, next(self._numbers))
        self.all.append(talk)
        opening = self._openings[min(talk.number, len(self._openings)) - 1]
        try:
            opening(talk)
            self._talks.put(talk)
            talk.listen()
        finally:
            talk.over.set()

    def talk(self, timeout: float = PATIENCE) -> Talk:
        """The next connection that was opened."""
        try:
            return self._talks.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError("no connection was opened") from None

    def client(self, config: RealtimeConfig | None = None, **options: Any) -> RealtimeClient:
        """A client of this service, through the gateway's door."""
        client = RealtimeClient("qai_test", config, base_url=self.base_url, **options)
        self.clients.append(client)
        return client

    def stop(self) -> None:
        """End every client and every connection."""
        for client in self.clients:
            client.abort()
        for talk in self.all:
            talk.resume()
            talk.drop()
        self.server.stop()
        assert not self.server.failures, self.server.failures


@contextlib.contextmanager
def service(*opening: Callable[[Talk], None], context: ssl.SSLContext | None = None) -> Iterator[Service]:
    """A `Service` that is stopped at the end."""
    running = Service(*opening, context=context)
    try:
        yield running
    finally:
        running.stop()
