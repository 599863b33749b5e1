"""ElevenLabs Agents: one conversation with an agent that is configured on the service (source: the vendor's message schema).

The wire's ``event_id`` counts utterances of the agent; it groups what belongs together and is our response id unless the wire gives
one. The service rarely says where a response ends: without such a word it ends where the next one begins or where the user cuts it off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from qai_realtime_sync.commands import Configure
from qai_realtime_sync.config import DEFAULT_VOICE, UNSET, AudioFormat, RealtimeConfig, RealtimeSession, Tool
from qai_realtime_sync.dialects import address
from qai_realtime_sync.dialects.base import Dialect, remember, unsupported_commands
from qai_realtime_sync.dialects.elevenlabs_commands import ANSWERED, ENCODERS
from qai_realtime_sync.dialects.endings import BAD_REQUEST, LOST, NORMAL, POLICY, by_words, meaning_of
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
from qai_realtime_sync.errors import ConfigError
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
from qai_realtime_sync.seam import Ending, Handshake, Resume, Traits

__all__ = ["ElevenLabs", "formats"]

URL: Final = "wss://api.elevenlabs.io/v1/convai/conversation"
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


@gives(ResponseDone, ResponseCreated, AudioDelta, AudioDone)
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
    if final:
        told.append(AudioDone(raw=value, response_id=response_id))
        told += dialect.end(response_id, value)
    return told


@gives(ResponseDone, ResponseCreated, TranscriptDone)
def agent_response(dialect: ElevenLabs, value: Value) -> list[Event]:
    """The whole text, before it was spoken: a correction may follow."""
    given = read_mapping(value.get("agent_response_event"))
    if type(transcript := given.get("agent_response")) is not str:
        raise UnreadableError("agent_response_event.agent_response is missing or not text")
    response_id, told = dialect.begin(given, value)
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
            response_id=dialect.known_id(given),
        )
    ]


@gives(ResponseDone, ResponseCreated, TextDelta, TextDone)
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


@gives(ResponseDone, ResponseCreated, ReasoningDelta)
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


@gives(ResponseDone)
def complete(dialect: ElevenLabs, value: Value) -> list[Event]:
    """The service says that an utterance is over, where the agent has that switched on."""
    given = read_mapping(value.get("agent_response_complete_event"))
    return dialect.end(dialect.known_id(given), value)


@gives(Interrupted, ResponseDone)
def interruption(dialect: ElevenLabs, value: Value) -> list[Event]:
    """The user cut the agent off: what is queued, and what still arrives up to this id, is void."""
    given = read_mapping(value.get("interruption_event"))
    response_id = dialect.known_id(given) or dialect.response_id
    limit = read_whole(given.get("event_id"), dialect.newest)
    dialect.interrupted = max(dialect.interrupted, limit)
    reason = read_text(given.get("reason"))
    told: list[Event] = [Interrupted(raw=value, response_id=response_id, reason=reason)]
    if dialect.response_id and dialect.newest <= limit:
        told += dialect.end(dialect.response_id, value, status="cancelled", reason=reason or "interrupted")
    return told


# -- tools -------------------------------------------------------------------------------------------------------------------


@gives(ResponseDone, ResponseCreated, FunctionCall)
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
        """A tool that the service runs by itself."""
        given = read_mapping(value.get(key))
        failed = read_flag(given.get("is_error"))
        return [
            ServerTool(
                raw=value,
                name=read_text(given.get("tool_name")),
                call_id=read_text(given.get("tool_call_id")),
                kind=read_text(given.get("tool_type")),
                status="requested" if requested else "failed" if failed else "completed",
                result=read_text(given.get("full_tool_result")),
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


def _user_turn(value: Any) -> str:
    """The utterance that a transcript of the user belongs to, as text."""
    event_id = at(value, "event_id")
    return str(event_id) if type(event_id) is int else read_text(event_id)


def _user(event: type[Event], key: str, **fields: Any) -> Decoder:
    return row(event, response_id=made(_user_turn, key), **fields)


def _tentative(dialect: ElevenLabs, value: Value) -> list[Event]:
    """What the agent may be going to say."""
    text = at(value, "tentative_agent_response_internal_event", "tentative_agent_response")
    if type(text) is not str:
        raise UnreadableError("tentative_agent_response is missing or not text")
    return [TranscriptDelta(raw=value, text=text, snapshot=True, source="output", response_id=dialect.response_id)]


# -- the dialect -------------------------------------------------------------------------------------------------------------

# Errors that the service reports before it closes (source: the vendor's SDK types), by what the program should make of them.
_OUR_FAULT: Final = frozenset(
    {
        "invalid_message",
        "value_error",
        "missing_fields",
        "override_error",
        "missing_dynamic_variable",
        "missing_dynamic_variable_transfer",
    }
)
_OVER: Final = frozenset({"max_duration_exceeded", "websocket_disconnect"})


class ElevenLabs(Dialect):
    """ElevenLabs Agents, straight or through the gateway."""

    name = "elevenlabs"
    traits = Traits(
        answers_by_itself=ANSWERED,
        unsupported=unsupported_commands(ENCODERS),
        two_connections=False,
        configures_once=True,
        speech_events=False,
        items=False,
    )
    decoders = {
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
    encoders = ENCODERS

    def __init__(self, gateway: bool = False) -> None:
        super().__init__(gateway)
        self.configured = False
        self.ids: dict[str, str] = {}  # the wire's event id -> our response id
        self.ended: dict[str, None] = {}  # responses that are over
        self.response_id = ""  # the response that is running
        self.newest = -1  # the highest event id that began a response
        self.interrupted = -1  # sound up to this event id is void
        self.texts: dict[str, str] = {}  # response id -> what was written so far
        self.told_calls: dict[str, None] = {}

    # -- opening ---------------------------------------------------------------------------------------------------------

    def handshake(
        self, config: RealtimeConfig, session: RealtimeSession, api_key: str = "", resume: Resume | None = None
    ) -> Handshake:
        """Return address, headers and the first message; a signed address stays as it is, without headers. Raises: `ConfigError`."""
        agent_id = config.session.get("agent_id")
        agent = {"agent_id": agent_id if isinstance(agent_id, str) else ""}
        if self.gateway:
            voice = "" if config.voice in (UNSET, DEFAULT_VOICE) else str(config.voice)
            query = {"voice_id": voice, "model": config.model, **agent}
            return address.gateway(session.url, "/qai/v1/realtime/elevenlabs", query, api_key, config)
        url = address.ws_address(session.ws_url or URL)
        commands = (Configure(config=config),)
        if session.signed_url or "conversation_signature=" in url or "token=" in urlsplit(url).query:
            return Handshake(url=session.ws_url, commands=commands, timeout=address.DIRECT_TIMEOUT)
        url = address.with_query(url, agent)
        if "agent_id=" not in urlsplit(url).query:
            raise ConfigError(
                "ElevenLabs needs the id of an agent: give an address with ?agent_id=…, a signed address, "
                'or RealtimeConfig(session={"agent_id": "…"})',
                code="missing_agent_id",
            )
        key = address.checked_key(api_key)
        headers = {"xi-api-key": key} if key else {}
        return Handshake(url=url, headers=headers, commands=commands, timeout=address.DIRECT_TIMEOUT)

    def session_body(self, config: RealtimeConfig) -> dict[str, Any]:
        """Return what the gateway mints an agent's session with (source: gateway REST: voice, prompt, tools, sent as they are)."""
        body: dict[str, Any] = {}
        if config.voice not in (UNSET, DEFAULT_VOICE):
            body["voice"] = config.voice
        if config.instructions:
            body["prompt"] = config.instructions
        if config.model:
            body["model"] = config.model
        if config.tools:
            body["tools"] = [tool.to_dict() if isinstance(tool, Tool) else tool for tool in config.tools]
        return body | dict(config.session)

    # -- responses, which the wire only hints at -------------------------------------------------------------------------

    def known_id(self, given: Mapping[str, Any]) -> str:
        """Return our response id of a message: by its utterance if that is known, else as the wire says it."""
        event_id = _user_turn(given)
        return self.ids.get(event_id) or read_text(given.get("response_id")) or event_id

    def is_interrupted(self, given: Mapping[str, Any]) -> bool:
        """The message belongs to an utterance that the user cut off."""
        event_id = given.get("event_id")
        return type(event_id) is int and event_id <= self.interrupted

    def begin(self, given: Mapping[str, Any], raw: Value) -> tuple[str, list[Event]]:
        """Return the response a message belongs to; the first message of a new utterance ends the old response and begins one."""
        event_id = _user_turn(given)
        if not event_id:
            return read_text(given.get("response_id")) or self.response_id, []
        response_id = self.ids.get(event_id)
        if response_id is not None:
            return response_id, []
        response_id = read_text(given.get("response_id")) or event_id
        remember(self.ids, event_id, response_id)
        number_ = read_whole(given.get("event_id"), self.newest + 1)
        if number_ <= self.newest or number_ <= self.interrupted or response_id in self.ended or response_id == self.response_id:
            return response_id, []  # late, of an utterance that is over, or a part of the one that runs
        told = self.end(self.response_id, raw) if self.response_id else []
        self.response_id, self.newest = response_id, number_
        return response_id, [*told, ResponseCreated(raw=raw, response_id=response_id)]

    def end(self, response_id: str, raw: Value, *, status: str = "completed", reason: str = "") -> list[Event]:
        """Return the end of a response, once."""
        if not response_id or response_id in self.ended:
            return []
        remember(self.ended, response_id, None)
        self.texts.pop(response_id, None)
        if response_id == self.response_id:
            self.response_id = ""
        return [ResponseDone(raw=raw, response_id=response_id, status=status, reason=reason)]

    # -- the end ---------------------------------------------------------------------------------------------------------

    def ending(self, code: int | None, reason: str) -> Ending:
        """Read the close; 4300 is a queue that took too long (source: the vendor's SDK)."""
        return LOST if code == 4300 else meaning_of(code, reason)

    def error_ending(self, event: ErrorReceived) -> Ending | None:
        """Read the error that comes just before a close: by its word, then by its number."""
        if not event.fatal:
            return None
        if event.code in _OVER:
            return NORMAL
        if event.code in _OUR_FAULT:
            return BAD_REQUEST
        if event.code == "safety_violation":
            return POLICY
        if event.code == "transport_receive_timeout":  # the user said nothing for a minute: a new conversation would end the same way
            return Ending(meaning="going_away", retry=False)
        words = by_words(f"{event.code} {event.message}")
        if words is not None:
            return words
        return {"1000": NORMAL, "1008": POLICY}.get(event.type, LOST)
