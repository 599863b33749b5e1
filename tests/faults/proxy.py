"""A TCP proxy on loopback that does to each direction what a network can do: cut, stall, delay, throttle, damage; below TLS or without.

    with FaultProxy(server.port) as proxy:
        proxy.plan(down=[delay(0.02), cut(4096, RST)])      # for connections from now on
        client = RealtimeClient("k", base_url=proxy.url())
        ...
        proxy.link().stall()                                  # or at a moment of the test's choice

A fault is a function from a stream of pieces to a stream of pieces. A piece is bytes, `Pause`, or how a connection ends.
"""

from __future__ import annotations

import contextlib
import enum
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import attrs

__all__ = [
    "FIN",
    "HALF",
    "HOLE",
    "RST",
    "End",
    "Fault",
    "FaultProxy",
    "Link",
    "Pause",
    "corrupt",
    "cut",
    "delay",
    "drop",
    "duplicate",
    "garbage",
    "one_byte_at_a_time",
    "rechunk",
    "swap",
    "throttle",
]

PATIENCE = 10.0
_ROOM = 65536


class End(enum.Enum):
    """How a connection ends: a FIN to both sides, a reset to both, the end of this direction only, or silence without any end."""

    FIN = "fin"
    RST = "rst"
    HALF = "half"
    HOLE = "hole"


FIN, RST, HALF, HOLE = End.FIN, End.RST, End.HALF, End.HOLE


@attrs.frozen
class Pause:
    """Forward nothing for so many seconds."""

    seconds: float


Piece: TypeAlias = "bytes | Pause | End"
Fault: TypeAlias = Callable[[Iterator[Piece]], Iterator[Piece]]


# -- faults ------------------------------------------------------------------------------------------------------------------


def cut(after: int, how: End = FIN) -> Fault:
    """Let ``after`` bytes pass and end there."""

    def fault(stream: Iterator[Piece]) -> Iterator[Piece]:
        left = after
        for piece in stream:
            if isinstance(piece, bytes):
                if len(piece) >= left:
                    if left:
                        yield piece[:left]
                    yield how
                    return
                left -= len(piece)
            yield piece

    return fault


def delay(seconds: float) -> Fault:
    """Hold up every piece."""

    def fault(stream: Iterator[Piece]) -> Iterator[Piece]:
        for piece in stream:
            yield Pause(seconds)
            yield piece

    return fault


def throttle(bytes_per_second: float) -> Fault:
    """Let no more than so many bytes pass in a second."""

    def fault(stream: Iterator[Piece]) -> Iterator[Piece]:
        step = max(1, int(bytes_per_second / 50))
        for piece in stream:
            if not isinstance(piece, bytes):
                yield piece
                continue
            for at in range(0, len(piece), step):
                part = piece[at : at + step]
                yield part
                yield Pause(len(part) / bytes_per_second)

    return fault


def one_byte_at_a_time(stream: Iterator[Piece]) -> Iterator[Piece]:
    """Forward every byte in a packet of its own."""
    for piece in stream:
        if isinstance(piece, bytes):
            yield from (piece[at : at + 1] for at in range(len(piece)))
        else:
            yield piece


def rechunk(seed: int, longest: int = 40) -> Fault:
    """Forward the same bytes in packets of other, random sizes."""

    def fault(stream: Iterator[Piece]) -> Iterator[Piece]:
        sizes = random.Random(seed)
        for piece in stream:
            while isinstance(piece, bytes) and len(piece) > 1:
                size = sizes.randint(1, longest)
                yield piece[:size]
                piece = piece[size:]
            yield piece

    return fault


def _at(position: int, change: Callable[[bytes], bytes], length: int = 0) -> Fault:
    """Hand the ``length`` bytes from ``position`` on to ``change``; with 0 bytes what it returns is put in there."""

    def fault(stream: Iterator[Piece]) -> Iterator[Piece]:
        seen, kept, done = 0, b"", False
        for piece in stream:
            if done or not isinstance(piece, bytes):
                yield piece
                continue
            kept += piece
            start = position - seen
            if len(kept) < start + max(length, 1):
                ready = kept[: max(0, start)]
                kept = kept[len(ready) :]
                seen += len(ready)
                if ready:
                    yield ready
                continue
            changed = kept[:start] + change(kept[start : start + length]) + kept[start + length :]
            done, kept = True, b""
            if changed:
                yield changed

    return fault


def corrupt(at: int, mask: int = 0xFF) -> Fault:
    """Flip bits of the byte at this position."""
    return _at(at, lambda data: bytes([data[0] ^ mask]), 1)


def duplicate(at: int, length: int) -> Fault:
    """Forward a stretch twice."""
    return _at(at, lambda data: data + data, length)


def drop(at: int, length: int) -> Fault:
    """Lose a stretch."""
    return _at(at, lambda data: b"", length)


def swap(at: int, length: int) -> Fault:
    """Exchange the halves of a stretch."""
    return _at(at, lambda data: data[length // 2 :] + data[: length // 2], length)


def garbage(at: int, data: bytes) -> Fault:
    """Put bytes in that nobody sent."""
    return _at(at, lambda _: data)


# -- one connection ----------------------------------------------------------------------------------------------------------


class _Ended(Exception):
    """The link is over; its threads unwind."""


class Link:
    """One proxied connection: two threads, one per direction, that wait for nothing which `end` could not interrupt."""

    def __init__(self, client: socket.socket, server: socket.socket, number: int, up: Iterable[Fault], down: Iterable[Fault]) -> None:
        self.number = number
        self.passed = {"up": 0, "down": 0}
        self.over = threading.Event()
        self._moved = threading.Condition()  # guards passed
        self._client, self._server = client, server
        self._how: End | None = None
        self._lock = threading.Lock()  # guards _how and _running
        self._flowing = threading.Event()
        self._flowing.set()
        self._ear, self._mouth = socket.socketpair()
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.threads = [
            threading.Thread(target=self._run, args=(client, server, "up", list(up)), name=f"fault-proxy-up-{number}", daemon=True),
            threading.Thread(target=self._run, args=(server, client, "down", list(down)), name=f"fault-proxy-down-{number}", daemon=True),
        ]
        self._running = len(self.threads)
        for thread in self.threads:
            thread.start()

    # -- at a moment of the test's choice ----------------------------------------------------------------------------------

    def stall(self) -> None:
        """Become a black hole: read nothing, forward nothing, end nothing."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again, what has gathered first."""
        self._flowing.set()

    def end(self, how: End = FIN) -> None:
        """Break the connection, and wait until it is broken."""
        self._stop(how)
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(PATIENCE)

    def wait_passed(self, direction: str, count: int, timeout: float = PATIENCE) -> bool:
        """Wait until so many bytes were forwarded; False if the link ended before, or did not move for so long."""
        with self._moved:
            return self._moved.wait_for(lambda: self.passed[direction] >= count or self.over.is_set(), timeout) and not self.over.is_set()

    # -- in its threads ------------------------------------------------------------------------------------------------------

    def _stop(self, how: End) -> None:
        with self._lock:
            if self._how is None:
                self._how = how
                self._mouth.send(b"!")
                self._flowing.set()

    def _run(self, source: socket.socket, target: socket.socket, name: str, faults: list[Fault]) -> None:
        stream: Iterator[Piece] = self._read(source)
        for fault in faults:
            stream = fault(stream)
        try:
            for piece in stream:
                if isinstance(piece, Pause):
                    self._await(None, piece.seconds)
                elif isinstance(piece, bytes):
                    self._write(target, piece)
                    with self._moved:
                        self.passed[name] += len(piece)
                        self._moved.notify_all()
                elif piece is HALF:
                    with contextlib.suppress(OSError):
                        target.shutdown(socket.SHUT_WR)
                    return  # the other direction goes on
                elif piece is HOLE:
                    self._flowing.clear()
                    self._await(None, None)
                else:
                    self._stop(piece)
                    return
        except (_Ended, OSError) as error:
            if isinstance(error, OSError):
                self._stop(RST)
        finally:
            self._leave()

    def _read(self, source: socket.socket) -> Iterator[Piece]:
        while True:
            self._await(source, None, select.POLLIN)
            self._await_flow()
            data = source.recv(_ROOM)
            self._await_flow()
            if not data:
                yield HALF
                return
            yield data

    def _write(self, target: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._await_flow()
            try:
                view = view[target.send(view) :]
            except BlockingIOError:
                self._await(target, None, select.POLLOUT)

    def _await_flow(self) -> None:
        self._flowing.wait()
        if self._how is not None:
            raise _Ended

    def _await(self, sock: socket.socket | None, seconds: float | None, events: int = 0) -> None:
        """Wait for the socket, or for the time; raises `_Ended` once the link ends."""
        poll = select.poll()
        poll.register(self._ear, select.POLLIN)
        if sock is not None:
            poll.register(sock, events)
        poll.poll(None if seconds is None else int(seconds * 1000 + 0.999))
        if self._how is not None:
            raise _Ended

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            last = not self._running
            if last and self._how is None:
                self._how = FIN  # both sides have ended by themselves
        if not last:
            return
        for sock in (self._client, self._server):
            with contextlib.suppress(OSError):
                if self._how is RST:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    sock.shutdown(socket.SHUT_WR)
                    _drain(sock)
            sock.close()
        self._ear.close()
        self._mouth.close()
        self.over.set()
        with self._moved:
            self._moved.notify_all()


def _drain(sock: socket.socket) -> None:
    """Read what is there: closing with unread bytes would be a reset instead of a FIN."""
    with contextlib.suppress(OSError):
        while sock.recv(_ROOM):
            pass


# -- the proxy ---------------------------------------------------------------------------------------------------------------


class FaultProxy:
    """Listens on a port of its own and passes every connection on to ``port``; a context manager."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._plans: list[tuple[list[Fault], list[Fault]]] = [([], [])]
        self._changed = threading.Condition()  # guards links and _plans
        self.links: list[Link] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = self._start()

    def url(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        """The address to give to a client."""
        return f"{scheme}://{host}:{self.port}"

    def plan(self, *, up: Iterable[Fault] = (), down: Iterable[Fault] = ()) -> None:
        """The faults of every connection from now on; none to go straight."""
        with self._changed:
            self._plans = [(list(up), list(down))]

    def plans(self, *each: tuple[Iterable[Fault], Iterable[Fault]]) -> None:
        """The faults, (up, down), of the next connections one by one; the last stay."""
        with self._changed:
            self._plans = [(list(up), list(down)) for up, down in each]

    def link(self, number: int = -1, timeout: float = PATIENCE) -> Link:
        """The connection with this number, from 0, waiting until there is one; the newest by default."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not -len(self.links) <= number < len(self.links):
                assert self._changed.wait(max(0.0, deadline - time.monotonic())), f"connection {number} was never made"
            return self.links[number]

    def refuse(self) -> None:
        """Refuse new connections, and leave the old ones alone."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)

    def accept(self, port: int | None = None) -> None:
        """Listen again on the same port, and pass on to another one if that is given."""
        self.target = port or self.target
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._thread = self._start()

    def end_all(self, how: End = FIN) -> None:
        """Break every connection."""
        with self._changed:
            links = list(self.links)
        for link in links:
            link.end(how)

    def stop(self) -> None:
        """Refuse new connections, break the old ones, and join every thread."""
        self.refuse()
        self.end_all(RST)
        for link in self.links:
            assert not any(thread.is_alive() for thread in link.threads), "a thread of the proxy is stuck"

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._accept, args=(self._listener,), name="fault-proxy-accept", daemon=True)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), PATIENCE)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                continue
            with self._changed:
                up, down = self._plans.pop(0) if len(self._plans) > 1 else self._plans[0]
                self.links.append(Link(client, server, len(self.links), up, down))
                self._changed.notify_all()
