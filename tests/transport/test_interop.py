"""Conversations with servers of other makers: wsproto, and simple-websocket under werkzeug."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import simple_websocket
import werkzeug.serving
import wsproto
import wsproto.events

from qai_realtime_sync import transport
from qai_realtime_sync.errors import ApiError
from tests.transport.conftest import Wire
from tests.transport.peer import PATIENCE, Peer
from tests.transport.test_connection import end_of

MESSAGES: list[str | bytes] = ["", "hello", "grüße 😀", b"", b"\x00\xff" * 50, "x" * 70_000, b"y" * 300_000]


def wsproto_echo(peer: Peer) -> None:
    """Echo every message with wsproto's framing, each in two fragments."""
    server = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    whole: list[Any] = []
    while True:
        data = peer.sock.recv(65_536)
        if not data:
            return
        server.receive_data(data)
        for event in server.events():
            if isinstance(event, wsproto.events.Request):
                peer.send(server.send(wsproto.events.AcceptConnection(subprotocol="realtime")))
            elif isinstance(event, wsproto.events.Message):
                whole.append(event.data)
                if event.message_finished:
                    payload = whole[0][:0].join(whole)
                    whole.clear()
                    kind = type(event)
                    half = len(payload) // 2
                    peer.send(server.send(wsproto.events.Ping(b"between")))
                    peer.send(server.send(kind(data=payload[:half], message_finished=False)))
                    peer.send(server.send(kind(data=payload[half:])))
            elif isinstance(event, wsproto.events.Ping):
                peer.send(server.send(event.response()))
            elif isinstance(event, wsproto.events.CloseConnection):
                peer.send(server.send(event.response()))
                return


def test_wsproto_understands_us_and_we_understand_it(wire: Wire) -> None:
    """Messages of every kind and size are echoed by wsproto, and both sides agree on the close."""
    connection = wire.connect(wire.serve(wsproto_echo), subprotocols=["realtime"])
    assert connection.subprotocol == "realtime"
    for message in MESSAGES:
        connection.send(message)
        frame = connection.recv()
        assert frame.text == isinstance(message, str)
        assert bytes(frame.payload) == (message.encode() if isinstance(message, str) else message)
    connection.ping(b"x")
    connection.send("after the ping")
    connection.recv()
    assert connection.last_pong is not None
    connection.close(4321, "enough")
    error = end_of(connection)
    assert (error.code, error.reason, error.clean) == (4321, "enough", True)


@pytest.fixture
def werkzeug_port() -> Any:
    """A werkzeug server whose ``/echo`` is a WebSocket of simple-websocket, and whose other pages are plain."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] != "/echo":
            start_response("404 Not Found", [("Content-Type", "application/json")])
            return [b'{"error": {"code": "no_such_page", "message": "try /echo"}}']
        server = simple_websocket.Server.accept(environ)
        try:
            while True:
                server.send(server.receive(timeout=PATIENCE))
        except simple_websocket.ConnectionClosed:
            return []

    class Quiet(werkzeug.serving.WSGIRequestHandler):
        def log_request(self, *arguments: Any) -> None:
            """Nothing."""

    server = werkzeug.serving.make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join(PATIENCE)
    server.server_close()


def test_simple_websocket_understands_us(werkzeug_port: int) -> None:
    """Messages are echoed by simple-websocket under werkzeug, and the close is clean."""
    connection = transport.connect(f"ws://127.0.0.1:{werkzeug_port}/echo")
    for message in MESSAGES[:6]:
        connection.send(message)
        frame = connection.recv()
        assert bytes(frame.payload) == (message.encode() if isinstance(message, str) else message)
    connection.close()
    assert end_of(connection).code == 1000


def test_a_page_of_werkzeug_is_a_refusal(werkzeug_port: int) -> None:
    """A page that is no WebSocket is told with the error in its body."""
    with pytest.raises(ApiError, match="try /echo") as caught:
        transport.connect(f"ws://127.0.0.1:{werkzeug_port}/other")
    assert (caught.value.status_code, caught.value.code) == (404, "no_such_page")
