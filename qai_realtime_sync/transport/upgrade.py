"""The WebSocket upgrade, made by websocket-client over a stream that is open already; the only importer of ``websocket``.

The library writes the key and checks the answer to it, without regard to upper and lower case, so that is checked here once more.
It is never given a secret, because it logs, keeps and repeats what it sees: path, query and headers are put into its request on
the way out, and of the answer it sees the four lines it needs, no cookies. What is used of it, in all versions allowed:
``WebSocket(enable_multithread=False)``, ``WebSocket.connect(url, socket=…, redirect_limit=0)``, and that this calls ``send``,
``recv``, ``gettimeout`` and ``close`` of the socket it is given.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Final

from qai_realtime_sync.errors import ConnectError, RealtimeError
from qai_realtime_sync.transport.address import Address
from qai_realtime_sync.transport.answers import Answer, AnswerError, read_answer, read_body
from qai_realtime_sync.transport.attempt import Attempt
from qai_realtime_sync.transport.readiness import WRITE
from qai_realtime_sync.transport.refusal import refusal, secrets_of
from qai_realtime_sync.transport.stream import Stream

__all__ = ["upgrade"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # source: RFC 6455, 1.3
_BODY_SECONDS: Final = 2.0  # for the body of a refusal: its status is known, the rest is only for the message
_KEPT: Final = (b"upgrade:", b"connection:", b"sec-websocket-key:", b"sec-websocket-version:")
_PASSED_ON: Final = ("upgrade", "connection", "sec-websocket-accept")

Headers = Sequence[tuple[str, str]]


def upgrade(
    stream: Stream, address: Address, headers: Headers, subprotocols: Sequence[str], attempt: Attempt
) -> tuple[str, bytes]:
    """Ask for a WebSocket and return the subprotocol the server chose (``""`` = none) and the bytes that came behind its answer.

    Raises: `ApiError` if the service refuses, `ConnectError` (code ``websocket_upgrade``) if it does not speak WebSocket,
    `RealtimeTimeoutError`.
    """
    import websocket

    attempt.stage = f"waiting for the WebSocket upgrade of {address.shown}"
    sock = _UpgradeSocket(stream, address, headers, subprotocols, attempt)
    library = websocket.WebSocket(enable_multithread=False)
    try:
        library.connect(f"{'wss' if address.secure else 'ws'}://{address.host_and_port}/", socket=sock, redirect_limit=0)  # type: ignore[no-untyped-call]
    except (websocket.WebSocketException, OSError, ValueError, RealtimeError):
        failure = sock.failure or _not_a_websocket(address, "its answer to the upgrade is not valid")
        raise failure from failure.__cause__  # the system's reason if there is one, never the library's exception
    answer = sock.answer
    assert answer is not None  # the library cannot be content without having read it
    if answer.headers["sec-websocket-accept"].strip() != sock.acceptance:
        raise _not_a_websocket(address, "its answer to the upgrade is not valid")
    if "sec-websocket-extensions" in answer.headers:
        raise _not_a_websocket(address, "it uses an extension that was not offered")
    chosen = answer.headers.get("sec-websocket-protocol", "")
    if chosen and chosen not in subprotocols:
        raise _not_a_websocket(address, "it chose a subprotocol that was not offered")
    return chosen, answer.rest


def _not_a_websocket(address: Address, why: str) -> ConnectError:
    return ConnectError(
        f"{address.shown} cannot be used as a WebSocket: {why}. Check the address; a proxy in between may also break upgrades.",
        code="websocket_upgrade",
    )


class _UpgradeSocket:
    """What the library takes for a socket: waits under the attempt's deadline and keeps secrets and cookies to itself.

    `failure` holds the error to raise, because the library translates exceptions; `answer` what the server said, `acceptance` what it
    must have said to the key.
    """

    def __init__(
        self, stream: Stream, address: Address, headers: Headers, subprotocols: Sequence[str], attempt: Attempt
    ) -> None:
        self._stream = stream
        self._address = address
        self._headers = headers
        self._subprotocols = subprotocols
        self._attempt = attempt
        self._for_library: list[bytes] = []
        self.acceptance = ""  # what the server must answer to the key
        self.answer: Answer | None = None
        self.failure: RealtimeError | None = None

    def gettimeout(self) -> None:
        """No timeout that the library must know of."""

    def close(self) -> None:
        """Does nothing: the stream has another owner."""

    def send(self, data: bytes) -> int:
        """Write the library's request, completed."""
        try:
            self._write(self._request(data))
        except RealtimeError as error:
            self.failure = error
            raise
        except OSError as error:
            self.failure = _broken(self._address, error)
            raise
        return len(data)

    def recv(self, size: int) -> bytes:
        """Read the whole answer on the first call, then hand out the lines the library needs.

        It asks for one byte at a time until that is a line feed. It gets a line, then its line feed: an upgrade costs a sixth less.
        """
        if self.answer is None:
            try:
                self.answer = self._read_answer()
            except RealtimeError as error:
                self.failure = error
                raise
            except OSError as error:
                self.failure = _broken(self._address, error)
                raise
            lines = [f"HTTP/1.1 101 {self.answer.reason}"]
            lines += [f"{name}: {self.answer.headers[name]}" for name in _PASSED_ON if name in self.answer.headers]
            pieces = [piece for line in (*lines, "") for piece in (line.encode("latin-1", "replace") + b"\r", b"\n")]
            self._for_library = pieces[::-1]
        return self._for_library.pop() if self._for_library else b""

    def _request(self, data: bytes) -> bytes:
        """The library's request with our first line and headers; of its own stay those that make the upgrade."""
        kept = [line for line in data.split(b"\r\n")[1:] if line.lower().startswith(_KEPT)]
        key = next(line for line in kept if line.lower().startswith(b"sec-websocket-key:")).partition(b":")[2].strip()
        self.acceptance = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
        lines = [f"GET {self._address.resource} HTTP/1.1"]
        if not any(name.lower() == "host" for name, _ in self._headers):
            lines.append(f"Host: {self._address.host_and_port}")
        lines += [f"{name}: {value}" for name, value in self._headers]
        if self._subprotocols:
            lines.append(f"Sec-WebSocket-Protocol: {', '.join(self._subprotocols)}")
        return b"\r\n".join([*(line.encode("latin-1") for line in lines), *kept, b"", b""])

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        stream = self._stream
        while True:
            with stream.lock:
                view = view[stream.write(view) :] if len(view) else view
                done = stream.push() and not len(view)
            if done:
                return
            self._attempt.wait(stream.sock, WRITE)

    def _read_answer(self) -> Answer:
        stream, attempt = self._stream, self._attempt
        try:
            answer = read_answer(lambda room: stream.read(room, attempt.wait))
        except AnswerError as error:
            raise _not_a_websocket(self._address, str(error)) from None
        if answer.status == 101:
            return answer
        wait = attempt.within(_BODY_SECONDS)
        body = read_body(lambda room: stream.read(room, wait), answer)
        secrets = secrets_of(self._address.resource, self._headers, self._subprotocols)
        raise refusal(answer, body, self._address.shown, secrets)


def _broken(address: Address, error: OSError) -> ConnectError:
    failure = ConnectError(
        f"the connection to {address.shown} broke during the upgrade: {error.strerror or type(error).__name__}",
        code="websocket_upgrade",
    )
    failure.__cause__ = error
    return failure
