"""What the tests of the transport share: a certificate authority, and a connection to a scripted peer, plain and TLS."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qai_realtime_sync import transport
from tests.transport.peer import Certificates, Peer, Server, serving


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """One authority for all tests: making keys takes a while."""
    return Certificates()


class Wire:
    """Starts scripted servers and connects to them; ``tls`` says how."""

    def __init__(self, certificates: Certificates, tls: bool) -> None:
        self.certificates = certificates
        self.tls = tls
        self._stack = contextlib.ExitStack()

    def serve(self, script: Callable[[Peer], None]) -> Server:
        context = self.certificates.server if self.tls else None
        return self._stack.enter_context(serving(script, context))

    def connect(self, server: Server, **options: Any) -> transport.Connection:
        options.setdefault("timeout", 10.0)
        options.setdefault("ssl_context", self.certificates.client if self.tls else None)
        connection = transport.connect(server.url, **options)
        self._stack.callback(connection.abort)
        return connection

    def open(self, script: Callable[[Peer], None], **options: Any) -> transport.Connection:
        """A connection to a peer that upgrades and then runs ``script``."""

        def serve(peer: Peer) -> None:
            peer.upgrade()
            script(peer)

        return self.connect(self.serve(serve), **options)

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture(params=["plain", "tls"])
def wire(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Wire]:
    """Both kinds of connection, one after the other."""
    wire = Wire(certificates, request.param == "tls")
    yield wire
    wire.stop()


@pytest.fixture
def plain(certificates: Certificates) -> Iterator[Wire]:
    """A connection without TLS, for what TLS cannot change."""
    wire = Wire(certificates, False)
    yield wire
    wire.stop()
