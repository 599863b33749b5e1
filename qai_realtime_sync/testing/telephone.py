"""A caller for the tests of your own telephone program: dials its media stream as Twilio does, speaks, listens and hangs up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import os
import threading
import time
import urllib.parse
import urllib.request
import wave
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree

from qai_realtime_sync import transport
from qai_realtime_sync.audio import AudioFormat, Converter, b64encode
from qai_realtime_sync.client.wav_in import WavIn
from qai_realtime_sync.errors import ConfigError, ConnectionClosedError, RealtimeTimeoutError
from qai_realtime_sync.testing.telephone_ear import LINE, PAUSE, PIECE_SECONDS, Ear, Heard

__all__ = ["FakeCaller", "Heard"]

_PIECE = 160  # bytes in 20 ms
_PATIENCE = 30.0


class FakeCaller:
    """One call to the media stream at ``url`` (``ws://`` or ``wss://``); also a context manager: ``with FakeCaller(url) as caller:``.

    It sends a piece of 20 ms every 20 ms, silence where nothing is said, and plays what comes as Twilio does: in real time, one after
    the other; a mark goes back when all before it was heard; ``clear`` empties what waits and returns its marks at once.
    ``marks=False`` never returns one. ``auth_token`` signs the upgrade.
    """

    def __init__(
        self,
        url: str,
        *,
        parameters: Mapping[str, str] | None = None,
        auth_token: str = "",
        headers: Mapping[str, str] | None = None,
        call_sid: str = "",
        marks: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url, self.parameters, self._clock, self._returns_marks = url, dict(parameters or {}), clock, marks
        self._headers = dict(headers or {})
        if auth_token:
            self._headers["X-Twilio-Signature"] = _signed(auth_token, url)
        self.stream_sid, self.call_sid, self.account_sid = _sid("MZ"), call_sid or _sid("CA"), _sid("AC")
        self._connection: transport.Connection | None = None
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
        self._sending = threading.Lock()  # keeps messages in the order of their numbers, so it is held while one is sent
        self._messages = 0
        self._changed = threading.Condition()  # guards everything below
        self._to_say = bytearray()
        self._ear = Ear(self.stream_sid)
        self._chunks = 0
        self.own_late = 0
        """Pieces this caller itself sent more than 20 ms late: then the machine is too busy to measure anything on it."""
        self.dialed_at = self.said_at = 0.0
        """When the call began, and when the last piece of what was said had been sent."""

    @classmethod
    def ring(
        cls,
        voice_url: str,
        *,
        auth_token: str = "",
        caller: str = "+15550100",
        called: str = "+15550199",
        timeout: float = 10.0,
        **options: Any,
    ) -> FakeCaller:
        """Ask ``voice_url`` what to do with a call, as Twilio does when the telephone rings, and return the caller its TwiML asks for.

        Raises: `ConfigError` if the answer connects no media stream; `OSError` if there is none.
        """
        fields = {"CallSid": _sid("CA"), "From": caller, "To": called, "Direction": "inbound", "CallStatus": "ringing"}
        headers = {}
        if auth_token:
            headers["X-Twilio-Signature"] = _signed(auth_token, voice_url + "".join(name + fields[name] for name in sorted(fields)))
        request = urllib.request.Request(voice_url, urllib.parse.urlencode(fields).encode(), headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as answer:
            twiml = answer.read().decode("utf-8", "replace")
        try:
            stream = ElementTree.fromstring(twiml).find("./Connect/Stream")
        except ElementTree.ParseError as error:
            raise ConfigError(f"the answer of {voice_url} is no TwiML: {error}") from error
        if stream is None:
            raise ConfigError(f"the TwiML of {voice_url} connects no media stream: {twiml:.200}")
        parameters = {str(one.get("name")): str(one.get("value")) for one in stream.iterfind("Parameter")}
        return cls(str(stream.get("url")), parameters=parameters, auth_token=auth_token, call_sid=fields["CallSid"], **options)

    # -- the call --------------------------------------------------------------------------------------------------------------

    def dial(self, timeout: float = 10.0) -> FakeCaller:
        """Connect and begin the call.

        Raises: `ApiError` if the upgrade is refused; `ConnectError`; `RealtimeTimeoutError`; `ConfigError` the second time.
        """
        if self._connection is not None:
            raise ConfigError("this caller has dialled already: one FakeCaller is one call, make another")
        self._connection = transport.connect(self.url, headers=self._headers, timeout=timeout, proxy=False)
        self.dialed_at = self._clock()
        self._send({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        self._send(
            {
                "event": "start",
                "start": {
                    "streamSid": self.stream_sid,
                    "accountSid": self.account_sid,
                    "callSid": self.call_sid,
                    "tracks": ["inbound"],
                    "customParameters": self.parameters,
                    "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                },
            }
        )
        for target, name in ((self._listen, "qai-caller-ear"), (self._speak, "qai-caller-line")):
            self._threads.append(threading.Thread(target=target, name=name, daemon=True))
            self._threads[-1].start()
        return self

    def hang_up(self) -> None:
        """End the call as a caller does: ``stop``, and the stream is closed. Does nothing once it is over."""
        if self._connection is not None and not self.is_over:
            self._send({"event": "stop", "stop": {"accountSid": self.account_sid, "callSid": self.call_sid}})
            self._connection.close()
        self._join()

    def drop(self) -> None:
        """End the call as a network failure does: without a word."""
        if self._connection is not None:
            self._connection.abort()
        self._join()

    def __enter__(self) -> FakeCaller:
        return self if self._connection is not None else self.dial()

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(_PATIENCE)

    # -- speaking --------------------------------------------------------------------------------------------------------------

    def say(self, sound: str | os.PathLike[str] | bytes, rate: int = 8000) -> float:
        """Begin to say a WAV file, or PCM16 of this rate, after what is still being said; return how many seconds it takes.

        Raises: `ConfigError` for what is no sound.
        """
        if isinstance(sound, bytes):
            line = _on_the_line([sound], AudioFormat("pcm16", rate))
        else:
            with open(sound, "rb") as file:
                wav = WavIn(io.BytesIO(file.read()))
                line = _on_the_line(wav.pieces(), wav.audio)
        with self._changed:
            self._to_say += line
        return len(line) / LINE.bytes_per_second

    def wait_until_said(self, timeout: float = _PATIENCE) -> float:
        """Wait until all of it was sent; return when the last of it was. Raises: `RealtimeTimeoutError`."""
        self._wait_for(lambda: not self._to_say, timeout, "what is to be said was not all sent")
        return self.said_at

    def press(self, digits: str) -> None:
        """Press keys of the telephone."""
        for digit in digits:
            self._send({"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": digit}})

    def send_raw(self, text: str) -> None:
        """Send a message that Twilio would not send. Raises: `ConnectionClosedError`."""
        assert self._connection is not None
        self._connection.send(text)

    # -- listening -------------------------------------------------------------------------------------------------------------

    def wait_for_sound(self, seconds: float = 0.02, *, after: float = 0.0, timeout: float = _PATIENCE) -> Heard:
        """Wait until so much was heard of what came ``after`` that time; return its first piece. Raises: `RealtimeTimeoutError`."""

        def heard() -> bool:
            now = self._clock()
            return sum(one.heard_by(now) for one in self._ear.heard if one.arrived > after) >= seconds

        self._wait_for(heard, timeout, f"{seconds:g} s of sound were not heard")
        with self._changed:
            return next(one for one in self._ear.heard if one.arrived > after)

    def wait_for_silence(self, seconds: float = PAUSE, timeout: float = _PATIENCE) -> None:
        """Wait until nothing was heard for so long. Raises: `RealtimeTimeoutError`."""
        began = self._clock()
        self._wait_for(lambda: self._clock() - max(self._ear.dry_at, began) >= seconds, timeout, "it does not get silent")

    def wait_for_clear(self, timeout: float = _PATIENCE) -> float:
        """Wait until the first ``clear`` has come; return when it did. Raises: `RealtimeTimeoutError`."""
        self._wait_for(lambda: bool(self._ear.clears), timeout, "nothing was cleared")
        return self.clears[0]

    def wait_for_end(self, timeout: float = _PATIENCE) -> None:
        """Wait until the other side has closed the stream. Raises: `RealtimeTimeoutError`."""
        self._wait_for(lambda: self.is_over, timeout, "the stream was not closed")

    @property
    def heard(self) -> list[Heard]:
        """What the caller heard, and what still waits to be heard, in order; what was cleared is not in it."""
        with self._changed:
            return list(self._ear.heard)

    @property
    def clears(self) -> list[float]:
        """When each ``clear`` came."""
        with self._changed:
            return list(self._ear.clears)

    @property
    def problems(self) -> list[str]:
        """The messages that Twilio would not have understood, and why."""
        with self._changed:
            return list(self._ear.problems)

    @property
    def is_over(self) -> bool:
        """The stream is closed, by either side."""
        return self._over.is_set()

    @property
    def heard_seconds(self) -> float:
        """How much sound was heard by now."""
        with self._changed:
            now = self._clock()
            return sum(one.heard_by(now) for one in self._ear.heard)

    @property
    def gaps(self) -> list[float]:
        """Seconds of each silence over 20 ms in the middle of a sound: what came too late."""
        with self._changed:
            return [one.gap for one in self._ear.heard if one.gap > PIECE_SECONDS]

    @property
    def behind(self) -> int:
        """How many pieces came more than 20 ms after their time, counted from the first piece of their sound."""
        with self._changed:
            return sum(one.behind > PIECE_SECONDS for one in self._ear.heard)

    def recording(self) -> bytes:
        """What was heard since the call began, silence where it was silent: PCM16 at 8000 Hz."""
        with self._changed:
            return self._ear.recording(self.dialed_at)

    def write_wav(self, path: str | os.PathLike[str]) -> None:
        """Write `recording` into a WAV file."""
        with wave.open(os.fspath(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(LINE.sample_rate)
            file.writeframes(self.recording())

    # -- the threads -----------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        assert self._connection is not None
        try:
            while True:
                frame = self._connection.recv()
                now = self._clock()
                with self._changed:
                    self._ear.take(bytes(frame.payload) if frame.text else b"", now)
                    self._changed.notify_all()
        except ConnectionClosedError:
            self._over.set()
            with self._changed:
                self._changed.notify_all()

    def _speak(self) -> None:
        due = self._clock()
        while not self._over.wait(max(0.0, due - self._clock())):
            with self._changed:
                piece = bytes(self._to_say[:_PIECE])
                marks = self._ear.due_marks(self._clock())
                self.own_late += self._clock() - due > PIECE_SECONDS
                self._changed.notify_all()
            self._chunks += 1
            media = {
                "track": "inbound",
                "chunk": str(self._chunks),
                "timestamp": str(round((due - self.dialed_at) * 1000)),
                "payload": b64encode(piece.ljust(_PIECE, b"\xff")).decode(),
            }
            self._send({"event": "media", "media": media})
            if piece:
                with self._changed:
                    del self._to_say[: len(piece)]  # only now has it been said
                    self.said_at = self._clock()
            for name in marks if self._returns_marks else ():
                self._send({"event": "mark", "mark": {"name": name}})
            due += PIECE_SECONDS

    def _send(self, message: dict[str, Any]) -> None:
        assert self._connection is not None, "dial() comes first"
        with self._sending:
            if message["event"] != "connected":
                self._messages += 1
                message |= {"sequenceNumber": str(self._messages), "streamSid": self.stream_sid}
            try:
                self._connection.send(json.dumps(message))
            except ConnectionClosedError:
                return  # the ear tells it

    def _wait_for(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = self._clock() + timeout
        with self._changed:
            # The line's thread notifies every 20 ms, so that what depends on the clock is looked at too.
            if not self._changed.wait_for(lambda: condition() or self.is_over, max(0.0, deadline - self._clock())) or not condition():
                ended = ": the stream was closed" if self.is_over else f" within {timeout:g} s"
                raise RealtimeTimeoutError(what + ended)


def _on_the_line(pieces: Any, audio: AudioFormat) -> bytes:
    converter = Converter(audio, LINE)
    return b"".join(converter.convert(piece) for piece in pieces) + converter.flush()


def _sid(prefix: str) -> str:
    return prefix + os.urandom(16).hex()


def _signed(auth_token: str, text: str) -> str:
    return base64.b64encode(hmac.new(auth_token.encode(), text.encode(), hashlib.sha1).digest()).decode()
