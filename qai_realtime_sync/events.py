"""What a service, or the client itself, told us: one small class per kind of event.

The name of an event is its class in snake case (`AudioDelta` is ``audio_delta``); the one exception is `ErrorReceived`, named
``error``. Every event has ``event_id`` (the server's, or ``""``) and ``raw`` (the frame's JSON value; of `AudioDelta` without its
base64; ``None`` for events of the client itself). Ids are text, ``""`` if missing. Fields that end in ``_ms`` are whole
milliseconds, other times are float seconds, dates are unix seconds; ``None`` = not said. ``source`` is ``"input"`` (the user) or
``"output"`` (the assistant). Text is never ``None``.
"""

from __future__ import annotations

import difflib
import functools
import re
import typing
from collections.abc import Mapping
from types import UnionType
from typing import Any, ClassVar, Literal

import attrs

from qai_realtime_sync.commands import Command, command_from_dict
from qai_realtime_sync.config import AudioFormat, redacted
from qai_realtime_sync.errors import ConfigError, RealtimeError
from qai_realtime_sync.fields import ByFields
from qai_realtime_sync.turns import Turn

__all__ = [
    "EVENTS",
    "AudioDelta",
    "AudioDone",
    "Closed",
    "ContentPart",
    "ContentPartAdded",
    "ContentPartDone",
    "ContextMutated",
    "ConversationCreated",
    "DtmfReceived",
    "ErrorReceived",
    "Event",
    "FunctionCall",
    "FunctionCallCancelled",
    "FunctionCallDelta",
    "GoingAway",
    "HandlerFailed",
    "InputCleared",
    "InputCommitted",
    "InputTimeout",
    "Interrupted",
    "Item",
    "ItemAdded",
    "ItemDeleted",
    "ItemDone",
    "ItemRetrieved",
    "ItemTruncated",
    "McpApprovalRequested",
    "McpCall",
    "McpCallDelta",
    "McpListTools",
    "McpStatus",
    "OutputBufferCleared",
    "OutputBufferStarted",
    "OutputBufferStopped",
    "OutputItemAdded",
    "OutputItemDone",
    "Ping",
    "PlaybackStopped",
    "RateLimit",
    "RateLimits",
    "ReasoningDelta",
    "Reconnected",
    "Reconnecting",
    "ResponseCreated",
    "ResponseDone",
    "ResumptionUpdate",
    "ServerTool",
    "ServiceSilent",
    "SessionCreated",
    "SessionReady",
    "SpeechStarted",
    "SpeechStopped",
    "StateChanged",
    "TextDelta",
    "TextDone",
    "TokenUsage",
    "TranscriptCorrected",
    "TranscriptDelta",
    "TranscriptDone",
    "TranscriptFailed",
    "TranscriptSegment",
    "TurnDone",
    "Unknown",
    "Usage",
    "VadScore",
    "WaitingForInput",
    "event_class",
    "event_from_dict",
]


class _RecordedError(RealtimeError):
    """An error that was read from its plain form; its text begins with the name of what it was."""


def _plain(value: Any) -> Any:
    """A JSON-able form: sound as its length, errors as text, attrs objects as the fields that differ from their default."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return len(value)
    if isinstance(value, (Command, Event)):
        return value.to_dict()
    if attrs.has(type(value)):
        return _differing(value)
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, BaseException):
        return str(value) if isinstance(value, _RecordedError) else f"{type(value).__name__}: {value}"
    return redacted(value)


def _differing(value: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field in attrs.fields(type(value)):
        given = getattr(value, field.name)
        default = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
        if field.name != "raw" and given != default:
            fields[field.name] = _plain(given)
    return fields


# -- parts of events ---------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False, repr=False)
class TokenUsage(ByFields):
    """What an answer, or a transcription, cost: tokens (0 = not said) and seconds (``None`` = not said).

    ``raw`` is the wire object.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    input_audio_tokens: int = 0
    input_text_tokens: int = 0
    output_audio_tokens: int = 0
    output_text_tokens: int = 0
    audio_seconds: float | None = None
    billable_seconds: float | None = None
    raw: Any = attrs.field(default=None, eq=False, repr=False)


@attrs.define(kw_only=True, eq=False, repr=False)
class RateLimit(ByFields):
    """One limit of the account: ``name`` (``requests``, ``tokens``), how many, how many are left, seconds until all are back."""

    name: str = ""
    limit: int = 0
    remaining: int = 0
    reset_seconds: float = 0.0


@attrs.define(kw_only=True, eq=False, repr=False)
class ContentPart(ByFields):
    """A piece of an item: ``type`` says which of ``text``, ``transcript`` and ``audio`` (bytes) it has."""

    type: str = ""
    text: str = ""
    transcript: str = ""
    audio: bytes = b""


@attrs.define(kw_only=True, eq=False, repr=False)
class Item(ByFields):
    """A message, a function call or its output, as the service keeps it in the conversation."""

    id: str = ""
    type: str = ""
    role: str = ""
    status: str = ""
    content: list[ContentPart] = attrs.field(factory=list)
    name: str = ""
    call_id: str = ""
    arguments: str = ""
    output: str = ""
    raw: Any = attrs.field(default=None, eq=False, repr=False)


@attrs.define(kw_only=True, eq=False, repr=False)
class Event(ByFields):
    """The base of all events; a handler registered for it hears every event."""

    event_name: ClassVar[str] = "event"

    event_id: str = ""
    raw: Any = attrs.field(default=None, eq=False, repr=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "event_name" not in cls.__dict__:
            cls.event_name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def to_dict(self) -> dict[str, Any]:
        """The JSON-lines spelling: ``name`` and the fields that differ from their default, without ``raw``; sound as its length.

        A field that is itself called ``name`` (of a tool) is spelled ``tool_name``.
        """
        fields = _differing(self)
        if "name" in fields:
            fields["tool_name"] = fields.pop("name")
        return {"name": self.event_name, **fields}


# -- session -----------------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False, repr=False)
class SessionCreated(Event):
    """The service opened a session, with its own defaults."""

    session_id: str = ""
    model: str = ""
    expires_at: float | None = None
    session: dict[str, Any] = attrs.field(factory=dict, repr=lambda value: repr(redacted(value)))


@attrs.define(kw_only=True, eq=False, repr=False)
class ConversationCreated(Event):
    """The conversation has an id."""

    conversation_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class SessionReady(Event):
    """Our configuration is in force and audio may flow; comes again after each update."""

    session_id: str = ""
    session: dict[str, Any] = attrs.field(factory=dict, repr=lambda value: repr(redacted(value)))
    input_format: AudioFormat | None = None
    output_format: AudioFormat | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class RateLimits(Event):
    """How much of the account's limits is left."""

    limits: list[RateLimit] = attrs.field(factory=list)


@attrs.define(kw_only=True, eq=False, repr=False)
class Usage(Event):
    """Usage outside a `ResponseDone`; ``source``: ``response`` or ``context``."""

    usage: TokenUsage = attrs.field(factory=TokenUsage)
    source: str = "response"
    response_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class GoingAway(Event):
    """The service will drop the connection in ``time_left`` seconds."""

    time_left: float | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class ResumptionUpdate(Event):
    """A new connection may continue with this ``handle`` while ``resumable``."""

    handle: str = ""
    resumable: bool = False


@attrs.define(kw_only=True, eq=False, repr=False)
class Ping(Event):
    """An application-level ping; the client answers it where the service wants that."""

    ping_id: int | None = None
    timestamp_ms: int | None = None
    ping_ms: int | None = None


# -- the user's side ---------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False, repr=False)
class SpeechStarted(Event):
    """The user began to speak; may come twice in a turn."""

    item_id: str = ""
    audio_start_ms: int | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class SpeechStopped(Event):
    """The user stopped speaking."""

    item_id: str = ""
    audio_end_ms: int | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class InputCommitted(Event):
    """The sound sent so far became an item."""

    item_id: str = ""
    previous_item_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class InputCleared(Event):
    """The sound sent so far was forgotten."""


@attrs.define(kw_only=True, eq=False, repr=False)
class InputTimeout(Event):
    """Nobody spoke for ``idle_timeout_ms``."""

    item_id: str = ""
    audio_start_ms: int | None = None
    audio_end_ms: int | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class DtmfReceived(Event):
    """A key of the telephone was pressed."""

    digit: str = ""
    received_at: float | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class VadScore(Event):
    """How sure the service is that somebody speaks, 0 to 1."""

    score: float = 0.0


@attrs.define(kw_only=True, eq=False, repr=False)
class WaitingForInput(Event):
    """The service says that it does not answer yet, because it expects the user to go on."""

    response_id: str = ""


# -- transcripts -------------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False, repr=False)
class TranscriptDelta(Event):
    """A piece of a transcript. ``snapshot`` false: append ``delta``. True: ``text`` replaces everything before it."""

    delta: str = ""
    text: str = ""
    source: str = "output"
    snapshot: bool = False
    response_id: str = ""
    item_id: str = ""
    content_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class TranscriptDone(Event):
    """What was said, whole. ``final`` false: complete, but a correction may follow. One final one per spoken item."""

    transcript: str = ""
    source: str = "output"
    final: bool = True
    response_id: str = ""
    item_id: str = ""
    content_index: int = 0
    usage: TokenUsage | None = None
    languages: list[str] = attrs.field(factory=list)


@attrs.define(kw_only=True, eq=False, repr=False)
class TranscriptFailed(Event):
    """No transcript of this item will come; the answer still may."""

    source: str = "input"
    item_id: str = ""
    content_index: int = 0
    code: str = ""
    type: str = ""
    message: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class TranscriptCorrected(Event):
    """What was really heard of something already told."""

    source: str = "output"
    original: str = ""
    corrected: str = ""
    response_id: str = ""
    item_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class TranscriptSegment(Event):
    """A piece of a transcript with its speaker; ``start`` and ``end`` in seconds."""

    item_id: str = ""
    content_index: int = 0
    segment_id: str = ""
    text: str = ""
    speaker: str = ""
    start: float = 0.0
    end: float = 0.0


# -- the assistant's side ----------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False, repr=False)
class ResponseCreated(Event):
    """An answer begins."""

    response_id: str = ""
    conversation_id: str = ""
    metadata: dict[str, Any] = attrs.field(factory=dict)


@attrs.define(kw_only=True, eq=False, repr=False)
class ResponseDone(Event):
    """An answer is over, whatever came of it: ``status`` is ``completed``, ``cancelled``, ``failed`` or ``incomplete``."""

    response_id: str = ""
    status: str = "completed"
    reason: str = ""
    error_code: str = ""
    error_message: str = ""
    usage: TokenUsage | None = None
    output: list[Item] = attrs.field(factory=list)
    conversation_id: str = ""
    metadata: dict[str, Any] = attrs.field(factory=dict)


@attrs.define(kw_only=True, eq=False, repr=False)
class AudioDelta(Event):
    """A piece of the answer's sound: ``audio`` is decoded bytes in the session's output format; may end inside a sample."""

    audio: bytes = attrs.field(default=b"", repr=lambda value: f"<{len(value)} bytes>")
    response_id: str = ""
    item_id: str = ""
    output_index: int = 0
    content_index: int = 0
    duration_ms: int | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class AudioDone(Event):
    """No more sound of this part."""

    response_id: str = ""
    item_id: str = ""
    output_index: int = 0
    content_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class TextDelta(Event):
    """A piece of a written answer."""

    delta: str = ""
    response_id: str = ""
    item_id: str = ""
    output_index: int = 0
    content_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class TextDone(Event):
    """A written answer, whole."""

    text: str = ""
    response_id: str = ""
    item_id: str = ""
    output_index: int = 0
    content_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class ReasoningDelta(Event):
    """A thought of the model; never part of a transcript or text."""

    delta: str = ""
    response_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class OutputItemAdded(Event):
    """An item of the answer begins."""

    item: Item = attrs.field(factory=Item)
    response_id: str = ""
    output_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class OutputItemDone(Event):
    """An item of the answer ends; its status says if it is complete."""

    item: Item = attrs.field(factory=Item)
    response_id: str = ""
    output_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class ContentPartAdded(Event):
    """A part of an item begins."""

    part: ContentPart = attrs.field(factory=ContentPart)
    response_id: str = ""
    item_id: str = ""
    output_index: int = 0
    content_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class ContentPartDone(Event):
    """A part of an item ends."""

    part: ContentPart = attrs.field(factory=ContentPart)
    response_id: str = ""
    item_id: str = ""
    output_index: int = 0
    content_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class Interrupted(Event):
    """The service says that the user cut its answer off: what waits for the speaker is void."""

    response_id: str = ""
    item_id: str = ""
    reason: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class OutputBufferStarted(Event):
    """The service began to play by itself (WebRTC, SIP)."""

    response_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class OutputBufferStopped(Event):
    """The service finished playing by itself (WebRTC, SIP)."""

    response_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class OutputBufferCleared(Event):
    """The service dropped what it was playing by itself (WebRTC, SIP)."""

    response_id: str = ""


# -- tools -------------------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False, repr=False)
class FunctionCallDelta(Event):
    """A piece of a call's arguments as they are written."""

    call_id: str = ""
    delta: str = ""
    name: str = ""
    response_id: str = ""
    item_id: str = ""
    output_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class FunctionCall(Event):
    """The model asks for a function: ``arguments`` is JSON text. Once per call id; name and call id are never empty."""

    name: str = ""
    call_id: str = ""
    arguments: str = ""
    response_id: str = ""
    item_id: str = ""
    output_index: int = 0
    expects_result: bool = True


@attrs.define(kw_only=True, eq=False, repr=False)
class FunctionCallCancelled(Event):
    """The result of this call is not wanted any more."""

    call_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class ServerTool(Event):
    """The service ran a tool of its own; ``status``: ``requested``, ``completed`` or ``failed``."""

    name: str = ""
    call_id: str = ""
    kind: str = ""
    status: str = ""
    result: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class McpListTools(Event):
    """The service asks an MCP server for its tools; ``status``: ``in_progress``, ``completed`` or ``failed``."""

    item_id: str = ""
    status: str = ""
    error_type: str = ""
    error_message: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class McpCallDelta(Event):
    """A piece of an MCP call's arguments."""

    delta: str = ""
    call_id: str = ""
    response_id: str = ""
    item_id: str = ""
    output_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class McpCall(Event):
    """The service calls an MCP tool; ``status``: ``requested``, ``in_progress``, ``completed`` or ``failed``."""

    status: str = ""
    name: str = ""
    server: str = ""
    arguments: str = ""
    call_id: str = ""
    result: str = ""
    error_message: str = ""
    response_id: str = ""
    item_id: str = ""
    output_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class McpApprovalRequested(Event):
    """May this MCP tool run? Answer with ``approve_mcp_call`` within ``timeout`` seconds."""

    approval_id: str = ""
    name: str = ""
    server: str = ""
    arguments: str = ""
    timeout: float | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class McpStatus(Event):
    """Which MCP servers are connected."""

    servers: list[dict[str, Any]] = attrs.field(factory=list, repr=lambda value: repr(redacted(value)))


# -- items -------------------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False, repr=False)
class ItemAdded(Event):
    """An item entered the conversation; ``replayed`` if it is an old one, given again after a reconnect."""

    item: Item = attrs.field(factory=Item)
    previous_item_id: str = ""
    replayed: bool = False


@attrs.define(kw_only=True, eq=False, repr=False)
class ItemDone(Event):
    """An item of the conversation is complete."""

    item: Item = attrs.field(factory=Item)
    previous_item_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class ItemDeleted(Event):
    """An item left the conversation."""

    item_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class ItemRetrieved(Event):
    """The answer to ``retrieve_item``."""

    item: Item = attrs.field(factory=Item)


@attrs.define(kw_only=True, eq=False, repr=False)
class ItemTruncated(Event):
    """The service cut an answer at what was heard; ``transcript`` is the text it keeps, where it says so."""

    item_id: str = ""
    content_index: int = 0
    audio_end_ms: int | None = None
    transcript: str = ""


# -- errors and the rest -----------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False, repr=False)
class ErrorReceived(Event):
    """The service reports an error; most leave the conversation alive.

    ``caused_by`` is the event id of the command at fault and ``command`` the command itself, if known. ``benign``: a harmless
    race. ``fatal``: the service will close.
    """

    event_name: ClassVar[str] = "error"

    message: str = "unknown error"
    code: str = ""
    type: str = ""
    param: str = ""
    caused_by: str = ""
    command: Command | None = None
    benign: bool = False
    fatal: bool = False


@attrs.define(kw_only=True, eq=False, repr=False)
class Unknown(Event):
    """A frame with no class of its own; ``raw`` holds it.

    ``problem`` is ``None`` for a well-formed frame of a kind we do not know; else it says what cannot be read.
    """

    type: str = ""
    problem: str | None = None


# -- the client's own --------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False, repr=False)
class Reconnecting(Event):
    """The connection was lost; attempt number ``attempt`` (from 1) starts in ``delay`` seconds."""

    attempt: int = 1
    delay: float = 0.0
    code: int | None = None
    reason: str = ""
    error: Exception | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class Reconnected(Event):
    """The conversation goes on over a new connection; ``resumed`` if the service kept it."""

    attempts: int = 1
    downtime: float = 0.0
    session_id: str = ""
    resumed: bool = False


@attrs.define(kw_only=True, eq=False, repr=False)
class Closed(Event):
    """The conversation is over: the last event, exactly once.

    ``by``: ``client``, ``service`` or ``network``. ``meaning``: ``normal``, ``auth``, ``quota``, ``session_cap``, ``policy``,
    ``bad_request``, ``going_away`` or ``lost``. ``unsent``: commands that never left, in order. ``dropped_audio``: seconds of the
    user's sound that were dropped.
    """

    code: int | None = None
    reason: str = ""
    clean: bool = False
    by: Literal["client", "service", "network"] = "network"
    meaning: str = "lost"
    error: Exception | None = None
    unsent: tuple[Command, ...] = ()
    dropped_audio: float = 0.0


@attrs.define(kw_only=True, eq=False, repr=False)
class HandlerFailed(Event):
    """A handler, or a tool, raised ``error`` while it handled ``event``."""

    event: Event | None = None
    handler: str = ""
    error: BaseException | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class StateChanged(Event):
    """The client went from one state to another; ``number`` counts the transitions from 1."""

    old: str = ""
    new: str = ""
    number: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class TurnDone(Event):
    """An exchange is over, tool rounds included."""

    turn: Turn | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class PlaybackStopped(Event):
    """What was playing here has stopped after ``heard_ms`` of the ``received_ms`` that had come.

    ``reason``: ``barge_in``, ``interrupt`` or ``finished``.
    """

    response_id: str = ""
    item_id: str = ""
    heard_ms: int = 0
    received_ms: int = 0
    reason: Literal["barge_in", "interrupt", "finished"] = "finished"


@attrs.define(kw_only=True, eq=False, repr=False)
class ContextMutated(Event):
    """A step of ``mutate_context``; ``outcome``: ``applied``, ``resuming``, ``queued``, ``superseded`` or ``failed``."""

    outcome: str = ""
    attempt: int = 0
    error: Exception | None = None


@attrs.define(kw_only=True, eq=False, repr=False)
class ServiceSilent(Event):
    """Connected and audio flows up, but nothing has come back for ``seconds``."""

    seconds: float = 0.0


EVENTS: dict[str, type[Event]] = {
    event.event_name: event
    for event in map(globals().get, __all__)
    if isinstance(event, type) and issubclass(event, Event) and event is not Event
}
"""Every event class by its name."""


def event_from_dict(value: Mapping[str, Any], audio: AudioFormat | None = None) -> Event:
    """Read the form of `Event.to_dict`: sound becomes silence of the same length in ``audio`` (default pcm16), errors `RealtimeError`.

    ``raw`` is not kept in that form. Keys that are not known are passed over.

    Raises: `ConfigError` for a name that no event has, or a field of another kind.
    """
    cls = event_class(value.get("name"))  # type: ignore[arg-type]
    return cls(**_fields(cls, value, audio or AudioFormat()))


def _fields(cls: type[Any], value: Mapping[str, Any], audio: AudioFormat) -> dict[str, Any]:
    hints = _hints(cls)  # type: ignore[arg-type]
    given = {"tool_name" if issubclass(cls, Event) and name == "name" else name: name for name in hints if name != "raw"}
    return {name: _read(hints[name], value[key], audio, f"{cls.__name__}.{name}") for key, name in given.items() if key in value}


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in attrs.fields(cls)}


def _read(kind: Any, value: Any, audio: AudioFormat, where: str) -> Any:
    """Turn a plain value back into what a field's annotation says."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, UnionType):
        return None if value is None else _read(next(part for part in parts if part is not type(None)), value, audio, where)
    if origin in (list, tuple) and isinstance(value, list):
        return origin(_read(parts[0], one, audio, where) for one in value)
    if kind is Any or origin is Literal:
        return value
    if isinstance(kind, type) and origin is None:
        if kind is bytes and type(value) is int:
            return audio.silent_byte * value
        if issubclass(kind, BaseException) and isinstance(value, str):
            return _RecordedError(value)
        if isinstance(value, Mapping):
            if issubclass(kind, Event):
                return event_from_dict(value, audio)
            if issubclass(kind, Command):
                return command_from_dict(value, audio)
            if attrs.has(kind):
                return kind(**_fields(kind, value, audio))
        if isinstance(value, kind) or (kind is float and type(value) is int):
            return value
    elif origin is dict and isinstance(value, dict):
        return value
    raise ConfigError(f"{where} cannot be {value!r}", code="invalid_event")


def event_class(event: str | type[Event]) -> type[Event]:
    """Return the class of an event given by name or class; ``Event`` itself stands for all of them.

    Raises: `ConfigError` for a name that no event has, with the nearest ones.
    """
    if isinstance(event, type) and issubclass(event, Event):
        return event
    found = EVENTS.get(event) if isinstance(event, str) else None
    if found is None:
        near = difflib.get_close_matches(str(event), EVENTS, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see qai_realtime_sync.events.EVENTS for all names."
        raise ConfigError(f"there is no event {event!r}; {hint}", code="unknown_event")
    return found
