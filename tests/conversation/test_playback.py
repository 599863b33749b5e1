"""Playback with a sink on a fake clock: what was heard, what is cut, what is void."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from qai_realtime_sync.commands import TruncateItem
from qai_realtime_sync.config import AudioFormat
from qai_realtime_sync.conversation.playback import Playback
from qai_realtime_sync.events import AudioDelta, PlaybackStopped, ResponseDone

PCM = AudioFormat("pcm16", 8000)
MS = 16  # bytes of one millisecond


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Plain:
    """A sink without a clock of its own."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.cleared = 0
        self.breaks: Exception | None = None

    def write(self, audio: bytes) -> None:
        if self.breaks is not None:
            raise self.breaks
        self.written.append(audio)

    def clear(self) -> None:
        self.cleared += 1
        if self.breaks is not None:
            raise self.breaks


class Counting(Plain):
    """A sink that says what came out of the speaker; ``played_ms`` only ever grows."""

    played_ms: Any = 0.0


def playback(sink: Plain | None = None, audio: AudioFormat = PCM) -> tuple[Playback, Any, Clock]:
    clock = Clock()
    sink = sink or Counting()
    return Playback(sink, audio, clock), sink, clock


def sound(ms: int, item: str = "i1", response: str = "r1", content_index: int = 0) -> AudioDelta:
    return AudioDelta(audio=bytes(ms * MS), item_id=item, response_id=response, content_index=content_index)


def end(response: str = "r1") -> ResponseDone:
    return ResponseDone(response_id=response)


def test_sound_is_written_as_it_comes() -> None:
    """Every piece goes to the sink, in order, unchanged."""
    play, sink, _ = playback()
    play.told(AudioDelta(audio=b"ab", item_id="i1", response_id="r1"))
    play.told(AudioDelta(audio=b"cd", item_id="i1", response_id="r1"))
    assert sink.written == [b"ab", b"cd"]
    assert play.is_playing


@pytest.mark.parametrize("as_method", [False, True])
def test_stopping_cuts_at_what_was_heard(as_method: bool) -> None:
    """Of 500 ms 120 were heard: the sink is silenced, the item cut at 120 ms, its answer void; a method will do for played_ms."""
    play, sink, _ = playback()
    play.told(sound(500))
    sink.played_ms = (lambda: 120.4) if as_method else 120.4
    stopped = play.stop("barge_in")
    assert stopped is not None
    assert sink.cleared == 1
    assert stopped.event == PlaybackStopped(response_id="r1", item_id="i1", heard_ms=120, received_ms=500, reason="barge_in")
    assert stopped.cuts == [TruncateItem(item_id="i1", audio_end_ms=120)]
    assert stopped.void == ["r1"]
    assert stopped.error is None
    assert play.stop("interrupt") is None
    assert sink.cleared == 1


def test_of_several_items_each_is_cut_at_its_own_time() -> None:
    """The item that is heard is cut where it is, those behind it at 0, and those before it were heard whole."""
    play, sink, _ = playback()
    play.told(sound(100, "i1"))
    play.told(end("r0"))
    play.told(sound(200, "i2", content_index=1))
    play.told(sound(300, "i3"))
    play.told(end())
    sink.played_ms = 150
    stopped = play.stop("interrupt")
    assert stopped is not None
    assert (stopped.event.item_id, stopped.event.heard_ms) == ("i2", 50)
    assert stopped.cuts == [
        TruncateItem(item_id="i2", audio_end_ms=50, content_index=1),
        TruncateItem(item_id="i3", audio_end_ms=0),
    ]


@pytest.mark.parametrize(
    ("played", "cuts", "heard"),
    [
        (150, {"i1": 100, "i2": 50}, (50, 200)),
        (250, {"i1": 150, "i2": 100}, (150, 300)),
        (50, {"i1": 50, "i2": 0}, (50, 300)),
        (450, {"i1": 250, "i2": 200}, (250, 300)),
    ],
)
def test_sound_of_two_items_that_comes_in_turns_is_counted_by_item(played: int, cuts: dict[str, int], heard: tuple[int, int]) -> None:
    """Each is cut once, at all that was heard of it, whatever came between its pieces."""
    play, sink, _ = playback()
    for item in ("i1", "i2", "i1", "i2", "i1"):
        play.told(sound(100, item, f"r{item}"))
    sink.played_ms = float(played)
    stopped = play.stop("barge_in")
    assert stopped is not None
    assert {cut.item_id: cut.audio_end_ms for cut in stopped.cuts if isinstance(cut, TruncateItem)} == cuts
    assert len(stopped.cuts) == 2
    assert (stopped.event.heard_ms, stopped.event.received_ms) == heard


def test_what_the_service_forgets_is_stopped_and_not_cut() -> None:
    """An answer beside the conversation is void, but has no item there."""
    play, sink, _ = playback()
    play.told(sound(100))
    play.told(sound(100, "i2", "r2"))
    sink.played_ms = 150.0
    stopped = play.stop("barge_in", unkept={"r2"})
    assert stopped is not None
    assert [cut.item_id for cut in stopped.cuts if isinstance(cut, TruncateItem)] == ["i1"]
    assert stopped.void == ["r1", "r2"]


def test_an_answer_that_still_grows_is_cut_even_if_all_of_it_was_heard() -> None:
    """More of it would come: the service must know that it was not heard."""
    play, sink, _ = playback()
    play.told(sound(100))
    sink.played_ms = 100
    stopped = play.stop("barge_in")
    assert stopped is not None
    assert stopped.cuts == [TruncateItem(item_id="i1", audio_end_ms=100)]


def test_an_answer_that_ended_and_was_heard_is_not_playing() -> None:
    """Nothing is cut, and the sink is left alone."""
    play, sink, _ = playback()
    play.told(sound(100))
    play.told(end())
    sink.played_ms = 100
    assert not play.is_playing
    assert play.stop("barge_in") is None
    assert sink.cleared == 0


def test_nothing_plays_before_the_first_sound() -> None:
    """A fresh playback has nothing to stop, to finish, or to wait for."""
    play, _, _ = playback()
    assert play.stop("interrupt") is None
    assert play.finished() is None
    assert play.seconds_left == 0.0
    assert not play.is_playing


def test_sound_without_an_item_is_stopped_without_a_cut() -> None:
    """A service without items has nothing to truncate."""
    play, _, _ = playback()
    play.told(sound(100, item=""))
    stopped = play.stop("barge_in")
    assert stopped is not None
    assert stopped.cuts == []


def test_the_end_is_told_when_the_last_sound_was_heard() -> None:
    """Not before the answer is over, not before the speaker has played it, and only once."""
    play, sink, _ = playback()
    play.told(sound(100))
    sink.played_ms = 100
    assert play.finished() is None
    play.told(sound(50))
    play.told(end())
    assert play.finished() is None
    assert play.seconds_left == pytest.approx(0.05)
    sink.played_ms = 150
    assert play.finished() == PlaybackStopped(response_id="r1", item_id="i1", heard_ms=150, received_ms=150, reason="finished")
    assert play.finished() is None


def test_a_pause_between_answers_does_not_count_as_heard() -> None:
    """A speaker whose count runs on in silence is ahead of what was written: the next item begins where the count is."""
    play, sink, _ = playback()
    play.told(sound(100))
    play.told(end())
    sink.played_ms = 5000
    play.finished()
    play.told(sound(200, "i2", "r2"))
    sink.played_ms = 5070
    stopped = play.stop("barge_in")
    assert stopped is not None
    assert stopped.event.heard_ms == 70


def test_what_follows_a_stop_is_counted_anew() -> None:
    """After a stop the time line goes on from what had been played, not from what had been written."""
    play, sink, _ = playback()
    play.told(sound(1000))
    sink.played_ms = 300
    play.stop("barge_in")
    play.told(sound(500, "i2", "r2"))
    sink.played_ms = 340
    stopped = play.stop("barge_in")
    assert stopped is not None
    assert (stopped.event.item_id, stopped.event.heard_ms) == ("i2", 40)


@pytest.mark.parametrize(("later", "heard"), [(0.0, 0), (0.13, 130), (9.0, 500)])
def test_a_sink_without_a_clock_is_taken_to_play_in_real_time(later: float, heard: int) -> None:
    """What was heard is the time since the first sound, never more than there was."""
    play, sink, clock = playback(Plain())
    play.told(sound(200))
    play.told(sound(300))
    clock.now += later
    stopped = play.stop("barge_in")
    assert stopped is not None
    assert stopped.event.heard_ms == pytest.approx(heard, abs=1)
    assert sink.cleared == 1


def test_a_sink_without_a_clock_that_ran_dry_starts_again_with_the_next_sound() -> None:
    """The silence in between was not sound of the answer."""
    play, _, clock = playback(Plain())
    play.told(sound(100))
    clock.now += 5.0
    play.told(sound(400))
    clock.now += 0.05
    stopped = play.stop("interrupt")
    assert stopped is not None
    assert stopped.event.heard_ms == pytest.approx(150, abs=1)


def test_telephone_sound_is_measured_in_its_own_format() -> None:
    """One byte of µ-law is an eighth of a millisecond."""
    play, sink, _ = playback(audio=AudioFormat("g711_ulaw", 8000))
    play.told(AudioDelta(audio=bytes(1600), item_id="i1", response_id="r1"))
    assert play.seconds_left == pytest.approx(0.2)
    sink.played_ms = 60
    stopped = play.stop("barge_in")
    assert stopped is not None
    assert (stopped.event.heard_ms, stopped.event.received_ms) == (60, 200)


def test_a_sink_that_cannot_be_written_to_raises_and_counts_nothing() -> None:
    """Sound that never reached the sink was not heard."""
    play, sink, _ = playback()
    sink.breaks = OSError("no device")
    with pytest.raises(OSError, match="no device"):
        play.told(sound(100))
    sink.breaks = None
    play.told(sound(50))
    assert play.seconds_left == pytest.approx(0.05)


def test_a_sink_that_cannot_be_cleared_is_reported_and_the_answer_is_cut_all_the_same() -> None:
    """The service must learn what was heard even if the speaker plays on."""
    play, sink, _ = playback()
    play.told(sound(100))
    sink.breaks = OSError("no device")
    sink.played_ms = 30
    stopped = play.stop("barge_in")
    assert stopped is not None
    assert stopped.error is sink.breaks
    assert stopped.cuts == [TruncateItem(item_id="i1", audio_end_ms=30)]


def test_a_sink_that_cannot_say_what_was_heard_is_taken_to_play_in_real_time(caplog: pytest.LogCaptureFixture) -> None:
    """Its failure is logged once, not with every piece of sound."""

    def broken() -> float:
        raise OSError("no device")

    play, sink, clock = playback()
    sink.played_ms = broken
    play.told(sound(500))
    play.told(sound(500))
    clock.now += 0.25
    stopped = play.stop("barge_in")
    assert stopped is not None
    assert stopped.event.heard_ms == pytest.approx(250, abs=1)
    assert [record.message for record in caplog.records] == ["played_ms of the sink of play_to failed: what was heard is estimated"]


@pytest.mark.parametrize("reason", ["barge_in", "interrupt"])
def test_after_a_loss_what_came_plays_on_and_nothing_is_cut(reason: Literal["barge_in", "interrupt"]) -> None:
    """The new connection does not know the item; the answer has ended with the old one."""
    play, sink, _ = playback()
    play.told(sound(500))
    play.lost()
    sink.played_ms = 100
    assert play.is_playing
    stopped = play.stop(reason)
    assert stopped is not None
    assert stopped.cuts == []
    play.told(sound(100, "i2", "r2"))
    play.lost()
    sink.played_ms = 200
    finished = play.finished()
    assert finished is not None
    assert finished.item_id == "i2"
