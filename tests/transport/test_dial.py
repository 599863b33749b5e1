"""DNS and TCP: one deadline, staggered addresses, failures that say what failed."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import transport
from qai_realtime_sync.errors import ConnectError, RealtimeTimeoutError
from qai_realtime_sync.transport import dial
from qai_realtime_sync.transport.attempt import Attempt
from tests.transport.peer import Server
from tests.transport.test_connection import PATIENCE, hold_open, in_thread, joined

HOST = "voice.example"
real_getaddrinfo = socket.getaddrinfo


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A resolver for the test: name -> list of (family, address), an exception to raise, or an event to hang on."""
    table: dict[str, Any] = {}

    def getaddrinfo(host: str, port: int, family: int = 0, kind: int = 0, protocol: int = 0, flags: int = 0) -> list[Any]:
        if host not in table or flags & socket.AI_NUMERICHOST:
            return real_getaddrinfo(host, port, family, kind, protocol, flags)
        answer = table[host]
        if isinstance(answer, threading.Event):
            answer.wait(PATIENCE)
            raise socket.gaierror(socket.EAI_AGAIN, "hung")
        if isinstance(answer, Exception):
            raise answer
        return [(one[0], kind, 6, "", (one[1], one[2] if len(one) > 2 else port)) for one in answer]

    monkeypatch.setattr(dial.socket, "getaddrinfo", getaddrinfo)
    return table


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(lambda peer: (peer.upgrade(), hold_open(peer))[1])
    yield server
    server.stop()


@pytest.fixture
def dead() -> Iterator[tuple[str, int]]:
    """An address that accepts nothing and answers nothing: a listener whose queue is full."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    yield listener.getsockname()
    for sock in (*fillers, listener):
        sock.close()


def open_and_close(url: str, **options: Any) -> float:
    """Connect, close, and return how long connecting took."""
    begun = time.monotonic()
    connection = transport.connect(url, **options)
    took = time.monotonic() - begun
    connection.close()
    return took


def test_a_name_is_looked_up_in_a_thread_of_its_own(names: dict[str, Any], server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are resolved in a daemon thread "qai-resolver" that is gone afterwards; numbers need none."""
    seen = []
    names[HOST] = [(socket.AF_INET, "127.0.0.1")]
    patched = dial.socket.getaddrinfo

    def watch(host: str, *arguments: Any) -> Any:
        thread = threading.current_thread()
        seen.append((host, thread.name, thread.daemon))
        return patched(host, *arguments)

    monkeypatch.setattr(dial.socket, "getaddrinfo", watch)
    open_and_close(f"ws://{HOST}:{server.port}/")
    assert (HOST, "qai-resolver", True) in seen
    assert not any(thread.name == "qai-resolver" for thread in threading.enumerate())
    seen.clear()
    open_and_close(f"ws://127.0.0.1:{server.port}/")
    assert [name for _, name, _ in seen] == [threading.current_thread().name]


@pytest.mark.parametrize("failure", [socket.gaierror(socket.EAI_NONAME, "Name or service not known"), UnicodeError("label too long")])
def test_an_unknown_name_is_told(names: dict[str, Any], failure: Exception) -> None:
    """A name without address raises the code ``dns`` and names the host."""
    names[HOST] = failure
    with pytest.raises(ConnectError, match=HOST) as caught:
        transport.connect(f"wss://{HOST}/?token=hidden")
    assert caught.value.code == "dns"
    assert "hidden" not in str(caught.value)


def test_a_resolver_that_hangs_ends_at_the_deadline(names: dict[str, Any]) -> None:
    """DNS is inside the timeout, and the message says that it was DNS."""
    hanging = names[HOST] = threading.Event()
    begun = time.monotonic()
    with pytest.raises(RealtimeTimeoutError, match="looking up"):
        transport.connect(f"wss://{HOST}/", timeout=0.2)
    assert 0.15 < time.monotonic() - begun < 5.0
    hanging.set()


def test_a_lookup_is_cancelled(names: dict[str, Any]) -> None:
    """Cancelling ends a `connect` that waits for DNS at once."""
    hanging = names[HOST] = threading.Event()
    cancel = transport.Cancellation()
    worker = in_thread(lambda: transport.connect(f"wss://{HOST}/", cancel=cancel))
    while not any(thread.name == "qai-resolver" for thread in threading.enumerate()):
        threading.Event().wait(0.001)
    begun = time.monotonic()
    cancel.cancel()
    error = joined(worker)
    assert time.monotonic() - begun < 3.0
    assert isinstance(error, ConnectError)
    assert error.code == "cancelled"
    hanging.set()


def test_no_thread_for_the_resolver_is_told(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A system or interpreter that starts no thread any more gives a `ConnectError`, not a RuntimeError."""
    names[HOST] = [(socket.AF_INET, "127.0.0.1")]

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ConnectError) as caught:
        transport.connect(f"wss://{HOST}/")
    assert caught.value.code == "dns"


def test_a_refused_connection_is_told() -> None:
    """Nothing listening raises the code ``refused``, with host and port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectError, match=f"127.0.0.1 .port {port}. refused") as caught:
        transport.connect(f"ws://127.0.0.1:{port}/?token=hidden")
    assert caught.value.code == "refused"
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_a_dead_first_address_costs_one_stagger(names: dict[str, Any], server: Server, dead: tuple[str, int]) -> None:
    """If the first address does not answer, the second is tried after 250 ms, without giving up the first."""
    names[HOST] = [(socket.AF_INET, *dead), (socket.AF_INET, "127.0.0.1", server.port)]
    assert 0.2 < open_and_close(f"ws://{HOST}:{server.port}/") < 3.0


def test_a_refused_first_address_costs_nothing(names: dict[str, Any], server: Server) -> None:
    """If the first address refuses, the second is tried at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()
    names[HOST] = [(socket.AF_INET, *closed), (socket.AF_INET, "127.0.0.1", server.port)]
    assert min(open_and_close(f"ws://{HOST}:{server.port}/") for _ in range(5)) < 0.2  # a busy machine is late, but not each time


def test_dead_addresses_end_at_the_deadline(names: dict[str, Any], dead: tuple[str, int]) -> None:
    """Addresses that never answer end `connect` at its timeout, while connecting."""
    names[HOST] = [(socket.AF_INET, *dead)] * 3
    with pytest.raises(RealtimeTimeoutError, match="connecting to the host"):
        transport.connect(f"ws://{HOST}/", timeout=0.6)


def test_connecting_is_cancelled(dead: tuple[str, int]) -> None:
    """Cancelling ends a `connect` that waits for TCP at once."""
    cancel = transport.Cancellation()
    worker = in_thread(lambda: transport.connect(f"ws://{dead[0]}:{dead[1]}/", cancel=cancel))
    while not cancel._wakers:
        threading.Event().wait(0.001)
    begun = time.monotonic()
    cancel.cancel()
    assert joined(worker).code == "cancelled"
    assert time.monotonic() - begun < 3.0
    assert cancel.cancelled
    assert not cancel._wakers


def test_addresses_that_cannot_be_reached_are_told(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No route raises the code ``unreachable`` and says what the system says."""
    names[HOST] = [(socket.AF_INET, "127.0.0.1")]
    for number, words in ((errno.ENETUNREACH, "unreachable"), (errno.EMFILE, "too many files")):
        monkeypatch.setattr(dial.socket.socket, "connect_ex", lambda self, where, number=number: number)
        with pytest.raises(ConnectError, match=words) as caught:
            transport.connect(f"ws://{HOST}/")
        assert caught.value.code == "unreachable"


def test_no_descriptor_left_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a free descriptor gets a `ConnectError` that says so."""

    def socketpair() -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", socketpair)
    with pytest.raises(ConnectError, match="too many files"):
        transport.connect("ws://127.0.0.1:9/", cancel=transport.Cancellation())


def test_a_family_the_system_does_not_speak_is_skipped(names: dict[str, Any], server: Server) -> None:
    """An address whose socket cannot be made does not keep the next from being tried; none at all is told."""
    names[HOST] = [(9999, "nowhere"), (socket.AF_INET, "127.0.0.1", server.port)]
    open_and_close(f"ws://{HOST}:{server.port}/")
    names[HOST] = [(9999, "nowhere")]
    with pytest.raises(ConnectError) as caught:
        transport.connect(f"ws://{HOST}/")
    assert caught.value.code == "unreachable"
    names[HOST] = [(socket.AF_INET, "not a number")]
    with pytest.raises(ConnectError):
        transport.connect(f"ws://{HOST}/")
    names[HOST] = []
    with pytest.raises(ConnectError):
        transport.connect(f"ws://{HOST}/")


def test_families_take_turns() -> None:
    """IPv6 and IPv4 addresses are tried alternately, beginning with what the resolver prefers."""
    six, four = socket.AF_INET6, socket.AF_INET
    order = dial._interleaved([(six, 1, 6, "", n) for n in (1, 2, 3)] + [(four, 1, 6, "", n) for n in (4, 5)])
    assert [(one[0], one[4]) for one in order] == [(six, 1), (four, 4), (six, 2), (four, 5), (six, 3)]


def test_ipv6_works() -> None:
    """A server on ::1 is reached by its number in brackets."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        server = Server(lambda peer: (peer.upgrade(), hold_open(peer))[1], host="::1")
    except OSError:
        pytest.skip("no IPv6 address on the loopback here")
    try:
        open_and_close(f"ws://[::1]:{server.port}/")
    finally:
        server.stop()


def test_sockets_are_set_up_for_voice(server: Server) -> None:
    """No delay for small packets; keepalive and, where the system has it, a user timeout notice a dead link within 10 s."""
    connection = transport.connect(f"ws://127.0.0.1:{server.port}/")
    sock = connection._stream.sock
    read = [(socket.IPPROTO_TCP, "TCP_NODELAY"), (socket.SOL_SOCKET, "SO_KEEPALIVE")]
    assert all(sock.getsockopt(level, getattr(socket, name)) for level, name in read)
    expected = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
    for name, value in expected.items():
        if hasattr(socket, name):
            assert sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
    connection.close()


def test_an_attempt_without_time_raises_before_any_work() -> None:
    """A deadline that has passed is noticed by the first wait."""
    with Attempt("ws://a/", 1e-9) as attempt, pytest.raises(RealtimeTimeoutError):
        dial.resolve(HOST, 80, attempt)
