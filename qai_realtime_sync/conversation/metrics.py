"""What a conversation took: time from the user's last word to the answer, tokens, money, sound, losses, slow handlers."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from qai_realtime_sync.events import Event, Reconnected, ResponseDone, TokenUsage, TranscriptDone, Usage
from qai_realtime_sync.fields import FrozenByFields
from qai_realtime_sync.turns import Turn

__all__ = ["METERED", "HandlerTime", "Meter", "Metrics", "TurnMetrics", "turn_metrics"]

_REMEMBERED = 64


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TurnMetrics(FrozenByFields):
    """How fast one turn was answered, in seconds from the end of the user's speech as the service told it, or of what was typed.

    ``None`` = did not happen: no sound, no words, nothing plays here, or nobody had said anything.
    """

    number: int
    first_text: float | None = None
    first_audio: float | None = None
    first_sound: float | None = None
    """When it was heard: `play_to`'s own delay included."""
    interrupted: bool = False


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HandlerTime(FrozenByFields):
    """The longest that one handler took, in seconds; ``background`` ones hold up only each other."""

    handler: str
    event: str
    slowest: float
    calls: int = 0
    background: bool = False


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Metrics(FrozenByFields):
    """What a conversation took so far; ``client.metrics``.

    ``usage`` is that of all answers, ``transcription`` that of the user's transcripts where a service counts them apart; ``cost_ticks``
    what the gateway charged (10 000 000 000 = 1 USD; 0 where it says nothing). ``audio_up`` and ``audio_down`` are seconds of sound,
    ``dropped_audio`` is what did not leave. ``waiting`` commands are queued now, ``most_waiting`` were at once. ``background_waiting`` is
    the work of handlers that is left. Times are seconds.
    """

    seconds: float = 0.0
    turns: tuple[TurnMetrics, ...] = ()
    responses: int = 0
    usage: TokenUsage = attrs.field(factory=TokenUsage)
    transcription: TokenUsage = attrs.field(factory=TokenUsage)
    cost_ticks: int = 0
    audio_up: float = 0.0
    audio_down: float = 0.0
    reconnects: int = 0
    downtime: float = 0.0
    sent: int = 0
    failed: int = 0
    dropped: int = 0
    dropped_audio: float = 0.0
    dropped_events: int = 0
    waiting: int = 0
    most_waiting: int = 0
    background_waiting: int = 0
    handlers: tuple[HandlerTime, ...] = ()
    """The slowest first."""


def turn_metrics(turn: Turn) -> TurnMetrics:
    """Return how fast a turn was answered."""
    asked = turn.speech_stopped_at

    def since(at: float | None) -> float | None:
        return None if asked is None or at is None else at - asked

    return TurnMetrics(
        number=turn.number,
        first_text=since(turn.first_text_at),
        first_audio=since(turn.first_audio_at),
        first_sound=since(turn.first_sound_at),
        interrupted=turn.interrupted,
    )


class Meter:
    """Told of the rare events that cost something; safe to ask from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._usage, self._transcription = TokenUsage(), TokenUsage()
        self._running: collections.OrderedDict[str, TokenUsage] = collections.OrderedDict()  # what is known before an answer ends
        self._responses = self._reconnects = 0
        self._downtime = 0.0

    def told(self, event: Event) -> None:
        """Follow the service."""
        row = _ROWS.get(type(event))
        if row is not None:
            with self._lock:
                row(self, event)

    def read(self, turns: Iterable[Turn], **known: Any) -> Metrics:
        """Return what was counted here, with what others know."""
        with self._lock:
            usage = attrs.evolve(self._usage)
            for running in self._running.values():
                usage = _sum(usage, running)
            return Metrics(
                turns=tuple(map(turn_metrics, turns)),
                responses=self._responses,
                usage=usage,
                transcription=attrs.evolve(self._transcription),
                reconnects=self._reconnects,
                downtime=self._downtime,
                **known,
            )

    def _done(self, event: ResponseDone) -> None:
        self._responses += 1
        running = self._running.pop(event.response_id, None)
        spent = event.usage or running
        if spent is not None:
            self._usage = _sum(self._usage, spent)

    def _used(self, event: Usage) -> None:
        if event.source != "response":
            return  # the size of the context, not what is spent
        self._running[event.response_id] = event.usage  # each tells the whole so far
        if len(self._running) > _REMEMBERED:
            self._usage = _sum(self._usage, self._running.popitem(last=False)[1])

    def _transcribed(self, event: TranscriptDone) -> None:
        if event.usage is not None:
            self._transcription = _sum(self._transcription, event.usage)

    def _reconnected(self, event: Reconnected) -> None:
        self._reconnects += 1
        self._downtime += event.downtime


def _sum(a: TokenUsage, b: TokenUsage) -> TokenUsage:
    total: dict[str, Any] = {}
    for field in attrs.fields(TokenUsage):
        if field.name != "raw":
            one, other = getattr(a, field.name), getattr(b, field.name)
            total[field.name] = one if other is None else other if one is None else one + other
    return TokenUsage(**total)


_ROWS: dict[type[Event], Callable[[Meter, Any], None]] = {
    ResponseDone: Meter._done,
    Usage: Meter._used,
    TranscriptDone: Meter._transcribed,
    Reconnected: Meter._reconnected,
}

METERED: Final = frozenset(_ROWS)
"""The events that `Meter.told` has something to learn from."""
