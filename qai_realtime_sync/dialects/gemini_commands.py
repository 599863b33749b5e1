"""Commands as messages to Gemini Live: one row each (source: the vendor's SDK types, recorded sessions)."""

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
from qai_realtime_sync.config import RealtimeConfig
from qai_realtime_sync.dialects.base import Encoder, json_frame, send_raw, unsupported
from qai_realtime_sync.dialects.gemini_setup import free_tools, instruction, setup, tools
from qai_realtime_sync.errors import UnsupportedCommandError
from qai_realtime_sync.seam import Frame

if TYPE_CHECKING:
    from qai_realtime_sync.dialects.gemini import Gemini

__all__ = ["ANSWERED", "ENCODERS"]

ANSWERED: Final[frozenset[type[Command]]] = frozenset({SendText, SendFunctionResult, CommitAudio})
"""What the model answers by itself."""


def configure(dialect: Gemini, command: Configure) -> list[Frame]:
    """The setup first; later only instructions and tools can change, by ``contextUpdate``."""
    config = command.config
    if dialect.config is None:
        dialect.note(config)
        value = setup(config, command.changes, vertex=dialect.vertex, handle=dialect.handle)
        dialect.config, dialect.free_tools = config, free_tools(value)
        return json_frame({"setup": value})
    update = _update(dialect.config, command)
    if "tools" in update:
        dialect.free_tools = free_tools(update)
    dialect.config = config
    return json_frame({"contextUpdate": update}) if update else []


def _update(old: RealtimeConfig, command: Configure) -> dict[str, Any]:
    new = command.config
    before, after = old.to_dict(), new.to_dict()
    fixed = {name for name in {*before, *after} - {"instructions", "tools"} if before.get(name) != after.get(name)}
    fixed |= set(command.changes or ()) - {"systemInstruction", "tools"}
    if fixed:
        raise UnsupportedCommandError(
            f"gemini cannot change {', '.join(sorted(fixed))} of a running session, only instructions and tools; "
            "open a new connection for it"
        )
    update: dict[str, Any] = {}
    if old.instructions != new.instructions:
        update["systemInstruction"] = instruction(new)
    if before.get("tools") != after.get("tools"):
        update["tools"] = tools(new)
    return update | dict(command.changes or {})


def send_audio(dialect: Gemini, command: SendAudio) -> list[Frame]:
    """Sound with its rate in the mime type, through a template; manual turns begin with their first sound."""
    sound = Frame(
        b'{"realtimeInput":{"audio":{"mimeType":"audio/pcm;rate=%d","data":"%b"}}}'
        % (dialect.input_format.sample_rate, b64encode(command.audio)),
        True,
    )
    if not dialect.manual or dialect.active:
        return [sound]
    dialect.active = True
    return [*json_frame({"realtimeInput": {"activityStart": {}}}), sound]


def commit_audio(dialect: Gemini, command: CommitAudio) -> list[Frame]:
    """The user has finished: the end of a manual turn, else a pause of the microphone, which flushes."""
    if not dialect.manual:
        return json_frame({"realtimeInput": {"audioStreamEnd": True}})
    dialect.active = False
    return json_frame({"realtimeInput": {"activityEnd": {}}})


def _turn(role: str, parts: list[dict[str, Any]], complete: bool) -> list[Frame]:
    return json_frame({"clientContent": {"turns": [{"role": role, "parts": parts}], "turnComplete": complete}})


def send_text(dialect: Gemini, command: SendText) -> list[Frame]:
    """A whole turn of the user, which is answered at once."""
    return _turn("user", [{"text": command.text}], True)


def send_context(dialect: Gemini, command: SendContext) -> list[Frame]:
    """A turn that asks for no answer; the role ``system`` is an error there (source: livekit/agents), so the user says it."""
    return _turn("model" if command.role == "assistant" else "user", [{"text": command.text}], False)


def send_function_result(dialect: Gemini, command: SendFunctionResult) -> list[Frame]:
    """Results are held back until every call the model waits for is answered, and go out in one message.

    A call without an id of the service's is answered by name alone. Tools that are ``NON_BLOCKING`` are answered one by one.
    """
    wire_id, name, number = dialect.calls.get(command.call_id, (command.call_id, "", dialect.kept))
    name = command.name or name
    result: dict[str, Any] = {"id": wire_id} if wire_id else {}
    result |= {"name": name} if name else {}
    result["response"] = {"error" if command.is_error else "output": command.output}
    dialect.forget_call(command.call_id)
    if name in dialect.free_tools:
        return json_frame({"toolResponse": {"functionResponses": [result]}})
    dialect.results[command.call_id] = (number, result)
    message = dialect.answers()
    return json_frame(message) if message is not None else []


def create_response(dialect: Gemini, command: CreateResponse) -> list[Frame]:
    """The user's turn is complete; there are no parameters of one answer."""
    given = {name: getattr(command, name) for name in _PARAMETERS}
    if any(value is not None for value in given.values()) or command.out_of_band:
        raise UnsupportedCommandError(
            "gemini has no parameters of a single response; say what you want with send_text() or send_context()"
        )
    return json_frame({"clientContent": {"turnComplete": True}})


_PARAMETERS: Final = (
    "instructions", "modalities", "voice", "tools", "tool_choice", "max_output_tokens", "metadata", "input",
)  # fmt: skip


def send_image(dialect: Gemini, command: SendImage) -> list[Frame]:
    """A picture alone is a frame of video, one with words a part of a turn that asks for no answer."""
    data = {"mimeType": command.media_type, "data": b64encode(command.image).decode()}
    if not command.text:
        return json_frame({"realtimeInput": {"video": data}})
    return _turn("user", [{"inlineData": data}, {"text": command.text}], False)


_NO_ITEMS = "its conversation has no items; the service itself forgets what was not spoken."
_CUT = "it has no items; interrupt() and speech stop the playback here at what was heard, and the service forgets what was not spoken."

ENCODERS: Final[dict[type[Command], Encoder]] = {
    Configure: configure,
    SendAudio: send_audio,
    CommitAudio: commit_audio,
    ClearAudio: unsupported("what was sent is heard; stop sending instead."),
    SendText: send_text,
    SendContext: send_context,
    SendFunctionResult: send_function_result,
    CreateResponse: create_response,
    CancelResponse: unsupported("stop the playback here with interrupt(); new speech or text interrupts the model."),
    TruncateItem: unsupported(_CUT),
    DeleteItem: unsupported(_NO_ITEMS),
    RetrieveItem: unsupported(_NO_ITEMS),
    SendImage: send_image,
    Say: unsupported("it has no verbatim speech; ask for the words with send_text()."),
    ApproveMcpCall: unsupported("it asks for no approvals."),
    Pong: unsupported("it sends no ping that wants an answer; nothing needs to be done."),
    RawEvent: send_raw,
}
