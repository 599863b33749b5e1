"""What the tests of faults share: a local server, a proxy before it, and clients whose every event is kept."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")
pytest.importorskip("werkzeug", reason="the local server needs werkzeug")

from qai_realtime_sync.offline import RealtimeServer
from tests.faults.proxy import FaultProxy
from tests.faults.scene import Scene
from tests.servers import Service
from tests.transport.peer import Certificates


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """One authority for all tests: making keys takes a while."""
    return Certificates()


@pytest.fixture(scope="module")
def plain_server() -> Iterator[RealtimeServer]:
    """The local server, light, and fast enough that no test waits for sound."""
    with RealtimeServer(light=True, pace=1000) as server:
        yield server


@pytest.fixture(scope="module")
def tls_server() -> Iterator[RealtimeServer]:
    """The same with TLS."""
    with RealtimeServer(light=True, pace=1000, tls=True) as server:
        yield server


@pytest.fixture
def plain(plain_server: RealtimeServer) -> Iterator[Scene]:
    """A proxy before the local server."""
    with FaultProxy(plain_server.port) as proxy, Scene(proxy, "http") as scene:
        yield scene


@pytest.fixture(scope="module")
def trust(tls_server: RealtimeServer) -> ssl.SSLContext:
    """A context that trusts the local server."""
    return ssl.create_default_context(cadata=tls_server.certificate)


@pytest.fixture
def tls(tls_server: RealtimeServer, trust: ssl.SSLContext) -> Iterator[Scene]:
    """A proxy before the local server with TLS: it sees ciphertext."""
    with FaultProxy(tls_server.port) as proxy, Scene(proxy, "https", trust) as scene:
        yield scene


@pytest.fixture(params=["plain", "tls"])
def scene(request: pytest.FixtureRequest, plain_server: RealtimeServer, tls_server: RealtimeServer) -> Scene:
    """Both, one after the other; the servers are named so that they are there before the test begins to count what it leaves."""
    found: Scene = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def scripted() -> Iterator[tuple[Service, Scene]]:
    """A proxy before a service that a test drives line by line."""
    service = Service()
    try:
        with FaultProxy(service.server.port) as proxy, Scene(proxy, "http") as scene:
            yield service, scene
    finally:
        service.stop()
