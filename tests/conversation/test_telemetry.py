"""Spans and metrics for OpenTelemetry: what is told, how it nests, and that nobody's words are in it unasked."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from qai_realtime_sync import Event, RealtimeClient, RealtimeConfig
from qai_realtime_sync.conversation.telemetry import Telemetry
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import (
    Closed,
    ErrorReceived,
    HandlerFailed,
    Reconnected,
    Reconnecting,
    ResponseCreated,
    ResponseDone,
    SessionReady,
    SpeechStarted,
    TextDelta,
    TokenUsage,
    TurnDone,
)
from qai_realtime_sync.turns import ToolCall, Turn
from tests.servers import service

pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

SECRET = "my secret words"
EPOCH = 1_700_000_000_000_000_000


class Collected:
    """A telemetry whose spans and metrics stay here."""

    def __init__(self, **options: Any) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.telemetry = Telemetry(
            tracer_provider=tracers, meter_provider=MeterProvider([self._reader], shutdown_on_exit=False), **options
        )

    @property
    def spans(self) -> list[Any]:
        return list(self._spans.get_finished_spans())

    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        found = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics if m.name == name] if data else []
        return [point for metric in found for point in metric.data.data_points]


def story() -> list[tuple[float, Event]]:
    turn = Turn(
        number=1, user=SECRET, assistant=SECRET, response_ids=["r1", "r2"], speech_stopped_at=1.0, first_text_at=1.25, first_audio_at=1.5,
        tool_calls=[ToolCall(name="look", call_id="c1", arguments=SECRET, output=SECRET, called_at=1.25, answered_at=1.75)],
    )  # fmt: skip
    return [
        (10.0, SessionReady(session_id="sess_1")),
        (10.5, SpeechStarted()),
        (11.125, ResponseCreated(response_id="r1")),
        (11.375, ResponseDone(response_id="r1", usage=TokenUsage(input_tokens=9, input_text_tokens=9, output_tokens=2))),
        (11.8, ResponseCreated(response_id="r2")),
        (11.9, TextDelta(delta=SECRET)),
        (12.5, ResponseDone(response_id="r2", status="failed", error_code="server_error", error_message=SECRET)),
        (12.5, TurnDone(turn=turn)),
        (13.0, ErrorReceived(message=SECRET, code="rate_limit")),
        (13.0, ErrorReceived(message=SECRET, code="harmless", benign=True)),
        (13.1, HandlerFailed(handler="f", error=ValueError(SECRET))),
        (13.5, Reconnecting(attempt=1)),
        (14.0, Reconnected()),
        (15.0, Closed(meaning="normal")),
    ]


def tell(collected: Collected, events: list[tuple[float, Event]]) -> None:
    collected.telemetry.follow(RealtimeConfig(model="m-1"), lambda: 10.0, lambda: 10.0, "xai")
    for at, event in events:
        collected.telemetry.told(event, at)


def test_a_telemetry_has_one_client() -> None:
    """The spans of two would be mixed up."""
    collected = Collected(now=lambda: EPOCH)
    RealtimeClient("k").trace_to(collected.telemetry)
    with pytest.raises(ConfigError, match="make one for each"):
        RealtimeClient("k").trace_to(collected.telemetry)


def test_spans_nest_and_last_as_long_as_what_they_stand_for() -> None:
    """The session holds the turn, the turn its answers and calls, each with the times at which it began and ended."""
    collected = Collected(now=lambda: EPOCH)
    tell(collected, story())
    spans = {span.attributes.get("gen_ai.response.id", span.name): span for span in collected.spans}
    session, turn, first, second, tool = (spans[n] for n in ("realtime.session", "realtime.turn", "r1", "r2", "execute_tool look"))
    assert session.parent is None
    assert turn.parent.span_id == session.context.span_id
    assert {span.parent.span_id for span in (first, second, tool)} == {turn.context.span_id}
    seconds = {name: ((span.start_time - EPOCH) / 1e9, (span.end_time - EPOCH) / 1e9) for name, span in spans.items()}
    assert seconds == {
        "realtime.session": (0.0, 5.0),
        "realtime.turn": (0.5, 2.5),
        "r1": (1.125, 1.375),
        "r2": (1.8, 2.5),
        "execute_tool look": (1.25, 1.75),
    }
    assert first.name == "chat m-1"
    assert first.attributes["gen_ai.usage.input_tokens"] == 9
    assert first.attributes["gen_ai.provider.name"] == "xai"
    assert second.status.status_code is StatusCode.ERROR
    assert session.status.status_code is StatusCode.UNSET
    assert session.attributes["gen_ai.conversation.id"] == "sess_1"
    assert [event.name for event in session.events] == ["error", "handler_failed", "reconnecting", "reconnected"]


def test_metrics_count_what_happened() -> None:
    """Tokens by kind, latencies, turns, reconnects and errors have the values of the conversation."""
    collected = Collected()
    tell(collected, story())
    (tokens,) = collected.points("gen_ai.client.token.usage")
    assert (tokens.attributes["gen_ai.token.type"], tokens.attributes["realtime.modality"], tokens.sum) == ("input", "text", 9)
    assert [point.sum for point in collected.points("realtime.turn.first_audio")] == [0.5]
    assert [point.sum for point in collected.points("realtime.turn.first_text")] == [0.25]
    assert collected.points("realtime.turn.first_sound") == []
    assert [point.value for point in collected.points("realtime.turns")] == [1]
    assert [point.value for point in collected.points("realtime.reconnects")] == [1]
    assert {p.attributes["error.type"]: p.value for p in collected.points("realtime.errors")} == {"rate_limit": 1, "ValueError": 1}


@pytest.mark.parametrize("content", [False, True])
def test_nobodys_words_are_told_unasked(content: bool) -> None:
    """Without ``content=True`` no word that was said, no argument, result or error text is in any span."""
    collected = Collected(content=content)
    tell(collected, story())
    assert (SECRET in "".join(span.to_json() for span in collected.spans)) is content


def test_a_lost_conversation_is_an_error_and_its_answers_are_told() -> None:
    """Answers that were in no finished turn are told when it ends, and the session says why it ended."""
    collected = Collected()
    tell(collected, [*story()[:4], *[(12.0, ResponseCreated(response_id=f"x{n}")) for n in range(100)], (13.0, Closed(meaning="quota"))])
    assert collected.names() == ["realtime.session"], "the oldest answers are forgotten, those that never ended have no span"
    assert collected.spans[-1].status.status_code is StatusCode.ERROR
    collected = Collected()
    tell(collected, [*story()[:4], (13.0, Closed(meaning="lost"))])
    assert collected.names() == ["chat m-1", "realtime.session"]


def test_odd_events_are_survived() -> None:
    """A turn without content, an end of an unknown answer, and an end before a beginning leave spans that are whole."""
    collected = Collected()
    turn = TurnDone(turn=Turn(number=1, heard_ms=5))
    tell(collected, [(10.0, TurnDone()), (10.0, ResponseDone(response_id="?")), (11.0, turn), (12.0, Closed())])
    assert collected.names() == ["realtime.turn", "realtime.session"]


def test_a_live_conversation_is_traced() -> None:
    """A client's turn comes out as spans, under the span that was current when it was traced."""
    collected = Collected()
    with service() as peer:
        client = peer.client()
        tracer = collected.telemetry._tracer
        with tracer.start_as_current_span("call"):
            client.trace_to(collected.telemetry)
        with client:
            talk = peer.talk()
            client.send_text("Hello")
            talk.expect("response.create")
            talk.created("r1")
            talk.done("r1")
            client.wait_for("turn_done", 5)
    by_name = {span.name: span for span in collected.spans}
    assert by_name["realtime.session"].parent.span_id == by_name["call"].context.span_id
    assert by_name["chat"].parent.span_id == by_name["realtime.turn"].context.span_id
    assert by_name["realtime.turn"].end_time >= by_name["realtime.turn"].start_time >= by_name["realtime.session"].start_time
    with pytest.raises(ConfigError, match="before connect"):
        client.trace_to(collected.telemetry)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without opentelemetry-api the error says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"qai-realtime-sync\[otel\]"):
        Telemetry()
    RealtimeClient("key")  # the client itself does not need it
