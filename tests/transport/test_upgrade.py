"""The upgrade against scripted servers: what is sent, what is accepted, what is refused and how that is told."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import websocket

from qai_realtime_sync import transport
from qai_realtime_sync.errors import ApiError, ConfigError, ConnectError, RealtimeError, RealtimeTimeoutError
from qai_realtime_sync.transport.refusal import cleaned, secrets_of
from tests.transport.conftest import Wire
from tests.transport.peer import PATIENCE, Peer, close_frame, frame
from tests.transport.test_connection import end_of, hold_open, in_thread, joined

SECRET = "qai_k_verysecretkey0123"


def answering(data: bytes, *, hang_up: bool = True) -> Callable[[Peer], None]:
    """A peer that reads the request and answers with these bytes."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(data)
        if not hang_up:
            peer.wait_for_end()

    return script


def http(status: str, body: bytes = b"", *headers: str, length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def refused(wire: Wire, data: bytes, **options: Any) -> RealtimeError:
    """The error that `connect` raises when the server answers with ``data``."""
    server = wire.serve(answering(data, hang_up=options.pop("hang_up", True)))
    with pytest.raises(RealtimeError) as caught:
        wire.connect(server, **options)
    return caught.value


# -- what is sent ------------------------------------------------------------------------------------------------------------


def test_the_request_holds_what_it_should_and_nothing_else(wire: Wire) -> None:
    """Path, query, headers and subprotocols go out as given; no Origin, no Cookie, no extension is added."""
    requests = []

    def serve(peer: Peer) -> None:
        requests.append(peer.read_request())
        peer.upgrade("Sec-WebSocket-Protocol: realtime")
        hold_open(peer)

    server = wire.serve(serve)
    url = server.url.replace("/talk", "/a%20b/ü?model=x%2Fy&token=T")
    connection = transport.connect(
        url,
        headers={"Authorization": f"Bearer {SECRET}", "X-Name": "Zoë"},
        subprotocols=["realtime", "other"],
        ssl_context=wire.certificates.client,
    )
    assert connection.subprotocol == "realtime"
    connection.close()
    head, *lines = requests[0].decode("latin-1").split("\r\n")
    assert head == "GET /a%20b/%C3%BC?model=x%2Fy&token=T HTTP/1.1"
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    key = headers.pop("sec-websocket-key")
    assert len(key) == 24
    assert headers == {
        "host": f"localhost:{server.port}",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "realtime, other",
        "authorization": f"Bearer {SECRET}",
        "x-name": "Zoë",
    }


def test_a_host_header_of_the_caller_replaces_ours(plain: Wire) -> None:
    """The caller may give a Host header, and then it is the only one."""
    requests = []

    def serve(peer: Peer) -> None:
        requests.append(peer.read_request())
        peer.upgrade()

    plain.connect(plain.serve(serve), headers={"host": "voice.example"})
    plain.stop()
    assert requests[0].lower().count(b"\r\nhost:") == 1
    assert b"host: voice.example\r\n" in requests[0]


def test_cookies_are_neither_kept_nor_sent(plain: Wire) -> None:
    """A cookie that a server sets goes to nobody, and a cookie that other code gave websocket-client does not go out with ours."""
    requests = []

    def serve(peer: Peer) -> None:
        requests.append(peer.read_request())
        peer.upgrade("Set-Cookie: tenant=one; Domain=localhost; Path=/")

    jar = websocket._handshake.CookieJar
    jar.set("alien=1; Domain=localhost")
    try:
        server = plain.serve(serve)
        for _ in range(2):
            end_of(plain.connect(server))
        assert "tenant" not in jar.get("localhost")
    finally:
        jar.jar.clear()
    assert len(requests) == 2
    assert not any(b"cookie" in request.lower() for request in requests)


def test_the_library_never_sees_a_secret(plain: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """With websocket-client's trace log on, neither key nor query nor the server's cookie is in any log."""

    def serve(peer: Peer) -> None:
        peer.upgrade("Set-Cookie: session=cookiesecret")

    websocket.enableTrace(True, logging.NullHandler())
    try:
        with caplog.at_level(logging.DEBUG):
            server = plain.serve(serve)
            connection = transport.connect(f"{server.url}?token=querysecret", headers={"X-API-Key": SECRET})
            end_of(connection)
    finally:
        websocket.enableTrace(False)
        logging.getLogger("websocket").handlers.clear()
    assert "Sec-WebSocket-Accept".lower() in caplog.text.lower(), "the trace is on"
    for secret in (SECRET, "querysecret", "cookiesecret"):
        assert secret not in caplog.text


# -- what is accepted --------------------------------------------------------------------------------------------------------


def test_bytes_behind_the_answer_are_the_first_frames(wire: Wire) -> None:
    """Frames that arrive in the same packet as the answer are read, whole or in part."""
    messages = frame(1, b"early") + frame(1, b"x" * 30_000) + frame(2, b"split", length=5)

    def serve(peer: Peer) -> None:
        peer.upgrade(early=messages[:-2])
        peer.send(messages[-2:])
        hold_open(peer)

    connection = wire.connect(wire.serve(serve))
    assert [bytes(connection.recv().payload) for _ in range(3)] == [b"early", b"x" * 30_000, b"split"]
    connection.close()


def test_a_close_right_behind_the_answer_is_told(wire: Wire) -> None:
    """A server that accepts and closes in one breath gives its code and reason."""
    error = end_of(wire.connect(wire.serve(lambda peer: peer.upgrade(early=close_frame(4000, "no")))))
    assert (error.code, error.reason) == (4000, "no")


def test_an_answer_byte_by_byte_is_read(wire: Wire) -> None:
    """The answer may come in any pieces, with interim answers before it."""

    def serve(peer: Peer) -> None:
        peer.read_request()
        for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + peer.acceptance() + frame(1, b"hi"):
            peer.send(bytes([byte]))
        hold_open(peer)

    connection = wire.connect(wire.serve(serve))
    assert bytes(connection.recv().payload) == b"hi"
    connection.close()


def test_a_subprotocol_that_is_not_confirmed_is_none(plain: Wire) -> None:
    """A server may ignore the offered subprotocols; the connection then has none."""
    connection = plain.connect(plain.serve(lambda peer: (peer.upgrade(), hold_open(peer))[1]), subprotocols=["realtime"])
    assert connection.subprotocol == ""
    connection.close()


@pytest.mark.parametrize(
    ("extra", "offered"),
    [
        ("Sec-WebSocket-Protocol: chat", ()),
        ("Sec-WebSocket-Protocol: chat", ("realtime",)),
        ("Sec-WebSocket-Protocol: realtime, other", ("realtime", "other")),
        ("Sec-WebSocket-Protocol: REALTIME", ("realtime",)),
        ("Sec-WebSocket-Extensions: permessage-deflate", ()),
    ],
)
def test_what_was_not_offered_is_refused(plain: Wire, extra: str, offered: tuple[str, ...]) -> None:
    """An extension or subprotocol that was not offered makes `connect` raise ``websocket_upgrade``."""
    server = plain.serve(lambda peer: peer.upgrade(extra))
    with pytest.raises(ConnectError) as caught:
        plain.connect(server, subprotocols=offered)
    assert caught.value.code == "websocket_upgrade"


@pytest.mark.parametrize(
    "lines",
    [
        ["Upgrade: websocket", "Connection: Upgrade"],
        ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: c3RvbGVuIGtleQ=="],
        ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: %swapped"],
        ["Connection: Upgrade", "Sec-WebSocket-Accept: %s"],
        ["Upgrade: websocket", "Sec-WebSocket-Accept: %s"],
        ["Upgrade: h2c", "Connection: Upgrade", "Sec-WebSocket-Accept: %s"],
    ],
)
def test_an_answer_without_proof_is_refused(plain: Wire, lines: list[str]) -> None:
    """A 101 that lacks or fakes one of its headers makes `connect` raise ``websocket_upgrade``."""

    def serve(peer: Peer) -> None:
        peer.read_request()
        accept = peer.acceptance().decode().partition("Accept: ")[2].split("\r\n")[0]
        head = "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""])
        peer.send(head.replace("%swapped", accept.swapcase()).replace("%s", accept).encode())

    with pytest.raises(ConnectError) as caught:
        plain.connect(plain.serve(serve))
    assert caught.value.code == "websocket_upgrade"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 1",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/2 101 x\r\n\r\n",
        b"HTTP/1.1 101 ok\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 101 ok\r\nfolded: a\r\n b\r\n\r\n",
        b"HTTP/1.1 101 ok\r\nSec-WebSocket-Accept: \xff\xfe\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
        b"HTTP/1.1 101 x\r\n" + b"A: b\r\n" * 20_000,
        b"HTTP/1.1 101 x\r\nA: " + b"b" * 200_000,
    ],
)
def test_nonsense_for_an_answer_is_told_as_such(wire: Wire, data: bytes) -> None:
    """Whatever is not an HTTP answer, or too large a head, raises ``websocket_upgrade`` at once."""
    begun = time.monotonic()
    error = refused(wire, data)
    assert isinstance(error, ConnectError)
    assert error.code == "websocket_upgrade"
    assert time.monotonic() - begun < 3.0


def test_a_server_that_hangs_up_at_any_byte_is_noticed(plain: Wire) -> None:
    """A handshake cut after any number of bytes raises at once, wherever the cut is."""
    lengths: list[int] = []

    def serve(peer: Peer) -> None:
        peer.read_request()
        answer = peer.acceptance()
        lengths.append(len(answer))
        peer.send(answer[: len(lengths) - 1])

    server = plain.serve(serve)
    while not lengths or len(lengths) < lengths[0]:
        with pytest.raises(ConnectError) as caught:
            plain.connect(server, timeout=PATIENCE)
        assert caught.value.code == "websocket_upgrade"


# -- time --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.01, PATIENCE])
def test_a_dripping_answer_does_not_stretch_the_deadline(wire: Wire, pause: float) -> None:
    """An answer that comes byte by byte, or not at all, ends `connect` at its timeout, and the message names the stage."""
    stop = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\n")
        while not stop.wait(pause):
            peer.send(b"A")

    server = wire.serve(serve)
    begun = time.monotonic()
    with pytest.raises(RealtimeTimeoutError, match="upgrade") as caught:
        wire.connect(server, timeout=2.0)
    assert 1.9 < time.monotonic() - begun < 6.0
    assert caught.value.code == "timeout"
    stop.set()


def test_connect_is_cancelled_while_it_waits(wire: Wire) -> None:
    """`Cancellation.cancel` from another thread ends a `connect` that waits for the upgrade, at once; so does one before."""
    asked = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_request()
        asked.set()
        peer.wait_for_end()

    cancel = transport.Cancellation()
    server = wire.serve(serve)
    worker = in_thread(lambda: wire.connect(server, cancel=cancel, timeout=PATIENCE))
    assert asked.wait(PATIENCE)
    begun = time.monotonic()
    cancel.cancel()
    error = joined(worker)
    assert time.monotonic() - begun < 3.0
    assert isinstance(error, ConnectError)
    assert error.code == "cancelled"
    with pytest.raises(ConnectError, match="cancelled"):
        wire.connect(server, cancel=cancel)


def test_an_endless_body_does_not_hold_a_refusal(plain: Wire) -> None:
    """A refusal whose body never ends, fast or slow, is told after at most two seconds or 64 KiB."""
    stop = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        while not stop.wait(0.02 if "slow" in peer.request.decode() else 0):
            peer.send(b"x")

    server = plain.serve(serve)
    for speed in ("slow", "fast"):
        begun = time.monotonic()
        with pytest.raises(ApiError) as caught:
            transport.connect(f"{server.url}?{speed}")
        assert caught.value.status_code == 403
        assert time.monotonic() - begun < 4.0
    stop.set()


# -- refusals ----------------------------------------------------------------------------------------------------------------

NESTED = json.dumps({"error": {"message": "no balance", "type": "billing", "code": "INSUFFICIENT_BALANCE"}}).encode()
CHUNKED = b"HTTP/1.1 402 Payment Required\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%x;ext=1\r\n%s\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "code", "message"),
    [
        (http("402 Payment Required", NESTED), 402, "INSUFFICIENT_BALANCE", "no balance"),
        (http("402 Payment Required", NESTED, length=False), 402, "INSUFFICIENT_BALANCE", "no balance"),
        (CHUNKED % (10, NESTED[:10], len(NESTED) - 10, NESTED[10:]), 402, "INSUFFICIENT_BALANCE", "no balance"),
        (http("402 P", b'{"error": {"message": "m", "type": "billing", "code": null}}'), 402, "billing", "m"),
        (http("401 Unauthorized", b'{"error": "invalid_key", "message": "unknown key"}'), 401, "invalid_key", "unknown key"),
        (http("401 Unauthorized", b'{"error": "unauthorized"}'), 401, "unauthorized", "Check the API key"),
        (http("403 Forbidden", b'{"code": "KEY_EXPIRED", "message": "old"}'), 403, "KEY_EXPIRED", "old"),
        (http("401 Unauthorized"), 401, "authentication_error", "Check the API key"),
        (http("402 Payment Required"), 402, "insufficient_balance", "no balance left"),
        (http("502 Bad Gateway", b"<html><h1>nginx</h1></html>"), 502, "upstream_error", "try again later"),
        (http("503 Service Unavailable", b"upstream connect error"), 503, "service_unavailable", "upstream connect error"),
        (http("418 Teapot", b"[1, 2]"), 418, "websocket_upgrade", "418 Teapot"),
        (http("500 Error", b'{"error": {"message": 5}}'), 500, "websocket_upgrade", "500 Error"),
        (http("500 Error", b"\xff\xfe\x00"), 500, "websocket_upgrade", "500 Error"),
        (http("500 Error", b"[" * 50_000), 500, "websocket_upgrade", "500 Error"),
        (http("200 OK", b'{"mode": "client_direct", "token": "tok_secret"}'), 200, "websocket_upgrade", "mode client_direct"),
        (http("200 OK", b'{"error": "not_here", "message": "gone"}'), 200, "not_here", "gone"),
        (http("200 OK", b"<!doctype html><p>hello", "Content-Type: text/html"), 200, "websocket_upgrade", "200 OK"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nshort", 403, "websocket_upgrade", "short"),
        (b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx", 403, "websocket_upgrade", "not allowed"),
        (b"HTTP/1.1 404 N\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort", 404, "websocket_upgrade", "short"),
        (b"HTTP/1.1 404 N\nTransfer-Encoding: chunked\n\n5\nhello\n1\n!\n0\n\n", 404, "websocket_upgrade", "hello!"),
        (b"HTTP/1.1 500 N\r\nContent-Length: x\r\n\r\n{not json", 500, "websocket_upgrade", "500 N"),
        (b"HTTP/1.0 404\r\n\r\n", 404, "websocket_upgrade", "nothing is there"),
    ],
)
def test_a_refusal_is_told_with_status_code_and_message(wire: Wire, data: bytes, status: int, code: str, message: str) -> None:
    """Each envelope, and none, becomes an `ApiError` with the HTTP status, the service's code and a message that helps."""
    error = refused(wire, data)
    assert isinstance(error, ApiError)
    assert (error.status_code, error.code) == (status, code)
    assert message in error.message
    assert "<html" not in str(error)
    assert "tok_secret" not in str(error)


def test_request_id_and_retry_after_are_kept(plain: Wire) -> None:
    """The request id and the seconds to wait are taken from the headers; a date for Retry-After counts as not said."""
    error = refused(plain, http("429 Too Many Requests", b"", "X-QAI-Request-Id: req_1", "Retry-After: 7"))
    assert isinstance(error, ApiError)
    assert (error.request_id, error.retry_after, error.is_rate_limit) == ("req_1", 7.0, True)
    error = refused(plain, http("429 Too Many Requests", b"", "Retry-After: Fri, 20 Nov 2026 08:00:00 GMT"))
    assert isinstance(error, ApiError)
    assert (error.request_id, error.retry_after) == ("", None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_refused(plain: Wire, status: int) -> None:
    """A redirect is not followed: the target gets no connection, and the message names it without its query."""
    target = plain.serve(hold_open)
    error = refused(plain, http(f"{status} Moved", b"", f"Location: ws://localhost:{target.port}/new?token=hidden"))
    assert isinstance(error, ApiError)
    assert (error.status_code, error.code) == (status, "websocket_upgrade")
    assert "ws://localhost/new" in error.message
    assert "hidden" not in str(error)
    assert target.accepted == 0


def test_what_we_sent_never_comes_back_in_a_message(plain: Wire) -> None:
    """A server that echoes our key, our query and our token subprotocol does not get them into the error."""
    echo = json.dumps({"error": {"code": SECRET, "message": f"bad Bearer {SECRET} / {SECRET} / querysecret / tok.subprotocol9"}})
    server = plain.serve(answering(http("401 No", echo.encode(), f"X-QAI-Request-Id: {SECRET}")))
    headers = {"Authorization": f"Bearer {SECRET}"}
    with pytest.raises(ApiError) as caught:
        transport.connect(f"{server.url}?token=querysecret", headers=headers, subprotocols=["tok.subprotocol9"])
    text = f"{caught.value} {caught.value!r} {caught.value.code} {caught.value.request_id}"
    for secret in (SECRET, "querysecret", "tok.subprotocol9"):
        assert secret not in text


def test_long_and_strange_texts_become_one_short_line(plain: Wire) -> None:
    """A message of 60 KB with control characters becomes one line of at most 300 characters."""
    body = json.dumps({"error": {"message": "line\n\x1b[31m" + "a" * 60_000}}).encode()
    error = refused(plain, http("400 Bad Request", body))
    assert len(error.message) <= 300
    assert error.message.isprintable()


@pytest.mark.parametrize("when", ["during the request", "after the request"])
def test_a_reset_during_the_upgrade_is_told(plain: Wire, when: str) -> None:
    """A connection that is reset in the middle of the upgrade raises ``websocket_upgrade`` with the system's reason."""

    def serve(peer: Peer) -> None:
        if when == "during the request":
            peer.read_exactly(10)
        else:
            peer.read_request()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sock.close()

    server = plain.serve(serve)
    headers = {f"X-{number}": "x" * 8000 for number in range(2000)} if when == "during the request" else {}
    with pytest.raises(ConnectError) as caught:
        plain.connect(server, headers=headers)
    assert caught.value.code == "websocket_upgrade"
    assert isinstance(caught.value.__cause__, ConnectionResetError | BrokenPipeError)


def test_a_server_that_reads_no_request_ends_at_the_deadline(plain: Wire) -> None:
    """A request that the server does not read ends `connect` at its timeout."""
    server = plain.serve(lambda peer: peer.wait_without_reading())
    with pytest.raises(RealtimeTimeoutError, match="upgrade"):
        plain.connect(server, headers={f"X-{number}": "x" * 8000 for number in range(2000)}, timeout=2.0)


# -- what the caller gets wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), None, "5", True])
def test_a_timeout_must_be_positive(timeout: Any) -> None:
    """A timeout that has passed before it begins is the caller's mistake."""
    with pytest.raises(ConfigError, match="timeout"):
        transport.connect("ws://localhost:1/", timeout=timeout)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("bearer token expired", "bearer token expired"),
        ("Missing bearer authentication", "Missing bearer authentication"),
        ("bad Bearer abcdefghijkl0123456789", "bad <redacted>"),
        ("no sk-abcdef123456 here", "no <redacted> here"),
        ("model gpt-realtime does not exist", "model gpt-realtime does not exist"),
    ],
)
def test_only_credentials_are_cut_out_of_what_a_service_says(said: str, told: str) -> None:
    """The words that say what went wrong stay, because they decide whether another try makes sense."""
    assert cleaned(said, secrets_of("/v1?model=gpt-realtime", [], [])) == told
