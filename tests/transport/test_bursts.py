"""`recv_all` of an open connection: what has arrived at once, checked when it is asked for; each plain and inside TLS."""

from __future__ import annotations

from typing import Any

import pytest

from qai_realtime_sync import transport
from qai_realtime_sync.errors import ConnectionClosedError
from qai_realtime_sync.seam import Frame
from tests.transport.conftest import Wire
from tests.transport.peer import Peer, frame
from tests.transport.test_connection import MESSAGES, hold_open
from tests.transport.test_frames import REFUSED


def read_until(connection: transport.Connection, count: int, found: list[Frame] | None = None) -> list[Frame]:
    """Read and check bursts until so many messages came; copies, because the next call overwrites them."""
    found = [] if found is None else found
    while len(found) < count:
        for message in connection.recv_all():
            connection.check(message)
            found.append(Frame(bytes(message.payload), message.text))
    return found


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_arrive(wire: Wire, name: str) -> None:
    """Whatever RFC 6455 allows a server to send is received in order, and the connection lives on."""
    data, expected = MESSAGES[name]

    def script(peer: Peer) -> None:
        peer.send(data, frame(1, b"more") * 50, frame(1, b"last"))
        hold_open(peer)

    connection = wire.open(script)
    assert read_until(connection, len(expected) + 51) == [*expected, *[Frame(b"more", True)] * 50, Frame(b"last", True)]
    assert connection.is_listening
    connection.close()
    assert not connection.is_listening


@pytest.mark.parametrize("name", [name for name in REFUSED if "reserved bits" not in name])
def test_violations_are_answered_and_end_the_connection(wire: Wire, name: str) -> None:
    """A violation behind other messages makes us send a close frame with its code, and what came before it was received."""
    data, code = REFUSED[name]
    told: list[Any] = []

    def script(peer: Peer) -> None:
        peer.send(frame(1, b"before") * 3 + data)
        told.append(peer.read_close())
        peer.wait_for_end()

    connection = wire.open(script)
    found: list[Frame] = []
    with pytest.raises(ConnectionClosedError) as caught:
        read_until(connection, 99, found)
    assert found[:3] == [Frame(b"before", True)] * 3
    assert (caught.value.code, caught.value.clean) == (code, False)
    with pytest.raises(ConnectionClosedError) as again:
        connection.recv_all()
    assert again.value.code == code
    assert not connection.is_listening
    wire.stop()
    assert told[0][0] == code


def test_the_rest_of_a_burst_outlives_a_close_from_within(wire: Wire) -> None:
    """Who closes while looking at one message still has the others as they were, and learns that they are not wanted any more."""

    def script(peer: Peer) -> None:
        peer.send(b"".join(frame(1, b"%03d" % number) for number in range(200)))
        hold_open(peer)

    connection = wire.open(script)
    messages = connection.recv_all()
    connection.close()
    assert not connection.is_listening
    assert [bytes(message.payload) for message in messages] == [b"%03d" % number for number in range(len(messages))]
    with pytest.raises(ConnectionClosedError):
        connection.recv_all()
