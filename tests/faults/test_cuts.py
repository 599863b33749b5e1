"""Cuts at every byte: of the way up to readiness, plain and inside TLS, and of the frames of a running conversation."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator

import pytest

from qai_realtime_sync import (
    ConnectError,
    ConnectionClosedError,
    RealtimeError,
    RealtimeTimeoutError,
    Reconnected,
    Reconnecting,
    SessionReady,
    TranscriptDone,
)
from tests.faults.proxy import FIN, HALF, HOLE, RST, End, cut
from tests.faults.scene import AT_ONCE, LATE, PATIENCE, Scene, ours
from tests.servers import Service
from tests.transport.peer import frame


def _length(scene: Scene) -> dict[str, int]:
    """How many bytes pass in each direction until the service is ready."""
    client, _ = scene.open()
    passed = dict(scene.proxy.link(-1).passed)
    client.close()
    return passed


def _attempt(scene: Scene, direction: str, at: int, how: End) -> bool:
    """Connect once through this cut; True if it succeeded, and everything that must hold if not."""
    scene.proxy.plan(**{direction: [cut(at, how)]})
    client, seen = scene.client(reconnect=False, connect_timeout=10.0)
    began = time.monotonic()
    try:
        client.connect()
    except (ConnectError, ConnectionClosedError, RealtimeTimeoutError) as error:
        assert time.monotonic() - began < AT_ONCE, f"byte {at}: it took until the timeout to notice: {error}"
        assert not isinstance(error, RealtimeTimeoutError), f"byte {at}: an end of the connection was taken for a timeout"
        assert not ours(), f"byte {at}: {ours()} still run when connect() has raised"
        seen.check_life()
        assert client.state == "failed"
        return False
    finally:
        scene.proxy.plan()
        client.close()
    assert seen.of(SessionReady)
    return True


def _every_cut(scene: Scene, step: int) -> None:
    length = _length(scene)
    for direction, how in itertools.product(("up", "down"), (FIN, RST)):
        positions = range(0, length[direction], step)
        outcomes = [_attempt(scene, direction, at, how) for at in positions]
        connected = [at for at, outcome in zip(positions, outcomes) if outcome]
        # Only what is cut behind the confirmation may connect; nothing before it.
        assert all(at > length[direction] * 0.6 for at in connected), f"connected in spite of cuts of {direction} at {connected}"
        assert not outcomes[0]


def test_every_stage_cut_sampled(scene: Scene) -> None:
    """A connection cut before the service is ready, at a sample of bytes, by FIN or RST, raises at once and leaves nothing."""
    _every_cut(scene, 61 if scene.scheme == "http" else 173)


@pytest.mark.long
def test_every_stage_cut_at_every_byte(scene: Scene) -> None:
    """The same at every single byte: request, answer, TLS hello, certificate, keys, and the first frames."""
    _every_cut(scene, 1)


def _holes(scene: Scene, step: int) -> None:
    length = _length(scene)
    for direction in ("up", "down"):
        for at in range(0, int(length[direction] * 0.6), step):
            scene.proxy.plan(**{direction: [cut(at, HOLE)]})
            client, seen = scene.client(reconnect=False)
            began = time.monotonic()
            with pytest.raises(RealtimeTimeoutError):
                client.connect(timeout=0.15)
            assert time.monotonic() - began < 0.15 + LATE, f"{direction} {at}: connect outlived its timeout"
            seen.check_life()
            assert not ours()
            scene.proxy.plan()


def test_every_stage_swallowed_sampled(scene: Scene) -> None:
    """A connection that falls silent before the service is ready raises a timeout when it was promised to."""
    _holes(scene, 211 if scene.scheme == "http" else 701)


@pytest.mark.long
def test_every_stage_swallowed_at_every_byte(scene: Scene) -> None:
    """The same at every fifth byte."""
    _holes(scene, 5)


# -- frames ------------------------------------------------------------------------------------------------------------------


def _words(number: int) -> bytes:
    text = f"words number {number} " + "x" * (130 * (number % 2))  # both kinds of length
    fields = {"response_id": "r", "item_id": f"i{number}", "content_index": 0, "transcript": text}
    return frame(1, json.dumps({"type": "response.output_audio_transcript.done", **fields}).encode())


FRAMES = [_words(number) for number in range(3)]
ENDS = list(itertools.accumulate(len(one) for one in FRAMES))


def _cut_frames(service: Service, scene: Scene, positions: Iterator[int]) -> None:
    """One conversation whose connection is lost at each of these bytes, one after the other."""
    client, seen = scene.open()
    data = b"".join(FRAMES)
    losses = 0
    for at in positions:
        talk = service.talk()
        before = len(seen.of(TranscriptDone))
        talk.raw(data[:at])
        (talk.drop if at % 2 else talk.reset)()
        losses += 1
        seen.until(Reconnected, losses)
        whole = sum(1 for end in ENDS if end <= at)
        got = [event.item_id for event in seen.of(TranscriptDone)][before:]
        # A reset may overtake what was sent before it: less may arrive, never more, never out of order.
        assert got == [f"i{n}" for n in range(whole)][: len(got)], f"byte {at}"
        if at % 2:
            assert len(got) == whole, f"byte {at}: a frame that was whole is missing"
    talk = service.talk()
    talk.raw(FRAMES[0])
    seen.until(TranscriptDone, where=lambda event: event.item_id == "i0")
    assert len(seen.of(Reconnecting)) == losses, "one loss, one event"


def test_frames_cut_sampled(scripted: tuple[Service, Scene]) -> None:
    """Of frames cut off at any byte the whole ones are delivered, in order and once, and the conversation goes on."""
    _cut_frames(*scripted, iter(range(1, ENDS[-1], 37)))


@pytest.mark.long
def test_frames_cut_at_every_byte(scripted: tuple[Service, Scene]) -> None:
    """The same at every single byte of three frames with both kinds of length field."""
    service, scene = scripted
    for start in range(0, ENDS[-1] + 1, 30):
        _cut_frames(service, scene, iter(range(start, min(start + 30, ENDS[-1] + 1))))
        scene.finish()


def _cut_upwards(service: Service, scene: Scene, at: int, how: End) -> None:
    """The client speaks into a connection that ends at byte ``at`` of what it says after readiness."""
    ready_at = _ready_at(service, scene)
    scene.proxy.plans(([cut(ready_at + at, how)], []), ([], []))
    client, seen = scene.open()
    first = service.talk()
    for number in range(6):
        client.send_context(f"fact {number}")
    seen.until(Reconnected)
    second = service.talk()
    client.send_context("fact last")
    second.fence(client)
    items = [value["item"] for talk in (first, second) for value in talk.received if value["type"] == "conversation.item.create"]
    heard = [item["content"][0]["text"] for item in items]
    order = [f"fact {number}" for number in (*range(6), "last")]
    assert heard[-1:] == ["fact last"], "what is said after a loss arrives"
    assert heard == [one for one in order if one in heard], f"byte {at}: out of order or twice: {heard}"
    counts = client.outbox
    # Six facts, the last one and the fence, each with one outcome.
    assert counts.sent + counts.failed + counts.dropped + counts.waiting == 8, counts
    assert counts.waiting == counts.dropped == 0, counts


def _ready_at(service: Service, scene: Scene) -> int:
    scene.proxy.plan()
    client, _ = scene.open()
    talk = service.talk()
    talk.fence(client)
    client.close()
    assert scene.proxy.link(-1).over.wait(PATIENCE), "what passed is counted after it was written: only then the count is whole"
    # All that went up but the fence and the close frame, each with a header of 2 bytes and a mask of 4.
    return scene.proxy.link(-1).passed["up"] - len('{"type":"fence"}') - 6 - 8


@pytest.mark.parametrize("how", [FIN, RST, HALF], ids=str)
def test_commands_cut_sampled(scripted: tuple[Service, Scene], how: End) -> None:
    """Commands that are cut off at any byte on their way up have one outcome each, and none arrives twice or out of order."""
    service, scene = scripted
    for at in (1, 3, 7, 90, 300):
        _cut_upwards(service, scene, at, how)
        scene.finish()


@pytest.mark.long
@pytest.mark.parametrize("how", [FIN, RST], ids=str)
def test_commands_cut_at_every_byte(scripted: tuple[Service, Scene], how: End) -> None:
    """The same at every single byte of four commands."""
    service, scene = scripted
    for at in range(1, 500):
        _cut_upwards(service, scene, at, how)
        scene.finish()


def test_error_is_one_of_ours(plain: Scene) -> None:
    """What connect() raises for a cut is a RealtimeError with a code and words that name the address, not a foreign exception."""
    plain.proxy.plan(down=[cut(20, RST)])
    client, _ = plain.client(reconnect=False)
    with pytest.raises(RealtimeError) as caught:
        client.connect()
    assert f"127.0.0.1:{plain.proxy.port}" in str(caught.value)
    assert caught.value.code
