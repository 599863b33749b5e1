"""What a client makes of services that do wrong: the right error in time, the right end, or no end at all."""

from __future__ import annotations

import contextlib
import threading
import time
import tracemalloc

import pytest

import qai_realtime_sync
from qai_realtime_sync import (
    AudioDelta,
    Closed,
    ErrorReceived,
    RealtimeError,
    Reconnected,
    Reconnecting,
    ServiceSilent,
    TranscriptDelta,
    TranscriptDone,
    Unknown,
)
from tests.faults.bad_server import NEVER_READY, NONSENSE, VIOLATIONS, redirects, text, then
from tests.faults.scene import AT_ONCE, FAST, LATE, PATIENCE, Seen, ours
from tests.servers import Service, Talk, ready, refuse, service
from tests.transport.peer import close_frame, frame


@pytest.mark.parametrize("name", NEVER_READY)
def test_never_ready(name: str) -> None:
    """connect() raises what happened, with its code and in the service's words, within its timeout, and leaves nothing behind."""
    opening, expected = NEVER_READY[name]
    times_out = expected.error == "RealtimeTimeoutError"
    with service(opening) as bad:
        client = bad.client()
        seen = Seen(client)
        began = time.monotonic()
        with pytest.raises(RealtimeError) as caught:
            client.connect(timeout=1.5 if times_out else 10.0)
        took = time.monotonic() - began
        assert not ours()
        assert type(caught.value) is getattr(qai_realtime_sync, expected.error), caught.value
        if expected.code is not None:
            assert caught.value.code == expected.code, caught.value
        assert expected.words in str(caught.value)
        assert took < (1.5 + LATE if times_out else AT_ONCE), f"it took {took:.2f} s"
        seen.check_life()
        assert client.state == "failed"
        assert not seen.of(Reconnecting), "a first connect that fails is not tried again behind the program's back"


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violation(name: str) -> None:
    """A service that breaks the WebSocket's rules is told so by a close code, and the end is told once with the same code."""
    data, code = VIOLATIONS[name]
    with service() as bad:
        client = bad.client()
        seen = Seen(client)
        client.connect()
        talk = bad.talk()
        talker = threading.Thread(target=_say, args=(talk, data), name="says-too-much")
        talker.start()
        end = seen.until(Closed)
        talker.join()
        assert end.code == code
        assert not end.clean
        assert end.meaning == "bad_request"
        assert talk.over.wait(PATIENCE)
        assert talk.closed_with is not None and talk.closed_with[0] == code  # noqa: PT018
        client.close()
        seen.check_life()


def _say(talk: Talk, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the client has heard enough
        talk.raw(data)


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense(name: str) -> None:
    """Whatever a service says in its own language, no thread ends of it, and the conversation goes on."""
    with service(then(NONSENSE[name])) as bad:
        client = bad.client()
        seen = Seen(client)
        client.connect()
        talk = bad.talk()
        talk.transcript("r", "after", "still here")
        seen.until(TranscriptDone, where=lambda event: event.item_id == "after")
        assert client.is_connected
        assert not seen.of(Reconnecting, Closed)
        client.close()
        seen.check_life()


def test_nonsense_is_told(request: pytest.FixtureRequest) -> None:
    """A frame that cannot be read is an Unknown with its problem, one of an unknown kind an Unknown without."""
    with service(then(text("hello?"), text({"type": "response.surprise"}))) as bad:
        client = bad.client()
        seen = Seen(client)
        client.connect()
        first, second = seen.until(Unknown), seen.until(Unknown, 2)
        assert first.problem
        assert (second.type, second.problem) == ("response.surprise", None)
        client.close()


CLOSES = {1000: "normal", 1001: "going_away", 1002: "bad_request", 1007: "bad_request", 1008: "policy", 1009: "bad_request"}
CLOSES |= {1011: "lost", 1012: "going_away", 1013: "lost", 1014: "lost", None: "lost", 3000: "auth", 4001: "auth"}
AGAIN = {1001, 1011, 1012, 1013, 1014, None}


@pytest.mark.parametrize("code", CLOSES)
def test_close_code(code: int | None) -> None:
    """After 1001, 1005, 1006 and 1011 to 1015 the client comes back; after any other close it ends, with code, reason and meaning."""
    with service() as bad:
        client = bad.client(reconnect=FAST)
        seen = Seen(client)
        client.connect()
        bad.talk().close(code, "because" if code else "")
        if code in AGAIN:
            lost = seen.until(Reconnecting)
            assert (lost.code, lost.reason) == (code or 1005, "because" if code else "")
            seen.until(Reconnected)
            assert not seen.of(Closed)
        else:
            end = seen.until(Closed)
            assert (end.code, end.reason, end.by, end.clean, end.meaning) == (code, "because", "service", True, CLOSES[code])
            assert not seen.of(Reconnecting)
        client.close()
        seen.check_life()


@pytest.mark.parametrize(
    ("reason", "meaning"), [("insufficient balance", "quota"), ("session duration limit reached", "session_cap")], ids=str
)
def test_reason_only_in_the_close_frame(reason: str, meaning: str) -> None:
    """The gateway gives its reason only in the close frame; it is told with its meaning, and not tried again."""
    with service() as bad:
        client = bad.client(reconnect=FAST)
        seen = Seen(client)
        client.connect()
        bad.talk().close(1011, reason)
        end = seen.until(Closed)
        assert (end.reason, end.meaning) == (reason, meaning)
        assert not seen.of(Reconnecting)
        client.close()


RETRIED = [408, 425, 429, 500, 502, 503, 504]
FINAL = [400, 401, 402, 403, 404, 410, 418]


@pytest.mark.parametrize("status", [*RETRIED, *FINAL])
def test_refused_when_it_comes_back(status: int) -> None:
    """A refused upgrade after a loss is tried again for 408, 425, 429 and 5xx, and is the end for any other status."""
    with service(ready, refuse(f"{status} Status"), ready) as bad:
        client = bad.client(reconnect=FAST)
        seen = Seen(client)
        client.connect()
        bad.talk().drop()
        if status in RETRIED:
            assert seen.until(Reconnected).attempts == 2
        else:
            end = seen.until(Closed)
            assert (end.error.status_code, end.by) == (status, "service")
        client.close()
        seen.check_life()


def test_retry_after() -> None:
    """Retry-After of a refused upgrade is the least time to wait, and at most the policy's longest."""
    with service(ready, refuse("429 Slow", "", "Retry-After: 3600"), ready) as bad:
        client = bad.client(reconnect=qai_realtime_sync.ReconnectPolicy(base=0.01, longest_retry_after=0.2))
        seen = Seen(client)
        client.connect()
        bad.talk().drop()
        assert seen.until(Reconnecting, 2).delay == 0.2
        seen.until(Reconnected)
        client.close()


# -- floods and silence ------------------------------------------------------------------------------------------------------


def test_ping_flood() -> None:
    """Twenty thousand pings from a service that reads none of the pongs cost no memory, and the conversation goes on."""
    with service() as bad:
        client = bad.client()
        seen = Seen(client)
        client.connect()
        talk = bad.talk()
        talk.stall()
        tracemalloc.start()
        try:
            burst = frame(9, b"x" * 100) * 1000
            for _ in range(20):
                talk.raw(burst)
            talk.transcript("r", "after", "still here")
            seen.until(TranscriptDone, where=lambda event: event.item_id == "after", timeout=90.0)  # tracemalloc makes it slow
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 20 * 2**20, f"{peak / 2**20:.0f} MiB"
        talk.resume()
        client.close()
        seen.check_life()


def test_event_flood() -> None:
    """Twenty thousand events that nobody waits for are delivered in order; what is kept of them is bounded."""
    with service() as bad:
        client = bad.client()
        numbers: list[str] = []
        done = threading.Event()

        @client.on("transcript_delta")
        def keep(event: TranscriptDelta) -> None:
            numbers.append(event.delta)
            if event.delta == "19999":
                done.set()

        client.connect()
        talk = bad.talk()
        for start in range(0, 20_000, 1000):
            talk.raw(*(_delta(str(number)) for number in range(start, start + 1000)))
        assert done.wait(20.0)
        assert numbers == [str(number) for number in range(20_000)]
        kept = client._call.waiting._kept
        assert len(kept) <= 128
        client.close()


def _delta(words: str) -> bytes:
    kind = "response.output_audio_transcript.delta"
    return text({"type": kind, "response_id": "r", "item_id": "i", "content_index": 0, "delta": words})


def _transcript(item: str) -> bytes:
    return text(
        {
            "type": "response.output_audio_transcript.done",
            "response_id": "r",
            "item_id": item,
            "content_index": 0,
            "transcript": "w",
        }
    )


def test_no_answer_to_close() -> None:
    """close() returns within its timeout when the service ignores the close frame, and says that the end was not clean."""
    with service() as bad:
        client = bad.client(close_timeout=0.6)
        seen = Seen(client)
        client.connect()
        bad.talk().answers_close = False
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < 2.6  # unasked it would take three seconds
        end = seen.check_life()
        assert (end.by, end.clean, end.code) == ("client", False, 1000)


def test_talks_on_after_our_close() -> None:
    """A service that goes on talking when it was told goodbye cannot hold close() up, nor is what it says delivered."""
    with service() as bad:
        client = bad.client(close_timeout=1.0)
        seen = Seen(client)
        client.connect()
        talk = bad.talk()
        talk.answers_close = False
        stop = threading.Event()

        def talk_on() -> None:
            while not stop.is_set() and not talk.over.is_set():
                try:
                    talk.raw(_transcript("late"))
                except OSError:
                    return

        talker = threading.Thread(target=talk_on, name="talks-on")
        talker.start()
        began = time.monotonic()
        client.close()
        took = time.monotonic() - began
        stop.set()
        talker.join()
        assert took < 3.0  # as long as it would take without a bound of its own
        seen.check_life()


def test_no_pongs_but_events() -> None:
    """A service that never answers a ping but goes on talking is alive: any byte is a sign of life."""
    with service() as bad:
        client = bad.client(ping_interval=0.05, pong_timeout=1.5)
        seen = Seen(client)
        client.connect()
        talk = bad.talk()
        talk.answers_pings = False
        tick = threading.Event()
        for number in range(120):
            talk.transcript("r", str(number), "w")
            tick.wait(0.02)
        seen.until(TranscriptDone, 120)
        assert not seen.of(Reconnecting)
        client.close()


def test_no_pongs_and_no_events() -> None:
    """A service that answers no ping and says nothing is given up within ping_interval + pong_timeout."""
    with service() as bad:
        client = bad.client(ping_interval=0.1, pong_timeout=0.2, reconnect=False)
        seen = Seen(client)
        client.connect()
        bad.talk().answers_pings = False
        began = time.monotonic()
        end = seen.until(Closed)
        assert time.monotonic() - began < 0.3 + LATE
        assert "no sign of life" in str(end.error)


def test_pongs_but_no_answers() -> None:
    """A service that takes sound, answers pings and says nothing is told as ServiceSilent, once, and the connection is kept."""
    with service() as bad:
        client = bad.client(ping_interval=0.05, pong_timeout=1.0, silent_after=0.2)
        seen = Seen(client)
        client.connect()
        tick = threading.Event()
        for _ in range(60):
            client.send_audio(bytes(960))
            tick.wait(0.01)
        seen.until(ServiceSilent)
        assert len(seen.of(ServiceSilent)) == 1
        assert client.is_connected
        client.close()


def test_redirect_is_not_followed() -> None:
    """A redirect of the upgrade is an error; nothing, and least of all the key, goes to the other address."""
    with service() as other, service(redirects(302, f"ws://127.0.0.1:{other.server.port}/")) as bad:
        client = bad.client()
        with pytest.raises(RealtimeError, match="302"):
            client.connect()
        assert other.server.accepted == 0


def test_an_error_is_not_the_end() -> None:
    """An error that the service reports in the middle of a conversation is an event; the conversation goes on."""
    with service() as bad:
        client = bad.client()
        seen = Seen(client)
        client.connect()
        talk = bad.talk()
        for code in ("conversation_already_has_active_response", "response_cancel_not_active", "invalid_value", "server_error"):
            talk.error(code)
        seen.until(ErrorReceived, 4)
        talk.transcript("r", "after", "still here")
        seen.until(TranscriptDone)
        assert not seen.of(Reconnecting, Closed)
        client.close()


def test_fatal_error_then_hang_up() -> None:
    """After an error that means the end (session_expired) the hang-up that follows is not answered by a reconnect."""
    with service() as bad:
        client = bad.client(reconnect=FAST)
        seen = Seen(client)
        client.connect()
        talk = bad.talk()
        talk.error("session_expired", message="the session has expired")
        seen.until(ErrorReceived)
        talk.drop()
        end = seen.until(Closed)
        assert end.meaning == "session_cap"
        assert not seen.of(Reconnecting)


def test_data_after_the_close_frame() -> None:
    """What a service says behind its own close frame is not delivered."""
    with service() as bad:
        client = bad.client()
        seen = Seen(client)
        client.connect()
        talk = bad.talk()
        talk.raw(close_frame(1000), _transcript("late"))
        seen.until(Closed)
        assert not seen.of(TranscriptDone, AudioDelta)
        client.close()


def test_one_dead_tenant_does_not_hold_up_another() -> None:
    """Twenty clients whose service is a black hole do not slow down one whose service lives."""
    with service(lambda talk: talk.peer.wait_for_end()) as dead, service() as living:
        clients = [dead.client(connect_timeout=PATIENCE) for _ in range(20)]
        threads = [threading.Thread(target=_expect_error, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        living.client().connect()
        assert time.monotonic() - began < AT_ONCE
        for client in clients:
            client.abort()
        for thread in threads:
            thread.join()


def _expect_error(client: qai_realtime_sync.RealtimeClient) -> None:
    with pytest.raises(RealtimeError):
        client.connect()


def test_service_class_is_shared() -> None:
    """The scripted service of the whole suite is what these tests drive; there is no second one."""
    assert Service.__module__ == Talk.__module__ == "tests.servers"
