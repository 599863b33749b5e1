"""What we tell a service: one small class per intent.

A dialect spells a command as zero or more WebSocket messages; where it has no word for it, it raises `UnsupportedCommandError`.
Every command has ``event_id``: sent where the service has a place for it, so that an `ErrorReceived` can name its cause.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from qai_realtime_sync.config import AudioFormat, RealtimeConfig, redacted
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.fields import ByFields

__all__ = [
    "COMMANDS",
    "ApproveMcpCall",
    "CancelResponse",
    "ClearAudio",
    "Command",
    "CommitAudio",
    "Configure",
    "CreateResponse",
    "DeleteItem",
    "Pong",
    "RawEvent",
    "RetrieveItem",
    "Say",
    "SendAudio",
    "SendContext",
    "SendFunctionResult",
    "SendImage",
    "SendText",
    "TruncateItem",
    "command_from_dict",
]


@attrs.define(kw_only=True, eq=False, repr=False)
class Command(ByFields):
    """The base of all commands. ``command_name`` is the class name in snake case."""

    command_name: ClassVar[str] = "command"

    event_id: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.command_name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def to_dict(self) -> dict[str, Any]:
        """The JSON-lines spelling: ``name`` and the fields that differ from their default; sound and images as their length.

        What could be a credential (an MCP server's ``authorization``) is replaced by ``"<redacted>"``.
        A field that is itself called ``name`` (of a tool) is spelled ``tool_name``.
        """
        value: dict[str, Any] = {"name": self.command_name}
        for field in attrs.fields(type(self)):
            given = getattr(self, field.name)
            default = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
            if given != default:
                value["tool_name" if field.name == "name" else field.name] = _plain(given)
        return value


def _plain(value: Any) -> Any:
    if isinstance(value, RealtimeConfig):
        return redacted(value.to_dict())
    return len(value) if isinstance(value, (bytes, bytearray, memoryview)) else redacted(value)


def _redacted_repr(value: Any) -> str:
    return repr(redacted(value))


def _size_repr(value: bytes | bytearray | memoryview) -> str:
    return f"<{len(value)} bytes>"


def _raw_repr(value: Any) -> str:
    if isinstance(value, str):
        return f"<{len(value)} characters>"
    return _size_repr(value) if isinstance(value, (bytes, bytearray, memoryview)) else _redacted_repr(value)


@attrs.define(kw_only=True, eq=False, repr=False)
class Configure(Command):
    """Put a configuration in force. ``changes`` are raw session fields, merged last."""

    config: RealtimeConfig
    changes: Mapping[str, Any] | None = attrs.field(default=None, repr=_redacted_repr)


@attrs.define(kw_only=True, eq=False, repr=False)
class SendAudio(Command):
    """A piece of the user's sound, in the session's input format."""

    audio: bytes = attrs.field(repr=_size_repr)


@attrs.define(kw_only=True, eq=False, repr=False)
class CommitAudio(Command):
    """The user has finished: make an item of the sound sent so far (manual turns)."""


@attrs.define(kw_only=True, eq=False, repr=False)
class ClearAudio(Command):
    """Forget the sound that was sent and not yet committed."""


@attrs.define(kw_only=True, eq=False, repr=False)
class SendText(Command):
    """Something the user wrote."""

    text: str
    item_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class SendContext(Command):
    """Knowledge or history for the model; no answer is asked. ``role``: ``system``, ``user`` or ``assistant``."""

    text: str
    role: str = "system"
    context_id: str = ""
    previous_item_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class SendFunctionResult(Command):
    """What a tool returned, as text. ``name`` is needed where the service joins by name; ``is_error`` says the tool failed."""

    call_id: str
    output: str
    name: str = ""
    is_error: bool = False


@attrs.define(kw_only=True, eq=False, repr=False)
class CreateResponse(Command):
    """Ask for an answer now.

    All fields are optional and replace the session's for this answer. ``out_of_band`` keeps the answer out of the conversation
    (tell it apart by ``metadata``); ``input`` replaces the context. ``after_text`` is set by ``send_text``: the gateway wants the
    modalities named then.
    """

    instructions: str | None = None
    modalities: list[str] | None = None
    voice: str | None = None
    tools: list[dict[str, Any]] | None = attrs.field(default=None, repr=_redacted_repr)
    tool_choice: str | dict[str, Any] | None = None
    max_output_tokens: int | str | None = None
    metadata: dict[str, str] | None = None
    out_of_band: bool = False
    input: list[dict[str, Any]] | None = attrs.field(default=None, repr=_redacted_repr)
    after_text: bool = False


@attrs.define(kw_only=True, eq=False, repr=False)
class CancelResponse(Command):
    """Stop the running answer, or the one named."""

    response_id: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class TruncateItem(Command):
    """Tell the service that only the first ``audio_end_ms`` of an answer were heard."""

    item_id: str
    audio_end_ms: int
    content_index: int = 0


@attrs.define(kw_only=True, eq=False, repr=False)
class DeleteItem(Command):
    """Take an item out of the conversation."""

    item_id: str


@attrs.define(kw_only=True, eq=False, repr=False)
class RetrieveItem(Command):
    """Ask for an item as the service keeps it; it comes as `ItemRetrieved`."""

    item_id: str


@attrs.define(kw_only=True, eq=False, repr=False)
class SendImage(Command):
    """A picture from the user: the file's bytes and its media type (``image/png``, ``image/jpeg``), with words if given."""

    image: bytes = attrs.field(repr=_size_repr)
    media_type: str
    text: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class Say(Command):
    """Speak this text word by word."""

    text: str
    voice: str = ""
    interruptible: bool = True


@attrs.define(kw_only=True, eq=False, repr=False)
class ApproveMcpCall(Command):
    """Answer an `McpApprovalRequested`."""

    approval_id: str
    approve: bool
    reason: str = ""


@attrs.define(kw_only=True, eq=False, repr=False)
class Pong(Command):
    """Answer an application-level `Ping`."""

    ping_id: int


@attrs.define(kw_only=True, eq=False, repr=False)
class RawEvent(Command):
    """Anything else, sent as it is: a dict becomes JSON text, str a text message, bytes a binary one.

    Text and bytes are written down and shown as their length: nobody can tell what in them is a credential.
    """

    value: dict[str, Any] | str | bytes = attrs.field(repr=_raw_repr)

    def to_dict(self) -> dict[str, Any]:
        """As every command's; text as its number of characters."""
        value = super().to_dict()
        return value | {"value": len(self.value)} if isinstance(self.value, str) else value


COMMANDS: dict[str, type[Command]] = {
    command.command_name: command
    for command in map(globals().get, __all__)
    if isinstance(command, type) and issubclass(command, Command) and command is not Command
}
"""Every command class by its name."""


def command_from_dict(value: Mapping[str, Any], audio: AudioFormat | None = None) -> Command:
    """Read the form of `Command.to_dict`: sound becomes silence of the same length in ``audio`` (default pcm16), images zeros.

    What was redacted stays so; keys that are not known are passed over.

    Raises: `ConfigError` for a name that no command has, or a field that is missing.
    """
    cls = COMMANDS.get(str(value.get("name")))
    if cls is None:
        raise ConfigError(f"there is no command {value.get('name')!r}", code="unknown_command")
    fields: dict[str, Any] = {}
    for field in attrs.fields(cls):
        key = "tool_name" if field.name == "name" else field.name
        if key not in value:
            continue
        given = value[key]
        if field.name == "config" and isinstance(given, Mapping):
            given = RealtimeConfig.from_dict(given)
        elif field.type in ("bytes", bytes) and isinstance(given, int):
            given = (audio or AudioFormat()).silent_byte * given
        fields[field.name] = given
    try:
        return cls(**fields)
    except TypeError as error:
        raise ConfigError(f"this is no {cls.command_name}: {error}", code="unknown_command") from None
