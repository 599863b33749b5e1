"""How connections end: every state, every kind of peer, from every thread, each within its time; plain and inside TLS."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest

from qai_realtime_sync.errors import ConfigError, ConnectionClosedError
from qai_realtime_sync.transport.connection import Connection
from tests.transport.conftest import Wire
from tests.transport.peer import Peer, close_frame, frame
from tests.transport.test_connection import PATIENCE, end_of, fill, hold_open, in_thread, joined

SOON = 2.0  # for what comes at once, on a busy machine; a close that is not answered waits for three seconds


def descriptor_is_closed(connection: Connection) -> bool:
    return connection._stream.sock.fileno() < 0


# -- the peer closes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, ""), (1011, "späße"), (4999, "a" * 123)])
def test_a_close_of_the_peer_is_answered_with_its_code(wire: Wire, code: int, reason: str) -> None:
    """`recv` raises code and reason of the peer's close frame, clean, and the peer gets its code back."""
    answers = []

    def script(peer: Peer) -> None:
        peer.send(frame(1, b"first"), close_frame(code, reason))
        answers.append(peer.read_close())
        peer.wait_for_end()

    connection = wire.open(script)
    assert bytes(connection.recv().payload) == b"first"
    for _ in range(3):
        with pytest.raises(ConnectionClosedError) as caught:
            connection.recv()
        error = caught.value
        assert (error.code, error.reason, error.clean) == (code, reason, True)
    assert reason in str(error)
    assert descriptor_is_closed(connection)
    wire.stop()
    assert answers == [(code, "")]


def test_a_close_without_a_code_is_answered_without_one(wire: Wire) -> None:
    """An empty close frame is told as 1005 and answered by an empty one."""
    answers = []

    def script(peer: Peer) -> None:
        peer.send(close_frame(None))
        answers.append(peer.read_close())

    error = end_of(wire.open(script))
    assert (error.code, error.reason, error.clean) == (1005, "", True)
    wire.stop()
    assert answers == [(None, "")]


def test_a_hang_up_is_not_clean(wire: Wire) -> None:
    """A peer that hangs up without a close frame gives no code and is not clean."""
    connection = wire.open(lambda peer: peer.send(frame(1, b"half", length=9)))
    error = end_of(connection)
    assert (error.code, error.reason, error.clean) == (None, "", False)
    assert "without closing" in str(error)
    assert descriptor_is_closed(connection)


def test_a_reset_is_told_with_its_cause(plain: Wire) -> None:
    """A connection that the peer resets raises with the system's reason, chained to the system's error."""

    def script(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sock.close()

    error = end_of(plain.open(script))
    assert (error.code, error.clean) == (None, False)
    assert isinstance(error.__cause__, ConnectionResetError)


# -- we close ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader_waits", [True, False])
def test_close_is_confirmed_by_the_peer(wire: Wire, reader_waits: bool) -> None:
    """`close` sends code and reason, gets the peer's answer, whether or not a thread is in `recv`, and leaves no descriptor."""
    told = []

    def script(peer: Peer) -> None:
        told.append(peer.read_close())
        peer.send(frame(1, b"too late"), close_frame(told[0][0], "confirmed"))
        peer.wait_for_end()

    connection = wire.open(script)
    reader = in_thread(connection.recv) if reader_waits else None
    begun = time.monotonic()
    connection.close(4000, "done")
    assert time.monotonic() - begun < SOON
    error = joined(reader) if reader else end_of(connection)
    assert isinstance(error, ConnectionClosedError)
    assert (error.code, error.reason, error.clean) == (4000, "confirmed", True)
    assert descriptor_is_closed(connection)
    assert told == [(4000, "done")]


def ignore(peer: Peer) -> None:
    peer.wait_for_end()


def flood(peer: Peer) -> None:
    while True:
        peer.send(frame(2, bytes(20_000)))


def flood_pings(peer: Peer) -> None:
    while True:
        peer.send(frame(9, bytes(100)) * 50)


def read_nothing(peer: Peer) -> None:
    peer.wait_without_reading()


def stop_in_mid_frame(peer: Peer) -> None:
    peer.send(frame(1, b"abc", length=1000))
    peer.wait_for_end()


@pytest.mark.parametrize("script", [ignore, flood, flood_pings, read_nothing, stop_in_mid_frame])
@pytest.mark.parametrize("state", ["nobody reads", "reader waits", "sender blocked", "both"])
def test_close_ends_in_time_whatever_the_peer_does(wire: Wire, script: object, state: str) -> None:
    """`close` returns at its timeout if the peer does not answer, ends blocked readers and senders, and leaves no descriptor."""
    connection = wire.open(script)  # type: ignore[arg-type]
    workers = []
    if state in ("sender blocked", "both") and script is read_nothing:
        fill(connection)
        workers.append(in_thread(lambda: connection.send(bytes(1000))))
        workers.append(in_thread(connection.flush))
    if state in ("reader waits", "both"):
        workers.append(in_thread(lambda: end_of(connection)))
    begun = time.monotonic()
    connection.close(timeout=0.2)
    assert time.monotonic() - begun < 0.2 + SOON
    for worker in workers:
        assert isinstance(joined(worker, SOON), ConnectionClosedError)
    error = end_of(connection)
    assert (error.code, error.clean) == (1000, False)
    assert descriptor_is_closed(connection)


def test_close_when_the_peer_is_gone(wire: Wire) -> None:
    """`close` returns at once if the peer hung up before, and a second time too."""
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.sock.close()
        gone.set()

    connection = wire.open(script)
    assert gone.wait(PATIENCE)
    for _ in range(2):
        begun = time.monotonic()
        connection.close()
        assert time.monotonic() - begun < SOON
    assert descriptor_is_closed(connection)
    assert not end_of(connection).clean


@pytest.mark.parametrize("answers", [True, False])
def test_ten_threads_close_at_once(wire: Wire, answers: bool) -> None:
    """Ten concurrent `close` calls, with a reader waiting, all return in time; the peer sees one close frame."""
    seen = []

    def script(peer: Peer) -> None:
        seen.append(peer.read_close())
        if answers:
            peer.send(close_frame(1000))
        with pytest.raises(EOFError):
            peer.read_frame()

    connection = wire.open(script)
    reader = in_thread(lambda: end_of(connection))
    begun = time.monotonic()
    workers = [in_thread(lambda: connection.close(timeout=0.3)) for _ in range(10)]
    assert [joined(worker) for worker in workers] == [None] * 10
    assert time.monotonic() - begun < 0.3 + SOON
    assert joined(reader).clean is answers
    assert descriptor_is_closed(connection)
    wire.stop()
    assert len(seen) == 1


def test_close_goes_before_waiting_data_and_drops_it(wire: Wire) -> None:
    """A close overtakes data that waits; no data follows it, and whoever flushes learns that it was dropped."""
    start = threading.Event()
    kinds = []

    def script(peer: Peer) -> None:
        start.wait(PATIENCE)
        while not kinds or kinds[-1] != 8:
            kinds.append(peer.read_frame()[0])
        peer.send(close_frame(1000))
        with pytest.raises(EOFError):
            peer.read_frame()

    connection = wire.open(script)
    fill(connection)
    flushing = in_thread(connection.flush)
    closing = in_thread(connection.close)
    start.set()
    assert joined(closing) is None
    assert isinstance(joined(flushing), ConnectionClosedError)
    assert end_of(connection).clean
    wire.stop()


def test_a_message_that_has_begun_goes_out_before_the_close(wire: Wire) -> None:
    """A `send` whose message is half written when `close` is called returns, and the peer gets it whole, then the close."""
    start = threading.Event()
    got = []

    def script(peer: Peer) -> None:
        start.wait(PATIENCE)
        got.extend([len(peer.read_frame()[1]), peer.read_close()])
        peer.send(close_frame(1000))

    connection = wire.open(script)
    sending = in_thread(lambda: connection.send(bytes(20_000_000), PATIENCE))
    begun = time.monotonic()
    while not 0 < connection.waiting < 20_000_000 and time.monotonic() - begun < PATIENCE:
        threading.Event().wait(0.001)
    closing = in_thread(lambda: connection.close(timeout=PATIENCE))
    while connection._closing is None and time.monotonic() - begun < PATIENCE:
        threading.Event().wait(0.001)
    start.set()
    assert joined(closing) is None
    assert joined(sending) is None
    assert end_of(connection).clean
    assert got == [20_000_000, (1000, "")]


def test_a_violation_ends_a_close_that_waits(wire: Wire) -> None:
    """A peer that answers a close with nonsense ends it at once, not clean."""

    def script(peer: Peer) -> None:
        peer.read_close()
        peer.send(frame(3))
        peer.wait_for_end()

    connection = wire.open(script)
    begun = time.monotonic()
    connection.close(timeout=PATIENCE)
    assert time.monotonic() - begun < SOON
    assert not end_of(connection).clean


def test_nothing_can_be_sent_while_closing(wire: Wire) -> None:
    """From the moment `close` is called, `try_send`, `send`, `flush` and `ping` raise."""
    asked, go_on = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.read_close()
        asked.set()
        go_on.wait(PATIENCE)
        peer.send(close_frame(1000))

    connection = wire.open(script)
    closing = in_thread(connection.close)
    assert asked.wait(PATIENCE)
    for call in (lambda: connection.try_send("x"), lambda: connection.send("x"), connection.flush, connection.ping):
        with pytest.raises(ConnectionClosedError, match="closing"):
            call()
    go_on.set()
    assert joined(closing) is None


def test_a_message_stays_readable_while_its_handler_closes(wire: Wire) -> None:
    """A payload handed out by `recv` keeps its content while `close`, called by its handler, reads on."""

    def script(peer: Peer) -> None:
        peer.send(frame(1, b"precious"))
        peer.read_close()
        peer.send(frame(2, bytes(5000)), close_frame(1000))

    connection = wire.open(script)
    message = connection.recv()
    connection.close()
    assert bytes(message.payload) == b"precious"
    assert end_of(connection).clean


def test_recv_waits_for_a_close_that_reads(wire: Wire) -> None:
    """A thread that calls `recv` while a `close` in another thread reads in its place gets the end, not a message."""
    asked, go_on = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.read_close()
        asked.set()
        go_on.wait(PATIENCE)
        peer.send(frame(1, b"late"), close_frame(1000, "ok"))

    connection = wire.open(script)
    closing = in_thread(connection.close)
    assert asked.wait(PATIENCE)
    reading = in_thread(connection.recv)
    go_on.set()
    assert joined(reading).reason == "ok"
    assert joined(closing) is None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_code_that_must_not_be_sent_is_refused(plain: Wire, code: int) -> None:
    """`close` with a forbidden code raises `ConfigError` and leaves the connection open."""
    connection = plain.open(hold_open)
    with pytest.raises(ConfigError):
        connection.close(code)
    connection.send("still open")
    connection.close()


# -- abort -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [ignore, flood, read_nothing])
def test_abort_wakes_everyone(wire: Wire, script: object) -> None:
    """`abort` ends a blocked `recv`, `send`, `flush` and `close` in other threads at once and leaves no descriptor."""
    connection = wire.open(script)  # type: ignore[arg-type]
    workers = [in_thread(lambda: end_of(connection))]
    if script is read_nothing:
        fill(connection)
        workers += [in_thread(lambda: connection.send(bytes(1000))), in_thread(connection.flush)]
    begun = time.monotonic()
    connection.abort()
    for worker in workers:
        assert isinstance(joined(worker, SOON), ConnectionClosedError)
    assert time.monotonic() - begun < SOON
    assert descriptor_is_closed(connection)
    connection.abort()


def test_abort_ends_a_close_that_waits(wire: Wire) -> None:
    """`abort` ends a `close` that waits for a peer that does not answer, whether it reads itself or waits for a reader."""
    for reads in (False, True):
        connection = wire.open(ignore)
        reader = in_thread(lambda connection=connection: end_of(connection)) if reads else None
        closing = in_thread(lambda connection=connection: connection.close(timeout=PATIENCE))
        asked = time.monotonic()
        while connection._closing is None and time.monotonic() - asked < PATIENCE:
            threading.Event().wait(0.001)
        begun = time.monotonic()
        connection.abort()
        assert joined(closing, SOON) is None
        assert reader is None or isinstance(joined(reader, SOON), ConnectionClosedError)
        assert time.monotonic() - begun < SOON
        assert descriptor_is_closed(connection)


def test_everything_at_once(wire: Wire) -> None:
    """Readers, senders, pings, closes and aborts in ten threads end within their time in 20 rounds, without a descriptor left."""

    def echo(peer: Peer) -> None:
        while True:
            opcode, payload = peer.read_frame()
            peer.send(frame(8 if opcode == 8 else 2, payload))

    server = wire.serve(lambda peer: (peer.upgrade(), echo(peer))[0])
    for number in range(20):
        connection = wire.connect(server)

        def spam(connection: Connection = connection) -> None:
            while True:
                connection.send(bytes(3000), PATIENCE)
                connection.ping()

        workers = [in_thread(lambda connection=connection: end_of(connection))]
        workers += [in_thread(spam) for _ in range(4)]
        workers += [in_thread(lambda connection=connection: connection.close(timeout=0.5)) for _ in range(3)]
        if number % 2:
            workers += [in_thread(connection.abort) for _ in range(2)]
        results = [joined(worker) for worker in workers]
        assert all(isinstance(result, ConnectionClosedError) for result in results[:5])
        assert descriptor_is_closed(connection)
