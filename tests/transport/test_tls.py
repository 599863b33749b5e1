"""TLS: certificates, deadlines, new keys in mid-stream while two threads use the stream, and servers that break off."""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from qai_realtime_sync import transport
from qai_realtime_sync.errors import ConnectError, RealtimeTimeoutError
from qai_realtime_sync.transport import tls
from qai_realtime_sync.transport.readiness import READ, WRITE, wait_ready
from qai_realtime_sync.transport.tls import TlsStream, default_context
from tests.transport.peer import PATIENCE, Certificates, Peer, Server, frame, serving
from tests.transport.test_connection import end_of, hold_open, in_thread, joined

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what this machine trusts."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(certificates: Certificates) -> Iterator[Server]:
    def serve(peer: Peer) -> None:
        peer.upgrade()
        hold_open(peer)

    with serving(serve, certificates.server) as server:
        yield server


def wait(sock: socket.socket, events: int) -> None:
    if not wait_ready([(sock, events)], PATIENCE):
        raise TimeoutError


# -- who is trusted ----------------------------------------------------------------------------------------------------------


def test_an_unknown_authority_is_not_trusted(server: Server) -> None:
    """A certificate of an authority the system does not know raises ``tls_verification`` and says what to do."""
    with pytest.raises(ConnectError, match="SSL_CERT_FILE") as caught:
        transport.connect(f"{server.url}?token=hidden")
    assert caught.value.code == "tls_verification"
    assert "hidden" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


def test_another_host_name_is_not_trusted(certificates: Certificates) -> None:
    """A trusted certificate for another name raises ``tls_verification``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.authority.issue_cert("other.example").configure_cert(context)
    with serving(lambda peer: peer.upgrade(), context) as server, pytest.raises(ConnectError, match="localhost") as caught:
        transport.connect(server.url, ssl_context=certificates.client)
    assert caught.value.code == "tls_verification"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_named_in_the_environment_is_trusted(
    server: Server, certificates: Certificates, variable: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual variables name the authorities to trust, also when they are set after the first connection."""
    with pytest.raises(ConnectError):
        transport.connect(server.url)
    bundle = tmp_path / "bundle.pem"
    certificates.authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv(variable, str(bundle))
    transport.connect(server.url).close()


def test_a_folder_of_certificates_is_trusted(
    server: Server, certificates: Certificates, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REQUESTS_CA_BUNDLE may name a folder as OpenSSL wants it."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl command to make such a folder")
    certificates.authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True, timeout=PATIENCE, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    transport.connect(server.url).close()


def test_a_bundle_that_is_not_there_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that names no file raises the code ``tls``, not a bare OSError."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/does/not/exist.pem")
    with pytest.raises(ConnectError, match="REQUESTS_CA_BUNDLE") as caught:
        transport.connect(server.url)
    assert caught.value.code == "tls"


def test_a_host_name_with_its_final_dot_is_the_same_host(
    server: Server, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dot that ends a full host name is for DNS; the certificate is checked without it."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *arguments: real(host.rstrip("."), *arguments))
    url = server.url.replace("localhost", "localhost.")
    transport.connect(url, ssl_context=certificates.client, proxy=False).close()


def test_the_default_context_is_shared_and_strict() -> None:
    """All connections share one context that checks certificates and names and refuses TLS below 1.2."""
    context = default_context()
    assert context is default_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_certifi_is_used_where_the_system_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without certificates falls back to the bundle of certifi instead of trusting nobody."""
    monkeypatch.setattr(tls, "_system_store", lambda: False)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda self, purpose=None: None)
    assert len(tls._new_context().get_ca_certs()) > 50


# -- versions and failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_carry_a_conversation(certificates: Certificates, version: ssl.TLSVersion) -> None:
    """TLS 1.2 and 1.3 carry messages both ways."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.authority.issue_cert("localhost").configure_cert(context)
    context.minimum_version = context.maximum_version = version

    def serve(peer: Peer) -> None:
        peer.upgrade()
        peer.send(frame(1, peer.read_frame()[1]))
        hold_open(peer)

    with serving(serve, context) as server:
        connection = transport.connect(server.url, ssl_context=certificates.client)
        connection.send("x" * 100_000)
        assert bytes(connection.recv().payload) == b"x" * 100_000
        connection.close()


def test_an_old_version_is_refused(certificates: Certificates) -> None:
    """A server that speaks only TLS 1.1 raises the code ``tls``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.authority.issue_cert("localhost").configure_cert(context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with serving(lambda peer: peer.upgrade(), context) as server, pytest.raises(ConnectError) as caught:
        transport.connect(server.url, ssl_context=certificates.client)
    assert caught.value.code == "tls"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x03\x00\x7a", b"\x15\x03\x03\x00\x02\x02\x28"])
def test_a_server_without_tls_is_told(answer: bytes) -> None:
    """Whatever a port that does not speak TLS answers to a hello raises the code ``tls`` and names the address."""

    def serve(peer: Peer) -> None:
        peer.sock.recv(4096)
        peer.send(answer)

    with serving(serve) as server, pytest.raises(ConnectError, match="localhost") as caught:
        transport.connect(server.url.replace("ws:", "wss:"))
    assert caught.value.code == "tls"


def test_a_silent_handshake_ends_at_the_deadline() -> None:
    """A server that accepts and never answers the hello ends `connect` at its timeout, naming TLS."""
    with serving(lambda peer: peer.wait_for_end()) as server:
        begun = time.monotonic()
        with pytest.raises(RealtimeTimeoutError, match="TLS"):
            transport.connect(server.url.replace("ws:", "wss:"), timeout=2.0)
        assert time.monotonic() - begun < 6.0


def test_a_handshake_is_cancelled() -> None:
    """Cancelling ends a `connect` that waits for the server's hello at once."""
    hello = threading.Event()

    def serve(peer: Peer) -> None:
        peer.sock.recv(4096)
        hello.set()
        peer.wait_for_end()

    cancel = transport.Cancellation()
    with serving(serve) as server:
        worker = in_thread(lambda: transport.connect(server.url.replace("ws:", "wss:"), cancel=cancel))
        assert hello.wait(PATIENCE)
        begun = time.monotonic()
        cancel.cancel()
        assert joined(worker).code == "cancelled"
        assert time.monotonic() - begun < 3.0


def test_the_server_learns_why_it_is_not_trusted(certificates: Certificates) -> None:
    """A client that does not trust the certificate sends an alert before it hangs up."""
    alerts: list[str] = []

    def serve(peer: Peer) -> None:
        try:
            certificates.server.wrap_socket(peer.sock, server_side=True).recv(1)
        except ssl.SSLError as error:
            alerts.append(error.reason)

    with serving(serve) as server, pytest.raises(ConnectError):
        transport.connect(server.url.replace("ws:", "wss:"))
    assert len(alerts) == 1
    assert "ALERT" in alerts[0]


def test_damaged_records_end_the_connection(certificates: Certificates) -> None:
    """Bytes that are no TLS record, in mid-stream, end the connection without a code and name TLS as the cause."""

    def serve(peer: Peer) -> None:
        raw = peer.sock
        secured = certificates.server.wrap_socket(raw.dup(), server_side=True)
        inner = Peer(secured)
        inner.upgrade()
        inner.send(frame(1, b"good"))
        raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        with contextlib.suppress(OSError):
            raw.recv(100)
        secured.close()

    with serving(serve) as server:
        connection = transport.connect(server.url.replace("ws:", "wss:"), ssl_context=certificates.client)
        assert bytes(connection.recv().payload) == b"good"
        error = end_of(connection)
    assert (error.code, error.clean) == (None, False)
    assert isinstance(error.__cause__, ssl.SSLError)


def test_a_farewell_without_a_close_frame_is_not_clean(certificates: Certificates) -> None:
    """A server that ends TLS properly but not the WebSocket has hung up."""

    def serve(peer: Peer) -> None:
        peer.upgrade()
        with contextlib.suppress(OSError):
            peer.sock.unwrap()  # type: ignore[attr-defined]

    with serving(serve, certificates.server) as server:
        error = end_of(transport.connect(server.url, ssl_context=certificates.client))
    assert (error.code, error.clean) == (None, False)


def test_we_say_farewell(certificates: Certificates) -> None:
    """After a clean close the server sees the proper end of TLS, not a cut."""
    ends: list[Any] = []

    def serve(peer: Peer) -> None:
        peer.upgrade()
        code, _ = peer.read_close()
        peer.send(frame(8, b"\x03\xe8"))
        peer.sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        try:
            ends.append((code, peer.sock.recv(1)))
        except ssl.SSLError as error:
            ends.append(error)

    with serving(serve, certificates.server) as server:
        transport.connect(server.url, ssl_context=certificates.client).close()
    assert ends == [(1000, b"")]


# -- new keys in mid-stream --------------------------------------------------------------------------------------------------


class OpensslServer:
    """``openssl s_server``: what is written to its input goes to the client, except single letters, which renew the keys."""

    def __init__(self, folder: pathlib.Path, authority: trustme.CA, version: str) -> None:
        self.version = version
        identity = authority.issue_cert("localhost")
        identity.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", "-cert", str(folder / "server.pem")]
        self.process = subprocess.Popen(
            [*command, f"-{version}", "-naccept", "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.output = b""
        assert self.process.stdout is not None
        while b"ACCEPT" not in self.output:
            line = self.process.stdout.readline()
            assert line, "openssl s_server did not start"
            self.output += line
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._collector.start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def type(self, text: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._collector.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture(params=["tls1_2", "tls1_3"])
def openssl(request: pytest.FixtureRequest, tmp_path: pathlib.Path, certificates: Certificates) -> Iterator[OpensslServer]:
    if not shutil.which("openssl"):
        pytest.skip("no openssl command here")
    server = OpensslServer(tmp_path, certificates.authority, request.param)
    yield server
    server.stop()


def test_new_keys_while_two_threads_use_the_stream(openssl: OpensslServer, certificates: Certificates) -> None:
    """Twenty times new keys, asked for by the server, during traffic both ways: no byte is lost or damaged.

    In TLS 1.3 by KeyUpdate, in TLS 1.2 by renegotiation, which a context of the caller's may allow.
    """
    renewed = threading.Semaphore(0)
    ours = []
    letter, sign = (b"K\n", "KEY_UPDATE") if openssl.version == "tls1_3" else (b"r\n", "FINISHED")

    def watch(conn: object, direction: str, version: object, content: object, kind: object, data: bytes) -> None:
        if getattr(kind, "name", "") == sign:
            if direction == "read":
                renewed.release()
            else:
                ours.append(1)

    context = ssl.create_default_context()
    certificates.authority.configure_trust(context)
    context._msg_callback = watch  # type: ignore[attr-defined]
    sock = socket.create_connection(("127.0.0.1", openssl.port))
    stream = TlsStream(sock, context, "localhost")
    stream.handshake(wait)
    stream.settle()
    while renewed.acquire(blocking=False):
        pass
    ours.clear()
    stop = threading.Event()
    received = bytearray()
    written = 0

    def read() -> None:
        room = memoryview(bytearray(4096))
        while count := stream.read(room):
            received.extend(room[:count])

    def write() -> int:
        nonlocal written
        while not stop.is_set() or written < 2000:
            data = memoryview(b"#%08d\n" % written)
            while data:
                with stream.lock:
                    data = data[stream.write(data) :]
                    pushed = stream.push()
                if data or not pushed:
                    wait(sock, WRITE)
            written += 1
        return written

    reader, writer = in_thread(read), in_thread(write)
    try:
        for number in range(20):
            openssl.type(b"line %d\n" % number)
            deadline = time.monotonic() + PATIENCE
            while b"line %d\n" % number not in received and time.monotonic() < deadline:
                threading.Event().wait(0.001)
            openssl.type(letter)
            assert renewed.acquire(timeout=PATIENCE)
        stop.set()
        total = joined(writer)
        last = b"#%08d" % (total - 1)
        deadline = time.monotonic() + PATIENCE
        while last not in openssl.output and time.monotonic() < deadline:
            threading.Event().wait(0.01)
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        joined(reader)
        sock.close()
    assert bytes(received) == b"".join(b"line %d\n" % number for number in range(20))
    assert [int(one) for one in re.findall(rb"#(\d{8})", openssl.output)] == list(range(total))
    assert len(ours) >= 1, "our side never renewed its keys"


def test_reading_sends_what_tls_wants_to_send(certificates: Certificates) -> None:
    """A stream that only reads leaves nothing of its own unsent when the kernel has room."""
    with serving(lambda peer: peer.send(b"abc"), certificates.server) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        stream = TlsStream(sock, certificates.client, "localhost")
        stream.handshake(wait)
        room = memoryview(bytearray(10))
        assert stream.read(room, lambda one, events: wait(one, READ)) == 3
        assert stream.pending == 0
        sock.close()
