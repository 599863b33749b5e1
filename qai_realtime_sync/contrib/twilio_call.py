"""One call of a media stream: its messages, its client, and when it is over."""

from __future__ import annotations

import inspect
import json
import logging
import math
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from qai_realtime_sync import Closed, ConfigError, NotConnectedError, OutboxFullError, RealtimeClient
from qai_realtime_sync.audio import b64decode
from qai_realtime_sync.contrib.twilio_sink import TELEPHONE, TwilioSink

__all__ = ["Call", "CallStart", "Socket"]

_log = logging.getLogger("qai_realtime_sync")
_LOOK_AGAIN = 0.5
_LEAST_AHEAD = 0.02  # with less not even one piece would ever be due
_LAST_WORDS = 10.0  # that the caller still hears of what was said before the conversation ended
_GOING_AWAY = 1001  # the code with which a client closes when its process ends: no time for last words
_A_MOMENT = 1.0  # in which a client that refuses what it is given tells that its conversation is over
_GOODBYE = 1.0  # for the sending thread, once its socket is closed
_ENDED = ("closing", "closed", "failed")
_BETWEEN_DIGITS = 2.0  # a number is over so many seconds after its last key


class Socket(Protocol):
    """A WebSocket of a web framework. ``receive`` waits for the next message; with a parameter ``timeout`` it is given one, in seconds.

    What any of them raises means that the connection is gone; ``None`` from a ``receive`` without a timeout, too. Without that parameter
    a line that is dead without a word is noticed by nobody.
    """

    def receive(self) -> Any: ...

    def send(self, data: str, /) -> Any: ...

    def close(self) -> Any: ...


@attrs.frozen(kw_only=True)
class CallStart:
    """What Twilio tells of a call. ``parameters`` are those of the TwiML."""

    stream_sid: str
    call_sid: str = ""
    account_sid: str = ""
    parameters: Mapping[str, str] = attrs.field(factory=dict)


class Call:
    """One call. Its messages are taken in the thread of `bridge`; the sink sends in one of its own."""

    on_start: Callable[[CallStart], object] | None
    on_digit: Callable[[str], object] | None
    tell_digits: bool

    def __init__(self, ws: Any, client: Any, ahead: float, patience: float, clock: Callable[[], float]) -> None:
        self._ws, self._client, self._ahead, self._patience, self._clock = ws, client, ahead, patience, clock
        self.reason: Any = None
        self.error: Exception | None = None
        self.closed: Closed | None = None
        self._over = threading.Event()
        self.start: CallStart | None = None
        self.sink: TwilioSink | None = None
        self._sending: threading.Thread | None = None
        self.started_at = self.ended_at = self._last = clock()
        self.heard_ms = 0.0
        self._digits, self._digits_until = "", 0.0
        self._sending_ended, self._last_words_until = 0.0, math.inf
        self._complained: set[str] = set()
        self._takes = {"start": self._begin, "media": self._hear, "mark": self._marked, "dtmf": self._key, "stop": self._stop}

    # -- listening -------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Take messages until there is a reason to end."""
        if not (_LEAST_AHEAD <= self._ahead < math.inf and self._patience > 0):
            raise ConfigError(f"ahead must be {_LEAST_AHEAD} s or more, patience above 0, not {self._ahead!r} and {self._patience!r}")
        timed = _takes_timeout(self._ws.receive)
        while self.reason is None:
            asked = self._clock()
            try:
                message = self._ws.receive(timeout=_LOOK_AGAIN) if timed else self._ws.receive()
            except Exception as error:  # frameworks have exceptions of their own for it
                self.reason, self.error = "lost", error
                return
            if message is not None:
                self._take(message)
                if self.start is not None:
                    self._last = self._clock()
                    if self.sink is None:
                        self._join(self.start)
            elif not timed or self._clock() - asked < _LOOK_AGAIN / 2:
                self.reason = "lost"
            self._watch(self._clock(), nothing=message is None)

    def _take(self, message: Any) -> None:
        try:
            told = json.loads(message)
            event = told["event"]
            take = self._takes.get(event)
            if take is not None and (self.start is not None or event == "start"):
                take(told.get(event) or {}, told)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            self._complain("Twilio sent what is no message of a media stream", error)

    def _watch(self, now: float, nothing: bool) -> None:
        sink = self.sink
        if self.reason is not None:
            return
        if now - self._last > self._patience:
            self.reason = "silent"
        elif sink is None:
            return
        elif sink.over.is_set():
            self._sending_ended = self._sending_ended or now
            if sink.error is None:
                self.reason = "closed"
            elif nothing or now - self._sending_ended > _GOODBYE:  # the goodbye of who hung up may still wait to be read
                self.reason, self.error = "lost", sink.error
        elif sink.blocked_for > self._patience:
            self.reason = "stalled"
        elif now > self._last_words_until:
            self.reason = "closed"
        elif self._digits and now >= self._digits_until:
            said, self._digits = " ".join(self._digits), ""
            self._tell(lambda client: client.send_text(f"I pressed these keys on the telephone: {said}"))

    def _join(self, start: CallStart) -> None:
        """Make the client, if it is to be made, and let both sides hear each other."""
        if not isinstance(self._client, RealtimeClient):
            self._client = self._client(start)
        client = self._client
        if not isinstance(client, RealtimeClient):
            raise ConfigError(f"client must be a RealtimeClient, or a function that returns one, not {type(client).__name__}")
        if not client.config.input_audio == client.config.output_audio == TELEPHONE:
            raise ConfigError(
                'a telephone speaks µ-law: make the client with RealtimeConfig(input_format="g711_ulaw", output_format="g711_ulaw"); '
                "where a service has no such sound, the client converts it",
                code="invalid_audio",
            )
        sink = self.sink = TwilioSink(self._ws.send, start.stream_sid, ahead=self._ahead, clock=self._clock)
        client.on(Closed, self._was_closed)
        client.play_to(sink)
        self._sending = threading.Thread(target=sink.run, name="qai-telephone", daemon=True)
        self._sending.start()
        try:
            if client.state in ("idle", *_ENDED):
                client.connect()  # says what is wrong with one that was closed before
            if self.on_start is not None:
                self.on_start(start)
        except NotConnectedError as error:
            if error.code == "already_used":
                raise
            if client.state not in _ENDED:
                self._over.wait(_A_MOMENT)  # it takes nothing more a moment before its state says so
            if client.state not in _ENDED:
                raise  # nothing of this call: `on_start` speaks to somebody else
            # The program closed it in this very moment: `Closed` ends the call.
        self._last = self._clock()  # what came meanwhile waits to be taken

    def _was_closed(self, event: Closed) -> None:
        self.closed, self._last_words_until = event, self._clock() + _LAST_WORDS
        self._over.set()
        if self.sink is not None:
            if (event.by, event.code) == ("client", _GOING_AWAY):
                self.sink.stop()
            else:
                self.sink.finish()

    # -- messages, each with its own part and the whole ------------------------------------------------------------------------

    def _begin(self, part: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        if self.start is None:
            self.start = CallStart(
                stream_sid=str(part.get("streamSid") or told["streamSid"]),
                call_sid=str(part.get("callSid") or ""),
                account_sid=str(part.get("accountSid") or ""),
                parameters={str(name): str(value) for name, value in (part.get("customParameters") or {}).items()},
            )
            self.started_at = self._clock()

    def _hear(self, part: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        if part.get("track", "inbound") == "inbound":
            audio = b64decode(part["payload"])
            self._tell(lambda client: client.send_audio(audio))

    def _marked(self, part: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        if self.sink is not None:
            self.sink.marked(str(part["name"]))

    def _key(self, part: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        digit = str(part["digit"])
        if self.tell_digits:
            self._digits += digit
            self._digits_until = self._clock() + _BETWEEN_DIGITS
        if self.on_digit is not None:
            try:
                self.on_digit(digit)
            except Exception:  # the program's own code; the call goes on
                _log.exception("on_digit failed")

    def _stop(self, part: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        self.reason = "hung_up"

    def _tell(self, say: Callable[[RealtimeClient], object]) -> None:
        try:
            say(self._client)
        except NotConnectedError:
            return  # the conversation is over, and the sink ends the call
        except OutboxFullError as error:
            self._complain("the service does not take the caller's sound fast enough; some of it is lost", error)

    def _complain(self, what: str, error: Exception) -> None:
        if what not in self._complained:
            self._complained.add(what)
            _log.warning("%s (%s: %s); told once for this call", what, type(error).__name__, error)

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Close both sides: the client first, because it is paid for."""
        sink, sending = self.sink, self._sending
        self.ended_at = self._clock()  # closing takes its time, in which nobody hears anything
        if sink is not None:
            self.heard_ms = sink.played_ms
            sink.stop()
        try:
            if isinstance(self._client, RealtimeClient):
                self._client.close()
        finally:
            if sink is not None and sink.blocked_for:
                self._unblock()
                # What holds up sending may hold up closing too.
                closing = threading.Thread(target=self._close_socket, name="qai-telephone-close", daemon=True)
                closing.start()
                closing.join(_GOODBYE)
            else:
                self._close_socket()
                if self.reason == "silent":
                    self._unblock()  # nobody will answer the goodbye, for which the WebSocket's own thread would wait
            if sending is not None:
                sending.join(_GOODBYE)

    def _close_socket(self) -> None:
        try:
            self._ws.close()
        except Exception as error:
            _log.debug("the WebSocket of a call was gone before it was closed: %r", error)

    def _unblock(self) -> None:
        """Wake the threads that wait for Twilio, as far as the WebSocket shows its socket."""
        sock = getattr(self._ws, "sock", None)
        if isinstance(sock, socket.socket):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                _log.debug("the socket of a call was gone before it was shut down: %r", error)


def _takes_timeout(receive: Callable[..., Any]) -> bool:
    try:
        return "timeout" in inspect.signature(receive).parameters
    except (ValueError, TypeError):
        return False  # written in C
