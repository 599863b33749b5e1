"""What every dialect is: two tables (wire tag to decoder, command to encoder) and the rules that use them.

A dialect is pure: it opens nothing, sends nothing, logs nothing and reads no clock. One instance serves one connection, because
some events need what an earlier frame said. ``decode`` never raises; ``encode`` raises only `UnsupportedCommandError`. One thread
may decode while another encodes; two must not do the same at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

from qai_realtime_sync.commands import Command, RawEvent
from qai_realtime_sync.config import RealtimeConfig, RealtimeSession
from qai_realtime_sync.dialects.cut import WORTHWHILE, cut
from qai_realtime_sync.dialects.endings import meaning_of
from qai_realtime_sync.dialects.rows import Decoder, UnreadableError
from qai_realtime_sync.dialects.wire import dumps, loads, loads_usual
from qai_realtime_sync.errors import ConfigError, UnsupportedCommandError
from qai_realtime_sync.events import ErrorReceived, Event, Unknown
from qai_realtime_sync.seam import Ending, Frame, Handshake, Resume, Traits

__all__ = ["Dialect", "Encoder", "json_frame", "remember", "send_raw", "unsupported", "unsupported_commands"]

Encoder: TypeAlias = Callable[[Any, Any], list[Frame]]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Dialect:
    """How one service spells events, commands and configuration."""

    name: ClassVar[str] = ""
    traits: Traits = Traits()
    decoders: ClassVar[Mapping[str, Decoder]] = {}
    encoders: ClassVar[Mapping[type[Command], Encoder]] = {}
    sound_key: ClassVar[bytes] = b""
    """The JSON key, with its quotes, whose value is sound."""

    def __init__(self, gateway: bool = False) -> None:
        """``gateway``: spoken to through the gateway's proxy WebSocket; else straight to the service."""
        self.gateway = gateway

    # -- opening ---------------------------------------------------------------------------------------------------------

    def handshake(
        self, config: RealtimeConfig, session: RealtimeSession, api_key: str = "", resume: Resume | None = None
    ) -> Handshake:
        """Return address, headers and first commands of a connection. Raises: `ConfigError` for a wrong address or key."""
        raise ConfigError(f"the dialect {self.name!r} cannot open a connection")

    def session_body(self, config: RealtimeConfig) -> dict[str, Any]:
        """Return what minting a session over REST sends."""
        return {}

    # -- what arrives ----------------------------------------------------------------------------------------------------

    def decode(self, frame: Frame | str | bytes | bytearray | memoryview) -> list[Event]:
        """Return the events of one WebSocket message, none, one or several, in order. Never raises."""
        payload: Any = frame
        if frame.__class__ is Frame:
            payload = frame.payload
            if not frame.text and self.binary_is_sound():
                return self.sound(payload)
        elif frame.__class__ is not str and self.binary_is_sound():
            return self.sound(payload)
        if len(payload) > WORTHWHILE and self.sound_key and (type(payload) is memoryview or type(payload) is bytes):
            found = cut(payload, self.sound_key, frame.start if type(frame) is Frame else None)
            if found is not None and self.place(*found):
                return self.understand(found[0])
        try:
            value = loads_usual(payload)
        except ValueError:
            try:
                value = loads(payload)
            except ValueError as error:
                return [Unknown(problem=f"not JSON: {error}", raw=_readable(payload))]
        if type(value) is not dict:
            return [Unknown(problem="JSON, but not an object", raw=value)]
        return self.understand(value)

    def understand(self, value: dict[str, Any]) -> list[Event]:
        """Return the events of one JSON object, by its ``type``."""
        try:
            decoder = self.decoders[value["type"]]
        except (KeyError, TypeError):  # no tag, one that nobody knows, or none that could be one
            return [_unknown(value, None)]
        try:
            return decoder(self, value)
        except UnreadableError as error:
            return [_unknown(value, str(error))]

    def place(self, value: Any, sound: bytes) -> bool:
        """Put sound that was cut out of a message where its decoder reads it; false if it does not belong there."""
        return False

    def binary_is_sound(self) -> bool:
        """A binary message is sound, not JSON."""
        return False

    def sound(self, payload: bytes | bytearray | memoryview) -> list[Event]:
        """Return the events of a binary message that is sound."""
        return [Unknown(problem="binary, and nobody asked for it", raw=bytes(payload))]

    # -- what goes out ---------------------------------------------------------------------------------------------------

    def encode(self, command: Command) -> list[Frame]:
        """Return the messages that say a command. Raises: `UnsupportedCommandError`, with the reason and what to do instead."""
        encoder = self.encoders.get(type(command))
        if encoder is None:
            raise UnsupportedCommandError(
                f"{self.name} has no word for {command.command_name}; send_event() with a dict can say anything the service knows"
            )
        try:
            return encoder(self, command)
        except (TypeError, ValueError) as error:  # the program gave what the wire cannot say
            raise UnsupportedCommandError(f"{command.command_name} cannot be sent: {error}", code="invalid_value") from error

    # -- the end ---------------------------------------------------------------------------------------------------------

    def relaxed(self, config: RealtimeConfig, error: ErrorReceived | None) -> RealtimeConfig | None:
        """Return a configuration that asks for less, if the service refused what this dialect asked for of its own accord."""
        return None

    def ending(self, code: int | None, reason: str) -> Ending:
        """Return what the end of a connection means; ``code`` is ``None`` if it broke without a close frame."""
        return meaning_of(code, reason)

    def error_ending(self, event: ErrorReceived) -> Ending | None:
        """Return what a fatal error says about the end that follows, ``None`` if it is not fatal."""
        return None


# -- for the tables ----------------------------------------------------------------------------------------------------------


def json_frame(value: Any) -> list[Frame]:
    """One text message with this JSON value. Raises: `ValueError` for what JSON cannot say."""
    return [Frame(dumps(value), True)]


def send_raw(dialect: Dialect, command: RawEvent) -> list[Frame]:
    """A dict goes out as JSON text, text as a text message, bytes as a binary one."""
    value = command.value
    if isinstance(value, str):
        return [Frame(value.encode(), True)]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return [Frame(bytes(value), False)]
    if not isinstance(value, Mapping):
        raise TypeError(f"a message is a dict, text or bytes, not {type(value).__name__}")
    return json_frame(value)


def unsupported(reason: str) -> Encoder:
    """An encoder for what the service has no word for; ``reason`` also says what comes nearest."""

    def refuse(dialect: Dialect, command: Command) -> list[Frame]:
        raise UnsupportedCommandError(f"{dialect.name} cannot {command.command_name.replace('_', ' ')}: {reason}")

    setattr(refuse, "reason", reason)  # noqa: B010 - a plain attribute would not type-check
    return refuse


def unsupported_commands(encoders: Mapping[type[Command], Encoder]) -> frozenset[type[Command]]:
    """Return the commands that a table refuses."""
    return frozenset(command for command, encoder in encoders.items() if hasattr(encoder, "reason"))


def remember(mapping: dict[_Key, _Value], key: _Key, value: _Value, limit: int = 512) -> None:
    """Keep a value for a later frame; beyond ``limit`` the oldest is forgotten, so a long session cannot grow."""
    mapping[key] = value
    if len(mapping) > limit:
        mapping.pop(list(mapping)[0], None)  # a copy, and no error if it is gone: another thread may be encoding


def _unknown(value: dict[str, Any], problem: str | None) -> Unknown:
    tag, event_id = value.get("type"), value.get("event_id")
    if type(tag) is not str:
        return Unknown(raw=value)
    return Unknown(type=tag, problem=problem, event_id=event_id if type(event_id) is str else "", raw=value)


def _readable(payload: Any) -> str | bytes:
    """What could not be read, as text if it is text; a copy, because the payload may be a view of a buffer that is used again."""
    if isinstance(payload, str):
        return payload
    data = bytes(payload)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
