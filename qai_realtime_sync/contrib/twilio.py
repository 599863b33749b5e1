"""A telephone call over Twilio Media Streams, joined with a conversation: µ-law both ways, barge-in, keys, and an end that is billed.

    @sock.route("/media")                                    # flask-sock, or any WebSocket with receive(), send() and close()
    def media(ws):
        config = RealtimeConfig(input_format="g711_ulaw", output_format="g711_ulaw")
        bridge(ws, RealtimeClient(config=config))

The messages are those of Twilio's reference: ``connected``, ``start``, ``media``, ``mark``, ``dtmf`` and ``stop`` come; ``media``,
``mark`` and ``clear`` are sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import attrs

from qai_realtime_sync import Closed, RealtimeClient
from qai_realtime_sync.contrib.twilio_call import Call, CallStart, Socket
from qai_realtime_sync.contrib.twilio_webhook import is_from_twilio, signature, stream_twiml

__all__ = ["CallEnd", "CallStart", "Socket", "bridge", "is_from_twilio", "signature", "stream_twiml"]

@attrs.frozen(kw_only=True)
class CallEnd:
    """Why a call ended, and what there was of it.

    ``reason``: ``"hung_up"`` Twilio said stop; ``"lost"`` its connection is gone; ``"closed"`` the conversation ended first, see
    ``closed``; ``"silent"`` Twilio sent nothing any more; ``"stalled"`` it took nothing any more. ``start`` is ``None`` if no call began.
    ``seconds``: from its start to this reason; ``heard_ms``: how much of the assistant was heard by then. ``error`` is what the WebSocket
    raised.
    """

    reason: Literal["hung_up", "lost", "closed", "silent", "stalled"]
    start: CallStart | None = None
    seconds: float = 0.0
    heard_ms: float = 0.0
    closed: Closed | None = None
    error: Exception | None = None


def bridge(
    ws: Socket,
    client: RealtimeClient | Callable[[CallStart], RealtimeClient],
    *,
    on_start: Callable[[CallStart], object] | None = None,
    on_digit: Callable[[str], object] | None = None,
    tell_digits: bool = False,
    ahead: float = 0.4,
    patience: float = 20.0,
    clock: Callable[[], float] = time.monotonic,
) -> CallEnd:
    """Join a media stream with a conversation until either ends; return why. The client is closed then, and what is billed is settled.

    ``client``: one whose sound is ``g711_ulaw`` both ways, connected or not, or a function that makes it once the call's parameters are
    known. ``on_start(start)`` is called when both are connected, for a greeting. Each key the caller presses goes to
    ``on_digit(digit)``; ``tell_digits`` tells the model, a number at a time. ``ahead``: seconds of sound that may wait at Twilio's side.
    ``patience``: seconds without any message from Twilio, or without its taking any, after which the line is dead.

    Raises: `ConfigError` for a client of another format, or what is none, and for less than 0.02 s ``ahead``; what ``connect()``,
    ``client`` and ``on_start`` raise. The client and ``ws`` are closed then as well.
    """
    call = Call(ws, client, ahead, patience, clock)
    call.on_start, call.on_digit, call.tell_digits = on_start, on_digit, tell_digits
    try:
        call.run()
    finally:
        call.end()
    assert call.reason is not None
    return CallEnd(
        reason=call.reason,
        start=call.start,
        seconds=call.ended_at - call.started_at if call.start else 0.0,
        heard_ms=call.heard_ms,
        closed=call.closed,
        error=call.error,
    )
