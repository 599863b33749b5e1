"""An open connection against a scripted peer: messages, violations, pings, writing under pressure; each plain and inside TLS."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from qai_realtime_sync import transport
from qai_realtime_sync.errors import ConfigError, ConnectionClosedError, RealtimeTimeoutError
from qai_realtime_sync.seam import Frame
from qai_realtime_sync.transport.connection import Connection
from qai_realtime_sync.transport.frames import Parser
from qai_realtime_sync.transport.stream import PlainStream, Wait
from tests.transport.conftest import Wire
from tests.transport.peer import Peer, close_frame, frame
from tests.transport.test_frames import ACCEPTED, REFUSED

PATIENCE = 10.0


def end_of(connection: transport.Connection) -> ConnectionClosedError:
    """Read until the connection is over and return how it ended."""
    while True:
        try:
            connection.recv()
        except ConnectionClosedError as error:
            return error


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run ``work`` in a thread; what it returns or raises is in the list."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, name="test-worker", daemon=True)
    thread.start()
    return thread, results


def joined(worker: tuple[threading.Thread, list[Any]], seconds: float = PATIENCE) -> Any:
    thread, results = worker
    thread.join(seconds)
    assert not thread.is_alive(), "it is still blocked"
    return results[0]


def hold_open(peer: Peer) -> None:
    """Take what comes and answer a close."""
    code, reason = peer.read_close()
    peer.send(close_frame(code, reason))
    peer.wait_for_end()


def fill(connection: transport.Connection) -> int:
    """Send until the kernel takes no more, and 2 MB on top: more than it may take later. The number of messages taken."""
    connection._stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # or the kernel makes it larger as we go
    count, refused = 0, 0
    while refused < 40:
        count += 1
        refused += not connection.try_send(b"%08d" % count + bytes(50_000))
    return count


# -- messages ----------------------------------------------------------------------------------------------------------------

MESSAGES = {
    name: (data, [one for one in expected if isinstance(one, Frame)])
    for name, (data, expected) in ACCEPTED.items()
    if "close" not in name
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_arrive(wire: Wire, name: str) -> None:
    """Whatever RFC 6455 allows a server to send is received, and the connection lives on."""
    data, expected = MESSAGES[name]

    def script(peer: Peer) -> None:
        peer.send(data, frame(1, b"last"))
        hold_open(peer)

    connection = wire.open(script)
    for message in [*expected, Frame(b"last", True)]:
        received = connection.recv()
        assert (bytes(received.payload), received.text) == (message.payload, message.text)
    connection.close()


@pytest.mark.parametrize("name", [name for name in REFUSED if "reserved bits" not in name])
def test_violations_are_answered_and_end_the_connection(wire: Wire, name: str) -> None:
    """A violation makes us send a close frame with its code; `recv` raises the same code, not clean."""
    data, code = REFUSED[name]
    told: list[Any] = []

    def script(peer: Peer) -> None:
        peer.send(data)
        told.append(peer.read_close())
        peer.wait_for_end()

    connection = wire.open(script)
    error = end_of(connection)
    assert (error.code, error.clean) == (code, False)
    wire.stop()
    assert told[0][0] == code


@pytest.mark.parametrize("size", [0, 1, 125, 126, 4096, 65_535, 65_536, 3_000_000])
def test_messages_are_sent_whole(wire: Wire, size: int) -> None:
    """Text and binary messages of every size arrive as they were given, from `send` and from `try_send`."""
    got: list[tuple[int, bytes]] = []

    def script(peer: Peer) -> None:
        got.extend(peer.read_frame() for _ in range(4))
        hold_open(peer)

    connection = wire.open(script)
    connection.send("x" * size)
    connection.try_send(b"y" * size)
    connection.send(Frame(memoryview(b"z" * size), True))
    connection.try_send(Frame(b"w" * size, False))
    connection.flush(PATIENCE)
    connection.close()
    assert got == [(1, b"x" * size), (2, b"y" * size), (1, b"z" * size), (2, b"w" * size)]


def test_a_lone_surrogate_is_refused_and_nothing_is_sent(plain: Wire) -> None:
    """Text that UTF-8 cannot hold raises `ConfigError`, and the connection lives on."""
    connection = plain.open(hold_open)
    with pytest.raises(ConfigError, match="lone surrogate"):
        connection.send("\ud800")
    connection.close()
    assert end_of(connection).clean


def test_several_messages_of_one_read_come_without_another(wire: Wire) -> None:
    """Messages that arrived together are handed out one by one, in order."""

    def script(peer: Peer) -> None:
        peer.send(*[frame(1, b"%d" % number) for number in range(1000)])
        hold_open(peer)

    connection = wire.open(script)
    assert [bytes(connection.recv().payload) for _ in range(1000)] == [b"%d" % number for number in range(1000)]
    connection.close()


def test_a_large_message_is_refused_by_its_header(wire: Wire) -> None:
    """A message above ``max_size`` ends the connection with 1009 before its payload is sent."""

    def script(peer: Peer) -> None:
        peer.send(frame(2, b"", length=1001))
        peer.wait_for_end()

    error = end_of(wire.open(script, max_size=1000))
    assert error.code == 1009


# -- pings -------------------------------------------------------------------------------------------------------------------


def test_pings_are_answered_in_order(wire: Wire) -> None:
    """Ten pings sent at once get ten pongs with the same payloads, in order, while `recv` waits for a message."""
    pongs: list[tuple[int, bytes]] = []

    def script(peer: Peer) -> None:
        peer.send(*[frame(9, b"%d" % number) for number in range(10)])
        pongs.extend(peer.read_frame() for _ in range(10))
        peer.send(frame(1, b"done"))
        hold_open(peer)

    connection = wire.open(script)
    assert bytes(connection.recv().payload) == b"done"
    assert pongs == [(10, b"%d" % number) for number in range(10)]
    connection.close()


def test_a_ping_is_sent_and_its_pong_noticed(wire: Wire) -> None:
    """`ping` sends the payload, and `last_pong` and `last_received` move when the answer is read."""

    def script(peer: Peer) -> None:
        opcode, payload = peer.read_frame()
        assert opcode == 9
        peer.send(frame(10, payload), frame(1, payload))
        hold_open(peer)

    connection = wire.open(script)
    before = time.monotonic()
    assert connection.last_pong is None
    connection.ping(b"are you there")
    assert bytes(connection.recv().payload) == b"are you there"
    assert connection.last_pong is not None
    assert before <= connection.last_received <= connection.last_pong <= time.monotonic()
    connection.close()
    with pytest.raises(ConnectionClosedError):
        connection.ping()


def test_a_ping_too_long_is_refused(plain: Wire) -> None:
    """A ping of more than 125 bytes raises `ConfigError`; one of 125 does not."""
    connection = plain.open(hold_open)
    connection.ping(bytes(125))
    with pytest.raises(ConfigError, match="125"):
        connection.ping(bytes(126))


def test_a_ping_goes_before_waiting_data_but_not_into_a_frame(wire: Wire) -> None:
    """While data waits, a ping is the next whole frame after the one that is half written."""
    start = threading.Event()
    got: list[tuple[int, bytes]] = []

    def script(peer: Peer) -> None:
        start.wait(PATIENCE)
        while True:
            opcode, payload = peer.read_frame()
            got.append((opcode, payload[:8]))
            if payload == b"last":
                break
        hold_open(peer)

    connection = wire.open(script)
    count = fill(connection)
    assert not connection.try_send("last")
    connection.ping(b"first")
    connection.ping(b"newer")
    assert connection.waiting > 1_000_000
    start.set()
    connection.flush(PATIENCE)
    assert connection.waiting == 0
    connection.close()
    wire.stop()
    assert [payload for opcode, payload in got if opcode != 9] == [b"%08d" % number for number in range(1, count + 1)] + [b"last"]
    pings = [index for index, (opcode, _) in enumerate(got) if opcode == 9]
    assert len(pings) == 1, "a ping that waits is replaced by a newer one"
    assert got[pings[0]][1] == b"newer"
    assert pings[0] < len(got) - 20


def test_a_flood_of_pings_costs_no_memory(wire: Wire) -> None:
    """A peer that sends pings and reads nothing makes at most one pong wait."""
    opened, finished = threading.Event(), threading.Event()
    waiting: list[int] = []

    def script(peer: Peer) -> None:
        opened.wait(PATIENCE)
        for _ in range(500):
            peer.send(*[frame(9, bytes(125))] * 50)
            waiting.append(connection.waiting)
        peer.send(frame(1, b"end"))
        finished.wait(PATIENCE)

    connection = wire.open(script)
    opened.set()
    with contextlib.suppress(ConnectionClosedError):  # where nobody reads, the system's own buffers may lock each other up, and time out
        assert bytes(connection.recv().payload) == b"end"
        waiting.append(connection.waiting)
    finished.set()
    connection.abort()
    assert len(waiting) > 100
    assert max(waiting) < 80_000


def test_wake_is_called_when_a_pong_waits_and_nobody_flushes(wire: Wire) -> None:
    """A pong that the kernel does not take calls ``wake``, and a `flush` in another thread sends it."""
    woken = threading.Event()
    filled, read_on = threading.Event(), threading.Event()
    pongs: list[bytes] = []

    def script(peer: Peer) -> None:
        filled.wait(PATIENCE)
        peer.send(frame(9, b"wake up"))
        read_on.wait(PATIENCE)
        while True:
            opcode, payload = peer.read_frame()
            if opcode == 10:
                pongs.append(payload)
                peer.send(frame(1, b"got it"))
                break
        hold_open(peer)

    connection = wire.open(script, wake=woken.set)
    fill(connection)
    reader = in_thread(lambda: bytes(connection.recv().payload))
    filled.set()
    assert woken.wait(PATIENCE)
    read_on.set()
    connection.flush(PATIENCE)
    assert joined(reader) == b"got it"
    assert pongs == [b"wake up"]
    connection.close()


def test_without_wake_the_reader_writes_what_waits(wire: Wire) -> None:
    """If there is no ``wake``, a thread in `recv` sends a waiting pong itself as soon as the kernel takes it."""
    filled = threading.Event()

    def script(peer: Peer) -> None:
        filled.wait(PATIENCE)
        peer.send(frame(9, b"x"))
        while peer.read_frame()[0] != 10:
            pass
        peer.send(frame(1, b"pong came"))
        hold_open(peer)

    connection = wire.open(script)
    fill(connection)
    filled.set()
    assert bytes(connection.recv().payload) == b"pong came"
    connection.abort()


# -- writing under pressure --------------------------------------------------------------------------------------------------


def test_many_threads_write_in_their_own_order(wire: Wire) -> None:
    """Eight threads with `try_send` and `flush` against a slow reader: nothing is lost, doubled or out of a thread's order."""
    threads, each = 8, 150
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        for _ in range(threads * each):
            opcode, payload = peer.read_frame()
            assert opcode == 2
            assert payload == payload[:8] + payload[:8] * (len(payload) // 8 - 1), "a frame holds bytes of another"
            got.append(payload[:8])
        hold_open(peer)

    connection = wire.open(script)

    def work(name: int) -> None:
        for number in range(each):
            mark = b"%02d%06d" % (name, number)
            if not connection.try_send(mark * (1 + number * 37 % 2000)):
                connection.flush(PATIENCE)

    workers = [in_thread(lambda name=name: work(name)) for name in range(threads)]
    assert [joined(worker, 30.0) for worker in workers] == [None] * threads
    connection.flush(PATIENCE)
    connection.close()
    wire.stop()
    assert len(got) == threads * each
    for name in range(threads):
        assert [mark for mark in got if mark.startswith(b"%02d" % name)] == [b"%02d%06d" % (name, number) for number in range(each)]


def test_send_returns_when_its_own_message_is_out(wire: Wire) -> None:
    """Several blocked `send` calls all return once the peer reads, and each message arrives once."""
    start = threading.Event()
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        start.wait(PATIENCE)
        while len(got) < 4:
            _, payload = peer.read_frame()
            if payload.startswith(b"own"):
                got.append(payload[:4])
        hold_open(peer)

    connection = wire.open(script)
    fill(connection)
    workers = [in_thread(lambda number=number: connection.send(b"own%d" % number + bytes(300_000), PATIENCE)) for number in range(4)]
    start.set()
    assert [joined(worker) for worker in workers] == [None] * 4
    connection.close()
    wire.stop()
    assert sorted(got) == [b"own0", b"own1", b"own2", b"own3"]


def test_flush_gives_up_at_its_timeout_and_the_connection_lives(wire: Wire) -> None:
    """`flush` raises `RealtimeTimeoutError` when the peer does not read, and what waits goes out later."""
    start = threading.Event()

    def script(peer: Peer) -> None:
        start.wait(PATIENCE)
        hold_open(peer)

    connection = wire.open(script)
    fill(connection)
    begun = time.monotonic()
    with pytest.raises(RealtimeTimeoutError, match="does not read"):
        connection.flush(0.05)
    assert 0.04 < time.monotonic() - begun < 5.0
    start.set()
    connection.flush(PATIENCE)
    connection.close()
    assert end_of(connection).clean


def test_a_send_that_times_out_ends_the_connection(wire: Wire) -> None:
    """After a `send` that ran out of time nothing can be sent, because half a frame may be out."""
    finished = threading.Event()
    connection = wire.open(lambda peer: finished.wait(PATIENCE) and None)
    fill(connection)
    with pytest.raises(RealtimeTimeoutError):
        connection.send("x", 0.05)
    with pytest.raises(ConnectionClosedError):
        connection.try_send("y")
    finished.set()


def test_an_interrupted_write_ends_the_connection(plain: Wire) -> None:
    """If a signal handler raises in the middle of a write, nothing more is sent: half a frame may be out."""
    connection = plain.open(hold_open)

    class Interrupted(PlainStream):
        def write(self, data: bytes | memoryview) -> int:
            super().write(memoryview(data)[:3])
            raise KeyboardInterrupt

    stream = Interrupted(connection._stream.sock.dup())
    other = Connection(stream, Parser())
    with pytest.raises(KeyboardInterrupt):
        other.try_send("never whole")
    with pytest.raises(ConnectionClosedError, match="interrupted"):
        other.try_send("not this one either")
    other.abort()


def test_a_timeout_of_the_kernel_is_a_broken_connection(plain: Wire) -> None:
    """ETIMEDOUT, the end of a link that answers nothing any more, ends the connection; it is not mistaken for a wait in vain."""
    connection = plain.open(hold_open)

    class TimedOut(PlainStream):
        def read(self, room: memoryview, wait: Wait | None = None) -> int:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    other = Connection(TimedOut(connection._stream.sock.dup()), Parser())
    error = end_of(other)
    assert (error.code, error.clean) == (None, False)
    assert "timed out" in str(error)


def test_duplex_for_a_while(wire: Wire) -> None:
    """Two threads, one reading and one writing at full speed, neither lose nor damage a byte in 2 x 3,000 messages."""
    count = 3000

    def script(peer: Peer) -> None:
        # Python's own TLS socket must not be used by two threads, so the peer's writing and reading take turns in one
        for number in range(count):
            opcode, payload = peer.read_frame()
            assert (opcode, payload) == (2, b"%08d" % number * (1 + number * 17 % 700))
            peer.send(frame(2, b"%08d" % number * (1 + number * 31 % 700)))
        hold_open(peer)

    connection = wire.open(script)

    def write() -> None:
        for number in range(count):
            connection.send(b"%08d" % number * (1 + number * 17 % 700), PATIENCE)

    writer = in_thread(write)
    for number in range(count):
        assert bytes(connection.recv().payload) == b"%08d" % number * (1 + number * 31 % 700)
    assert joined(writer) is None
    connection.close()
    assert end_of(connection).clean


def test_a_broken_connection_still_tells_the_last_words(wire: Wire) -> None:
    """A sender that meets a broken connection does not hide the close frame that arrived before: its reason is told."""
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_frame()
        peer.send(frame(1, b"hello"), close_frame(1008, "insufficient balance"))
        peer.sock.close()
        gone.set()

    connection = wire.open(script)
    connection.send("x")
    assert gone.wait(PATIENCE)

    def send_on() -> None:
        while True:
            connection.send(bytes(10_000), PATIENCE)

    with pytest.raises(ConnectionClosedError) as sending:
        send_on()
    assert sending.value.code is None
    with pytest.raises(ConnectionClosedError):
        connection.try_send("x")
    with pytest.raises(ConnectionClosedError):
        connection.flush()
    assert bytes(connection.recv().payload) == b"hello"
    error = end_of(connection)
    assert (error.code, error.reason) == (1008, "insufficient balance")
