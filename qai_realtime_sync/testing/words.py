"""What a client sent, in our words: the way back from a message on the wire to commands, one table per family of services.

A `Configure` holds the session as it was written in ``changes``; what no table knows is a `RawEvent`.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from qai_realtime_sync.audio import b64decode
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
from qai_realtime_sync.config import RealtimeConfig

__all__ = ["commands_of"]

Wire: TypeAlias = Mapping[str, Any]
Reader: TypeAlias = Callable[[Wire], list[Command]]


def commands_of(dialect: str, message: str | bytes) -> list[Command]:
    """Return what a client's message says, in the dialect that the connection speaks; never raises."""
    try:
        wire = json.loads(message)
    except (ValueError, RecursionError):
        binary_sound = isinstance(message, bytes) and dialect in ("xai", "openai")
        return [SendAudio(audio=message) if binary_sound and isinstance(message, bytes) else RawEvent(value=message)]
    if not isinstance(wire, dict):
        return [RawEvent(value=message)]
    try:
        said = _READERS[dialect](wire)
    except (TypeError, ValueError, LookupError, AttributeError, binascii.Error):  # a shape that the table does not expect
        said = []
    for command in said[:1]:
        event_id = wire.get("event_id")
        command.event_id = event_id if isinstance(event_id, str) else ""
    return said or [RawEvent(value=wire)]


# -- the OpenAI family ---------------------------------------------------------------------------------------------------------


def _family(wire: Wire) -> list[Command]:
    reader = _FAMILY.get(wire.get("type", ""))
    return [] if reader is None else [reader(wire)]


def _configure(session: Wire) -> Command:
    return Configure(config=RealtimeConfig(), changes=dict(session))


def _text_of(content: list[Wire]) -> str:
    return " ".join(part["text"] for part in content if isinstance(part.get("text"), str))


def _message(item: Wire, wire: Wire) -> Command:
    picture = next((part["image_url"] for part in item["content"] if "image_url" in part), None)
    if isinstance(picture, str):
        kind, _, data = picture.partition(",")
        return SendImage(image=b64decode(data), media_type=kind[5:].split(";")[0], text=_text_of(item["content"]))
    text, role = _text_of(item["content"]), item["role"]
    if role == "user":
        return SendText(text=text, item_id=item.get("id", ""))
    return SendContext(text=text, role=role, previous_item_id=wire.get("previous_item_id", ""))


_ITEMS: Final[dict[str, Callable[[Wire, Wire], Command]]] = {
    "message": _message,
    "force_message": lambda item, _: Say(
        text=_text_of(item["content"]), voice=item.get("voice", ""), interruptible=item.get("interruptible", True)
    ),
    "function_call_output": lambda item, _: SendFunctionResult(
        call_id=item["call_id"], output=item["output"], is_error=_is_error(item["output"])
    ),
    "mcp_approval_response": lambda item, _: ApproveMcpCall(
        approval_id=item["approval_request_id"], approve=item["approve"], reason=item.get("reason", "")
    ),
}


def _is_error(output: str) -> bool:
    """The family has no field for a tool's failure: the client's own results say it by an object with ``error`` alone."""
    try:
        value = json.loads(output)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == {"error"}


def _create_response(wire: Wire) -> Command:
    body = wire.get("response") or {}
    audio = body.get("audio") or {}
    return CreateResponse(
        instructions=body.get("instructions"),
        modalities=body.get("output_modalities") or body.get("modalities"),
        voice=body.get("voice") or (audio.get("output") or {}).get("voice"),
        tools=body.get("tools"),
        tool_choice=body.get("tool_choice"),
        max_output_tokens=body.get("max_output_tokens") or body.get("max_response_output_tokens"),
        metadata=body.get("metadata"),
        out_of_band=body.get("conversation") == "none",
        input=body.get("input"),
    )


_FAMILY: Final[dict[str, Callable[[Wire], Command]]] = {
    "session.update": lambda wire: _configure(wire["session"]),
    "input_audio_buffer.append": lambda wire: SendAudio(audio=b64decode(wire["audio"])),
    "input_audio_buffer.commit": lambda _: CommitAudio(),
    "input_audio_buffer.clear": lambda _: ClearAudio(),
    "conversation.item.create": lambda wire: _ITEMS[wire["item"]["type"]](wire["item"], wire),
    "conversation.item.delete": lambda wire: DeleteItem(item_id=wire["item_id"]),
    "conversation.item.retrieve": lambda wire: RetrieveItem(item_id=wire["item_id"]),
    "conversation.item.truncate": lambda wire: TruncateItem(
        item_id=wire["item_id"], audio_end_ms=wire["audio_end_ms"], content_index=wire.get("content_index", 0)
    ),
    "response.create": _create_response,
    "response.cancel": lambda wire: CancelResponse(response_id=wire.get("response_id", "")),
}

# -- ElevenLabs ----------------------------------------------------------------------------------------------------------------


def _elevenlabs(wire: Wire) -> list[Command]:
    if "type" not in wire and "user_audio_chunk" in wire:
        return [SendAudio(audio=b64decode(wire["user_audio_chunk"]))]
    reader = _ELEVENLABS.get(wire.get("type", ""))
    return [] if reader is None else [reader(wire)]


_ELEVENLABS: Final[dict[str, Callable[[Wire], Command]]] = {
    "conversation_initiation_client_data": lambda wire: _configure({key: value for key, value in wire.items() if key != "type"}),
    "user_message": lambda wire: SendText(text=wire["text"]),
    "contextual_update": lambda wire: SendContext(text=wire["text"], context_id=wire.get("context_id", "")),
    "client_tool_result": lambda wire: SendFunctionResult(
        call_id=wire["tool_call_id"], output=wire["result"], is_error=wire.get("is_error", False)
    ),
    "mcp_tool_approval_result": lambda wire: ApproveMcpCall(approval_id=wire["tool_call_id"], approve=wire["is_approved"]),
    "pong": lambda wire: Pong(ping_id=wire["event_id"]),
}

# -- Gemini --------------------------------------------------------------------------------------------------------------------


def _gemini(wire: Wire) -> list[Command]:
    return [command for name, value in wire.items() for command in _GEMINI[name](value)]


def _client_content(value: Wire) -> list[Command]:
    turns = value.get("turns") or []
    complete = value.get("turnComplete") is True
    if not turns:
        return [CreateResponse()] if complete else []
    said: list[Command] = []
    for turn in turns:
        text = _text_of(turn["parts"])
        picture = next((part["inlineData"] for part in turn["parts"] if "inlineData" in part), None)
        if picture is not None:
            said.append(SendImage(image=b64decode(picture["data"]), media_type=picture["mimeType"], text=text))
        elif complete and turn is turns[-1] and turn.get("role") == "user":
            said.append(SendText(text=text))
        else:
            said.append(SendContext(text=text, role="assistant" if turn.get("role") == "model" else "system"))
    return said


_INPUTS: Final[dict[str, Callable[[Any], Command]]] = {
    "audio": lambda blob: SendAudio(audio=b64decode(blob["data"])),
    "video": lambda blob: SendImage(image=b64decode(blob["data"]), media_type=blob["mimeType"]),
    "text": lambda text: SendText(text=text),
    "audioStreamEnd": lambda _: CommitAudio(),
    "activityEnd": lambda _: CommitAudio(),
}


def _tool_response(value: Wire) -> list[Command]:
    results: list[Command] = []
    for one in value["functionResponses"]:
        response = one["response"]
        output = next((response[key] for key in ("output", "error", "result") if key in response), response)
        text = output if isinstance(output, str) else json.dumps(output)
        results.append(
            SendFunctionResult(call_id=one.get("id", ""), name=one.get("name", ""), output=text, is_error="error" in response)
        )
    return results


_GEMINI: Final[dict[str, Reader]] = {
    "setup": lambda value: [_configure(value)],
    "contextUpdate": lambda value: [_configure(value)],
    "clientContent": _client_content,
    "realtimeInput": lambda value: [_INPUTS[name](one) for name, one in value.items()],
    "toolResponse": _tool_response,
}

_READERS: Final[dict[str, Reader]] = {"xai": _family, "openai": _family, "elevenlabs": _elevenlabs, "gemini": _gemini}
