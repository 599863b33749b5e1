"""The numbers of a recorded conversation: how long, how fast, how often interrupted, what went wrong."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import attrs

from qai_realtime_sync.cli.recorded import Recorded
from qai_realtime_sync.turns import Turn

__all__ = ["Delay", "delay_of", "numbers"]


@attrs.frozen(kw_only=True)
class Delay:
    """The silence between the caller's last sound and the answer's first, in seconds, in the order in which it passes.

    ``noticing`` until the service took it for the end, ``answering`` until the answer's first sound came, ``playing`` until it was heard.
    What was typed has no ``noticing``.
    """

    number: int
    begins: float
    noticing: float
    answering: float
    playing: float

    @property
    def whole(self) -> float:
        """What the caller waited."""
        return self.noticing + self.answering + self.playing


def delay_of(turn: Turn) -> Delay | None:
    """Return how long an answer let the caller wait; ``None`` if there was no question, or no sound in the answer."""
    asked, came = turn.speech_stopped_at, turn.first_audio_at
    if asked is None or came is None:
        return None
    spoke = turn.spoke_until if turn.spoke_until is not None and turn.spoke_until <= asked else asked
    heard = turn.first_sound_at if turn.first_sound_at is not None and turn.first_sound_at >= came else came
    return Delay(number=turn.number, begins=spoke, noticing=asked - spoke, answering=max(0.0, came - asked), playing=heard - came)


def numbers(found: Recorded) -> dict[str, Any]:
    """Return the summary, the same for the page and for ``--json``; times are seconds, ``None`` = not known."""
    latencies = [turn.latency for turn in found.turns if turn.latency is not None and turn.latency >= 0]
    waits = [delay.whole for delay in map(delay_of, found.turns) if delay is not None]
    errors = [event for event in found.events if event["name"] == "error" and not event.get("benign")]
    usage = found.metrics.usage
    return {
        "seconds": round(found.duration, 3),
        "turns": len(found.turns),
        "interruptions": sum(turn.interrupted for turn in found.turns),
        "tool_calls": sum(len(turn.tool_calls) for turn in found.turns),
        "latency": _spread(latencies),
        "silence_before_answer": _spread(waits),
        "errors": len(errors),
        "reconnects": found.metrics.reconnects,
        "tokens": usage.total_tokens,
        "whole": not found.problems,
    }


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"median": None, "slowest": None}
    return {"median": round(statistics.median(values), 4), "slowest": round(max(values), 4)}
