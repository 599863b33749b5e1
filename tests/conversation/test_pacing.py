"""The speaker without a device: real time, by its clock, whatever is written when."""

from __future__ import annotations

import pytest

from qai_realtime_sync import AudioFormat, PacedSink, RealtimeClient, RealtimeConfig
from qai_realtime_sync.errors import ConfigError

SECOND = bytes(48000)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_plays_in_real_time(clock: Clock) -> None:
    """Two seconds written at once are half played after one, and never more than written."""
    sink = PacedSink(clock=clock)
    assert sink.played_ms == 0
    sink.write(SECOND * 2)
    clock.now += 1.0
    assert sink.played_ms == pytest.approx(1000)
    assert sink.seconds_left == pytest.approx(1.0)
    clock.now += 5.0
    assert sink.played_ms == pytest.approx(2000)
    assert sink.seconds_left == 0


def test_a_pause_does_not_count(clock: Clock) -> None:
    """What comes after it ran dry plays from when it came."""
    sink = PacedSink(clock=clock)
    sink.write(SECOND)
    clock.now += 10.0
    sink.write(SECOND)
    clock.now += 0.25
    assert sink.played_ms == pytest.approx(1250)


def test_clear_stops_at_once(clock: Clock) -> None:
    """After clear nothing more is played, what was played stays counted, and what comes then plays at once."""
    sink = PacedSink(clock=clock)
    sink.write(SECOND * 3)
    clock.now += 0.5
    sink.clear()
    clock.now += 2.0
    assert sink.played_ms == pytest.approx(500)
    sink.write(SECOND)
    clock.now += 0.5
    assert sink.played_ms == pytest.approx(1000)


def test_other_formats(clock: Clock) -> None:
    """A second of µ-law is 8000 bytes."""
    sink = PacedSink(AudioFormat("g711_ulaw", 8000), clock=clock)
    sink.write(bytes(8000))
    clock.now += 3.0
    assert sink.played_ms == pytest.approx(1000)


def test_without_a_format_it_plays_that_of_its_client(clock: Clock) -> None:
    """A client that speaks µ-law makes 8000 bytes a second of it; a sink made for another format is refused."""
    client = RealtimeClient("qai_x", RealtimeConfig(output_format="g711_ulaw"))
    sink = PacedSink(clock=clock)
    client.play_to(sink)
    sink.write(bytes(8000))
    clock.now += 3.0
    assert sink.played_ms == pytest.approx(1000)
    client.play_to(PacedSink(AudioFormat("g711_ulaw", 8000)))
    with pytest.raises(ConfigError, match="made for pcm16 at 24000 Hz, and the client's sound is g711_ulaw at 8000 Hz"):
        client.play_to(PacedSink(AudioFormat()))
