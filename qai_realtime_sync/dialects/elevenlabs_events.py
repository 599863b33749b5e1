"""Events of ElevenLabs Agents; the payload is nested under a key of its own (source: the vendor's message schema)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qai_realtime_sync.config import AudioFormat
from qai_realtime_sync.dialects.base import remember
from qai_realtime_sync.dialects.rows import (
    Decoder,
    UnreadableError,
    Value,
    at,
    const,
    essential,
    gives,
    made,
    number,
    read_flag,
    read_mapping,
    read_number,
    read_sound,
    read_text,
    read_whole,
    row,
    whole,
)
from qai_realtime_sync.dialects.wire import dumps
from qai_realtime_sync.events import (
    AudioDelta,
    AudioDone,
    ConversationCreated,
    ErrorReceived,
    Event,
    FunctionCall,
    Interrupted,
    McpApprovalRequested,
    McpCall,
    McpStatus,
    Ping,
    ReasoningDelta,
    ResponseCreated,
    ResponseDone,
    ServerTool,
    SessionCreated,
    SessionReady,
    TextDelta,
    TextDone,
    TokenUsage,
    TranscriptCorrected,
    TranscriptDelta,
    TranscriptDone,
    Unknown,
    Usage,
    VadScore,
)

if TYPE_CHECKING:
    from qai_realtime_sync.dialects.elevenlabs import ElevenLabs

__all__ = ["DECODERS", "formats", "number_of", "utterance"]

_USUAL_FORMAT: Final = "pcm_16000"


def formats(word: Any) -> AudioFormat | None:
    """Read ``pcm_16000`` or ``ulaw_8000``; nothing said means pcm_16000, an unknown word ``None``."""
    encoding, _, rate = (word if type(word) is str and word else _USUAL_FORMAT).partition("_")
    if encoding not in ("pcm", "ulaw") or not rate.isascii() or not rate.isdigit() or not 8000 <= int(rate[:6]) <= 96_000:
        return None
    return AudioFormat("pcm16" if encoding == "pcm" else "g711_ulaw", int(rate[:6]))


def _json_text(value: Any) -> str:
    """Arguments and results as the JSON text that our events carry; text stays what it is."""
    return value if type(value) is str else dumps(value).decode()


def _arguments(value: Any, name: str) -> str:
    """The parameters of a call: an object, or its JSON text; none given is an empty object."""
    if type(value) not in (dict, str, type(None)):
        raise UnreadableError(f"{name} is neither an object nor text")
    return _json_text({} if value is None else value)


# -- the session -------------------------------------------------------------------------------------------------------------


@gives(SessionCreated, ConversationCreated, SessionReady)
def initiated(dialect: ElevenLabs, value: Value) -> list[Event]:
    """The agent is there, and says its formats: audio may flow."""
    session = read_mapping(value.get("conversation_initiation_metadata_event"))
    conversation_id = read_text(session.get("conversation_id"))
    return [
        SessionCreated(raw=value, session_id=conversation_id, session=session),
        ConversationCreated(raw=value, conversation_id=conversation_id),
        SessionReady(
            raw=value,
            session_id=conversation_id,
            session=session,
            input_format=formats(session.get("user_input_audio_format")),
            output_format=formats(session.get("agent_output_audio_format")),
        ),
    ]


@gives(Usage)
def context_usage(dialect: ElevenLabs, value: Value) -> list[Event]:
    """How much of the context is in use."""
    given = read_mapping(value.get("context_usage_event"))
    usage = TokenUsage(input_tokens=read_whole(given.get("context_tokens")), raw=given)
    return [Usage(raw=value, usage=usage, source="context", response_id=dialect.known_id(given))]


@gives(ErrorReceived)
def error(dialect: ElevenLabs, value: Value) -> list[Event]:
    """An error, which a close follows."""
    given = read_mapping(value.get("error_event"))
    words = (read_text(given.get(key)) for key in ("message", "reason", "debug_message"))
    kind = read_text(given.get("error_type")) or read_text(given.get("error_name"))
    number_ = read_whole(given.get("code"), None)
    return [
        ErrorReceived(
            raw=value,
            message=next((text for text in words if text), "") or kind or "unknown error",
            code=kind,
            type="" if number_ is None else str(number_),
            fatal=True,
        )
    ]


# -- what the agent says -----------------------------------------------------------------------------------------------------


@gives(AudioDone, ResponseDone, ResponseCreated, AudioDelta)
def audio(dialect: ElevenLabs, value: Value) -> list[Event]:
    """A piece of sound; what was interrupted is dropped (source: the vendor's Python client)."""
    given = read_mapping(value.get("audio_event"))
    final = read_flag(given.get("is_final"))
    encoded = given.get("audio_base_64")
    sound = b"" if final and not encoded else read_sound(encoded, "audio_event.audio_base_64")
    given.pop("audio_base_64", None)
    if dialect.is_interrupted(given):
        return []
    response_id, told = dialect.begin(given, value)
    if sound or not final:
        told.append(AudioDelta(raw=value, audio=sound, response_id=response_id))
    dialect.sounding = "" if final else response_id
    if final:
        told.append(AudioDone(raw=value, response_id=response_id))
        told += dialect.end(response_id, value)
    return told


@gives(AudioDone, ResponseDone, ResponseCreated, TranscriptDone)
def agent_response(dialect: ElevenLabs, value: Value) -> list[Event]:
    """The whole text, before it was spoken: a correction may follow."""
    given = read_mapping(value.get("agent_response_event"))
    if type(transcript := given.get("agent_response")) is not str:
        raise UnreadableError("agent_response_event.agent_response is missing or not text")
    response_id, told = dialect.begin(given, value, whole=True)
    if response_id == dialect.response_id:
        dialect.worded = True
    told.append(TranscriptDone(raw=value, transcript=transcript, source="output", final=False, response_id=response_id))
    return told


@gives(TranscriptCorrected)
def correction(dialect: ElevenLabs, value: Value) -> list[Event]:
    """What was really heard of the text, after an interruption."""
    given = read_mapping(value.get("agent_response_correction_event"))
    if type(corrected := given.get("corrected_agent_response")) is not str:
        raise UnreadableError("agent_response_correction_event.corrected_agent_response is missing or not text")
    return [
        TranscriptCorrected(
            raw=value,
            source="output",
            original=read_text(given.get("original_agent_response")),
            corrected=corrected,
            response_id=dialect.ids.get(utterance(given)) or dialect.named(given) or dialect.up_to(given) or dialect.known_id(given),
        )
    ]


@gives(AudioDone, ResponseDone, ResponseCreated, TextDelta, TextDone)
def chat_part(dialect: ElevenLabs, value: Value) -> list[Event]:
    """A written answer: start, pieces, stop."""
    given, kind, piece = _part(value, "text_response_part")
    if dialect.is_interrupted(given):
        return []
    response_id, told = dialect.begin(given, value)
    written = dialect.texts.get(response_id, "")
    if kind == "stop" and piece == written:
        piece = ""
    if piece:
        told.append(TextDelta(raw=value, delta=piece, response_id=response_id))
        remember(dialect.texts, response_id, written + piece, limit=64)
    if kind == "stop":
        dialect.texts.pop(response_id, None)
        told.append(TextDone(raw=value, text=written + piece, response_id=response_id))
    return told


@gives(AudioDone, ResponseDone, ResponseCreated, ReasoningDelta)
def reasoning_part(dialect: ElevenLabs, value: Value) -> list[Event]:
    """A thought: start, pieces, stop."""
    given, _, piece = _part(value, "reasoning_response_part")
    if dialect.is_interrupted(given):
        return []
    response_id, told = dialect.begin(given, value)
    if piece:
        told.append(ReasoningDelta(raw=value, delta=piece, response_id=response_id))
    return told


def _part(value: Value, key: str) -> tuple[Value, str, str]:
    given = read_mapping(value.get(key))
    kind, piece = read_text(given.get("type")), given.get("text")
    if type(piece) is not str and (kind not in ("start", "stop") or piece is not None):
        raise UnreadableError(f"{key}.text is missing or not text")
    return given, kind, piece or ""


@gives(AudioDone, ResponseDone)
def complete(dialect: ElevenLabs, value: Value) -> list[Event]:
    """The service says that an utterance is over, where the agent has that switched on."""
    given = read_mapping(value.get("agent_response_complete_event"))
    return dialect.end(dialect.bind(given) or dialect.known_id(given), value)


@gives(Interrupted, ResponseDone)
def interruption(dialect: ElevenLabs, value: Value) -> list[Event]:
    """The user cut the agent off: what is queued, and what still arrives up to this id, is void."""
    given = read_mapping(value.get("interruption_event"))
    response_id = dialect.ids.get(utterance(given)) or dialect.bind(given) or dialect.up_to(given) or dialect.known_id(given)
    limit = number_of(given)
    reaches = limit is None or (dialect.newest <= limit and not dialect.unnumbered)  # what waits for its number is newer than all
    dialect.interrupted = max(dialect.interrupted, dialect.newest if limit is None else limit)
    reason = read_text(given.get("reason"))
    told: list[Event] = [Interrupted(raw=value, response_id=response_id, reason=reason)]
    if dialect.response_id and reaches:
        told += dialect.end(dialect.response_id, value, status="cancelled", reason=reason or "interrupted")
    return told


# -- tools -------------------------------------------------------------------------------------------------------------------


@gives(AudioDone, ResponseDone, ResponseCreated, FunctionCall)
def client_tool_call(dialect: ElevenLabs, value: Value) -> list[Event]:
    """A call of ours, once per call id."""
    given = read_mapping(value.get("client_tool_call"))
    name, call_id = read_text(given.get("tool_name")), read_text(given.get("tool_call_id"))
    if not name or not call_id:
        raise UnreadableError("client_tool_call without tool_name or tool_call_id")
    arguments = _arguments(given.get("parameters"), "client_tool_call.parameters")
    if call_id in dialect.told_calls:
        return []
    remember(dialect.told_calls, call_id, None)
    response_id, told = dialect.begin(given, value)
    dialect.worded = False  # after the tool the same utterance may go on in words
    told.append(
        FunctionCall(
            raw=value,
            name=name,
            call_id=call_id,
            arguments=arguments,
            response_id=response_id,
            expects_result=read_flag(given.get("expects_response"), True),
        )
    )
    return told


def _server_tool(key: str, requested: bool) -> Decoder:
    @gives(ServerTool)
    def server_tool(dialect: ElevenLabs, value: Value) -> list[Event]:
        """A tool that the service runs by itself; its end may come in two forms, and the second is news only if it has the result."""
        given = read_mapping(value.get(key))
        failed = read_flag(given.get("is_error"))
        call_id, result = read_text(given.get("tool_call_id")), read_text(given.get("full_tool_result"))
        dialect.worded = dialect.worded and not requested  # as after a tool of ours
        if call_id and not requested:
            if call_id in dialect.told_tools and (dialect.told_tools[call_id] or not result):
                return []
            remember(dialect.told_tools, call_id, bool(result))
        return [
            ServerTool(
                raw=value,
                name=read_text(given.get("tool_name")),
                call_id=call_id,
                kind=read_text(given.get("tool_type")),
                status="requested" if requested else "failed" if failed else "completed",
                result=result,
            )
        ]

    decoder: Decoder = server_tool
    return decoder


_MCP_STATES: Final = {"loading": "in_progress", "success": "completed", "failure": "failed"}


@gives(McpCall, McpApprovalRequested)
def mcp_tool_call(dialect: ElevenLabs, value: Value) -> list[Event]:
    """A tool of an MCP server, by its state."""
    given = read_mapping(value.get("mcp_tool_call"))
    state = read_text(given.get("state"))
    call_id, name, server = (read_text(given.get(key)) for key in ("tool_call_id", "tool_name", "service_id"))
    arguments = "" if given.get("parameters") is None else _json_text(given["parameters"])
    if state == "awaiting_approval":
        timeout = read_number(given.get("approval_timeout_secs"))
        return [
            McpApprovalRequested(
                raw=value, approval_id=call_id, name=name, server=server, arguments=arguments, timeout=timeout
            )
        ]
    if state not in _MCP_STATES:
        return [Unknown(type="mcp_tool_call", raw=value)]
    result = given.get("result")
    return [
        McpCall(
            raw=value,
            status=_MCP_STATES[state],
            name=name,
            server=server,
            arguments=arguments,
            call_id=call_id,
            result="" if result is None else _json_text(result),
            error_message=read_text(given.get("error_message")),
        )
    ]


def _servers(value: Any) -> list[Value]:
    return [server for server in value if type(server) is dict] if type(value) is list else []


# -- what the user says ------------------------------------------------------------------------------------------------------


def utterance(value: Any) -> str:
    """The utterance that a transcript of the user belongs to, as text."""
    event_id = at(value, "event_id")
    return str(event_id) if type(event_id) is int else read_text(event_id)


def number_of(value: Any, default: Any = None) -> Any:
    """The number of an utterance, which some messages have as text; else the default."""
    event_id = at(value, "event_id")
    if type(event_id) is str and event_id.isascii() and event_id.isdigit() and len(event_id) < 20:
        return int(event_id)
    return read_whole(event_id, default)


def _user(event: type[Event], key: str, **fields: Any) -> Decoder:
    decode = row(event, **fields)

    @gives(event)
    def user(dialect: ElevenLabs, value: Value) -> list[Event]:
        """It may come when its answer has begun, and names that as the answer is known here."""
        told: list[Any] = decode(dialect, value)
        for one in told:
            one.response_id = dialect.known_id(read_mapping(value.get(key)))
        return told

    decoder: Decoder = user
    return decoder


def _tentative(dialect: ElevenLabs, value: Value) -> list[Event]:
    """What the agent may be going to say."""
    text = at(value, "tentative_agent_response_internal_event", "tentative_agent_response")
    if type(text) is not str:
        raise UnreadableError("tentative_agent_response is missing or not text")
    return [TranscriptDelta(raw=value, text=text, snapshot=True, source="output", response_id=dialect.response_id)]


# -- the rows ----------------------------------------------------------------------------------------------------------------

DECODERS: Final[dict[str, Decoder]] = {
    "conversation_initiation_metadata": initiated,
    "ping": row(
        Ping,
        ping_id=whole("ping_event", "event_id", default=None),
        ping_ms=whole("ping_event", "ping_ms", default=None),
    ),
    "audio": audio,
    "user_transcript": _user(
        TranscriptDone,
        "user_transcription_event",
        source=const("input"),
        transcript=essential("user_transcription_event", "user_transcript"),
    ),
    "tentative_user_transcript": _user(
        TranscriptDelta,
        "tentative_user_transcription_event",
        source=const("input"),
        snapshot=const(True),
        text=essential("tentative_user_transcription_event", "user_transcript"),
    ),
    "agent_response": agent_response,
    "agent_response_correction": correction,
    "agent_chat_response_part": chat_part,
    "agent_reasoning_response_part": reasoning_part,
    "agent_response_complete": complete,
    "interruption": interruption,
    "client_tool_call": client_tool_call,
    "agent_tool_request": _server_tool("agent_tool_request", True),
    "agent_tool_response": _server_tool("agent_tool_response", False),
    "agent_tool_response_full_payload": _server_tool("agent_tool_response_full_payload", False),
    "mcp_tool_call": mcp_tool_call,
    "mcp_connection_status": row(McpStatus, servers=made(_servers, "mcp_connection_status", "integrations")),
    "vad_score": row(VadScore, score=number("vad_score_event", "vad_score", default=0.0)),
    "context_usage": context_usage,
    "internal_tentative_agent_response": gives(TranscriptDelta)(_tentative),
    "error": error,
    "client_error": error,
}
