"""The thread that owns the life of a conversation: it dials, reads, delivers, backs off and dials again, and tells the end once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NoReturn

import attrs

from qai_realtime_sync.client.access import Access
from qai_realtime_sync.client.barge_in import speech_ended
from qai_realtime_sync.client.call import Call, log
from qai_realtime_sync.client.lifecycle import Backoff, ReconnectPolicy, worth_retrying
from qai_realtime_sync.client.redaction import without_frames
from qai_realtime_sync.client.vigil import Vigil
from qai_realtime_sync.client.waiting import describe_end
from qai_realtime_sync.commands import Command, SendFunctionResult
from qai_realtime_sync.errors import ApiError, ConnectionClosedError, RealtimeError
from qai_realtime_sync.events import (
    Closed,
    ErrorReceived,
    Event,
    Reconnected,
    Reconnecting,
    ResponseDone,
    ResumptionUpdate,
    SessionReady,
    Unknown,
)
from qai_realtime_sync.seam import Ending, Frame, Resume

if TYPE_CHECKING:
    from qai_realtime_sync.transport import Connection

__all__ = ["Reader"]

_GATEWAY_TIMEOUT, _DIRECT_TIMEOUT = 15.0, 10.0  # source: gateway SDKs
_NORMAL = Ending(meaning="normal", retry=False)
_LOST = Ending(meaning="lost", retry=True)
_NOTICED = frozenset({ResumptionUpdate, ErrorReceived, Unknown})
_PLANNED = Ending(meaning="going_away", retry=True)
_HANDLE_REFUSED = (1007, 1008)  # an upgrade says it by its status (see `_refused`), an open connection so
_ONLY_PLANNED = ReconnectPolicy(attempts=3)  # with reconnect=False a connection may still be replaced by plan


@attrs.define
class _Lost:
    """How one connection, or an attempt to make one, came to its end."""

    ending: Ending
    code: int | None = None
    reason: str = ""
    clean: bool = False
    by: Literal["client", "service", "network"] = "network"
    error: Exception | None = None
    opened_at: float | None = None
    retry_after: float | None = None


class Reader:
    """Runs in a thread named ``qai-reader``; ``access`` says where to connect and with what right, anew for every connection."""

    def __init__(self, call: Call, access: Access, timeout: float | None) -> None:
        self._call = call
        self._access = access
        self._timeout = timeout
        self._resume: Resume | None = None
        self._opened_once = False
        self._opened_at: float | None = None
        self._lost_at = 0.0
        self._attempts = 0
        self._fatal: Ending | None = None
        self._deadline: float | None = None  # of this attempt to connect, a second try with less asked for included
        self._replacing = False  # the connection is being replaced by plan: its dials may fail without ending the conversation
        self._resumed = False
        self._vigil = Vigil(call)

    @property
    def timeout(self) -> float:
        """Seconds from DNS to readiness."""
        usual = _GATEWAY_TIMEOUT if self._access.gateway else _DIRECT_TIMEOUT
        return self._timeout or self._call.options.connect_timeout or usual

    def run(self) -> None:
        """Live until it is over; then tell `Closed` and end the other threads."""
        call = self._call
        try:
            lost = self._live()
        except BaseException as error:  # also a SystemExit: whoever waits must be told the end
            log.exception("the conversation ended by an error of the client itself")
            call.connect_error = error
            lost = _Lost(Ending(meaning="lost", retry=False), error=error if isinstance(error, Exception) else None)
        self._finish(lost)
        call.over.set()
        call.opened.set()

    # -- the life --------------------------------------------------------------------------------------------------------------

    def _live(self) -> _Lost:
        call = self._call
        policy = call.options.reconnect or _ONLY_PLANNED
        backoff = Backoff(policy, call.options.random)
        while True:
            self._deadline = None
            call.last_error = None
            lost = self._one_connection()
            self._vigil.end()
            if self._asks_for_less():
                lost = self._one_connection()
                self._vigil.end()
            if call.closing:
                return attrs.evolve(lost, by="client", ending=_NORMAL, error=None)
            planned, call.planned = call.planned, ""
            if planned:
                lost = attrs.evolve(lost, ending=_PLANNED, reason=planned, error=None)
            elif not call.mutations.lost(lost.error, lost.ending.retry):
                if not self._opened_once or not lost.ending.retry or (call.options.reconnect is None and not self._replacing):
                    return lost
            self._replacing = bool(planned) or (self._replacing and lost.opened_at is None)
            now = call.clock()
            if lost.opened_at is not None:
                self._lost_at = now
            backoff.lost(now, lost.opened_at)
            delay = backoff.next_delay(now, lost.retry_after)
            if delay is None:
                return lost
            self._attempts = backoff.attempts
            self._back_off(lost, delay)
            if call.closing:
                return _Lost(_NORMAL, clean=True, by="client")

    def _asks_for_less(self) -> bool:
        """The service refused something that only the dialect had asked for: once more without it."""
        call = self._call
        relaxed = None
        if call.dialect is not None and self._opened_at is None and not call.closing:
            relaxed = call.dialect.relaxed(call.config, call.last_error)
        if relaxed is None:
            return False
        log.info("connecting once more, asking for less: %s", call.last_error.message if call.last_error is not None else "")
        call.config, call.connect_error, call.last_error = relaxed, None, None
        return True

    def _one_connection(self) -> _Lost:
        """Dial, speak, read until the end. Everything that can go wrong here is an ending, not an exception."""
        call = self._call
        self._fatal = None
        self._opened_at = None
        self._state("connecting")
        try:
            connection, first = self._open()
        except RealtimeError as error:
            call.outbox.lose(keep_audio=self._replacing)
            return self._refused(without_frames(error))
        try:
            self._introduce(connection, first)
            self._read(connection)
        except ConnectionClosedError as error:
            return self._ended(without_frames(error))
        except RealtimeError as error:
            return self._refused(without_frames(error))
        finally:
            with call.lock:
                call.connection = None
            call.outbox.lose(keep_audio=bool(call.planned))
            connection.abort()

    def _open(self) -> tuple[Connection, tuple[Command, ...]]:
        call, options = self._call, self._call.options
        from qai_realtime_sync import transport  # lazily: importing the library must not import websocket-client

        timeout = self.timeout
        if self._deadline is None:
            self._deadline = call.clock() + timeout
        deadline = self._deadline
        session = self._access.obtain(max(0.001, deadline - call.clock()), call.config)
        dialect = self._access.dialect()
        handshake = dialect.handshake(call.config, session, self._access.token_key, self._resume)
        call.dialect = dialect
        cancellation = transport.Cancellation()
        with call.lock:
            call.cancellation = cancellation
            if call.closing:
                cancellation.cancel()
        traits = dialect.traits
        # Before anything is held for this service: sound is converted when it is given.
        call.sound.service_wants(traits.fixed_input, traits.fixed_output)
        call.outbox.measure(call.sound.sends.bytes_per_second)
        call.outbox.speak(dialect)
        call.outbox.hold_audio()
        dial = options.dialer or transport.connect
        connection: Connection = dial(
            handshake.url,
            headers={**options.headers, **handshake.headers},
            subprotocols=handshake.subprotocols,
            timeout=max(0.001, deadline - call.clock()),
            ssl_context=options.ssl_context,
            proxy=options.proxy,
            max_size=options.max_size,
            cancel=cancellation,
            wake=call.sender.wake,
        )
        with call.lock:
            call.cancellation = None
            call.connection = connection
            closing = call.closing
        if closing:
            connection.abort()
        call.calls.serves(items=traits.items, asks=SendFunctionResult not in traits.answers_by_itself)
        self._resumed = self._resume is not None and traits.resumable
        call.history_due = False
        self._vigil.begin(connection, deadline, timeout)
        return connection, handshake.commands

    def _introduce(self, connection: Connection, first: tuple[Command, ...]) -> None:
        """Say what comes before everything else; the readiness timer bounds it."""
        call = self._call
        assert call.dialect is not None
        self._state("handshaking")
        for command in first:
            call.posting.remember(command)
            for frame in call.dialect.encode(command):
                connection.send(frame)

    def _read(self, connection: Connection) -> NoReturn:
        call, delivery = self._call, self._call.delivery
        dialect = call.dialect
        assert dialect is not None
        decode, hand_out, due = dialect.decode, delivery.hand_out_one, delivery.due
        while True:
            frames = connection.recv_all()
            call.frames += len(frames)
            delivery.take_turn()  # once for all that came together
            try:
                for frame in frames:
                    if not connection.is_listening:
                        break
                    events = decode(frame)
                    if self._opened_at and len(events) == 1 and events[0].__class__ not in _NOTICED:
                        hand_out(events[0])  # nearly always
                    elif events:
                        self._take(connection, frame, events)
                    if due:
                        delivery.catch_up()
            finally:
                delivery.end_turn()

    def _take(self, connection: Connection, frame: Frame, events: list[Event]) -> None:
        """Hand out the events of a frame, and take note of what is for the reader."""
        if events[0].__class__ is Unknown:
            connection.check(frame)  # no parser has read it as a whole
        if not self._opened_at:
            events = self._watch_opening(events)
        for event in events:
            self._call.delivery.hand_out(event)
        for event in events:
            if event.__class__ in _NOTICED:
                self._notice(event)

    # -- what the reader itself wants to know ----------------------------------------------------------------------------------

    def _watch_opening(self, events: list[Event]) -> list[Event]:
        """Before readiness: the first `SessionReady` opens; after a reconnect `Reconnected` is told behind it."""
        for at, event in enumerate(events):
            if isinstance(event, SessionReady):
                self._call.adopt_formats(event)
                self._opened_at = self._call.clock()
                self._vigil.opened()
                self._call.history_due = not self._resumed and (self._opened_once or bool(self._call.seed))
                if self._opened_once:
                    reconnected = Reconnected(
                        attempts=self._attempts,
                        downtime=self._opened_at - self._lost_at,
                        session_id=event.session_id or self._call.session_id,
                        resumed=self._resumed,
                    )
                    events = [*events[: at + 1], reconnected, *events[at + 1 :]]
                self._opened_once = True
                break
        return events

    def _notice(self, event: Event) -> None:
        dialect = self._call.dialect
        assert dialect is not None
        if isinstance(event, ResumptionUpdate):
            if self._resume is not None and event.handle != self._resume.handle and dialect.traits.items:
                self._resumed = False  # a new conversation: the service did not know the old one any more
            if event.resumable and event.handle:  # at other moments the newest one stays good (source: Gemini, session resumption)
                self._resume = Resume(handle=event.handle)
        elif isinstance(event, ErrorReceived):
            self._fatal = dialect.error_ending(event) or self._fatal
            self._vigil.refused(event)

    # -- ends ------------------------------------------------------------------------------------------------------------------

    def _refused(self, error: RealtimeError) -> _Lost:
        if self._resume is not None and isinstance(error, ApiError) and error.status_code in (400, 404, 409, 410, 422):
            self._resume = None  # the service may not know the handle any more: once again without it
            return _Lost(_LOST, error=error, by="service")
        ending = attrs.evolve(_LOST, retry=worth_retrying(error) and self._access.may_repeat(error))
        by: Literal["service", "network"] = "network"
        retry_after = None
        if isinstance(error, ApiError):
            by, retry_after = "service", error.retry_after
            ending = attrs.evolve(ending, meaning=_meaning(error))
        if not self._call.closing:
            self._call.connect_error = error
        return _Lost(ending, error=error, by=by, retry_after=retry_after)

    def _ended(self, error: ConnectionClosedError) -> _Lost:
        call = self._call
        assert call.dialect is not None
        cause = self._vigil.verdict
        if cause is not None:
            # We ended it ourselves: never ready, or no sign of life.
            ending: Ending = self._fatal or (
                Ending(meaning=_meaning(cause), retry=False) if isinstance(cause, ApiError) else _LOST
            )
            if not self._opened_once:
                call.connect_error = cause
            return _Lost(ending, error=cause, opened_at=self._opened_at)
        ending = self._fatal or call.dialect.ending(error.code, error.reason)
        about_handle = error.code in _HANDLE_REFUSED and ending.meaning not in ("auth", "quota")
        if not self._opened_at and self._resume is not None and about_handle:
            self._resume = None  # the service may not know the handle any more: once again without it
            return _Lost(_LOST, code=error.code, reason=error.reason, clean=error.clean, by="service")
        if not self._opened_at and not call.closing:
            call.connect_error = self._never_ready(error)
        broken = error.code in (None, 1006)
        return _Lost(
            ending,
            code=error.code,
            reason=error.reason,
            clean=error.clean,
            by="network" if broken else "service",
            error=error if broken else None,
            opened_at=self._opened_at,
        )

    def _never_ready(self, error: ConnectionClosedError) -> RealtimeError:
        """The service accepted the connection and ended it before it was ready: its own words say best why."""
        last = self._call.last_error
        said = f"; its last error was: {last.message}" if last is not None else ""
        code = f" with code {error.code}" if error.code is not None else ""
        reason = f" ({error.reason})" if error.reason else ""
        return ConnectionClosedError(
            f"the service closed the connection{code}{reason} before it was ready{said}; check key, model and configuration",
            code=error.code,
            reason=error.reason,
            clean=error.clean,
        )

    def _back_off(self, lost: _Lost, delay: float) -> None:
        call = self._call
        call.renewal.forget()
        speech_ended(call)  # nobody will tell it
        told: list[Event] = []
        if call.responses.active:
            # Its end will never come from the service; who waits for it must not wait for ever.
            told.append(
                ResponseDone(
                    response_id=call.responses.active, status="failed", reason="connection_lost", error_code="connection_lost",
                    error_message="the connection was lost while this answer was being given",
                )
            )
        call.calls.reset()
        if call.playback is not None:
            call.playback.lost()
        call.deliver(told)
        call.responses.reset()
        call.posting.reset()
        call.own_answers.lost()
        changed = call.to_state("backoff")
        told = [] if changed is None else [changed]
        told.append(
            Reconnecting(attempt=self._attempts, delay=delay, code=lost.code, reason=lost.reason, error=lost.error)
        )
        call.deliver(told)
        if delay > 0:
            call.wake_backoff.wait(delay)

    def _finish(self, lost: _Lost) -> None:
        call = self._call
        closing = call.closing
        unsent = (*call.outbox.end(), *call.responses.held())
        call.pool.stop()
        call.renewal.forget()
        call.mutations.end()
        if call.billing is not None:
            call.billing.finish()  # in its own thread: the reader does not wait for it
        orderly = closing or lost.ending.meaning == "normal"
        closed = Closed(
            code=call.close_code if closing and lost.code is None else lost.code,
            reason=lost.reason or (call.close_reason if closing else ""),
            clean=lost.clean,
            by=lost.by,
            meaning=lost.ending.meaning,
            error=lost.error or call.handler_error,
            unsent=unsent,
            dropped_audio=call.outbox.counts.dropped_audio,
        )
        if not closing:
            call.outbox.close(f"the conversation is over ({describe_end(closed)})")
        last: list[Event] = []
        if call.responses.active and call.dialect is not None and not call.dialect.traits.announces_ends:
            # Nobody says where the last answer ends: the end of the conversation does.
            last.append(ResponseDone(response_id=call.responses.active, reason="closed"))
        for state in ("closing", "closed") if orderly else ("failed",):
            changed = call.to_state(state)
            if changed is not None:
                last.append(changed)
        call.deliver([*last, closed])
        call.lane.stop()
        call.teller.stop()
        call.sender.stop()

    def _state(self, new: str) -> None:
        changed = self._call.to_state(new)
        if changed is not None:
            self._call.deliver([changed])


def _meaning(error: ApiError) -> str:
    """What a refused upgrade means, as a word of `Closed.meaning`."""
    if error.is_auth:
        return "auth"
    if error.is_insufficient_balance or error.is_rate_limit:
        return "quota"
    return "lost" if error.status_code >= 500 else "bad_request"
