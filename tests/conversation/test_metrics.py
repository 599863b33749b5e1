"""What a conversation took: sums by kind, latencies of turns, and a live client's own numbers."""

from __future__ import annotations

import threading

import pytest

from qai_realtime_sync import Event, Reconnected, ResponseDone, TextDelta, TokenUsage, TranscriptDone, Turn, Usage
from qai_realtime_sync.audio import silence
from qai_realtime_sync.config import AudioFormat
from qai_realtime_sync.conversation.metrics import METERED, Meter, TurnMetrics, turn_metrics
from tests.servers import service


def test_tokens_are_summed_by_kind() -> None:
    """Every kind of token is added up by itself; what no answer told stays unknown."""
    meter = Meter()
    meter.told(ResponseDone(response_id="a", usage=TokenUsage(input_tokens=3, input_audio_tokens=2, audio_seconds=1.5)))
    meter.told(ResponseDone(response_id="b", usage=TokenUsage(input_tokens=4, output_text_tokens=5, audio_seconds=0.5)))
    meter.told(ResponseDone(response_id="c"))
    meter.told(TextDelta())
    metrics = meter.read([])
    assert metrics.responses == 3
    assert metrics.usage == TokenUsage(input_tokens=7, input_audio_tokens=2, output_text_tokens=5, audio_seconds=2.0)
    assert metrics.usage.billable_seconds is None


def test_usage_that_grows_during_an_answer_counts_once() -> None:
    """Of several reports the last counts, and the answer's own end replaces it; the size of the context is not spent."""
    meter = Meter()
    for total in (5, 9):
        meter.told(Usage(response_id="a", usage=TokenUsage(total_tokens=total)))
    meter.told(Usage(source="context", usage=TokenUsage(input_tokens=10_000)))
    assert meter.read([]).usage == TokenUsage(total_tokens=9)
    meter.told(ResponseDone(response_id="a", usage=TokenUsage(total_tokens=12)))
    meter.told(Usage(response_id="b", usage=TokenUsage(total_tokens=1)))
    meter.told(ResponseDone(response_id="b"))
    assert meter.read([]).usage == TokenUsage(total_tokens=13)


def test_answers_that_never_end_do_not_pile_up() -> None:
    """A service that reports usage and tells no ends is summed all the same, in bounded memory."""
    meter = Meter()
    for number in range(1000):
        meter.told(Usage(response_id=str(number), usage=TokenUsage(total_tokens=1)))
    assert meter.read([]).usage.total_tokens == 1000
    assert len(meter._running) < 100


def test_transcripts_and_reconnects_are_counted_apart() -> None:
    """What transcribing cost is not the answers' usage; time without a connection adds up."""
    meter = Meter()
    meter.told(TranscriptDone(source="input", usage=TokenUsage(audio_seconds=2.0)))
    meter.told(TranscriptDone(source="output"))
    meter.told(Reconnected(downtime=0.5))
    meter.told(Reconnected(downtime=0.25))
    metrics = meter.read([])
    assert (metrics.transcription.audio_seconds, metrics.usage, metrics.reconnects, metrics.downtime) == (2.0, TokenUsage(), 2, 0.75)
    assert all(issubclass(event, Event) for event in METERED)


def test_a_turn_is_measured_from_the_end_of_speech() -> None:
    """Each latency counts from the user's last word; what did not happen has none."""
    turn = Turn(number=4, speech_stopped_at=2.0, first_text_at=2.25, first_audio_at=2.5, first_sound_at=3.0, interrupted=True)
    assert turn_metrics(turn) == TurnMetrics(number=4, first_text=0.25, first_audio=0.5, first_sound=1.0, interrupted=True)
    assert turn_metrics(Turn(number=1, first_audio_at=1.0)) == TurnMetrics(number=1)
    assert turn_metrics(Turn(number=1, speech_stopped_at=1.0)) == TurnMetrics(number=1)


def test_a_clients_numbers_are_those_of_its_conversation() -> None:
    """Seconds of sound in both directions, commands, tokens, handlers: what happened on the wire is what is counted."""
    heard, slow = threading.Event(), threading.Event()
    with service() as peer, peer.client() as client:

        @client.on("response_done")
        def hear(event: Event) -> None:
            slow.wait(0.05)
            heard.set()

        client.on("closed", lambda event: None, background=True)
        talk = peer.talk()
        for _ in range(10):
            client.send_audio(silence(0.1, AudioFormat()))
        client.send_text("Hello")
        talk.expect("response.create")
        talk.created("r1")
        talk.audio("r1", "i1", silence(0.5, AudioFormat()))
        talk.transcript("r1", "i1", "Hi")
        talk.done("r1", usage={"input_tokens": 11, "output_tokens": 7, "output_token_details": {"audio_tokens": 5}})
        assert heard.wait(20)
        talk.say("the.handler.has.returned")
        client.wait_for("unknown", 20.0)
        client.drain()
        metrics = client.metrics
    assert metrics.audio_up == pytest.approx(1.0)
    assert metrics.audio_down == pytest.approx(0.5)
    assert (metrics.usage.input_tokens, metrics.usage.output_audio_tokens, metrics.responses) == (11, 5, 1)
    assert metrics.sent == 12
    assert (metrics.waiting, metrics.failed, metrics.dropped, metrics.reconnects, metrics.cost_ticks) == (0, 0, 0, 0, 0)
    assert metrics.turns[0].first_audio is not None
    assert metrics.turns[0].first_sound is None
    assert metrics.handlers[0].handler.endswith("hear")
    assert metrics.handlers[0].slowest >= 0.05
    assert 0 < metrics.seconds < 30
    over = client.metrics.seconds
    assert client.metrics.seconds == over, "the time goes on though the conversation is over"


def test_before_it_is_connected_there_is_nothing() -> None:
    """The numbers of a client that was not connected are all nothing, and asking is legal."""
    with service() as peer:
        metrics = peer.client().metrics
    assert (metrics.seconds, metrics.sent, metrics.turns, metrics.handlers) == (0.0, 0, (), ())
