"""The half of a client that listens: handlers, waiting, streams, and a typed method for each everyday event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, overload

from qai_realtime_sync.client.waiting import EventStream, check_timeout
from qai_realtime_sync.errors import NotConnectedError
from qai_realtime_sync.events import (
    AudioDelta,
    Closed,
    ErrorReceived,
    Event,
    FunctionCall,
    HandlerFailed,
    Interrupted,
    PlaybackStopped,
    Reconnected,
    Reconnecting,
    ResponseCreated,
    ResponseDone,
    SessionReady,
    SpeechStarted,
    SpeechStopped,
    StateChanged,
    TextDelta,
    TextDone,
    TranscriptDelta,
    TranscriptDone,
    TurnDone,
    Unknown,
    event_class,
)

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["Listening"]

E = TypeVar("E", bound=Event)
F = TypeVar("F", bound=Callable[[Any], object])


class Listening:
    """Handlers take one argument, the event; they run one at a time, in order, on the reader's thread."""

    _call: Call
    _stream: EventStream | None = None

    @overload
    def on(self, event: str | type[Event], function: F, *, background: bool = False) -> F: ...
    @overload
    def on(self, event: str | type[Event], function: None = None, *, background: bool = False) -> Callable[[F], F]: ...
    def on(self, event: str | type[Event], function: Any = None, *, background: bool = False) -> Any:
        """Call ``function(event)`` for every event of this name or class; without a function, a decorator.

        ``Event`` stands for all events. ``background=True`` runs it on a lane of its own, in order, so that it may be slow; a handler
        that is not must return within milliseconds.

        Raises: `ConfigError` for an event that does not exist, or a function that does not take one argument.
        """
        self._call.check_process()
        if function is None:
            event_class(event)
            return lambda f: self.on(event, f, background=background)
        self._call.handlers.add(event, function, background=background)
        return function

    @overload
    def once(self, event: str | type[Event], function: F) -> F: ...
    @overload
    def once(self, event: str | type[Event], function: None = None) -> Callable[[F], F]: ...
    def once(self, event: str | type[Event], function: Any = None) -> Any:
        """As `on`, for the next such event only."""
        self._call.check_process()
        if function is None:
            event_class(event)
            return lambda f: self.once(event, f)
        self._call.handlers.add(event, function, once=True)
        return function

    def off(self, event: str | type[Event], function: Callable[[Any], object] | None = None) -> None:
        """Forget a handler of this event, or all of them."""
        self._call.check_process()
        self._call.handlers.remove(event, function)

    @overload
    def wait_for(self, event: type[E], timeout: float | None = 30.0, *, where: Callable[[E], bool] | None = None) -> E: ...
    @overload
    def wait_for(self, event: str, timeout: float | None = 30.0, *, where: Callable[[Any], bool] | None = None) -> Any: ...
    def wait_for(self, event: Any, timeout: float | None = 30.0, *, where: Any = None) -> Any:
        """Return the first such event since this thread's last ``send_*`` or ``wait_for``, waiting up to ``timeout`` seconds.

        ``where`` is asked for each and says whether it is the one. An answer that was faster than this call is not missed: the last
        128 events are kept, of sound the last 8 pieces.

        ``timeout=0`` looks once, None sets no limit.

        Raises: `RealtimeTimeoutError`; `ConnectionClosedError` when the conversation ends first; `NotConnectedError` before
        ``connect()``; `ConfigError` for a wrong timeout; `RealtimeError` in a handler, which would wait for itself; with
        ``on_handler_error="raise"``, what a handler raised.
        """
        call = self._call
        call.check_process()
        cls = event_class(event)
        check_timeout(timeout)
        _check_may_wait(call, "wait_for")
        return call.waiting.wait_for(cls, timeout, where, lambda: f"the conversation is {call.lifecycle.state}")

    def events(self, size: int = 10_000) -> Iterator[Event]:
        """Iterate over all events from this call on, until the conversation is over.

        It may be made before ``connect()``; waiting for the first event then raises `NotConnectedError`.
        Up to ``size`` events wait for the program; then the oldest go and are counted in ``.dropped``.
        """
        self._call.check_process()
        stream = self._call.waiting.stream(size)
        call = self._call  # not self: a stream must not keep the client alive
        stream.guard = lambda what: _check_may_wait(call, what)
        return stream

    def next_event(self, timeout: float | None = 30.0) -> Event:
        """Return the next event of any kind; the first call looks back to this thread's last ``send_*`` or ``connect``.

        Raises: `RealtimeTimeoutError`; `NotConnectedError` before ``connect()`` and after the last event; `RealtimeError` in a handler.
        """
        call = self._call
        call.check_process()
        check_timeout(timeout)
        _check_may_wait(call, "next_event")
        if self._stream is None:
            self._stream = call.waiting.stream(look_back=True)
        return self._stream.next(timeout)

    def wait(self, timeout: float | None = None) -> Closed:
        """Wait until the conversation is over and return its `Closed`.

        Raises: `RealtimeTimeoutError`; `RealtimeError` in a handler; what a handler raised, with ``on_handler_error="raise"``.
        """
        return self.wait_for(Closed, timeout)

    # -- a typed method for each everyday event --------------------------------------------------------------------------------

    def on_audio_delta(
        self, function: Callable[[AudioDelta], object], *, background: bool = False
    ) -> Callable[[AudioDelta], object]:
        """Call ``function`` with each piece of the assistant's sound: ``event.audio`` is bytes in the output format."""
        return self.on(AudioDelta, function, background=background)

    def on_transcript_delta(
        self, function: Callable[[TranscriptDelta], object], *, background: bool = False
    ) -> Callable[[TranscriptDelta], object]:
        """Call ``function`` with each piece of a transcript, of both sides: see ``event.source``."""
        return self.on(TranscriptDelta, function, background=background)

    def on_transcript_done(
        self, function: Callable[[TranscriptDone], object], *, background: bool = False
    ) -> Callable[[TranscriptDone], object]:
        """Call ``function`` with each whole transcript, of both sides: see ``event.source``."""
        return self.on(TranscriptDone, function, background=background)

    def on_text_delta(
        self, function: Callable[[TextDelta], object], *, background: bool = False
    ) -> Callable[[TextDelta], object]:
        """Call ``function`` with each piece of a written answer."""
        return self.on(TextDelta, function, background=background)

    def on_text_done(
        self, function: Callable[[TextDone], object], *, background: bool = False
    ) -> Callable[[TextDone], object]:
        """Call ``function`` with each whole written answer."""
        return self.on(TextDone, function, background=background)

    def on_speech_started(
        self, function: Callable[[SpeechStarted], object], *, background: bool = False
    ) -> Callable[[SpeechStarted], object]:
        """Call ``function`` when the user begins to speak."""
        return self.on(SpeechStarted, function, background=background)

    def on_speech_stopped(
        self, function: Callable[[SpeechStopped], object], *, background: bool = False
    ) -> Callable[[SpeechStopped], object]:
        """Call ``function`` when the user stops speaking."""
        return self.on(SpeechStopped, function, background=background)

    def on_function_call(
        self, function: Callable[[FunctionCall], object], *, background: bool = False
    ) -> Callable[[FunctionCall], object]:
        """Call ``function`` with each function call; the program then answers them with ``send_function_result``."""
        return self.on(FunctionCall, function, background=background)

    def on_response_created(
        self, function: Callable[[ResponseCreated], object], *, background: bool = False
    ) -> Callable[[ResponseCreated], object]:
        """Call ``function`` when an answer begins."""
        return self.on(ResponseCreated, function, background=background)

    def on_response_done(
        self, function: Callable[[ResponseDone], object], *, background: bool = False
    ) -> Callable[[ResponseDone], object]:
        """Call ``function`` when an answer is over, whatever came of it."""
        return self.on(ResponseDone, function, background=background)

    def on_interrupted(
        self, function: Callable[[Interrupted], object], *, background: bool = False
    ) -> Callable[[Interrupted], object]:
        """Call ``function`` when the service says that the user cut its answer off."""
        return self.on(Interrupted, function, background=background)

    def on_session_ready(
        self, function: Callable[[SessionReady], object], *, background: bool = False
    ) -> Callable[[SessionReady], object]:
        """Call ``function`` when a configuration is in force."""
        return self.on(SessionReady, function, background=background)

    def on_error(
        self, function: Callable[[ErrorReceived], object], *, background: bool = False
    ) -> Callable[[ErrorReceived], object]:
        """Call ``function`` with each error the service reports."""
        return self.on(ErrorReceived, function, background=background)

    def on_unknown(
        self, function: Callable[[Unknown], object], *, background: bool = False
    ) -> Callable[[Unknown], object]:
        """Call ``function`` with each frame that has no class of its own."""
        return self.on(Unknown, function, background=background)

    def on_turn_done(
        self, function: Callable[[TurnDone], object], *, background: bool = False
    ) -> Callable[[TurnDone], object]:
        """Call ``function`` when an exchange is over, tool rounds included."""
        return self.on(TurnDone, function, background=background)

    def on_playback_stopped(
        self, function: Callable[[PlaybackStopped], object], *, background: bool = False
    ) -> Callable[[PlaybackStopped], object]:
        """Call ``function`` when what plays here has stopped."""
        return self.on(PlaybackStopped, function, background=background)

    def on_handler_failed(
        self, function: Callable[[HandlerFailed], object], *, background: bool = False
    ) -> Callable[[HandlerFailed], object]:
        """Call ``function`` when another handler, or a tool, raised."""
        return self.on(HandlerFailed, function, background=background)

    def on_state_changed(
        self, function: Callable[[StateChanged], object], *, background: bool = False
    ) -> Callable[[StateChanged], object]:
        """Call ``function`` with each change of ``client.state``."""
        return self.on(StateChanged, function, background=background)

    def on_reconnecting(
        self, function: Callable[[Reconnecting], object], *, background: bool = False
    ) -> Callable[[Reconnecting], object]:
        """Call ``function`` before each attempt to connect again."""
        return self.on(Reconnecting, function, background=background)

    def on_reconnected(
        self, function: Callable[[Reconnected], object], *, background: bool = False
    ) -> Callable[[Reconnected], object]:
        """Call ``function`` when the conversation goes on over a new connection."""
        return self.on(Reconnected, function, background=background)

    def on_closed(
        self, function: Callable[[Closed], object], *, background: bool = False
    ) -> Callable[[Closed], object]:
        """Call ``function`` once, with the last event."""
        return self.on(Closed, function, background=background)


def _check_may_wait(call: Call, what: str) -> None:
    """Raises: `RealtimeError` in a handler, `NotConnectedError` where nothing was begun that could bring an event."""
    call.delivery.check_not_in_handler(what)
    if call.lifecycle.state == "idle" and call.reader is None and not call.replaying:
        raise NotConnectedError(f"{what} would wait for nothing: call connect() first, or use `with client:`")
