"""Proxies: which is chosen, and tunnels through small proxies of our own on the loopback."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from qai_realtime_sync import transport
from qai_realtime_sync.errors import ConfigError, ConnectError, RealtimeTimeoutError
from qai_realtime_sync.transport.address import parse_address
from qai_realtime_sync.transport.proxy import Proxy, choose_proxy
from tests.transport.conftest import Wire
from tests.transport.peer import PATIENCE, Peer, Server, frame, serving
from tests.transport.test_connection import hold_open

# -- which one ---------------------------------------------------------------------------------------------------------------


def chosen(url: str, **environ: str) -> str | None:
    proxy = choose_proxy(parse_address(url), None, environ)
    return proxy and proxy.host


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("wss://a.example/", {"https_proxy": "http://one:1"}, "one"),
        ("wss://a.example/", {"HTTPS_PROXY": "http://one:1"}, "one"),
        ("wss://a.example/", {"wss_proxy": "two", "https_proxy": "one"}, "two"),
        ("wss://a.example/", {"all_proxy": "socks5://three"}, "three"),
        ("wss://a.example/", {"http_proxy": "one"}, None),
        ("ws://a.example/", {"http_proxy": "one"}, "one"),
        ("ws://a.example/", {"ws_proxy": "two", "http_proxy": "one"}, "two"),
        ("ws://a.example/", {"https_proxy": "one"}, None),
        ("ws://a.example/", {"HTTP_PROXY": "one", "REQUEST_METHOD": "GET"}, None),
        ("ws://a.example/", {"http_proxy": "one", "REQUEST_METHOD": "GET"}, "one"),
        ("wss://a.example/", {"https_proxy": ""}, None),
        ("wss://localhost/", {"https_proxy": "one"}, None),
        ("wss://x.localhost/", {"https_proxy": "one"}, None),
        ("wss://127.0.0.7/", {"https_proxy": "one"}, None),
        ("wss://[::1]/", {"https_proxy": "one"}, None),
        ("wss://notlocalhost/", {"https_proxy": "one"}, "one"),
    ],
)
def test_the_environment_names_a_proxy(url: str, environ: dict[str, str], expected: str | None) -> None:
    """The scheme's own variable comes before ``all_proxy``, small letters before capitals; this machine never has one."""
    assert chosen(url, **environ) == expected


@pytest.mark.parametrize(
    ("url", "no_proxy", "exempt"),
    [
        ("wss://good.com/", ".good.com", True),
        ("wss://api.good.com/", ".good.com", True),
        ("wss://api.good.com/", "good.com", True),
        ("wss://api.good.com/", "*.good.com", True),
        ("wss://evilgood.com/", ".good.com", False),
        ("wss://evilgood.com/", "good.com", False),
        ("wss://good.com.evil.org/", "good.com", False),
        ("wss://GOOD.com/", "good.COM", True),
        ("wss://a.example/", "b.example, a.example", True),
        ("wss://a.example/", "b.example a.example", True),
        ("wss://a.example/", "*", True),
        ("wss://a.example/", ",", False),
        ("wss://a.example/", ".", False),
        ("wss://a.example:444/", "a.example:444", True),
        ("wss://a.example/", "a.example:444", False),
        ("wss://10.1.2.3/", "10.0.0.0/8", True),
        ("wss://11.1.2.3/", "10.0.0.0/8", False),
        ("wss://10.1.2.3/", "10.0.0.0/99", False),
        ("wss://10.1.2.3/", "10.1.2.3", True),
        ("wss://[fd00::5]:7/", "[fd00::5]:7", True),
        ("wss://[fd00::5]/", "fd00::/8", True),
    ],
)
def test_no_proxy_names_hosts_domains_and_networks(url: str, no_proxy: str, exempt: bool) -> None:
    """An entry matches the host itself and what lies in its domain, never a name that only ends alike."""
    assert (chosen(url, https_proxy="one", no_proxy=no_proxy) is None) is exempt


def test_the_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy given is used also for this machine; False uses none."""
    monkeypatch.setenv("https_proxy", "http://one:1")
    address = parse_address("wss://a.example/")
    assert choose_proxy(address, False) is None
    assert choose_proxy(address, "socks5h://u%40x:p%3Aw@two") == Proxy(kind="socks5h", host="two", port=1080, user="u@x", password="p:w")
    assert choose_proxy(address, None) == Proxy(kind="http", host="one", port=1)
    assert choose_proxy(parse_address("ws://localhost/"), "three:8080") == Proxy(kind="http", host="three", port=8080)


@pytest.mark.parametrize("proxy", ["https://secret@a", "ftp://secret@a", "http://u:secret@", "http://secret@a:0", "http://a:secret", "http://u:secret%0d%0a@a"])
def test_a_bad_proxy_is_refused(proxy: str) -> None:
    """A proxy of another kind, without host or port, or with line breaks raises `ConfigError`, without its password."""
    with pytest.raises(ConfigError) as caught:
        transport.connect("wss://a.example/", proxy=proxy)
    assert caught.value.code == "invalid_proxy"
    assert "secret" not in str(caught.value)


def test_a_proxy_hides_its_credentials() -> None:
    """The text form of a proxy has neither user nor password."""
    assert "hidden" not in repr(Proxy(kind="http", host="a", port=1, user="hidden1", password="hidden2"))


# -- tunnels -----------------------------------------------------------------------------------------------------------------

Shake = Callable[[Peer], tuple[str, int] | None]


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    for sock in (source, sink):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxying(shake: Shake) -> Iterator[Server]:
    """A proxy whose ``shake`` agrees with the client and says where to connect it (``None`` = nowhere)."""

    def serve(peer: Peer) -> None:
        where = shake(peer)
        if where is None:
            peer.wait_for_end()
            return
        with socket.create_connection(where) as onward:
            back = threading.Thread(target=pump, args=(onward, peer.sock), daemon=True)
            back.start()
            pump(peer.sock, onward)
            back.join(PATIENCE)

    with serving(serve) as server:
        yield server


def connect_http(peer: Peer) -> tuple[str, int]:
    request = peer.read_request().decode()
    host, port = request.split(" ")[1].split(":")
    peer.send(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
    return host, int(port)


def connect_socks5(peer: Peer) -> tuple[str, int]:
    version, count = peer.read_exactly(2)
    methods = peer.read_exactly(count)
    assert version == 5
    if 2 in methods:
        peer.send(b"\x05\x02")
        peer.read_exactly(1)
        user = peer.read_exactly(peer.read_exactly(1)[0])
        password = peer.read_exactly(peer.read_exactly(1)[0])
        right = (user, password) == (b"me", b"pass")
        peer.send(b"\x01" + (b"\x00" if right else b"\x01"))
        assert right, "the test gave other credentials"
    else:
        peer.send(b"\x05\x00")
    assert peer.read_exactly(3) == b"\x05\x01\x00"
    kind = peer.read_exactly(1)[0]
    peer.request = b"by name" if kind == 3 else b"by number"
    if kind == 1:
        host = socket.inet_ntop(socket.AF_INET, peer.read_exactly(4))
    elif kind == 4:
        host = socket.inet_ntop(socket.AF_INET6, peer.read_exactly(16))
    else:
        host = peer.read_exactly(peer.read_exactly(1)[0]).decode()
    port = int.from_bytes(peer.read_exactly(2), "big")
    peer.send(b"\x05\x00\x00\x03\x05proxy\x00\x01")
    return host if kind != 4 else "127.0.0.1", port


def connect_socks4(peer: Peer) -> tuple[str, int]:
    assert peer.read_exactly(2) == b"\x04\x01"
    port = int.from_bytes(peer.read_exactly(2), "big")
    number = peer.read_exactly(4)
    texts = []
    for _ in range(2 if number[:3] == b"\0\0\0" else 1):
        text = b""
        while not text.endswith(b"\0"):
            text += peer.read_exactly(1)
        texts.append(text[:-1])
    peer.send(b"\x00\x5a" + bytes(6))
    return texts[1].decode() if len(texts) == 2 else socket.inet_ntoa(number), port


@pytest.mark.parametrize(
    ("kind", "shake"),
    [
        ("http", connect_http),
        ("socks5h", connect_socks5),
        ("socks5h://me:pass", connect_socks5),
        ("socks5", connect_socks5),
        ("socks4", connect_socks4),
        ("socks4a", connect_socks4),
    ],
)
def test_a_conversation_through_a_proxy(wire: Wire, kind: str, shake: Shake) -> None:
    """Messages pass through each kind of proxy, plain and inside TLS."""

    def script(peer: Peer) -> None:
        peer.send(frame(1, b"through"))
        hold_open(peer)

    def serve(peer: Peer) -> None:
        peer.upgrade()
        script(peer)

    scheme, _, credentials = kind.partition("://")
    with proxying(shake) as proxy:
        server = wire.serve(serve)
        at = f"{scheme}://{credentials + '@' if credentials else ''}127.0.0.1:{proxy.port}"
        connection = wire.connect(server, proxy=at)
        assert bytes(connection.recv().payload) == b"through"
        connection.close()
        assert proxy.accepted == 1


def test_an_http_proxy_gets_host_and_credentials_and_no_secret_of_ours(plain: Wire) -> None:
    """CONNECT names the target and carries the proxy's credentials, never the headers for the service."""
    seen = []

    def shake(peer: Peer) -> tuple[str, int]:
        where = connect_http(peer)
        seen.append(peer.request.decode())
        return where

    def serve(peer: Peer) -> None:
        seen.append(peer.read_request().decode())  # before the answer: the test goes on with that
        peer.upgrade()

    with proxying(shake) as proxy:
        server = plain.serve(serve)
        connection = plain.connect(server, proxy=f"http://me:p%C3%A4ss@127.0.0.1:{proxy.port}", headers={"X-API-Key": "hidden"})
        connection.abort()
    credentials = base64.b64encode("me:päss".encode()).decode()
    target = f"localhost:{server.port}"
    assert seen[0] == f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
    assert "hidden" in seen[1]
    assert "Proxy-Authorization" not in seen[1]


@pytest.mark.parametrize(
    ("kind", "answers", "words"),
    [
        ("http", [b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"], "407"),
        ("http", [b"HTTP/1.1 403 Forbidden\r\n\r\n"], "403"),
        ("http", [b"HTTP/1.1 200 OK\r\n\r\nmore"], "more than its answer"),
        ("http", [b"SSH-2.0-x\r\n"], "not HTTP"),
        ("http", [b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000], "larger than"),
        ("http", [b""], "closed the connection"),
        ("socks5", [b"\x04\x00"], "does not speak SOCKS5"),
        ("socks5", [b"\x05\xff"], "credentials"),
        ("socks5", [b"\x05\x02"], "credentials"),
        ("socks5://me:wrong", [b"\x05\x02", b"\x01\x01"], "does not accept"),
        ("socks5", [b"\x05\x00", b"\x05\x05\x00\x01" + bytes(6)], "refused the connection"),
        ("socks5", [b"\x05\x00", b"\x05\x63\x00\x01" + bytes(6)], "refused"),
        ("socks5", [b"\x05\x00", b"\x05"], "in the middle"),
        ("socks5://" + "u" * 256, [b"\x05\x00"], "255"),
        ("socks4", [b"\x00\x5b" + bytes(6)], "91"),
        ("socks4", [b"\x00"], "in the middle"),
    ],
)
def test_a_proxy_that_refuses_is_told_as_such(kind: str, answers: list[bytes], words: str) -> None:
    """Each way a proxy can refuse or misbehave raises `ConnectError` with the code ``proxy`` and says why."""

    def serve(peer: Peer) -> None:
        for answer in answers:
            peer.sock.recv(4096)
            peer.send(answer)

    scheme, _, user = kind.partition("://")
    with serving(serve) as proxy:
        with pytest.raises(ConnectError, match=words) as caught:
            transport.connect("ws://127.0.0.1:9/", proxy=f"{scheme}://{user + '@' if user else ''}127.0.0.1:{proxy.port}")
        assert caught.value.code == "proxy"
        assert "wrong" not in str(caught.value)


def test_a_proxy_that_resets_is_told() -> None:
    """A proxy that breaks the connection off raises the code ``proxy`` with the system's reason."""

    def serve(peer: Peer) -> None:
        peer.read_exactly(5)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sock.close()

    with serving(serve) as proxy, pytest.raises(ConnectError, match="broke the connection") as caught:
        transport.connect("ws://127.0.0.1:9/", proxy=f"http://127.0.0.1:{proxy.port}")
    assert caught.value.code == "proxy"
    assert isinstance(caught.value.__cause__, ConnectionResetError)


def test_socks4_has_no_ipv6(plain: Wire) -> None:
    """An IPv6 address cannot go through SOCKS4: the message names the mend."""
    with serving(lambda peer: peer.wait_for_end()) as proxy, pytest.raises(ConnectError, match="socks5h") as caught:
        transport.connect("ws://[::1]:9/", proxy=f"socks4://127.0.0.1:{proxy.port}")
    assert caught.value.code == "proxy"


@pytest.mark.parametrize("kind", ["http", "socks5", "socks4"])
def test_a_silent_proxy_ends_at_the_deadline(kind: str) -> None:
    """A proxy that accepts and says nothing makes `connect` raise at its timeout, naming the proxy."""
    with serving(lambda peer: peer.wait_for_end()) as proxy, pytest.raises(RealtimeTimeoutError, match="proxy"):
        transport.connect("ws://127.0.0.1:9/", proxy=f"{kind}://127.0.0.1:{proxy.port}", timeout=0.2)


def test_a_proxy_that_is_not_there_is_told() -> None:
    """A refused connection to the proxy names the proxy, not the service."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectError, match=r"proxy 127\.0\.0\.1") as caught:
        transport.connect("ws://a.example/", proxy=f"http://127.0.0.1:{port}")
    assert caught.value.code == "refused"


def test_the_certificate_is_the_services_not_the_proxys(certificates: object) -> None:
    """Through a tunnel TLS is checked against the service's name: a proxy cannot pose as the service."""
    context = certificates.server  # type: ignore[attr-defined]

    def shake(peer: Peer) -> tuple[str, int]:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        return "127.0.0.1", target.port

    trusted: ssl.SSLContext = certificates.client  # type: ignore[attr-defined]
    with serving(lambda peer: peer.upgrade(), context) as target, proxying(shake) as proxy:
        with pytest.raises(ConnectError) as caught:
            transport.connect("wss://service.example/", proxy=f"http://127.0.0.1:{proxy.port}", ssl_context=trusted)
    assert caught.value.code == "tls_verification"
