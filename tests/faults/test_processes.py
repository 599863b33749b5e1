"""Processes that die, stop, fork, exit or are told to: the server's, and our own."""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping

import pytest

from qai_realtime_sync import (
    Closed,
    ForkedClientError,
    HandlerFailed,
    RealtimeClient,
    Reconnected,
    Reconnecting,
    ReconnectPolicy,
)
from qai_realtime_sync.offline import RealtimeServer
from tests.faults.proxy import FaultProxy
from tests.faults.scene import AT_ONCE, LATE, Scene, ours
from tests.faults.server_process import ROOT, START, ServerProcess
from tests.servers import service

# -- the server's process ----------------------------------------------------------------------------------------------------


@pytest.fixture
def start() -> Iterator[Callable[[], ServerProcess]]:
    """Start servers, and leave none running."""
    running: list[ServerProcess] = []

    def start() -> ServerProcess:
        running.append(ServerProcess())
        return running[-1]

    yield start
    for server in running:
        server.end()


def test_server_killed_and_started_again(start: Callable[[], ServerProcess]) -> None:
    """kill -9 of the server is noticed at once and told once; when another one listens there, the conversation goes on."""
    server = start()
    with FaultProxy(server.port) as proxy, Scene(proxy, "http") as scene:
        client, seen = scene.open(reconnect=ReconnectPolicy(attempts=1000, seconds=30.0, base=0.02, cap=0.1))
        began = time.monotonic()
        server.signal(signal.SIGKILL)
        seen.until(Reconnecting)
        assert time.monotonic() - began < AT_ONCE
        proxy.target = start().port
        reconnected = seen.until(Reconnected, timeout=START)
        assert reconnected.attempts == len(seen.of(Reconnecting))
        assert client.ask("hello").text
        assert len(seen.of(Reconnected)) == 1


def test_server_told_to_end(start: Callable[[], ServerProcess]) -> None:
    """A server that ends in an orderly way says 1001: the client comes back, and tells the code."""
    server = start()
    with FaultProxy(server.port) as proxy, Scene(proxy, "http") as scene:
        _, seen = scene.open()
        proxy.target = start().port
        server.signal(signal.SIGTERM)
        assert seen.until(Reconnecting).code == 1001
        seen.until(Reconnected)
        assert server.process.wait(START) == 0


def test_server_stopped(start: Callable[[], ServerProcess]) -> None:
    """A server process that stands still (SIGSTOP) keeps its TCP connection; the missing pong tells, and another server takes over."""
    server = start()
    with FaultProxy(server.port) as proxy, Scene(proxy, "http") as scene:
        _, seen = scene.open(ping_interval=0.2, pong_timeout=1.0)
        proxy.target = start().port
        began = time.monotonic()
        server.signal(signal.SIGSTOP)
        assert "no sign of life" in str(seen.until(Reconnecting).error)
        assert time.monotonic() - began < 1.2 + LATE
        seen.until(Reconnected)
        assert len(seen.of(Reconnecting)) == 1


def test_connect_to_a_stopped_server(start: Callable[[], ServerProcess]) -> None:
    """A stopped server still accepts TCP; connect() raises a timeout when it was promised to."""
    server = start()
    server.signal(signal.SIGSTOP)
    client = RealtimeClient("k", base_url=server.url)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        client.connect(timeout=0.4)
    assert time.monotonic() - began < 0.4 + LATE
    assert not ours()


def test_server_stopped_for_a_moment(start: Callable[[], ServerProcess]) -> None:
    """A server that stood still for less than the bound and goes on (SIGCONT) lost nothing, and nobody was told."""
    server = start()
    with FaultProxy(server.port) as proxy, Scene(proxy, "http") as scene:
        client, seen = scene.open()
        server.signal(signal.SIGSTOP)
        client.send_text("hello")
        with pytest.raises(TimeoutError):
            client.wait_for("response_created", 0.2)
        server.signal(signal.SIGCONT)
        client.wait_for("response_done")
        assert not seen.of(Reconnecting, Closed)


# -- our own process ---------------------------------------------------------------------------------------------------------

HEAD = """
import os, signal, sys, threading, time
from qai_realtime_sync import *
def client(**options):
    made = RealtimeClient("qai_k", base_url=os.environ["QAI_BASE_URL"], **options)
    return made
"""


def _run(
    server: RealtimeServer | FaultProxy,
    program: str,
    *,
    send: int | None = None,
    expect: int = 0,
    head: str = HEAD,
    answer: Mapping[str, Callable[[], object]] | None = None,
    within: float = 3.0 + LATE,
) -> str:
    """Run a program against the server, signal it when it says ready, and return what it wrote; its end must take 3 s at most.

    ``answer``: what is done when it says a line, before it is given an empty one to read.
    """
    url = server.url() if isinstance(server, FaultProxy) else server.url
    environment = {**os.environ, "QAI_BASE_URL": url, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error::ResourceWarning"}
    child = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", head + program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    watch = threading.Timer(START + 5.0, child.kill)
    watch.start()
    try:
        lines = []
        ending = None
        for line in child.stdout:
            if line == "ready\n":
                ending = time.monotonic()
                if send is not None:
                    child.send_signal(send)
            elif answer and line in answer:
                answer[line]()
                child.stdin.write("\n")
                child.stdin.flush()
            elif "held up the conversation" not in line:  # as a busy machine makes of any handler
                lines.append(line)
        code = child.wait(START)
    finally:
        watch.cancel()
        watch.join()
        child.kill()
        child.wait(START)
        child.stdout.close()
        child.stdin.close()
    said = "".join(lines)
    assert ending is not None, f"it never came so far: {said}"
    took = time.monotonic() - ending
    assert took < within, f"it took {took:.1f} s to end: {said}"
    assert code == expect, f"exit code {code}: {said}"
    return said


def _last_close(server: RealtimeServer) -> int | None:
    """The code of the last connection's close as the server saw it."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        closed = [entry for entry in server.journal if entry["name"] == "closed"]
        opened = [entry for entry in server.journal if entry["name"] == "connected"]
        if len(closed) == len(opened):
            code: int | None = closed[-1]["code"]
            return code
        threading.Event().wait(0.01)
    raise AssertionError("a connection was not closed")


@pytest.fixture
def server() -> Iterator[RealtimeServer]:
    """A server whose journal is this test's alone."""
    with RealtimeServer(light=True, pace=1000) as running:
        yield running


def test_exit_with_an_open_client(server: RealtimeServer) -> None:
    """A program that ends with open clients ends by itself, says goodbye with 1001, and writes no traceback."""
    said = _run(server, "clients = [client().connect() for _ in range(5)]\nclients[0].send_text('hi')\nprint('ready')\n")
    assert said == ""
    assert _last_close(server) == 1001


def test_exit_while_the_service_is_a_black_hole(server: RealtimeServer) -> None:
    """Twenty open clients whose service takes nothing and answers nothing do not keep a process from ending in time."""
    program = """
clients = [client().connect() for _ in range(20)]
print("connected")
input()
for c in clients:
    c.send_audio(bytes(1_000_000))
print("ready")
"""
    with FaultProxy(server.port) as proxy:
        said = _run(proxy, program, answer={"connected\n": lambda: [proxy.link(number).stall() for number in range(20)]})
    assert said == ""


def test_exit_in_a_handler(server: RealtimeServer) -> None:
    """sys.exit() in a handler means the program: whoever waits gets the SystemExit, the service a goodbye, the shell the code."""
    program = """
c = client()
c.on("response_done", lambda event: sys.exit(7))
c.connect()
c.send_text("hello")
print("ready")
c.wait()
"""
    assert "SystemExit: 7" in _run(server, program, expect=7)
    assert _last_close(server) == 1000


def test_exit_while_a_handler_runs(server: RealtimeServer) -> None:
    """A program ends in time although a handler and a tool never return."""
    program = """
c = client()
entered = threading.Event()
def stuck(event):
    entered.set()
    threading.Event().wait()
c.on("response_created", stuck)
c.connect()
c.send_text("hello")
entered.wait()
print("ready")
"""
    _run(server, program)


@pytest.mark.parametrize("state", ["open", "connecting", "waiting"])
def test_interrupt(server: RealtimeServer, state: str) -> None:
    """Ctrl-C in the main thread raises KeyboardInterrupt there, in connect() and in wait_for() too, and the process ends clean."""
    program = {
        "open": "c = client().connect()\ntry:\n    print('ready')\n    threading.Event().wait()\n",
        "connecting": "c = RealtimeClient('k', base_url=os.environ['QAI_DEAF'])\n"
        "c.on('state_changed', lambda event: event.new == 'connecting' and threading.Timer(0.3, print, ['ready']).start())\n"
        "try:\n    c.connect()\n",
        "waiting": "c = client().connect()\ntry:\n    print('ready')\n    c.wait_for('response_done', None)\n",
    }[state]
    with service(lambda talk: talk.peer.wait_for_end()) as deaf:
        os.environ["QAI_DEAF"] = deaf.base_url
        try:
            said = _run(server, program + "except KeyboardInterrupt:\n    print('interrupted', c.state)\n", send=signal.SIGINT)
        finally:
            del os.environ["QAI_DEAF"]
    assert said == f"interrupted {'open' if state != 'connecting' else 'closed'}\n"


def test_interrupt_in_with(server: RealtimeServer) -> None:
    """Ctrl-C inside `with client:` says goodbye with 1000."""
    program = "try:\n    with client() as c:\n        print('ready')\n        c.wait()\nexcept KeyboardInterrupt:\n    pass\n"
    assert _run(server, program, send=signal.SIGINT) == ""
    assert _last_close(server) == 1000


TERMINATED = -signal.SIGTERM


def test_terminated_without_the_handler(server: RealtimeServer) -> None:
    """Nothing handles SIGTERM unasked: the process dies of it, and the service sees a broken connection."""
    _run(server, "c = client().connect()\nprint('ready')\nthreading.Event().wait()\n", send=signal.SIGTERM, expect=TERMINATED)
    assert _last_close(server) != 1001


@pytest.mark.parametrize("busy", ["threading.Event().wait()", "c.wait()", "while True: c.send_audio(bytes(960)); c.outbox"])
def test_terminated_with_the_handler(server: RealtimeServer, busy: str) -> None:
    """With install_signal_handlers() SIGTERM closes every client with 1001, and then the process ends as of SIGTERM."""
    program = f"""
install_signal_handlers()
install_signal_handlers()
c = client(overflow="drop_oldest").connect()
others = [client().connect() for _ in range(3)]
said = c.on("closed", lambda event: print("closed", event.code, event.by))
print("ready")
try:
    {busy}
except RealtimeError:
    pass
threading.Event().wait()
"""
    said = _run(server, program, send=signal.SIGTERM, expect=TERMINATED)
    assert said == "closed 1001 client\n"
    assert _last_close(server) == 1001


def test_terminated_goes_on_to_the_handler_before(server: RealtimeServer) -> None:
    """A handler that the program had installed before gets the signal after the clients are closed."""
    program = """
def before(number, frame):
    print("before", c.state)
    sys.exit(3)
signal.signal(signal.SIGTERM, before)
install_signal_handlers()
c = client().connect()
print("ready")
threading.Event().wait()
"""
    assert _run(server, program, send=signal.SIGTERM, expect=3) == "before closed\n"


def test_terminated_twice(server: RealtimeServer) -> None:
    """A second SIGTERM does not wait the two seconds that a stuck client may take."""
    program = """
install_signal_handlers()
c = client().connect()
entered = threading.Event()
def stuck(event):
    while not entered.wait(0.02):  # two that come at once would be one
        os.kill(os.getpid(), signal.SIGTERM)
c.on("state_changed", stuck)
print("ready")
c.close()
"""
    for left in (2, 1, 0):  # a busy machine is late, but not each time
        try:
            _run(server, program, expect=TERMINATED, within=1.9)
            break
        except AssertionError:
            if not left:
                raise


def test_terminated_in_a_fork(server: RealtimeServer) -> None:
    """A child that was forked afterwards dies of SIGTERM at once and leaves the parent's conversation alone."""
    program = """
install_signal_handlers()
c = client().connect()
there, here = os.pipe()
pid = os.fork()
if not pid:
    os.write(here, b"!")
    never = threading.Event()
    while not never.wait(0.05):
        pass
os.read(there, 1)
os.kill(pid, signal.SIGTERM)
print(os.waitpid(pid, 0)[1])
assert c.ask("hello").text
print("ready")
c.close()
"""
    assert _run(server, program) == f"{int(signal.SIGTERM)}\n"


def test_handlers_only_in_the_main_thread(server: RealtimeServer) -> None:
    """install_signal_handlers() in another thread raises a ConfigError that says where it belongs."""
    program = """
def install():
    try:
        install_signal_handlers()
    except ConfigError as error:
        print(error)
thread = threading.Thread(target=install)
thread.start()
thread.join()
print("ready")
"""
    assert "main thread" in _run(server, program)


def test_fork(server: RealtimeServer) -> None:
    """In a forked child every call says what to do; the child's exit does not touch the parent's conversation."""
    program = """
c = client().connect()
pid = os.fork()
if not pid:
    refused = 0
    for call in (lambda: c.send_text("x"), lambda: c.send_audio(b"xx"), c.close, c.abort, lambda: c.wait_for("closed", 1),
                 lambda: c.ask("x"), c.connect, c.interrupt, c.drain, lambda: c.mutate_context(voice="Eve"), lambda: c.state):
        try:
            call()
        except ForkedClientError as error:
            assert "after the fork" in str(error)
            refused += 1
    print(refused, repr(c))
    del c
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert c.ask("hello").text
print("ready")
c.close()
"""
    assert _run(server, program) .startswith("11 <RealtimeClient")
    assert _last_close(server) == 1000


def test_client_made_in_a_fork(server: RealtimeServer) -> None:
    """A child that makes a client of its own after the fork has a conversation of its own, and ends it when it exits."""
    program = """
c = client().connect()
pid = os.fork()
if not pid:
    mine = client().connect()
    assert mine.ask("hello").text
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert c.ask("hello").text
print("ready")
c.close()
"""
    assert _run(server, program) == ""


def test_forked_error_is_exported() -> None:
    """The error that a fork gets is one of ours, so that `except RealtimeError` finds it."""
    from qai_realtime_sync import RealtimeError

    assert issubclass(ForkedClientError, RealtimeError)


GEVENT = """
from gevent import monkey
monkey.patch_all()
""" + HEAD


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
@pytest.mark.filterwarnings("ignore")
def test_gevent(server: RealtimeServer) -> None:
    """In a process patched by gevent before import twenty conversations run side by side, reconnect, close, and leave nothing."""
    program = """
import gevent
def talk(number):
    with client() as c:
        for _ in range(3):
            assert c.ask("hello", timeout=10).text
            c.send_audio(bytes(48_000))
        c._call.connection.abort()
        c.wait_for("reconnected", 10)
        assert c.ask("hello", timeout=10).text
    return c.state
ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.005)
ticker = gevent.spawn(tick)
jobs = [gevent.spawn(talk, number) for number in range(20)]
gevent.joinall(jobs, raise_error=True)
assert all(job.value == "closed" for job in jobs), [job.value for job in jobs]
assert ticks > 10, ticks
print("ready")
"""
    environment_note = _run(server, program, head=GEVENT)
    assert "Traceback" not in environment_note


# -- forgotten clients -------------------------------------------------------------------------------------------------------


def test_forgotten_client(plain: Scene) -> None:
    """A connected client that nobody refers to any more is collected, says goodbye, and its threads end."""
    client = RealtimeClient("k", base_url=plain.proxy.url())
    closed = threading.Event()
    client.on(Closed, lambda event: closed.set())
    client.connect()
    assert ours()
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    assert closed.wait(AT_ONCE)
    deadline = time.monotonic() + AT_ONCE
    for thread in threading.enumerate():
        if thread.name in ours():
            thread.join(max(0.0, deadline - time.monotonic()))
    assert not ours()


def _send_again(client: RealtimeClient, event: object) -> None:
    client.send_text("again")


def test_forgotten_client_that_a_handler_refers_to(plain: Scene) -> None:
    """A client that one of its handlers refers to lives on: that reference is the program's own."""
    client = RealtimeClient("k", base_url=plain.proxy.url())
    client.on("transcript_done", functools.partial(_send_again, client))
    gone = weakref.ref(client)
    client.connect()
    del client
    gc.collect()
    found = gone()
    assert found is not None
    assert found.is_connected
    found.close()


def test_closed_client_that_a_handler_refers_to(plain: Scene) -> None:
    """Once it is closed, a client whose handler refers to it is collected like any other: a program may make one per call for ever."""
    client = RealtimeClient("k", base_url=plain.proxy.url())
    client.on("transcript_done", functools.partial(_send_again, client))
    gone = weakref.ref(client)
    client.connect()
    client.close()
    del client
    gc.collect()
    assert gone() is None


def test_never_connected_client_leaves_nothing() -> None:
    """A client that was made and never connected costs no thread and no descriptor, and is gone when forgotten."""
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    clients = [RealtimeClient("k") for _ in range(100)]
    assert not ours()
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)
    gone = weakref.ref(clients[0])
    clients.clear()
    gc.collect()
    assert gone() is None


def test_handler_failure_is_told_once(plain: Scene) -> None:
    """A handler that raises at every event, the failures included, is told without end of neither the conversation nor the stack."""
    client, seen = plain.client()

    def broken(event: object) -> None:
        raise RuntimeError("broken")

    client.on("handler_failed", broken)
    client.on("session_ready", broken)
    client.connect()
    assert client.ask("hello").text
    assert len(seen.of(HandlerFailed)) == 1
