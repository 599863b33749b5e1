"""A gateway's REST calls on a loopback socket, each answered as a test wants it: at once, late, never, drop by drop, with a refusal."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

__all__ = ["Gateway", "Way", "answer", "drip", "gateway", "hang", "hang_up", "held"]

PATIENCE = 20.0


class Gateway:
    """Serves ``session``, ``refresh`` and ``end``; ``ways`` says how, by name; a list is used up one by one, and its last way stays."""

    def __init__(self, ws_url: str, ways: Mapping[str, Way | list[Way]], **granted: Any) -> None:
        self.ws_url = ws_url
        self.granted = granted
        self.over = threading.Event()
        self._ways = {name: list(way) if isinstance(way, list) else [way] for name, way in ways.items()}
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()  # guards calls
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="gateway")
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), name="gateway-call")
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE)
            data = b""
            while b"\r\n\r\n" not in data:
                piece = connection.recv(65_536)
                if not piece:
                    return
                data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length"))
            while len(body) < length:
                body += connection.recv(65_536)
            name = head.split(b" ")[1].decode().rpartition("/")[2]
            self._note(name, json.loads(body))
            ways = self._ways.get(name, [answer()])
            way = ways.pop(0) if len(ways) > 1 else ways[0]
            way(self, name, connection)

    def _note(self, name: str, body: dict[str, Any]) -> None:
        with self._changed:
            self.calls.append((name, body))
            self._changed.notify_all()

    def usual(self, name: str) -> dict[str, Any]:
        """What a gateway answers that has nothing against it."""
        number = next(self._numbers)
        if name == "session":
            return {"session_id": f"vs_{number}", "ephemeral_token": f"tok_{number}", "url": self.ws_url, **self.granted}
        return {"ephemeral_token": f"tok_{number}"} if name == "refresh" else {"status": "ended"}

    def expect(self, name: str, count: int = 1, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait for the ``count``-th call of this name, and return its body."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(self.of(name)) < count:
                left = deadline - time.monotonic()
                assert left > 0, f"no {name} came; there were {[call for call, _ in self.calls]}"
                self._changed.wait(left)
        return self.of(name)[count - 1]

    def of(self, name: str) -> list[dict[str, Any]]:
        """The bodies of all calls of this name."""
        return [body for call, body in self.calls if call == name]

    def away(self) -> None:
        """Be gone: connections are refused from now on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(PATIENCE)

    def stop(self) -> None:
        """End all threads."""
        self.over.set()
        self.away()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


Way: TypeAlias = Callable[[Gateway, str, socket.socket], None]


def _send(connection: socket.socket, status: int, body: Any, headers: Mapping[str, str]) -> None:
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + data)


def answer(status: int = 200, body: Any = None, **headers: str) -> Way:
    """Answer at once; without a body as usual."""

    def way(gateway: Gateway, name: str, connection: socket.socket) -> None:
        usual = gateway.usual(name) if status < 300 else {"error": {"message": "no", "code": f"E{status}"}}
        _send(connection, status, usual if body is None else body, {k.replace("_", "-"): v for k, v in headers.items()})

    return way


def held(release: threading.Event) -> Way:
    """Answer as usual once the test says so."""

    def way(gateway: Gateway, name: str, connection: socket.socket) -> None:
        release.wait(PATIENCE)
        _send(connection, 200, gateway.usual(name), {})

    return way


def hang(gateway: Gateway, name: str, connection: socket.socket) -> None:
    """Never answer."""
    gateway.over.wait(2 * PATIENCE)


def drip(gateway: Gateway, name: str, connection: socket.socket) -> None:
    """Answer a byte every twentieth of a second, without end."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b" " * 5000:
        connection.sendall(bytes([byte]))
        if gateway.over.wait(0.05):
            return


def hang_up(gateway: Gateway, name: str, connection: socket.socket) -> None:
    """Take the call and break the connection."""


@contextlib.contextmanager
def gateway(ws_url: str, ways: Mapping[str, Way | list[Way]] | None = None, **granted: Any) -> Iterator[Gateway]:
    """A `Gateway` that is stopped at the end."""
    running = Gateway(ws_url, ways or {}, **granted)
    try:
        yield running
    finally:
        running.stop()
