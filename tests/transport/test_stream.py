"""Streams and waiting on systems that lack what Linux has: no MSG_DONTWAIT, no poll; and sockets that are closed already."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from qai_realtime_sync.errors import ConnectionClosedError
from qai_realtime_sync.transport.readiness import READ, WRITE, seconds_until, wait_ready
from qai_realtime_sync.transport.stream import RawSocket
from tests.transport.conftest import Wire
from tests.transport.peer import PATIENCE, Peer, frame
from tests.transport.test_closing import SOON, descriptor_is_closed
from tests.transport.test_connection import end_of, fill, hold_open, in_thread, joined


@pytest.fixture(params=["poll", "select"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without poll."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll", raising=False)
    return str(request.param)


@pytest.fixture
def no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot send without blocking on a blocking socket, as Windows."""
    monkeypatch.delattr(socket, "MSG_DONTWAIT")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    yield one, other
    one.close()
    other.close()


def test_waiting_tells_which_socket_is_ready(system: str, pair: tuple[socket.socket, socket.socket]) -> None:
    """Only sockets that can do what is wanted are returned, and none after the timeout."""
    one, other = pair
    assert wait_ready([(one, READ), (other, READ)], 0.01) == []
    assert wait_ready([(one, READ), (other, WRITE)], PATIENCE) == [other]
    other.send(b"x")
    assert wait_ready([(one, READ), (other, READ)], None) == [one]
    assert wait_ready([(one, READ | WRITE)], PATIENCE) == [one]


def test_waiting_is_ended_by_a_shutdown(system: str, pair: tuple[socket.socket, socket.socket]) -> None:
    """A wait in one thread ends when another shuts the socket down."""
    one, _ = pair
    worker = in_thread(lambda: wait_ready([(one, READ)], PATIENCE))
    one.shutdown(socket.SHUT_RDWR)
    assert joined(worker, SOON) == [one]


def test_a_closed_socket_is_ready_at_once(system: str, pair: tuple[socket.socket, socket.socket]) -> None:
    """Waiting for a closed socket returns it instead of waiting or failing."""
    one, other = pair
    one.close()
    assert wait_ready([(one, READ), (other, READ)], PATIENCE) == [one]


def test_time_that_is_left() -> None:
    """No deadline leaves no limit, a deadline that has passed leaves nothing."""
    assert seconds_until(None) is None
    assert seconds_until(time.monotonic() - 5) == 0.0
    assert 4.0 < (seconds_until(time.monotonic() + 5) or 0.0) <= 5.0


def test_a_conversation_without_the_flag(wire: Wire, no_flag: None, system: str) -> None:
    """Without MSG_DONTWAIT, and without poll, messages, backpressure and close work alike."""
    start = threading.Event()
    got = []

    def script(peer: Peer) -> None:
        peer.send(frame(1, b"hello"))
        start.wait(PATIENCE)
        while len(got) < count:
            got.append(peer.read_frame()[1][:8])
        hold_open(peer)

    count = 1_000_000
    connection = wire.open(script)
    assert connection._stream._raw._polls  # type: ignore[attr-defined]
    assert bytes(connection.recv().payload) == b"hello"
    reader = in_thread(lambda: end_of(connection))
    count = fill(connection)
    start.set()
    connection.flush(PATIENCE)
    connection.close()
    assert joined(reader).clean
    assert got == [b"%08d" % number for number in range(1, count + 1)]
    assert descriptor_is_closed(connection)


def test_abort_without_the_flag(wire: Wire, no_flag: None, system: str) -> None:
    """Without MSG_DONTWAIT `abort` still ends a blocked `recv` and `send` at once."""
    connection = wire.open(lambda peer: peer.wait_without_reading())
    fill(connection)
    workers = [in_thread(lambda: end_of(connection)), in_thread(lambda: connection.send("x"))]
    connection.abort()
    for worker in workers:
        assert isinstance(joined(worker, SOON), ConnectionClosedError)
    assert descriptor_is_closed(connection)


def test_a_send_that_would_block_sends_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    """`RawSocket.send` returns 0 when the kernel is full, and never waits, on a blocking socket too."""
    raw = RawSocket(pair[0])
    raw.settle()
    begun = time.monotonic()
    while raw.send(bytes(100_000)):
        pass
    assert time.monotonic() - begun < PATIENCE
    assert raw.send(b"x") in (0, 1)
