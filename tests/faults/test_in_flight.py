"""What a network does to a running conversation: harmless things that nobody may notice, and ends that are told once and mended."""

from __future__ import annotations

import threading
import time

import pytest

from qai_realtime_sync import (
    AudioDelta,
    Closed,
    ConnectError,
    ConnectionClosedError,
    NotConnectedError,
    OutboxFullError,
    Reconnected,
    Reconnecting,
    ReconnectPolicy,
    ResponseDone,
    SendText,
    StateChanged,
)
from qai_realtime_sync.client.options import Options
from tests.faults.proxy import (
    FIN,
    HALF,
    HOLE,
    RST,
    End,
    Fault,
    corrupt,
    cut,
    delay,
    drop,
    duplicate,
    garbage,
    one_byte_at_a_time,
    rechunk,
    swap,
    throttle,
)
from tests.faults.scene import AT_ONCE, FAST, LATE, PATIENCE, Scene

QUICK = {"ping_interval": 0.2, "pong_timeout": 1.0}  # so long a service on a busy computer may take to answer
NOTICED = 0.2 + 1.0 + LATE  # interval, pong, and what a busy computer adds


# -- nobody may notice -------------------------------------------------------------------------------------------------------

HARMLESS: dict[str, dict[str, list[Fault]]] = {
    "one byte per packet upwards": {"up": [one_byte_at_a_time]},
    "one byte per packet downwards": {"down": [one_byte_at_a_time]},
    "other packet boundaries upwards": {"up": [rechunk(1)]},
    "other packet boundaries downwards": {"down": [rechunk(2)]},
    "large packets of random sizes downwards": {"down": [rechunk(3, 5000)]},
    "10 ms of delay each way": {"up": [delay(0.01)], "down": [delay(0.01)]},
    "a line of 400 kB/s": {"up": [throttle(400_000)], "down": [throttle(400_000)]},
    "delay and other boundaries": {"down": [rechunk(4, 20_000), delay(0.002)]},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless(scene: Scene, name: str) -> None:
    """An answer over this line is the answer of a straight line, byte for byte, and no loss is told."""
    straight, _ = scene.open()
    expected = straight.ask("hello")
    scene.proxy.plan(**HARMLESS[name])
    client, seen = scene.open()
    got = client.ask("hello", timeout=20)
    assert (got.text, got.audio) == (expected.text, expected.audio)
    client.send_audio(bytes(48_000))
    client.drain()
    assert not seen.of(Reconnecting, Closed)


def test_stall_shorter_than_the_bound(scene: Scene) -> None:
    """A line that stands still for less time than the pong has goes on, and nothing is lost, doubled or told."""
    client, seen = scene.open(ping_interval=5.0, pong_timeout=5.0)
    link = scene.proxy.link()
    link.stall()
    client.send_text("hello")
    with pytest.raises(TimeoutError):
        client.wait_for(ResponseDone, 0.3)
    link.resume()
    client.wait_for(ResponseDone)
    assert client.ask("hello").text == client.ask("hello").text
    assert not seen.of(Reconnecting, Closed)


# -- ends: noticed, told once, mended ----------------------------------------------------------------------------------------


ENDS = {"FIN": FIN, "RST": RST}


@pytest.mark.parametrize("name", ENDS)
def test_end_while_idle(scene: Scene, name: str) -> None:
    """An end of the connection while nothing moves is noticed at once, not by the next ping, told as one event, and mended."""
    client, seen = scene.open()
    began = time.monotonic()
    scene.proxy.link().end(ENDS[name])
    seen.until(Reconnecting)
    assert time.monotonic() - began < AT_ONCE
    reconnected = seen.until(Reconnected)
    assert reconnected.attempts == 1
    assert client.ask("hello").text
    assert len(seen.of(Reconnecting)) == len(seen.of(Reconnected)) == 1
    assert not seen.of(Closed)


@pytest.mark.parametrize("name", ENDS)
def test_end_in_an_answer(scene: Scene, name: str) -> None:
    """An answer that is cut off by the end of the connection is not finished by another one's pieces; the next answer is whole."""
    scene.proxy.plans(([], [throttle(60_000)]), ([], []))
    client, seen = scene.open()
    client.send_text("hello")
    seen.until(AudioDelta)
    scene.proxy.link().end(ENDS[name])
    seen.until(Reconnected)
    assert len(seen.of(Reconnecting)) == 1
    cut_off = {event.response_id for event in seen.of(AudioDelta)}
    whole = client.ask("hello")
    assert whole.status == "completed"
    assert not cut_off & set(whole.response_ids)


@pytest.mark.parametrize("name", ENDS)
def test_ask_when_the_connection_ends(plain: Scene, name: str) -> None:
    """With reconnect=False whoever waits for an answer is told at once that the conversation has ended, and why."""
    plain.proxy.plan(down=[throttle(60_000)])
    client, seen = plain.open(reconnect=False)
    stream = client.events()
    client.send_text("hello")
    while not isinstance(next(stream), AudioDelta):
        pass
    plain.proxy.link().end(ENDS[name])
    began = time.monotonic()
    with pytest.raises(ConnectionClosedError):
        client.wait_for(ResponseDone)
    assert time.monotonic() - began < AT_ONCE
    end = seen.until(Closed)
    assert (end.by, end.meaning, end.code, end.clean) == ("network", "lost", None, False)
    assert isinstance(end.error, ConnectionClosedError)
    with pytest.raises(NotConnectedError):
        client.send_text("hello")


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "sending"])
def test_black_hole(scene: Scene, busy: bool) -> None:
    """A peer that is gone without a word is noticed within ping_interval + pong_timeout, told once, and the conversation goes on."""
    client, seen = scene.open(**QUICK)
    link = scene.proxy.link()
    link.stall()
    began = time.monotonic()
    if busy:
        client.send_audio(bytes(480_000))
    lost = seen.until(Reconnecting)
    assert time.monotonic() - began < NOTICED
    assert "no sign of life" in str(lost.error)
    assert seen.until(Reconnected).attempts == 1
    assert client.ask("hello").text
    assert len(seen.of(Reconnecting)) == 1


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("end", [HOLE, HALF], ids=["swallowed", "half closed"])
def test_one_direction_gone(scene: Scene, direction: str, end: End) -> None:
    """If only one direction dies, silently or by a half close, that is noticed within the bound, told once, and mended."""
    at = 20_000 if direction == "down" else 60_000
    scene.proxy.plans(
        ([cut(at, end)], []) if direction == "up" else ([], [cut(at, end)]),
        ([], []),
    )
    client, seen = scene.open(**QUICK)
    if direction == "up":
        client.send_audio(bytes(96_000))
    else:
        client.send_text("hello")
    began = time.monotonic()
    seen.until(Reconnecting)
    assert time.monotonic() - began < NOTICED
    seen.until(Reconnected)
    assert client.ask("hello").text
    assert len(seen.of(Reconnecting)) == 1


def test_default_bounds() -> None:
    """By its defaults a dead peer is noticed in at most 18 s when idle, within the 20 s that are promised."""
    options = Options()
    assert options.ping_interval is not None
    assert options.ping_interval + options.pong_timeout <= 20.0


@pytest.mark.long
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "sending"])
def test_black_hole_with_the_defaults(plain: Scene, busy: bool) -> None:
    """With default arguments a dead peer is noticed in 20 s when idle, in 10 s when sending."""
    client, seen = plain.open()
    client.ask("hello")
    plain.proxy.link().stall()
    began = time.monotonic()
    if busy:
        client.send_text("hello")
    seen.until(Reconnecting, timeout=25.0)
    assert time.monotonic() - began <= (10.0 if busy else 20.0)


# -- damage: inside TLS every damage is noticed; nothing that was damaged is delivered -------------------------------------------

DAMAGE: dict[str, Fault] = {
    "a byte changed": corrupt(30_000),
    "one bit changed": corrupt(30_000, 0x01),
    "a stretch doubled": duplicate(30_000, 400),
    "a stretch lost": drop(30_000, 400),
    "a stretch turned round": swap(30_000, 400),
    "zeros put in": garbage(30_000, bytes(64)),
    "noise put in": garbage(30_000, bytes(range(256))),
    "a foreign HTTP answer put in": garbage(30_000, b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("name", DAMAGE)
def test_damage_inside_tls(tls: Scene, name: str, direction: str) -> None:
    """What was damaged inside TLS is never delivered: the connection ends, told once, and the conversation goes on whole."""
    straight, _ = tls.open()
    expected = straight.ask("hello").audio
    faults = ([DAMAGE[name]], []) if direction == "up" else ([], [DAMAGE[name]])
    tls.proxy.plans(faults, ([], []))
    client, seen = tls.open(**QUICK)
    if direction == "down":
        client.send_text("hello")
    else:
        client.send_audio(bytes(96_000))
    seen.until(Reconnected)
    assert len(seen.of(Reconnecting)) == 1
    heard = b"".join(event.audio for event in seen.of(AudioDelta))
    assert expected.startswith(heard)
    assert client.ask("hello").audio == expected


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_without_tls(plain: Scene, name: str) -> None:
    """Damage on a plain line cannot always be seen; it ends no thread, is not told as two ends, and close() stays bounded."""
    plain.proxy.plans(([], [DAMAGE[name]]), ([], []))
    client, seen = plain.open(**QUICK)
    client.send_text("hello")
    link = plain.proxy.link(0)
    if not link.wait_passed("down", 60_000):
        seen.until(StateChanged, where=lambda event: event.old == "open")
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 3.0 + LATE
    assert len(seen.of(Closed)) == 1


# -- backoff -----------------------------------------------------------------------------------------------------------------


def test_service_gone_for_a_while(plain: Scene) -> None:
    """While nobody listens the client tries again; commands are held, sound is dropped and counted, and all goes out afterwards."""
    client, seen = plain.open()
    plain.proxy.refuse()
    plain.proxy.end_all(RST)
    seen.until(Reconnecting, 3)
    assert client.state in ("backoff", "connecting")
    dropped = client.outbox.dropped_audio
    client.send_text("hello")
    plain.proxy.accept()
    seen.until(Reconnected)
    client.wait_for(ResponseDone)
    counts = client.outbox
    assert counts.waiting == counts.failed == 0
    assert counts.dropped_audio == dropped
    attempts = [event.attempt for event in seen.of(Reconnecting)]
    assert attempts == list(range(1, len(attempts) + 1))
    assert seen.of(Reconnecting)[0].delay == 0.0


def test_service_gone_for_ever(plain: Scene) -> None:
    """When the budget of tries is spent the end is told once, with the cause, and with the commands that never left."""
    client, seen = plain.open(reconnect=ReconnectPolicy(attempts=3, base=0.01, cap=0.02))
    plain.proxy.refuse()
    plain.proxy.end_all(FIN)
    seen.until(Reconnecting)
    text = SendText(text="never heard")
    client.send_event(text)
    end = seen.until(Closed)
    assert client.state == "failed"
    assert isinstance(end.error, ConnectError)
    assert (end.by, end.meaning) == ("network", "lost")
    assert end.unsent == (text,)
    assert [event.attempt for event in seen.of(Reconnecting)] == [1, 2, 3]
    assert client.outbox.dropped == 1


def test_backoff_is_full_jitter(plain: Scene) -> None:
    """The first try comes at once, the n-th after random() x min(cap, base x 2^(n-2)) seconds."""
    policy = ReconnectPolicy(attempts=6, base=0.02, cap=0.1)
    _, seen = plain.open(reconnect=policy, random=lambda: 0.5)
    plain.proxy.refuse()
    plain.proxy.end_all(FIN)
    seen.until(Closed)
    delays = [event.delay for event in seen.of(Reconnecting)]
    assert delays == pytest.approx([0.0, 0.01, 0.02, 0.04, 0.05, 0.05])


def test_default_policy_is_the_promised_one() -> None:
    """Ten tries or 120 s, 0.5 s doubled up to 20 s, reset after 10 s of health, Retry-After up to 60 s."""
    assert ReconnectPolicy() == ReconnectPolicy(attempts=10, seconds=120.0, base=0.5, cap=20.0, healthy=10.0, longest_retry_after=60.0)


def test_close_in_backoff(plain: Scene) -> None:
    """close() while the client waits for its next try ends it within 50 ms: nothing is open."""
    client, seen = plain.open(reconnect=ReconnectPolicy(base=30.0, cap=30.0), random=lambda: 1.0)
    plain.proxy.refuse()
    plain.proxy.end_all(FIN)
    seen.until(Reconnecting, 2)
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < LATE  # the promise is 50 ms; the next try would come in 30 s
    assert seen.until(Closed).by == "client"


def test_flapping(scene: Scene) -> None:
    """Ten losses in a row are ten losses, ten reconnects and one conversation."""
    client, seen = scene.open(reconnect=FAST)
    for number in range(1, 11):
        scene.proxy.link(number - 1).end(RST if number % 2 else FIN)
        seen.until(Reconnected, number)
    assert client.ask("hello").text
    assert len(seen.of(Reconnecting)) == 10


def test_cut_again_while_reconnecting(scene: Scene) -> None:
    """Attempts that are cut off on their way up count as tries of the same loss; one reconnect is told for all of them."""
    scene.proxy.plans(([], []), ([cut(10, FIN)], []), ([], [cut(40, RST)]), ([], [cut(200, FIN)]), ([], []))
    client, seen = scene.open()
    scene.proxy.link().end(RST)
    reconnected = seen.until(Reconnected)
    assert reconnected.attempts == 4
    assert len(seen.of(Reconnected)) == 1
    assert client.ask("hello").text


# -- closing over a bad line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with 20 s of sound waiting"])
def test_close_into_a_black_hole(scene: Scene, busy: bool) -> None:
    """close() returns within its timeout even if the peer takes nothing and says nothing."""
    client, seen = scene.open(overflow="drop_oldest", close_timeout=1.0)
    scene.proxy.link().stall()
    if busy:
        for _ in range(200):
            client.send_audio(bytes(48_000))
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 3.0  # as long as it would take without a bound of its own
    end = seen.until(Closed)
    assert end.by == "client"
    assert not end.clean
    counts = client.outbox
    assert counts.waiting == 0
    if busy:
        assert counts.sent + counts.dropped + counts.failed == 200


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with sound waiting"])
def test_abort_in_a_black_hole(scene: Scene, busy: bool) -> None:
    """abort() wakes whoever waits within 100 ms, whatever the line does."""
    client, seen = scene.open(overflow="drop_oldest")
    scene.proxy.link().stall()
    if busy:
        for _ in range(50):
            client.send_audio(bytes(48_000))
    woken = threading.Event()

    def wait() -> None:
        with pytest.raises(ConnectionClosedError):
            client.wait_for(ResponseDone)
        woken.set()

    waiter = threading.Thread(target=wait, name="waiter")
    waiter.start()
    began = time.monotonic()
    client.abort()
    assert woken.wait(PATIENCE)
    assert time.monotonic() - began < LATE  # the promise is 100 ms; measured alone it is 1 to 5
    waiter.join()
    seen.until(Closed)


def test_slow_reader_does_not_block_the_sender(plain: Scene) -> None:
    """send_audio never waits for the network: a peer that takes nothing costs the caller an OutboxFullError, not time."""
    client, _ = plain.open()
    plain.proxy.link().stall()
    began = time.monotonic()
    with pytest.raises(OutboxFullError):  # noqa: PT012
        for _ in range(400):
            client.send_audio(bytes(48_000))
    assert time.monotonic() - began < AT_ONCE
    assert client.outbox.waiting > 0
    plain.proxy.link().resume()
    client.drain()
    assert client.outbox.waiting == 0
