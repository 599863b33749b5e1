"""What must not wear out: voice both ways under new keys, and hundreds of clients one after the other."""

from __future__ import annotations

import gc
import os
import pathlib
import ssl
import threading

import pytest

from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.offline import RealtimeServer
from tests.faults import duplex
from tests.faults.scene import Scene, ours
from tests.faults.server_process import ServerProcess
from tests.faults.tls_front import key_update_missing
from tests.transport.peer import Certificates

needs_key_update = pytest.mark.skipif(bool(key_update_missing), reason=key_update_missing or "it can")


@needs_key_update
def test_new_keys_in_a_call(certificates: Certificates) -> None:
    """Four KeyUpdates of the server while voice goes both ways every 20 ms lose, double and reorder nothing, and no connection."""
    ledgers = duplex.converse(2.0, conversations=2, key_updates=4, busy=False, certificates=certificates)
    assert [ledger.complaints() for ledger in ledgers] == [[], []]
    assert all(ledger.said_up >= 99 for ledger in ledgers)


@needs_key_update
@pytest.mark.long
def test_ten_minutes_with_busy_cores(certificates: Certificates) -> None:
    """The same for ten minutes while every core is at work."""
    ledgers = duplex.converse(600.0, conversations=4, key_updates=4, busy=True, certificates=certificates)
    assert [ledger.complaints() for ledger in ledgers] == [[]] * 4


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _resident() -> int:
    """Bytes of memory that this process has in use now."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cycles(server: ServerProcess, context: ssl.SSLContext, count: int) -> None:
    for number in range(count):
        client = RealtimeClient("k", base_url=server.url, ssl_context=context)
        client.connect()
        if number % 5 == 0:
            client.send_text("hello")
        if number % 7 == 0:
            client.send_audio(bytes(9600))
        (client.abort if number % 11 == 0 else client.close)()


def _wear(tls: bool, count: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whom we speak to is not what is tested here
    with ServerProcess(*(["--tls"] if tls else [])) as server:
        _cycles(server, context, 60)  # what is loaded and cached on first use
        gc.collect()
        threads, descriptors, memory = len(ours()), _descriptors(), _resident()
        _cycles(server, context, count)
        gc.collect()
        never = threading.Event()
        for _ in range(1000):  # what was aborted ends a moment later
            if len(ours()) <= threads and _descriptors() <= descriptors:
                break
            never.wait(0.02)
        assert len(ours()) <= threads
        assert _descriptors() <= descriptors
        grown = _resident() - memory
        assert grown < 2 * 2**20, f"{grown / 2**20:.1f} MiB after {count} cycles"


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors and memory are counted in /proc")


@needs_proc
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_sixty_cycles(tls: bool) -> None:
    """Sixty times connect and close leave threads, descriptors and memory where they were."""
    _wear(tls, 60)


@needs_proc
@pytest.mark.long
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_five_hundred_cycles(tls: bool) -> None:
    """Five hundred times connect and close leave threads, descriptors and memory where they were."""
    _wear(tls, 500)


def test_close_after_abort(scene: Scene) -> None:
    """close() behind an abort() does nothing more than wait for the end, and says no goodbye."""
    client, seen = scene.open()
    client.abort()
    client.close()
    end = seen.check_life()
    assert (end.by, end.clean) == ("client", False)


def test_a_hundred_at_once(plain_server: RealtimeServer) -> None:
    """A hundred open conversations are closed from a hundred threads, and nothing is left."""
    clients = [RealtimeClient("k", base_url=plain_server.url).connect() for _ in range(100)]
    closers = [threading.Thread(target=client.close) for client in clients]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join()
    assert not ours()
    assert {client.state for client in clients} == {"closed"}
