"""Interruption by voice: fast, cut where the caller heard it end, and not by a fifth of a second of echo where that is asked for."""

from __future__ import annotations

import threading

import pytest

from qai_realtime_sync import Event, PlaybackStopped, RealtimeConfig, ResponseDone, SpeechStarted, SpeechStopped, TurnDetection
from tests.faults.scene import Seen
from tests.scenes.barge_in import STORY, interrupted_by_voice
from tests.scenes.barge_in_latency import PROMISED_CUT_MS, PROMISED_MS, has_speech_events
from tests.scenes.stage import DIALECT_NAMES, Room, hear_something, speech, stage

_LOOSE = 5

TELLING = [name for name in DIALECT_NAMES if has_speech_events(name)]  # the others only say that they were interrupted


@pytest.mark.parametrize("dialect", TELLING)
def test_the_caller_is_heard_at_once_and_the_answer_ends_where_it_was_heard(dialect: str) -> None:
    """Silence and the cut follow the frame within 40 ms (here five times that), and the server keeps what the caller heard."""
    with stage(dialect, lambda script: script.on_text("story").say(STORY)) as one:
        measured = interrupted_by_voice(one)
    assert 0 <= measured.silence * 1000 <= PROMISED_MS * _LOOSE
    assert 0 <= measured.cut * 1000 <= PROMISED_MS * _LOOSE
    assert measured.heard_ms >= 1000
    assert abs(measured.kept_ms - measured.heard_ms) <= PROMISED_CUT_MS
    assert STORY.startswith(measured.kept_text)
    assert 0 < len(measured.kept_text) < len(STORY) / 2
    assert STORY.startswith(measured.told_text)
    assert abs(len(measured.told_text.split()) - len(measured.kept_text.split())) <= 3, "the client tells another end than the server"


@pytest.mark.parametrize("usual", [True, False])
@pytest.mark.parametrize("dialect", TELLING)
def test_a_fifth_of_a_second_of_echo_interrupts_only_unless_asked_otherwise(dialect: str, usual: bool) -> None:
    """With ``min_speech`` a short sound leaves the answer alone, on both sides; a voice that goes on interrupts it after that time."""
    with stage(dialect, lambda script: script.on_text("story").say(STORY)) as one:
        room = Room()
        detection = TurnDetection() if usual else TurnDetection(silence_duration_ms=200)
        client = one.client(RealtimeConfig(turn_detection=detection), min_speech=0.3)
        client.play_to(room)
        seen = Seen(client)
        with client:
            client.send_text("Tell me the story")
            hear_something(client, room, 0.2)
            client.send_audio_from(speech(0.2, quiet=0.8), pace=True)
            seen.until(SpeechStopped)
            room.listen(0.8)
            assert room.cleared_at == [], "the echo silenced the answer"
            assert seen.of(PlaybackStopped) == []
            assert all(done.status != "cancelled" for done in seen.of(ResponseDone)), "the echo cancelled the answer"
            client.send_audio_from(speech(1.2, quiet=0.0), pace=True)
            assert seen.until(PlaybackStopped).reason == "barge_in"
            assert len(seen.of(SpeechStarted)) == 2
            assert len(room.cleared_at) == 1


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
def test_without_that_wish_a_short_sound_interrupts(dialect: str) -> None:
    """The same fifth of a second ends the answer where nothing else was asked for."""
    with stage(dialect, lambda script: script.on_text("story").say(STORY)) as one:
        room, stopped = Room(), threading.Event()
        client = one.client()
        client.play_to(room)

        @client.on(PlaybackStopped)
        def note(event: Event) -> None:
            stopped.set()

        with client:
            client.send_text("Tell me the story")
            hear_something(client, room, 0.2)
            client.send_audio_from(speech(0.2), pace=True)
            assert stopped.wait(15)
