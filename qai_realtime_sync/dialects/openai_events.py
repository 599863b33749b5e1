"""Events of the OpenAI family, the beta's names beside today's (source: OpenAI schema and SDK types).

Azure OpenAI speaks the same; Azure Voice Live and old proxies use the beta's names. Names with underscores for dots
(``response_audio_delta``) are understood too, never sent: an SDK of another vendor spells them so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from qai_realtime_sync.dialects import openai_parts as parts
from qai_realtime_sync.dialects.base import remember
from qai_realtime_sync.dialects.rows import (
    Decoder,
    Reader,
    UnreadableError,
    Value,
    at,
    const,
    essential,
    gives,
    made,
    mapping,
    number,
    read_mapping,
    read_text,
    row,
    sound,
    text,
    whole,
)
from qai_realtime_sync.events import (
    AudioDelta,
    AudioDone,
    ContentPartAdded,
    ContentPartDone,
    ConversationCreated,
    DtmfReceived,
    ErrorReceived,
    Event,
    FunctionCall,
    FunctionCallDelta,
    InputCleared,
    InputCommitted,
    InputTimeout,
    Interrupted,
    ItemAdded,
    ItemDeleted,
    ItemDone,
    ItemRetrieved,
    ItemTruncated,
    McpApprovalRequested,
    McpCall,
    McpCallDelta,
    McpListTools,
    OutputBufferCleared,
    OutputBufferStarted,
    OutputBufferStopped,
    OutputItemAdded,
    OutputItemDone,
    RateLimits,
    ResponseCreated,
    ResponseDone,
    ResumptionUpdate,
    SessionCreated,
    SessionReady,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TextDone,
    TranscriptDelta,
    TranscriptDone,
    TranscriptFailed,
    TranscriptSegment,
)

if TYPE_CHECKING:
    from qai_realtime_sync.dialects.openai import OpenAI

__all__ = ["DECODERS", "Call", "with_underscores"]

# -- ids, as the pages name them ---------------------------------------------------------------------------------------------

R: Final[dict[str, Reader]] = {"response_id": text("response_id")}
I: Final[dict[str, Reader]] = {"item_id": text("item_id")}  # noqa: E741 - the wire pages call it so
O: Final[dict[str, Reader]] = {"output_index": whole("output_index")}  # noqa: E741
C: Final[dict[str, Reader]] = {"content_index": whole("content_index")}
INPUT: Final = "conversation.item.input_audio_transcription"


@attrs.frozen
class Call:
    """What an item said of a call."""

    name: str = ""
    call_id: str = ""
    server: str = ""


NO_CALL: Final = Call()

# -- decoders that join or choose --------------------------------------------------------------------------------------------

_session_created = row(
    SessionCreated,
    session_id=text("session", "id"),
    model=text("session", "model"),
    expires_at=number("session", "expires_at"),
    session=mapping("session"),
)


@gives(SessionCreated)
def session_created(dialect: OpenAI, value: Value) -> list[Event]:
    """Keep the session's id: `session.updated` of xAI does not say it (recorded)."""
    dialect.session_id = read_text(at(value, "session", "id"))
    return _session_created(dialect, value)


@gives(SessionReady)
def session_updated(dialect: OpenAI, value: Value) -> list[Event]:
    """Our configuration is in force; what is replayed on a resumed connection came before."""
    session = read_mapping(value.get("session"))
    dialect.replaying = False
    dialect.heard(session)
    return [
        SessionReady(
            event_id=read_text(value.get("event_id")),
            raw=value,
            session_id=read_text(session.get("id")) or dialect.session_id,
            session=session,
            input_format=parts.input_format(session),
            output_format=parts.output_format(session),
        )
    ]


@gives(ConversationCreated, ResumptionUpdate)
def conversation_created(dialect: OpenAI, value: Value) -> list[Event]:
    """Tell the id; where resumption was asked for it is also the handle."""
    conversation_id = read_text(at(value, "conversation", "id"))
    event_id = read_text(value.get("event_id"))
    told: list[Event] = [ConversationCreated(event_id=event_id, raw=value, conversation_id=conversation_id)]
    if dialect.resumption and conversation_id:
        told.append(ResumptionUpdate(event_id=event_id, raw=value, handle=conversation_id, resumable=True))
    return told


@gives(ItemAdded)
def item_added(dialect: OpenAI, value: Value) -> list[Event]:
    """An item entered; it is an old one if it says so, or comes before our update on a resumed connection."""
    item = parts.item(value.get("item"))
    dialect.keep_call(value.get("item"))
    return [
        ItemAdded(
            event_id=read_text(value.get("event_id")),
            raw=value,
            item=item,
            previous_item_id=read_text(value.get("previous_item_id")),
            replayed=dialect.replaying or at(value, "item", "replayed") is True,
        )
    ]


_output_item_added = row(OutputItemAdded, item=made(parts.item, "item"), **R, **O)
_output_item_done = row(OutputItemDone, item=made(parts.item, "item"), **R, **O)


@gives(OutputItemAdded)
def output_item_added(dialect: OpenAI, value: Value) -> list[Event]:
    """Keep the name and ids of a call: its arguments may come without them (beta)."""
    dialect.keep_call(value.get("item"))
    return _output_item_added(dialect, value)


@gives(OutputItemDone, McpApprovalRequested)
def output_item_done(dialect: OpenAI, value: Value) -> list[Event]:
    """An item is over; one that asks for approval also says so by itself."""
    told = _output_item_done(dialect, value)
    item = read_mapping(value.get("item"))
    if item.get("type") == "mcp_approval_request":
        told.append(
            McpApprovalRequested(
                event_id=read_text(value.get("event_id")),
                raw=value,
                approval_id=read_text(item.get("id")),
                name=read_text(item.get("name")),
                server=read_text(item.get("server_label")),
                arguments=read_text(item.get("arguments")),
            )
        )
    return told


@gives(FunctionCallDelta)
def call_delta(dialect: OpenAI, value: Value) -> list[Event]:
    """A piece of arguments, with the name and call id that the item had."""
    item_id = read_text(value.get("item_id"))
    call = dialect.calls.get(item_id, NO_CALL)
    told = _call_delta(dialect, value)
    for event in told:
        assert isinstance(event, FunctionCallDelta)
        event.name = event.name or call.name
        event.call_id = event.call_id or call.call_id
    return told


_call_delta = row(FunctionCallDelta, delta=text("delta"), name=text("name"), call_id=text("call_id"), **R, **I, **O)
_call_done = row(FunctionCall, arguments=essential("arguments"), name=text("name"), call_id=text("call_id"), **R, **I, **O)


@gives(FunctionCall)
def call_done(dialect: OpenAI, value: Value) -> list[Event]:
    """A call, once per call id; a missing name or call id comes from the item of that id."""
    told = _call_done(dialect, value)
    call = told[0]
    assert isinstance(call, FunctionCall)
    kept = dialect.calls.get(call.item_id, NO_CALL)
    call.name = call.name or kept.name
    call.call_id = call.call_id or kept.call_id
    for field in ("name", "call_id"):
        if not getattr(call, field):
            raise UnreadableError(f"a function call without {field}, and no item {call.item_id!r} that has it")
    if call.call_id in dialect.told_calls:
        return []
    remember(dialect.told_calls, call.call_id, None)
    return told


def _mcp(status: str) -> Decoder:
    plain = row(
        McpCall,
        status=const(status),
        name=text("name"),
        arguments=text("arguments"),
        call_id=text("call_id"),
        error_message=text("error", "message"),
        **R,
        **I,
        **O,
    )

    @gives(McpCall)
    def mcp_call(dialect: OpenAI, value: Value) -> list[Event]:
        """An MCP call by its item, which knows name and server."""
        told = plain(dialect, value)
        call = told[0]
        assert isinstance(call, McpCall)
        kept = dialect.calls.get(call.item_id, NO_CALL)
        call.name = call.name or kept.name
        call.server = kept.server
        call.call_id = call.call_id or kept.call_id
        return told

    decoder: Decoder = mcp_call
    return decoder


@gives(ResponseCreated)
def response_created(dialect: OpenAI, value: Value) -> list[Event]:
    """An answer begins."""
    response = read_mapping(value.get("response"))
    response_id = read_text(response.get("id")) or read_text(value.get("response_id"))
    remember(dialect.running, response_id, False, limit=64)
    return [
        ResponseCreated(
            event_id=read_text(value.get("event_id")),
            raw=value,
            response_id=response_id,
            conversation_id=read_text(response.get("conversation_id")),
            metadata=read_mapping(response.get("metadata")),
        )
    ]


_STATUS: Final[Mapping[Any, str]] = {
    "completed": "completed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "failed": "failed",
    "incomplete": "incomplete",
}


@gives(Interrupted, ResponseDone)
def response_done(dialect: OpenAI, value: Value) -> list[Event]:
    """An answer is over; before it, if the user cut it off, `Interrupted`."""
    response = read_mapping(value.get("response"))
    status, details = response.get("status"), read_mapping(response.get("status_details"))
    error = read_mapping(details.get("error"))
    done = ResponseDone(
        event_id=read_text(value.get("event_id")),
        raw=value,
        response_id=read_text(response.get("id")) or read_text(value.get("response_id")) or dialect.only_running(),
        status=_STATUS.get(status, "completed") if type(status) is str else "completed",
        reason=read_text(details.get("reason")),
        error_code=read_text(error.get("code")) or read_text(error.get("type")),
        error_message=read_text(error.get("message")),
        usage=parts.usage_or_none(response.get("usage")) or parts.usage_or_none(value.get("usage")),
        output=parts.items(response.get("output")),
        conversation_id=read_text(response.get("conversation_id")),
        metadata=read_mapping(response.get("metadata")),
    )
    told: list[Event] = [done]
    spoken_over = dialect.running.pop(done.response_id, False)
    if done.status == "cancelled" and (done.reason == "turn_detected" or (spoken_over and not done.reason)):
        spoken = [item.id for item in done.output if item.type == "message"]
        told.insert(
            0,
            Interrupted(
                event_id=done.event_id,
                raw=value,
                response_id=done.response_id,
                item_id=spoken[-1] if spoken else "",
                reason=done.reason or "turn_detected",
            ),
        )
    for item in done.output:
        dialect.calls.pop(item.id, None)
    dialect.forget(done.response_id)
    return told


_BENIGN: Final = frozenset(
    {"response_cancel_not_active", "conversation_already_has_active_response", "input_audio_buffer_commit_empty"}
)
_FATAL: Final = frozenset({"session_expired", "beta_api_shape_disabled", "invalid_api_key"})
# Older servers sent the same texts with ``code: null``.
_CODE_OF_TEXT: Final = (
    ("no active response", "response_cancel_not_active"),
    ("already has an active response", "conversation_already_has_active_response"),
    ("buffer too small", "input_audio_buffer_commit_empty"),
)


@gives(ErrorReceived)
def error(dialect: OpenAI, value: Value) -> list[Event]:
    """An error: the nested object, else what stands at the top (source: gateway's reference)."""
    given = value.get("error")
    detail = read_mapping(given)
    message = read_text(detail.get("message")) or read_text(value.get("message")) or read_text(given)
    code = detail.get("code", value.get("code"))
    code = str(code) if type(code) is int else read_text(code)
    if not code:
        code = next((word for part, word in _CODE_OF_TEXT if part in message.lower()), "")
    kind = read_text(detail.get("type"))
    last = code.rpartition(".")[2]
    return [
        ErrorReceived(
            event_id=read_text(value.get("event_id")),
            raw=value,
            message=message or "unknown error",
            code=code,
            type=kind,
            param=read_text(detail.get("param")),
            caused_by=read_text(detail.get("event_id")),
            benign=last in _BENIGN,
            fatal=last in _FATAL or kind == "max_duration" or last == "max_duration",
        )
    ]


@gives(TranscriptDelta)
def input_delta(dialect: OpenAI, value: Value) -> list[Event]:
    """A piece of what the user says; the schema allows one with nothing in it."""
    return [] if value.get("delta") is None else _input_delta(dialect, value)


_input_delta = row(TranscriptDelta, delta=essential("delta"), source=const("input"), **I, **C)


def once(spelling: str, plain: Decoder) -> Decoder:
    """A text event that some servers send under two names: keep to the one seen first for its ids."""

    @gives(*getattr(plain, "events"))  # noqa: B009 - a plain attribute would not type-check
    def first_name_only(dialect: OpenAI, value: Value) -> list[Event]:
        told = plain(dialect, value)
        event: Any = told[0]
        item_id, response_id, content_index, latest = dialect.latest_part
        if event.item_id == item_id and event.response_id == response_id and event.content_index == content_index and latest == spelling:
            return told  # nearly always: more of the same part
        if event.item_id and event.response_id:
            part = (event.item_id, event.response_id, event.content_index)
            seen = dialect.spellings.get(part)
            if seen is None:
                remember(dialect.spellings, part, spelling)
            elif seen != spelling:
                return []
            dialect.latest_part = (*part, spelling)
        return told

    decoder: Decoder = first_name_only
    return decoder


# -- the rows ----------------------------------------------------------------------------------------------------------------

_AUDIO_DELTA = row(AudioDelta, audio=sound("delta"), **R, **I, **O, **C)
_AUDIO_DONE = row(AudioDone, **R, **I, **O, **C)
_TRANSCRIPT_DELTA = row(TranscriptDelta, delta=essential("delta"), source=const("output"), **R, **I, **C)
_TRANSCRIPT_DONE = row(TranscriptDone, transcript=essential("transcript"), source=const("output"), **R, **I, **C)
_TEXT_DELTA = row(TextDelta, delta=essential("delta"), **R, **I, **O, **C)
_TEXT_DONE = row(TextDone, text=essential("text"), **R, **I, **O, **C)


def _list_tools(status: str) -> Decoder:
    return row(
        McpListTools,
        status=const(status),
        error_type=text("error", "type"),
        error_message=text("error", "message"),
        **I,
    )


DECODERS: Final[dict[str, Decoder]] = {
    "session.created": session_created,
    "session.updated": session_updated,
    "transcription_session.created": session_created,
    "transcription_session.updated": session_updated,
    "conversation.created": conversation_created,
    "conversation.item.added": item_added,
    "conversation.item.created": item_added,
    "conversation.item.done": row(ItemDone, item=made(parts.item, "item"), previous_item_id=text("previous_item_id")),
    "conversation.item.retrieved": row(ItemRetrieved, item=made(parts.item, "item")),
    "conversation.item.deleted": row(ItemDeleted, **I),
    "conversation.item.truncated": row(
        ItemTruncated, audio_end_ms=whole("audio_end_ms", default=None), transcript=text("transcript"), **I, **C
    ),
    f"{INPUT}.delta": input_delta,
    f"{INPUT}.completed": row(
        TranscriptDone,
        transcript=essential("transcript"),
        source=const("input"),
        usage=made(parts.usage_or_none, "usage"),
        languages=made(parts.languages, "languages"),
        **I,
        **C,
    ),
    f"{INPUT}.segment": row(
        TranscriptSegment,
        segment_id=text("id"),
        text=essential("text"),
        speaker=text("speaker"),
        start=number("start", default=0.0),
        end=number("end", default=0.0),
        **I,
        **C,
    ),
    f"{INPUT}.failed": row(
        TranscriptFailed,
        source=const("input"),
        code=text("error", "code"),
        type=text("error", "type"),
        message=text("error", "message"),
        **I,
        **C,
    ),
    "input_audio_buffer.committed": row(InputCommitted, previous_item_id=text("previous_item_id"), **I),
    "input_audio_buffer.cleared": row(InputCleared),
    "input_audio_buffer.speech_started": row(SpeechStarted, audio_start_ms=whole("audio_start_ms", default=None), **I),
    "input_audio_buffer.speech_stopped": row(SpeechStopped, audio_end_ms=whole("audio_end_ms", default=None), **I),
    "input_audio_buffer.timeout_triggered": row(
        InputTimeout,
        audio_start_ms=whole("audio_start_ms", default=None),
        audio_end_ms=whole("audio_end_ms", default=None),
        **I,
    ),
    "input_audio_buffer.dtmf_event_received": row(DtmfReceived, digit=text("event"), received_at=number("received_at")),
    "response.created": response_created,
    "response.done": response_done,
    "response.output_item.added": output_item_added,
    "response.output_item.done": output_item_done,
    "response.content_part.added": row(ContentPartAdded, part=made(parts.content_part, "part"), **R, **I, **O, **C),
    "response.content_part.done": row(ContentPartDone, part=made(parts.content_part, "part"), **R, **I, **O, **C),
    "response.output_audio.delta": _AUDIO_DELTA,
    "response.output_audio.done": _AUDIO_DONE,
    "response.audio.delta": _AUDIO_DELTA,
    "response.audio.done": _AUDIO_DONE,
    "response.output_audio_transcript.delta": _TRANSCRIPT_DELTA,
    "response.output_audio_transcript.done": _TRANSCRIPT_DONE,
    "response.audio_transcript.delta": _TRANSCRIPT_DELTA,
    "response.audio_transcript.done": _TRANSCRIPT_DONE,
    "response.output_text.delta": once("output_text", _TEXT_DELTA),
    "response.output_text.done": once("output_text", _TEXT_DONE),
    "response.text.delta": once("text", _TEXT_DELTA),
    "response.text.done": once("text", _TEXT_DONE),
    "response.function_call_arguments.delta": call_delta,
    "response.function_call_arguments.done": call_done,
    "response.mcp_call_arguments.delta": row(McpCallDelta, delta=text("delta"), call_id=text("call_id"), **R, **I, **O),
    "response.mcp_call_arguments.done": _mcp("requested"),
    "response.mcp_call.in_progress": _mcp("in_progress"),
    "response.mcp_call.completed": _mcp("completed"),
    "response.mcp_call.failed": _mcp("failed"),
    "mcp_list_tools.in_progress": _list_tools("in_progress"),
    "mcp_list_tools.completed": _list_tools("completed"),
    "mcp_list_tools.failed": _list_tools("failed"),
    "output_audio_buffer.started": row(OutputBufferStarted, **R),
    "output_audio_buffer.stopped": row(OutputBufferStopped, **R),
    "output_audio_buffer.cleared": row(OutputBufferCleared, **R),
    "rate_limits.updated": row(RateLimits, limits=made(parts.rate_limits, "rate_limits")),
    "error": error,
}


def with_underscores(decoders: Mapping[str, Decoder]) -> dict[str, Decoder]:
    """Return a table that also understands its names with underscores for dots."""
    return {name.replace(".", "_"): decoder for name, decoder in decoders.items()} | dict(decoders)
