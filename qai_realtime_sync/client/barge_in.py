"""The user speaks, or the program interrupts: playback stops, the answer is cancelled, and the service learns what was heard."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from qai_realtime_sync.commands import CancelResponse
from qai_realtime_sync.config import TurnDetection
from qai_realtime_sync.events import Event

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["interrupt", "speech_began", "speech_ended", "stop_playing", "watch_playback"]

_LOOK_AGAIN = 0.05
_USUAL_SILENCE = 0.5  # what services take for the end of speech (source: OpenAI reference)
_QUIET = 0.01  # of full scale: below it nobody speaks into the microphone


def speech_began(call: Call) -> list[Event]:
    """React to the user's speech; with ``min_speech`` only once it has lasted that long."""
    call.user_speaks = True
    call.own_answers.begins()  # the next answer is to what the user says now
    if call.playback is None or call.options.barge_in is False:
        return []
    if call.options.min_speech <= 0:
        return stop_playing(call, "barge_in")
    if call.speech_timer is None:
        # The service takes so long to notice the end of speech: what has not ended by then was long enough for certain.
        certain = call.clock() + call.options.min_speech + _silence_of(call)
        call.speech_timer = call.sender.after(call.options.min_speech, lambda: _spoke_long_enough(call, certain))
    return []


def speech_ended(call: Call) -> None:
    """A noise that was shorter than ``min_speech`` does not interrupt."""
    call.user_speaks = False
    timer, call.speech_timer = call.speech_timer, None
    if timer is not None:
        timer.cancel()
    call.settled()


def _silence_of(call: Call) -> float:
    detection = call.config.turn_detection
    told = detection.silence_duration_ms if isinstance(detection, TurnDetection) else None
    return told / 1000 if isinstance(told, int) else _USUAL_SILENCE


def _spoke_long_enough(call: Call, certain: float) -> None:
    """The speech has lasted, unless it is already quiet again and the service only has not noticed yet."""
    if call.clock() < certain and call.sound.level(_LOOK_AGAIN) < _QUIET:
        call.speech_timer = call.sender.after(_LOOK_AGAIN, lambda: _spoke_long_enough(call, certain))
        return
    call.speech_timer = None
    stop_playing(call, "barge_in", call.announce)


def stop_playing(
    call: Call, reason: Literal["barge_in", "interrupt"], announce: Callable[[Event], None] | None = None
) -> list[Event]:
    """Silence the sink, cancel the answer if it still grows, and cut it at what was heard. Returns what to tell.

    The order matters: the ears first, then the wire. What happens on another thread than the reader is told in between, by ``announce``:
    the service's answer to the cancel may be faster than this thread. The service may have cancelled by itself; the error that
    answers our cancel then is not told.
    """
    responses = call.responses
    stopped = call.playback.stop(reason, unkept=responses.beside) if call.playback is not None else None
    if stopped is None:
        return []
    if stopped.error is not None:
        call.sink_failed(stopped.event, stopped.error)
    timer, call.playback_timer = call.playback_timer, None
    if timer is not None:
        timer.cancel()  # it was set for the end of what is not played any more
    call.make_void(stopped.void)
    if announce is not None:
        announce(stopped.event)
    for running in dict.fromkeys(stopped.void):
        if running and (running == responses.active or responses.runs_beside(running)):
            _cancel(call, running)
    if call.dialect is not None:
        unsupported = call.dialect.traits.unsupported
        call.submit_quietly(cut for cut in stopped.cuts if type(cut) not in unsupported)
    return [stopped.event] if announce is None else []


def interrupt(call: Call) -> None:
    """Stop what plays and what is being made, on the program's word; an answer that was asked for and has not begun is given up."""
    call.own_answers.give_up()
    pending = call.responses.pending
    for event_id in reversed(pending):  # the newest first, so that none takes the place of another
        call.posting.abandon(event_id, ())
    call.posting.tell_given_up(pending)
    active = call.responses.active
    stop_playing(call, "interrupt", call.announce)
    if active and active not in call.void:
        call.make_void([active])
        _cancel(call, active)


def watch_playback(call: Call) -> None:
    """Look when the sink must have played everything, and tell `PlaybackStopped` with reason ``finished``."""
    if call.playback is not None and call.playback_timer is None:
        seconds = max(_LOOK_AGAIN, call.playback.seconds_left)
        call.playback_timer = call.sender.after(seconds, lambda: _look_at_playback(call))


def _look_at_playback(call: Call) -> None:
    call.playback_timer = None
    playback = call.playback
    if playback is None:
        return
    event = playback.finished()
    if event is not None:
        call.turns.silent(playback.silent_at - call.connected_at)
        call.announce(event)
    elif playback.seconds_left > 0:
        watch_playback(call)


def _cancel(call: Call, response_id: str) -> None:
    if call.dialect is not None and CancelResponse not in call.dialect.traits.unsupported:
        call.submit_quietly([CancelResponse(response_id=response_id)])
