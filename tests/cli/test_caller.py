"""The demo's caller: on time, silent between sentences, and told when its conversation is gone."""

from __future__ import annotations

import threading
import time

import pytest

from qai_realtime_sync.audio import AudioFormat, level
from qai_realtime_sync.cli.caller import Caller, RealTime, SkippingTime, spoken_length
from qai_realtime_sync.errors import NotConnectedError, RealtimeTimeoutError

AUDIO = AudioFormat()
LOUD = b"\x00\x10" * 480  # 20 ms
QUIET = bytes(960)


class Heard:
    """Takes what the caller sends, with the time of each piece."""

    def __init__(self, enough: int) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.enough = threading.Event()
        self._wanted = enough

    def __call__(self, piece: bytes) -> None:
        self.pieces.append((time.monotonic(), piece))
        if len(self.pieces) == self._wanted:
            self.enough.set()


def test_pieces_come_every_20_ms_and_silence_between_sentences() -> None:
    """In 600 ms about 30 pieces of 20 ms are sent, whether somebody speaks or not, and a sentence comes in one run."""
    heard = Heard(30)
    with Caller(heard, AUDIO, RealTime()) as caller:
        caller.say(LOUD * 10, after=0.1)
        assert heard.enough.wait(20)
    times = [at for at, _ in heard.pieces]
    assert 0.5 < times[29] - times[0] < 4.0
    assert {len(piece) for _, piece in heard.pieces} == {960}
    loud = [number for number, (_, piece) in enumerate(heard.pieces) if level(piece) > 0.05]
    assert len(loud) == 10
    assert loud[-1] - loud[0] == 9
    assert loud[0] >= 5


def test_the_end_of_speech_is_its_last_sound() -> None:
    """Silence at the end of a sentence does not count: speech ends when its last sound was sent."""
    heard = Heard(40)
    with Caller(heard, AUDIO, RealTime()) as caller:
        caller.say(LOUD * 5 + QUIET * 20)
        ended = caller.wait(20)
        assert heard.enough.wait(20)
    last = max(at for at, piece in heard.pieces if level(piece) > 0.05)
    assert abs(ended - last) < 0.3


def test_without_pacing_all_is_sent_at_once_and_the_clock_jumps() -> None:
    """With a skipping clock a sentence of one second and the silence after it are sent at once, and the clock moves on as far."""
    clock = SkippingTime()
    heard = Heard(2)
    before = clock.now()
    with Caller(heard, AUDIO, clock, silence_after=1.0) as caller:
        caller.say(LOUD * 50)
        caller.wait(0)
    assert 2.0 <= clock.now() - before < 3.9
    assert sum(len(piece) for _, piece in heard.pieces) == 2 * AUDIO.bytes_per_second


def test_a_lost_conversation_is_told() -> None:
    """When sending fails, whoever waits for the caller gets the error."""

    def gone(piece: bytes) -> None:
        raise NotConnectedError("the conversation is over")

    with Caller(gone, AUDIO, RealTime()) as caller, pytest.raises(NotConnectedError):
        caller.say(LOUD, timeout=5)


def test_waiting_for_a_sentence_has_an_end() -> None:
    """A wait that is too short for the sentence raises a timeout."""
    with Caller(Heard(0), AUDIO, RealTime()) as caller:
        caller.say(LOUD * 100)
        with pytest.raises(RealtimeTimeoutError):
            caller.wait(0.05)


@pytest.mark.parametrize(
    ("pcm", "length"), [(b"", 0.0), (QUIET * 5, 0.0), (LOUD * 5, 0.1), (LOUD + QUIET * 9 + LOUD + QUIET * 3, 0.22), (LOUD[:480], 0.01)]
)
def test_spoken_length(pcm: bytes, length: float) -> None:
    """The length of speech is where its last sound ends."""
    assert spoken_length(pcm, AUDIO) == pytest.approx(length)
