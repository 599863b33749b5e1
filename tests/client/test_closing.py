"""Ending: from every state, from every thread, against every kind of peer, within its bound, and with nothing left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.client import closing
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.errors import ConfigError, ConnectionClosedError, ForkedClientError, NotConnectedError, RealtimeError
from qai_realtime_sync.events import Closed, Event
from tests.servers import Service, Talk, deaf, ready, refuse, service

BOUND = 5.0  # close() promises 3 s; the rest is for a busy machine


def threads_of(client: RealtimeClient) -> list[threading.Thread]:
    call = client._call
    return [t for t in (call.reader, call.sender.thread, call.lane.thread, *call.pool.threads) if t is not None]


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < seconds, f"it took {took:.2f} s"


def is_over(client: RealtimeClient, ends: list[Event]) -> None:
    """One end was told, no thread of ours is left."""
    for thread in threads_of(client):
        thread.join(20.0)
        assert not thread.is_alive(), f"{thread.name} is left"
    assert [type(event) for event in ends] == [Closed]
    assert client.state in ("closed", "failed")


def counting(client: RealtimeClient) -> list[Event]:
    ends: list[Event] = []
    client.on("closed", ends.append)
    return ends


# -- states ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_client_that_was_never_connected_is_closed_at_once(how: str) -> None:
    """Nothing was open: its end is told all the same, in 50 ms (on a quiet machine), and connecting is refused from then on."""
    client = RealtimeClient("qai_x")
    ends = counting(client)
    with within(1.5):
        getattr(client, how)()
        assert isinstance(client.wait(2.0), Closed)
    is_over(client, ends)
    closed = client.wait(1.0)
    assert (closed.code, closed.clean, closed.by, closed.meaning) == (None, True, "client", "normal")
    client.close()
    client.abort()
    with pytest.raises(NotConnectedError):
        client.connect()
    is_over(client, ends)


def connecting(client: RealtimeClient) -> threading.Thread:
    """Connect in another thread; what comes of it is kept in the thread's name space."""

    def run() -> None:
        try:
            client.connect()
        except RealtimeError as error:
            outcome.append(error)

    outcome: list[RealtimeError] = []
    thread = threading.Thread(target=run)
    thread.outcome = outcome  # type: ignore[attr-defined]
    thread.start()
    return thread


def mute(talk: Talk) -> None:
    """Take the TCP connection and say nothing."""
    talk.peer.read_request()
    talk.over.wait(8.0)


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize(("opening", "state"), [(mute, "connecting"), (deaf, "handshaking")])
def test_closing_while_connecting_ends_the_attempt(how: str, opening: Callable[[Talk], None], state: str) -> None:
    """close() returns within its bound, connect() raises that the client was closed, and no thread is left."""
    with service(opening) as peer:
        client = peer.client(connect_timeout=60.0)
        ends = counting(client)
        reached = threading.Event()
        client.on("state_changed", lambda event: reached.set() if event.new == state else None)
        thread = connecting(client)
        assert reached.wait(20.0)
        with within(BOUND):
            getattr(client, how)()
            thread.join(BOUND)
        assert not thread.is_alive()
        assert client.wait(2.0).by == "client"
        is_over(client, ends)
        (error,) = thread.outcome  # type: ignore[attr-defined]
        assert isinstance(error, NotConnectedError)
        assert "closed while it connected" in str(error)


def test_ctrl_c_while_connecting_ends_the_attempt() -> None:
    """KeyboardInterrupt comes out of connect(), and nothing goes on behind it."""
    with service(deaf) as peer:
        client = peer.client(connect_timeout=60.0)
        ends = counting(client)
        client.on("state_changed", lambda event: os.kill(os.getpid(), signal.SIGINT) if event.new == "handshaking" else None)
        with pytest.raises(KeyboardInterrupt), within(BOUND):
            client.connect()
        is_over(client, ends)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_an_open_conversation_is_quick(how: str) -> None:
    """With a peer that answers, it is a matter of milliseconds."""
    with service() as peer:
        client = peer.client()
        ends = counting(client)
        client.connect()
        talk = peer.talk()
        with within(2.5):
            getattr(client, how)()
            client.wait(2.0)
        is_over(client, ends)
        assert talk.over.wait(20.0)
        assert talk.closed_with == ((1000, "") if how == "close" else None)


def test_a_close_frame_carries_code_and_reason() -> None:
    """The service reads why; a reason that is too long is cut to what a frame holds."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        client.close(4000, "ø" * 100)
        assert talk.over.wait(20.0)
        assert talk.closed_with == (4000, "ø" * 61)


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (1000, None, "the reason of a close must be text, not NoneType"),
        (1000, b"bye", "the reason of a close must be text, not bytes"),
        ("1000", "", "a close code is a whole number like 1000, not '1000'"),
        (None, "", "a close code is a whole number like 1000, not None"),
        (1000.0, "", "a close code is a whole number like 1000, not 1000.0"),
        (True, "", "a close code is a whole number like 1000, not True"),
        (1006, "", "1006 is not a close code that may be sent"),
    ],
)
def test_a_goodbye_that_cannot_be_said_is_refused_and_ends_nothing(code: Any, reason: Any, words: str) -> None:
    """The conversation goes on, and the next close is an orderly one."""
    with service() as peer:
        client = peer.client()
        ends = counting(client)
        client.connect()
        talk = peer.talk()
        with pytest.raises(ConfigError, match=words):
            client.close(code, reason)
        assert client.state == "open"
        talk.fence(client)
        client.close()
        closed = client.wait(2.0)
        assert (closed.by, closed.meaning, closed.clean) == ("client", "normal", True)
        is_over(client, ends)


@pytest.mark.parametrize("timeout", [1e10, 1e300, 10**12])
def test_a_close_may_be_given_longer_than_a_lock_can_count(timeout: float) -> None:
    """It waits for a handler that takes its time, and returns when that is over."""
    with service() as peer:
        client = peer.client()
        ends = counting(client)
        stuck, leave = threading.Event(), threading.Event()
        client.on("unknown", lambda event: (stuck.set(), leave.wait(8.0)))
        client.connect()
        peer.talk().say("one")
        assert stuck.wait(20.0)
        late = threading.Timer(0.2, leave.set)
        late.start()
        client.close(timeout=timeout)
        assert leave.is_set()
        late.join(20.0)
        assert client.wait(2.0).by == "client"
        is_over(client, ends)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_during_backoff_ends_the_wait(how: str) -> None:
    """The next attempt is not waited for; what was lost before is not told as the end's reason."""
    with service(ready, refuse("503 No")) as peer:
        client = peer.client(reconnect=ReconnectPolicy(base=60.0, cap=60.0), random=lambda: 1.0)
        ends = counting(client)
        client.connect()
        waiting = threading.Event()
        client.on("reconnecting", lambda event: waiting.set() if event.delay > 1 else None)
        peer.talk().close(1011, "broken")
        assert waiting.wait(20.0)
        with within(BOUND):
            getattr(client, how)()
            closed = client.wait(2.0)
        is_over(client, ends)
        assert (closed.by, closed.meaning, closed.reason) == ("client", "normal", "")
        assert closed.code == (1000 if how == "close" else 1006)


# -- threads ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_in_a_handler_returns_at_once_and_ends_behind_it(how: str) -> None:
    """The end comes after the handler that is running, and the handler may go on."""
    with service() as peer:
        client = peer.client()
        ends = counting(client)
        order: list[str] = []

        def handler(event: Event) -> None:
            started = time.monotonic()
            getattr(client, how)()
            getattr(client, how)()
            order.append("handler" if not ends and time.monotonic() - started < 2.5 else "too late")

        client.on("unknown", handler)
        client.connect()
        peer.talk().say("one")
        with within(BOUND):
            client.wait(20.0)
        is_over(client, ends)
        assert order == ["handler"]


def test_closing_in_a_background_handler_waits_for_the_end() -> None:
    """The lane is not the reader: close() may wait there, and does not wait for itself."""
    with service() as peer:
        client = peer.client()
        ends = counting(client)
        seen: list[str] = []
        client.on("unknown", lambda event: (client.close(), seen.append(client.state)), background=True)
        client.connect()
        peer.talk().say("one")
        with within(BOUND):
            client.wait(20.0)
            is_over(client, ends)
        assert seen == ["closed"]


def test_closing_in_a_tool_waits_for_the_end() -> None:
    """A tool may hang up; its own thread is not waited for."""
    with service() as peer:
        client = peer.client()
        ends = counting(client)
        seen: list[str] = []

        @client.tool
        def hang_up() -> None:
            """End the call."""
            client.close()
            seen.append(client.state)

        client.connect()
        talk = peer.talk()
        talk.created("r1")
        talk.call("r1", "c1", "hang_up")
        with within(BOUND):
            client.wait(20.0)
            is_over(client, ends)
        assert seen == ["closed"]


def test_closing_in_a_handler_of_the_end_does_nothing() -> None:
    """It is over already."""
    with service() as peer:
        client = peer.client()
        ends = counting(client)
        client.on("closed", lambda event: client.close())
        client.on("closed", lambda event: client.abort())
        client.connect()
        peer.talk()
        with within(BOUND):
            client.close()
        is_over(client, ends)


def test_ten_threads_close_at_once() -> None:
    """All return within the bound, and there is one end."""
    with service() as peer:
        client = peer.client()
        ends = counting(client)
        client.connect()
        talk = peer.talk()
        start = threading.Barrier(11)

        def work(number: int) -> None:
            start.wait(5.0)
            (client.abort if number % 5 == 4 else client.close)()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        start.wait(5.0)
        with within(BOUND):
            for thread in threads:
                thread.join(BOUND)
                assert not thread.is_alive()
        is_over(client, ends)
        assert talk.over.wait(20.0)


def test_connecting_and_closing_at_once_ends_either_way() -> None:
    """Whichever is first, connect() returns or raises, and the client is over with one end."""
    with service() as peer:
        for _ in range(10):
            client = peer.client()
            ends = counting(client)
            thread = connecting(client)
            with within(BOUND):
                client.close()
                thread.join(BOUND)
            assert not thread.is_alive()
            client.wait(2.0)
            is_over(client, ends)


# -- peers -----------------------------------------------------------------------------------------------------------------------


def ignores(talk: Talk) -> None:
    talk.answers_close = False


def floods(talk: Talk) -> None:
    talk.answers_close = False

    def flood() -> None:
        with contextlib.suppress(OSError):
            while not talk.over.is_set():
                talk.say("noise", text="x" * 10_000)

    threading.Thread(target=flood, name="flood").start()


def reads_nothing(talk: Talk) -> None:
    talk.stall()


def is_gone(talk: Talk) -> None:
    talk.drop()


@pytest.mark.parametrize("how", ["close", "abort", "handler"])
@pytest.mark.parametrize("peer_does", [ignores, floods, reads_nothing, is_gone])
def test_no_peer_can_keep_a_client_open(peer_does: Callable[[Talk], None], how: str) -> None:
    """A peer that ignores the close, floods, reads nothing or is gone is left within the bound, also by a close in a handler."""
    with service() as peer:
        client = peer.client(reconnect=ReconnectPolicy(base=60.0, cap=60.0), random=lambda: 1.0)
        ends = counting(client)
        client.connect()
        talk = peer.talk()
        if peer_does is reads_nothing:
            talk.stall()
            while client.outbox.waiting < 3:
                client.send_event({"type": "big", "text": "x" * 200_000})
        if how == "handler":
            client.on("unknown", lambda event: client.close())
            talk.say("go")
        peer_does(talk)
        with within(BOUND if how != "abort" else 2.5):
            if how != "handler":
                getattr(client, how)()
            closed = client.wait(20.0)
        assert closed.by == "client" or peer_does is is_gone
        is_over(client, ends)
        counts = client._call.outbox.counts
        assert counts.waiting == 0


def test_a_thread_that_sends_while_the_client_closes_is_told() -> None:
    """It never blocks and never sends after the end: it gets NotConnectedError."""
    with service() as peer:
        client = peer.client(max_audio=100_000.0)  # on a busy machine the three are faster than the network
        ends = counting(client)
        client.connect()
        talk = peer.talk()
        raised: list[Exception] = []
        sent = threading.Event()

        def chatter() -> None:
            try:
                for number in range(1_000_000):
                    client.send_audio(bytes(960))
                    if number == 20:
                        sent.set()
            except Exception as error:
                raised.append(error)

        threads = [threading.Thread(target=chatter) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert sent.wait(20.0)
        with within(BOUND):
            client.close()
        for thread in threads:
            thread.join(20.0)
            assert not thread.is_alive()
        is_over(client, ends)
        assert [type(error) for error in raised] == [NotConnectedError] * 3
        assert talk.over.wait(20.0)


def test_threads_that_wait_are_woken_by_the_end() -> None:
    """wait_for, next_event and events() all come back at once when the client is aborted."""
    with service() as peer:
        client = peer.client()
        client.connect()
        peer.talk()
        results: dict[str, Any] = {}
        started = threading.Barrier(4)

        def run(name: str, action: Callable[[], Any]) -> None:
            started.wait(5.0)
            try:
                results[name] = action()
            except Exception as error:
                results[name] = error

        actions = {
            "wait_for": lambda: client.wait_for("response_done", None),
            "next_event": lambda: [client.next_event(5.0) for _ in range(100)],
            "events": lambda: list(client.events())[-1:],
        }
        threads = [threading.Thread(target=run, args=item) for item in actions.items()]
        for thread in threads:
            thread.start()
        started.wait(5.0)
        with within(4.0):
            client.abort()
            for thread in threads:
                thread.join(4.0)
                assert not thread.is_alive()
        assert isinstance(results["wait_for"], ConnectionClosedError)
        assert isinstance(results["next_event"], NotConnectedError)
        assert isinstance(results["events"][0], Closed)


def test_a_handler_that_does_not_return_keeps_only_its_own_thread() -> None:
    """close() still returns within its bound; the end is told when the handler lets go."""
    with service() as peer:
        client = peer.client(close_timeout=0.5)
        ends = counting(client)
        stuck, leave = threading.Event(), threading.Event()
        client.on("unknown", lambda event: (stuck.set(), leave.wait(8.0)))
        client.connect()
        peer.talk().say("one")
        assert stuck.wait(20.0)
        with within(2.8):  # three seconds without a budget of its own
            client.close()
        assert ends == []
        leave.set()
        client.wait(20.0)
        is_over(client, ends)


def test_many_clients_come_and_go_without_a_trace() -> None:
    """Twenty conversations, one after the other, leave no thread and no descriptor."""
    with service() as peer:

        def once() -> None:
            with peer.client() as client:
                talk = peer.talk()
                client.send_text("hello", respond=False)
                talk.fence(client)
            assert talk.over.wait(20.0)

        once()
        peer.server._sockets.clear()
        before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        for _ in range(20):
            once()
        for thread in threading.enumerate():
            if thread.name == "test-peer":
                thread.join(20.0)
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        assert threading.active_count() <= threads + 1


def test_closing_all_takes_no_longer_for_many_that_hang() -> None:
    """Thirty handlers that do not return use up one moment together, not one each."""
    with service() as peer:
        leave, stuck = threading.Event(), threading.Semaphore(0)
        clients = [peer.client() for _ in range(30)]
        try:
            for client in clients:
                client.on("unknown", lambda event: (stuck.release(), leave.wait(30.0)))
                client.connect()
                peer.talk().say("one")
            for _ in clients:
                assert stuck.acquire(timeout=20.0)
            with within(4.5):  # two seconds, and something for a busy machine; three more if each had its own moment
                closing.close_all()
        finally:
            leave.set()
        for client in clients:
            client.wait(20.0)
            for thread in threads_of(client):
                thread.join(20.0)
                assert not thread.is_alive()


# -- the process -----------------------------------------------------------------------------------------------------------------

OPEN = """
import sys, threading, time
from qai_realtime_sync import RealtimeClient
client = RealtimeClient("qai_x", base_url=sys.argv[1])
client.on("closed", lambda event: print("closed", event.by, event.code, flush=True))
client.connect()
print("open", flush=True)
"""

WAYS = {
    "end": ("", 0, ""),
    "exit": ("sys.exit(5)", 5, ""),
    "exception": ("raise LookupError('mine')", 1, "LookupError: mine"),
    "thread": ("threading.Thread(target=lambda: client.wait(30), daemon=True).start()", 0, ""),
    "second client": ("two = RealtimeClient('qai_x', base_url=sys.argv[1]).connect()", 0, ""),
}


def run(script: str, peer: Service) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, peer.base_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=os.getcwd()
    )


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_process_ends_with_an_open_client(way: str, answers: bool) -> None:
    """Within 3 s, with its own exit code, without a traceback of ours, whether the service answers the close or not."""
    line, code, words = WAYS[way]

    def opening(talk: Talk) -> None:
        talk.answers_close = answers
        ready(talk)

    with service(opening) as peer:
        process = run(OPEN + line, peer)
        try:
            talk = peer.talk(20.0)
            started = time.monotonic()
            out, err = process.communicate(timeout=20.0)
            took = time.monotonic() - started
        finally:
            process.kill()
            process.wait(5.0)
        assert process.returncode == code
        assert took < 5.0
        assert "open" in out
        assert out.count("closed client 1001") == 1
        assert words in err
        assert err.count("Traceback") == (1 if words else 0), err
        assert talk.over.wait(20.0)
        assert talk.closed_with == (1001, "")


def test_ctrl_c_in_the_main_thread_closes_the_conversation() -> None:
    """KeyboardInterrupt comes out of wait(), the program says goodbye, and the process ends in time."""
    script = f"""{OPEN}
try:
    print("waiting", flush=True)
    client.wait(30)
except KeyboardInterrupt:
    client.close()
    print("interrupted", flush=True)
"""
    with service() as peer:
        process = run(script, peer)
        try:
            talk = peer.talk(20.0)
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["open\n", "waiting\n"]
            process.send_signal(signal.SIGINT)
            with within(5.0):
                out, err = process.communicate(timeout=20.0)
        finally:
            process.kill()
            process.wait(5.0)
        assert "interrupted" in out
        # On a busy machine a handler may be slow for once, and the client says so.
        assert [line for line in err.splitlines() if "held up the conversation" not in line] == []
        assert process.returncode == 0
        assert talk.over.wait(20.0)
        assert talk.closed_with == (1000, "")


FORKED = (
    "connect close abort wait wait_for next_event events on once off send_audio send_audio_base64 commit_audio clear_audio send_text "
    "send_context say send_image ask create_response cancel_response interrupt send_function_result truncate_item delete_item "
    "retrieve_item update_session approve_mcp_call send_event drain play_to tool mutate_context state is_connected conversation outbox"
).split()

CALLS: dict[str, tuple[Any, ...]] = {
    "wait_for": ("error",),
    "on": ("error", print),
    "once": ("error", print),
    "off": ("error",),
    "send_audio": (b"\0\0",),
    "send_audio_base64": ("AAAA",),
    "send_text": ("x",),
    "send_context": ("x",),
    "say": ("x",),
    "send_image": (b"x", "image/png"),
    "ask": ("x",),
    "send_function_result": ("c", "x"),
    "truncate_item": ("i", 5),
    "delete_item": ("i",),
    "retrieve_item": ("i",),
    "approve_mcp_call": ("a", True),
    "send_event": ({"type": "x"},),
    "play_to": (None,),
    "tool": (print,),
}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_cannot_touch_its_parents_conversation() -> None:
    """Every public call raises ForkedClientError there, forgetting the client closes nothing, and the parent goes on."""
    with service() as peer:
        client = peer.client()
        client.connect()
        talk = peer.talk()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                status = _in_the_child(client, peer)
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        client.send_text("still here", respond=False)
        talk.expect("conversation.item.create")
        assert "fence" not in talk.kinds()
        assert talk.closed_with is None
        client.close()


def _in_the_child(client: RealtimeClient, peer: Service) -> int:
    import gc

    try:
        client.__enter__()  # of a client that is open
        return 7
    except ForkedClientError:
        pass
    for name in FORKED:
        try:
            found = getattr(client, name)
            if callable(found):
                found(instructions="x") if name == "mutate_context" else found(*CALLS.get(name, ()))
        except ForkedClientError as error:
            if "make a client in each process, after the fork" not in str(error):
                return 3
            continue
        except BaseException:
            return 4
        os.write(2, f"{name} did not raise\n".encode())
        return 5
    with contextlib.suppress(ForkedClientError), client:
        pass
    repr(client)
    peer.clients.clear()
    del client
    gc.collect()
    closing.close_all()
    return 0
