"""Open a connection: from the address to the finished upgrade, under one deadline."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from qai_realtime_sync.errors import ConfigError, ConnectError, RealtimeTimeoutError
from qai_realtime_sync.transport.address import Address, check_headers, check_subprotocols, parse_address
from qai_realtime_sync.transport.attempt import Attempt, Cancellation
from qai_realtime_sync.transport.connection import Connection
from qai_realtime_sync.transport.dial import open_tcp
from qai_realtime_sync.transport.frames import Parser
from qai_realtime_sync.transport.proxy import choose_proxy, open_tunnel
from qai_realtime_sync.transport.refusal import secrets_of
from qai_realtime_sync.transport.stream import PlainStream, Stream
from qai_realtime_sync.transport.tls import VARIABLES, TlsStream, default_context, tls_reason
from qai_realtime_sync.transport.upgrade import upgrade

__all__ = ["connect"]

_LONGEST = 86_400.0  # a day stands for "no limit": clocks and locks refuse infinity


def connect(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    subprotocols: Iterable[str] = (),
    timeout: float = 10.0,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str | Literal[False] | None = None,
    max_size: int = 16 * 2**20,
    cancel: Cancellation | None = None,
    wake: Callable[[], None] | None = None,
) -> Connection:
    """Open a WebSocket: DNS, TCP, proxy, TLS and upgrade, all within ``timeout`` seconds.

    ``proxy``: a URL (``http://``, ``socks5://`` …), ``False`` for none, ``None`` for what the environment says. ``max_size`` is
    the largest message accepted, in bytes. ``cancel`` ends the call from another thread. ``wake`` is called, from any thread,
    when something waits to be written and nobody flushes: call `Connection.flush` then, in another thread.

    Raises: `ConfigError` before any I/O; `ConnectError`; `ApiError` if the service refuses the upgrade; `RealtimeTimeoutError`.
    """
    address = parse_address(url)
    checked = check_headers(headers)
    offered = check_subprotocols(subprotocols)
    way = choose_proxy(address, proxy)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise ConfigError(f"timeout must be a number of seconds above 0, not {timeout!r:.40}")
    with Attempt(address.shown, min(timeout, _LONGEST), cancel) as attempt:
        sock = open_tunnel(way, address, attempt) if way else open_tcp(address.host, address.port, attempt)
        try:
            stream = _secured(sock, address, ssl_context, attempt) if address.secure else PlainStream(sock)
            subprotocol, early = upgrade(stream, address, checked, offered, attempt)
            stream.settle()
        except BaseException:
            sock.close()
            raise
    parser = Parser(max_size)
    parser.feed(early)
    return Connection(stream, parser, subprotocol, wake, secrets_of(address.resource, checked, offered))


def _secured(sock: socket.socket, address: Address, context: ssl.SSLContext | None, attempt: Attempt) -> Stream:
    """The stream inside TLS. Raises: `ConnectError` (code ``tls``, or ``tls_verification`` if the certificate is not trusted)."""
    attempt.stage = f"agreeing on TLS with {address.shown}"
    try:
        context = context or default_context()
    except OSError as error:
        message = f"the certificates to trust cannot be read: {tls_reason(error)}. Check the variables {', '.join(VARIABLES)}."
        raise ConnectError(message, code="tls") from error
    try:
        stream = TlsStream(sock, context, address.host.removesuffix("."))
        stream.handshake(attempt.wait)
    except ssl.SSLCertVerificationError as error:
        message = (
            f"the certificate of {address.shown} is not trusted: {error.verify_message}. "
            "If the service has an authority of its own, name that certificate in SSL_CERT_FILE or pass an ssl_context."
        )
        raise ConnectError(message, code="tls_verification") from error
    except RealtimeTimeoutError:
        raise
    except OSError as error:
        message = f"TLS with {address.shown} failed: {tls_reason(error)}. Check that the port speaks TLS, and proxies in between."
        raise ConnectError(message, code="tls") from error
    return stream
