"""Spans and metrics of a conversation for OpenTelemetry (the only owner of opentelemetry); no content unless it is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from qai_realtime_sync.config import RealtimeConfig
from qai_realtime_sync.conversation.metrics import turn_metrics
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import (
    Closed,
    ErrorReceived,
    Event,
    HandlerFailed,
    Reconnected,
    Reconnecting,
    ResponseCreated,
    ResponseDone,
    SessionReady,
    SpeechStarted,
    TurnDone,
)
from qai_realtime_sync.turns import ToolCall, Turn

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["Telemetry"]

_NAME = "qai_realtime_sync"
_MOST_ANSWERS = 64


@attrs.define
class _Answer:
    """One answer that is being made, or whose exchange is not over."""

    begun: int
    ended: int | None = None
    attributes: dict[str, Any] = attrs.field(factory=dict)
    failure: str = ""


class Telemetry:
    """Reports one conversation to OpenTelemetry; give it to `RealtimeClient.trace_to` before connecting.

    Spans: ``realtime.session`` over the whole conversation, below it ``realtime.turn`` for each exchange from the user's first word to
    the answer's end, below that ``chat`` for each answer with its tokens and ``execute_tool`` for each call. Metrics: tokens by kind,
    seconds to the first sound and the first words, length of turns, reconnects, errors. Names follow OpenTelemetry's conventions for
    generative AI where they have one. ``content=True`` adds what was said, and arguments and results of tools: it may be personal.
    Without providers the program's global ones are used. ``now`` returns nanoseconds since 1970.

    Raises: `ConfigError` without opentelemetry-api.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        content: bool = False,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        try:
            from opentelemetry import context, metrics, trace
        except ImportError:
            raise ConfigError(
                "tracing needs opentelemetry-api, which is not installed: pip install 'qai-realtime-sync[otel]'", code="missing_dependency"
            ) from None
        self._trace, self._context = trace, context
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self._tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}", "Tokens of one answer")
        self._first_audio = meter.create_histogram("realtime.turn.first_audio", "s", "From the end of the user's speech to the first sound")
        self._first_text = meter.create_histogram("realtime.turn.first_text", "s", "From the end of the user's speech to the first words")
        self._first_sound = meter.create_histogram("realtime.turn.first_sound", "s", "From the end of the user's speech to what is heard")
        self._turns = meter.create_counter("realtime.turns", "{turn}", "Exchanges")
        self._reconnects = meter.create_counter("realtime.reconnects", "{reconnect}", "Connections that replaced a lost one")
        self._errors = meter.create_counter("realtime.errors", "{error}", "Errors the service reported, and handlers that failed")
        self._content = content
        self._now = now
        self._lock = threading.Lock()  # guards everything below
        self._followed = False
        self._offset = 0
        self._begins: Callable[[], float] = float
        self._begun_at = 0.0
        self._attributes: dict[str, str] = {}
        self._session: Span | None = None
        self._parent: Any = None
        self._answers: dict[str, _Answer] = {}
        self._turn_began: int | None = None

    def follow(self, config: RealtimeConfig, clock: Callable[[], float], begins: Callable[[], float], provider: str) -> None:
        """Learn of the conversation what its spans should say; the parent of the session's span is the one that is current now.

        Raises: `ConfigError` for a second conversation: the spans of both would be mixed up.
        """
        with self._lock:
            if self._followed:
                raise ConfigError("this Telemetry has a client: make one for each", code="already_used")
            self._followed = True
            self._offset = self._now() - round(clock() * 1e9)
            self._begins = begins
            self._parent = self._context.get_current()
            self._attributes = {"gen_ai.operation.name": "chat"}
            if provider:
                self._attributes["gen_ai.provider.name"] = provider
            if config.model:
                self._attributes["gen_ai.request.model"] = config.model

    def told(self, event: Event, at: float) -> None:
        """The client told an event at ``at``, in seconds of its clock."""
        row = _ROWS.get(type(event))
        if row is not None:
            with self._lock:
                if self._session is None:
                    self._begin()
                row(self, event, self._moment(at))

    # -- under the lock --------------------------------------------------------------------------------------------------------

    def _moment(self, at: float) -> int:
        return self._offset + round(at * 1e9)

    def _begin(self) -> None:
        self._begun_at = self._begins()
        begun = self._moment(self._begun_at)
        self._session = self._tracer.start_span(
            "realtime.session", context=self._parent, kind=self._trace.SpanKind.CLIENT, attributes=self._attributes, start_time=begun
        )

    def _within(self, span: Span | None) -> Any:
        return self._trace.set_span_in_context(span, self._parent) if span is not None else self._parent

    def _ready(self, event: SessionReady, now: int) -> None:
        if self._session is not None and event.session_id:
            self._session.set_attribute("gen_ai.conversation.id", event.session_id)

    def _speech(self, event: SpeechStarted, now: int) -> None:
        if self._turn_began is None:
            self._turn_began = now

    def _created(self, event: ResponseCreated, now: int) -> None:
        if self._turn_began is None:
            self._turn_began = now
        self._answers[event.response_id] = _Answer(now)
        if len(self._answers) > _MOST_ANSWERS:
            del self._answers[next(iter(self._answers))]

    def _done(self, event: ResponseDone, now: int) -> None:
        answer = self._answers.get(event.response_id)
        if answer is None:
            return
        attributes: dict[str, Any] = {"gen_ai.response.id": event.response_id, "gen_ai.response.finish_reasons": [event.status]}
        usage = event.usage
        if usage is not None:
            attributes |= {"gen_ai.usage.input_tokens": usage.input_tokens, "gen_ai.usage.output_tokens": usage.output_tokens}
            counted = {
                ("input", "audio"): usage.input_audio_tokens,
                ("input", "text"): usage.input_text_tokens,
                ("output", "audio"): usage.output_audio_tokens,
                ("output", "text"): usage.output_text_tokens,
            }
            if not any(counted.values()):
                counted = {("input", "any"): usage.input_tokens, ("output", "any"): usage.output_tokens}
            for (kind, modality), count in counted.items():
                if count:
                    self._tokens.record(count, {**self._attributes, "gen_ai.token.type": kind, "realtime.modality": modality})
        answer.ended, answer.attributes = now, attributes
        if event.status == "failed":
            answer.failure = event.error_code or event.reason or "failed"

    def _turn_done(self, event: TurnDone, now: int) -> None:
        turn = event.turn
        if turn is None:
            return
        begun = self._turn_began if self._turn_began is not None else now
        self._turn_began = None
        span = self._tracer.start_span(
            "realtime.turn", context=self._within(self._session), attributes=self._of_turn(turn), start_time=begun
        )
        within = self._within(span)
        for response_id in turn.response_ids:
            self._answer_span(self._answers.pop(response_id, None), within)
        for call in turn.tool_calls:
            self._call_span(call, within, now)
        span.end(now)
        self._measure(turn)

    def _of_turn(self, turn: Turn) -> dict[str, Any]:
        attributes: dict[str, Any] = {"realtime.turn.number": turn.number, "realtime.turn.interrupted": turn.interrupted}
        if turn.heard_ms is not None:
            attributes["realtime.turn.heard_ms"] = turn.heard_ms
        if self._content:
            attributes |= {"realtime.turn.user": turn.user, "realtime.turn.assistant": turn.assistant}
        return attributes

    def _answer_span(self, answer: _Answer | None, within: Any) -> None:
        if answer is None or answer.ended is None:
            return
        name = f"chat {self._attributes.get('gen_ai.request.model', '')}".rstrip()
        attributes = {**self._attributes, **answer.attributes}
        span = self._tracer.start_span(name, context=within, attributes=attributes, start_time=answer.begun)
        if answer.failure:
            span.set_attribute("error.type", answer.failure)
            span.set_status(self._trace.StatusCode.ERROR, answer.failure)
        span.end(answer.ended)

    def _call_span(self, call: ToolCall, within: Any, now: int) -> None:
        begun, ended = (now if at is None else self._moment(self._begun_at + at) for at in (call.called_at, call.answered_at))
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.name, "gen_ai.tool.call.id": call.call_id}
        if self._content:
            attributes |= {"gen_ai.tool.call.arguments": call.arguments, "gen_ai.tool.call.result": call.output or ""}
        self._tracer.start_span(f"execute_tool {call.name}", context=within, attributes=attributes, start_time=begun).end(max(begun, ended))

    def _measure(self, turn: Turn) -> None:
        measured = turn_metrics(turn)
        self._turns.add(1, {**self._attributes, "realtime.turn.interrupted": turn.interrupted})
        for histogram, seconds in (
            (self._first_audio, measured.first_audio),
            (self._first_text, measured.first_text),
            (self._first_sound, measured.first_sound),
        ):
            if seconds is not None:
                histogram.record(max(0.0, seconds), self._attributes)

    def _reconnecting(self, event: Reconnecting, now: int) -> None:
        if self._session is not None:
            self._session.add_event("reconnecting", {"realtime.attempt": event.attempt}, timestamp=now)

    def _reconnected(self, event: Reconnected, now: int) -> None:
        self._reconnects.add(1, self._attributes)
        if self._session is not None:
            self._session.add_event("reconnected", {"realtime.resumed": event.resumed}, timestamp=now)

    def _error(self, event: ErrorReceived, now: int) -> None:
        if not event.benign:
            self._note("error", event.code or event.type or "error", now)

    def _handler_failed(self, event: HandlerFailed, now: int) -> None:
        self._note("handler_failed", type(event.error).__name__, now)

    def _note(self, name: str, kind: str, now: int) -> None:
        """Errors are named by their kind alone: their text may hold content."""
        self._errors.add(1, {**self._attributes, "error.type": kind})
        if self._session is not None:
            self._session.add_event(name, {"error.type": kind}, timestamp=now)

    def _closed(self, event: Closed, now: int) -> None:
        if self._session is None:
            return
        for answer in self._answers.values():
            self._answer_span(answer, self._within(self._session))
        self._answers.clear()
        self._session.set_attribute("realtime.closed.meaning", event.meaning)
        if event.meaning not in ("normal", "going_away"):
            self._session.set_attribute("error.type", event.meaning)
            self._session.set_status(self._trace.StatusCode.ERROR, event.meaning)
        self._session.end(now)


_ROWS: dict[type[Event], Callable[[Telemetry, Any, int], None]] = {
    SessionReady: Telemetry._ready,
    SpeechStarted: Telemetry._speech,
    ResponseCreated: Telemetry._created,
    ResponseDone: Telemetry._done,
    TurnDone: Telemetry._turn_done,
    Reconnecting: Telemetry._reconnecting,
    Reconnected: Telemetry._reconnected,
    ErrorReceived: Telemetry._error,
    HandlerFailed: Telemetry._handler_failed,
    Closed: Telemetry._closed,
}
