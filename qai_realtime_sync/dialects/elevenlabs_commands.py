"""Commands as messages to an ElevenLabs agent: one row each (source: the vendor's message schema)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from qai_realtime_sync.audio import b64encode
from qai_realtime_sync.commands import (
    ApproveMcpCall,
    CancelResponse,
    ClearAudio,
    Command,
    CommitAudio,
    Configure,
    CreateResponse,
    DeleteItem,
    Pong,
    RawEvent,
    RetrieveItem,
    Say,
    SendAudio,
    SendContext,
    SendFunctionResult,
    SendImage,
    SendText,
    TruncateItem,
)
from qai_realtime_sync.config import DEFAULT_VOICE, UNSET, RealtimeConfig, Transcription
from qai_realtime_sync.dialects.base import Encoder, json_frame, send_raw, unsupported
from qai_realtime_sync.dialects.merge import merged
from qai_realtime_sync.errors import UnsupportedCommandError
from qai_realtime_sync.seam import Frame

if TYPE_CHECKING:
    from qai_realtime_sync.dialects.elevenlabs import ElevenLabs

__all__ = ["ANSWERED", "ENCODERS", "client_data"]

ANSWERED: Final[frozenset[type[Command]]] = frozenset({SendText, SendFunctionResult})
"""What the agent answers by itself."""


_EVENTS: Final = (
    "audio", "interruption", "agent_response", "agent_response_correction", "agent_response_complete", "user_transcript",
    "tentative_user_transcript", "conversation_initiation_metadata", "ping", "client_tool_call", "agent_tool_request",
    "agent_tool_response_full_payload", "mcp_tool_call", "mcp_connection_status", "context_usage", "vad_score",
    "agent_chat_response_part", "agent_reasoning_response_part", "client_error",
)  # fmt: skip


def client_data(
    config: RealtimeConfig, changes: Mapping[str, Any] | None, *, gateway: bool, events: bool = True
) -> dict[str, Any]:
    """Return the first message, with only what the program set: the service closes for an override the agent does not allow.

    One thing is asked for unasked (``events``): to be told the end of an answer, which an agent does not do by itself. The list
    replaces the agent's own, so it names all that this dialect reads, but words that may never be said; of a server tool the end
    with its result. ``client_events`` of the program, ``None`` too, goes before. Tools are part of the agent and are not sent.
    Through the gateway voice and model stand in the address, unless an agent is named.
    """
    created = gateway and not config.session.get("agent_id")
    prompt: dict[str, Any] = {"prompt": config.instructions} if config.instructions else {}
    tts: dict[str, Any] = {}
    if not created:
        if config.model:
            prompt["llm"] = config.model
        if config.voice not in (UNSET, DEFAULT_VOICE):
            tts["voice_id"] = config.voice
    if config.speed is not UNSET:
        tts["speed"] = config.speed
    keywords: list[str] = []
    if isinstance(config.transcription, Transcription):
        keywords = [word.strip() for word in config.transcription.prompt.split(",") if word.strip()]
    override: dict[str, dict[str, Any]] = {
        "agent": {"prompt": prompt} if prompt else {},
        "asr": {"keywords": keywords} if keywords else {},
        "tts": tts,
        "conversation": {"text_only": True} if config.modalities == ["text"] else {},
    }
    if events:
        override["conversation"]["client_events"] = [*_EVENTS]
    override = {name: part for name, part in override.items() if part}
    message: dict[str, Any] = {"type": "conversation_initiation_client_data"}
    if override:
        message["conversation_config_override"] = override
    raw = {name: value for name, value in config.session.items() if name != "agent_id"}
    return _without_none(merged(message, raw, changes))


def _without_none(message: dict[str, Any]) -> dict[str, Any]:
    """Leave the list of events out where the program said ``None``, and what is empty then."""
    override = message.get("conversation_config_override")
    conversation = override.get("conversation") if isinstance(override, dict) else None
    if isinstance(override, dict) and isinstance(conversation, dict) and conversation.get("client_events", ()) is None:
        del conversation["client_events"]
        if not conversation:
            del override["conversation"]
        if not override:
            del message["conversation_config_override"]
    return message


def configure(dialect: ElevenLabs, command: Configure) -> list[Frame]:
    """The first message, and only the first."""
    if dialect.configured:
        raise UnsupportedCommandError(
            "elevenlabs cannot configure a running conversation: its configuration is fixed by the first message; "
            "add knowledge with send_context(), or open a new conversation"
        )
    dialect.configured = True
    value = client_data(command.config, command.changes, gateway=dialect.gateway)
    without = client_data(command.config, command.changes, gateway=dialect.gateway, events=False)
    dialect.asked_for_events = value != without
    return json_frame(value)


def send_audio(dialect: ElevenLabs, command: SendAudio) -> list[Frame]:
    """Sound, through a template: base64 needs no escaping."""
    return [Frame(b'{"user_audio_chunk":"%b"}' % b64encode(command.audio), True)]


def send_text(dialect: ElevenLabs, command: SendText) -> list[Frame]:
    """Something the user wrote; the agent answers it."""
    return json_frame({"type": "user_message", "text": command.text})


def send_context(dialect: ElevenLabs, command: SendContext) -> list[Frame]:
    """Knowledge without an answer; the newest text of a context id counts. There are no roles."""
    context = {"context_id": command.context_id} if command.context_id else {}
    return json_frame({"type": "contextual_update", "text": command.text, **context})


def send_function_result(dialect: ElevenLabs, command: SendFunctionResult) -> list[Frame]:
    """The result of a client tool; an empty one is put into words (source: the vendor's client does)."""
    return json_frame(
        {
            "type": "client_tool_result",
            "tool_call_id": command.call_id,
            "result": command.output or "Done, without output.",
            "is_error": command.is_error,
        }
    )


def approve_mcp_call(dialect: ElevenLabs, command: ApproveMcpCall) -> list[Frame]:
    """Whether an MCP tool may run."""
    return json_frame(
        {"type": "mcp_tool_approval_result", "tool_call_id": command.approval_id, "is_approved": command.approve}
    )


def pong(dialect: ElevenLabs, command: Pong) -> list[Frame]:
    """The answer to a ping, with its number."""
    return json_frame({"type": "pong", "event_id": command.ping_id})


_BY_ITSELF = "the agent decides by itself when to answer; send_text() makes it answer."
_NO_ITEMS = "its conversation has no items; the agent corrects its own text after an interruption."
_CUT = "it has no items; interrupt() and speech stop the playback here at what was heard, and the agent corrects its own text."

ENCODERS: Final[dict[type[Command], Encoder]] = {
    Configure: configure,
    SendAudio: send_audio,
    CommitAudio: unsupported("the agent decides by itself when the user has finished; send silence instead."),
    ClearAudio: unsupported("what was sent is heard; stop sending instead."),
    SendText: send_text,
    SendContext: send_context,
    SendFunctionResult: send_function_result,
    CreateResponse: unsupported(_BY_ITSELF),
    CancelResponse: unsupported("stop the playback here with interrupt(); the agent stops when it hears the user."),
    TruncateItem: unsupported(_CUT),
    DeleteItem: unsupported(_NO_ITEMS),
    RetrieveItem: unsupported(_NO_ITEMS),
    SendImage: unsupported("upload a file and name it with send_event({\"type\": \"multimodal_message\", …})."),
    Say: unsupported("it has no verbatim speech; set the agent's first_message, or ask for the words with send_text()."),
    ApproveMcpCall: approve_mcp_call,
    Pong: pong,
    RawEvent: send_raw,
}
