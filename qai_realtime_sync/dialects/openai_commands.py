"""Commands as client events of the OpenAI family: one row each (source: OpenAI schema; xAI documents)."""

from __future__ import annotations

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
from qai_realtime_sync.dialects.base import Encoder, json_frame, send_raw, unsupported
from qai_realtime_sync.dialects.openai_session import modality
from qai_realtime_sync.dialects.wire import dumps
from qai_realtime_sync.seam import Frame

if TYPE_CHECKING:
    from qai_realtime_sync.dialects.openai import OpenAI

__all__ = ["ENCODERS", "XAI_ENCODERS", "beta_response", "ga_response"]


def _event(kind: str, command: Command, **fields: Any) -> list[Frame]:
    """One client event, with the command's event id if it has one."""
    named = {"event_id": command.event_id} if command.event_id else {}
    return json_frame({"type": kind, **named, **fields})


def _said(**fields: Any) -> dict[str, Any]:
    """Only what is not empty."""
    return {name: value for name, value in fields.items() if value not in ("", None)}


def _item(command: Command, item: dict[str, Any], previous_item_id: str = "") -> list[Frame]:
    return _event("conversation.item.create", command, **_said(previous_item_id=previous_item_id), item=item)


def _bare(kind: str) -> Encoder:
    def encode(dialect: OpenAI, command: Command) -> list[Frame]:
        return _event(kind, command)

    return encode


def _of_item(kind: str) -> Encoder:
    def encode(dialect: OpenAI, command: DeleteItem | RetrieveItem) -> list[Frame]:
        return _event(kind, command, item_id=command.item_id)

    return encode


def configure(dialect: OpenAI, command: Configure) -> list[Frame]:
    """The whole session, so that nothing of an earlier configuration is left."""
    return _event("session.update", command, session=dialect.session_update(command.config, command.changes))


def send_audio(dialect: OpenAI, command: SendAudio) -> list[Frame]:
    """Sound, through a template: base64 needs no escaping, and ``dumps`` over it would cost more than all the rest."""
    if dialect.binary_input:
        return [Frame(bytes(command.audio), False)]
    if command.event_id:
        return [
            Frame(
                b'{"type":"input_audio_buffer.append","event_id":%b,"audio":"%b"}'
                % (dumps(command.event_id), b64encode(command.audio)),
                True,
            )
        ]
    return [Frame(b'{"type":"input_audio_buffer.append","audio":"%b"}' % b64encode(command.audio), True)]


def send_text(dialect: OpenAI, command: SendText) -> list[Frame]:
    """A message of the user."""
    content = [{"type": "input_text", "text": command.text}]
    return _item(command, {**_said(id=command.item_id), "type": "message", "role": "user", "content": content})


def send_context(dialect: OpenAI, command: SendContext) -> list[Frame]:
    """A message that asks for no answer; what the assistant said is an output."""
    kind = "output_text" if command.role == "assistant" else "input_text"
    message = {"type": "message", "role": command.role, "content": [{"type": kind, "text": command.text}]}
    return _item(command, message, command.previous_item_id)


def send_function_result(dialect: OpenAI, command: SendFunctionResult) -> list[Frame]:
    """The output of a call; the service has no field for failure, so the text must say it."""
    return _item(command, {"type": "function_call_output", "call_id": command.call_id, "output": command.output})


def create_response(dialect: OpenAI, command: CreateResponse) -> list[Frame]:
    """Ask for an answer; a bare event works with every service of the family."""
    body = dialect.response_body(command)
    return _event("response.create", command, **({"response": body} if body else {}))


def ga_response(command: CreateResponse) -> dict[str, Any]:
    """Return the body that OpenAI GA knows."""
    body = {
        "instructions": command.instructions,
        "output_modalities": None if command.modalities is None else modality(command.modalities),
        "audio": None if command.voice is None else {"output": {"voice": command.voice}},
        "tools": command.tools,
        "tool_choice": command.tool_choice,
        "max_output_tokens": command.max_output_tokens,
        "metadata": command.metadata,
        "conversation": "none" if command.out_of_band else None,
        "input": command.input,
    }
    return {name: value for name, value in body.items() if value is not None}


def beta_response(command: CreateResponse, after_text: list[str] | None) -> dict[str, Any]:
    """Return the beta's body, also xAI's; ``after_text`` are the modalities that are named after a text, if any are."""
    body = {
        "modalities": after_text if command.modalities is None and command.after_text else command.modalities,
        "instructions": command.instructions,
        "voice": command.voice,
        "tools": command.tools,
        "tool_choice": command.tool_choice,
        "max_response_output_tokens": command.max_output_tokens,
        "metadata": command.metadata,
        "conversation": "none" if command.out_of_band else None,
        "input": command.input,
    }
    return {name: value for name, value in body.items() if value is not None}


def cancel_response(dialect: OpenAI, command: CancelResponse) -> list[Frame]:
    """Stop the running answer, or the one named."""
    return _event("response.cancel", command, **_said(response_id=command.response_id))


def truncate_item(dialect: OpenAI, command: TruncateItem) -> list[Frame]:
    """Cut an answer at what was heard."""
    return _event(
        "conversation.item.truncate",
        command,
        item_id=command.item_id,
        content_index=command.content_index,
        audio_end_ms=command.audio_end_ms,
    )


def send_image(dialect: OpenAI, command: SendImage) -> list[Frame]:
    """A picture as a data URL, after the words that come with it."""
    content: list[dict[str, Any]] = [{"type": "input_text", "text": command.text}] if command.text else []
    url = f"data:{command.media_type};base64,{b64encode(command.image).decode()}"
    content.append({"type": "input_image", "image_url": url})
    return _item(command, {"type": "message", "role": "user", "content": content})


def approve_mcp_call(dialect: OpenAI, command: ApproveMcpCall) -> list[Frame]:
    """An approval is an item, and needs an id of its own (at most 32 characters), made from the one it answers."""
    return _item(
        command,
        {
            "id": f"ar_{command.approval_id[-29:]}",
            "type": "mcp_approval_response",
            "approval_request_id": command.approval_id,
            "approve": command.approve,
            **_said(reason=command.reason),
        },
    )


def say(dialect: OpenAI, command: Say) -> list[Frame]:
    """Speak word by word; the service makes a whole response of it (source: xAI documents)."""
    return _item(
        command,
        {
            "type": "force_message",
            "role": "assistant",
            "interruptible": command.interruptible,
            **_said(voice=command.voice),
            "content": [{"type": "output_text", "text": command.text}],
        },
    )


_NO_PING = "it sends no ping that wants an answer; nothing needs to be done."

ENCODERS: Final[dict[type[Command], Encoder]] = {
    Configure: configure,
    SendAudio: send_audio,
    CommitAudio: _bare("input_audio_buffer.commit"),
    ClearAudio: _bare("input_audio_buffer.clear"),
    SendText: send_text,
    SendContext: send_context,
    SendFunctionResult: send_function_result,
    CreateResponse: create_response,
    CancelResponse: cancel_response,
    TruncateItem: truncate_item,
    DeleteItem: _of_item("conversation.item.delete"),
    RetrieveItem: _of_item("conversation.item.retrieve"),
    SendImage: send_image,
    Say: unsupported("it has no verbatim speech; use create_response(instructions=\"Say exactly: …\")."),
    ApproveMcpCall: approve_mcp_call,
    Pong: unsupported(_NO_PING),
    RawEvent: send_raw,
}

XAI_ENCODERS: Final[dict[type[Command], Encoder]] = ENCODERS | {
    RetrieveItem: unsupported("it gives no items back; keep them from item_added and transcript_done events."),
    SendImage: unsupported("it takes no pictures; describe the picture with send_context()."),
    Say: say,
    ApproveMcpCall: unsupported("its MCP tools run without approval; limit them with allowed_tools in the configuration."),
}
