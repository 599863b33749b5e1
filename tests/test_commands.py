"""Commands: which there are, their fields and defaults, and how they are written down."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from qai_realtime_sync.commands import (
    COMMANDS,
    Command,
    Configure,
    CreateResponse,
    RawEvent,
    SendAudio,
    SendFunctionResult,
    SendImage,
    SendText,
)
from qai_realtime_sync.config import RealtimeConfig

REQUIRED = object()

# Every command of the vocabulary with its fields and their defaults.
TABLE: dict[str, dict[str, Any]] = {
    "Configure": {"config": REQUIRED, "changes": None},
    "SendAudio": {"audio": REQUIRED},
    "CommitAudio": {},
    "ClearAudio": {},
    "SendText": {"text": REQUIRED, "item_id": ""},
    "SendContext": {"text": REQUIRED, "role": "system", "context_id": "", "previous_item_id": ""},
    "SendFunctionResult": {"call_id": REQUIRED, "output": REQUIRED, "name": "", "is_error": False},
    "CreateResponse": {
        "instructions": None,
        "modalities": None,
        "voice": None,
        "tools": None,
        "tool_choice": None,
        "max_output_tokens": None,
        "metadata": None,
        "out_of_band": False,
        "input": None,
        "after_text": False,
    },
    "CancelResponse": {"response_id": ""},
    "TruncateItem": {"item_id": REQUIRED, "audio_end_ms": REQUIRED, "content_index": 0},
    "DeleteItem": {"item_id": REQUIRED},
    "RetrieveItem": {"item_id": REQUIRED},
    "SendImage": {"image": REQUIRED, "media_type": REQUIRED, "text": ""},
    "Say": {"text": REQUIRED, "voice": "", "interruptible": True},
    "ApproveMcpCall": {"approval_id": REQUIRED, "approve": REQUIRED, "reason": ""},
    "Pong": {"ping_id": REQUIRED},
    "RawEvent": {"value": REQUIRED},
}


def fields_of(kind: type[Any]) -> dict[str, Any]:
    """Return the fields of an attrs class with their defaults, lists and dicts made."""
    found: dict[str, Any] = {}
    for field in attrs.fields(kind):
        default = field.default
        if default is attrs.NOTHING:
            default = REQUIRED
        elif isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()
        found[field.name] = default
    return found


@pytest.mark.parametrize("name", TABLE)
def test_a_command_has_the_fields_of_the_table(name: str) -> None:
    """Every command exists with exactly these fields and defaults, and with `event_id`."""
    kind = next(kind for kind in COMMANDS.values() if kind.__name__ == name)
    assert fields_of(kind) == {"event_id": "", **TABLE[name]}


def test_there_are_no_other_commands() -> None:
    """The table is complete, and the names are the classes in snake case."""
    assert {kind.__name__ for kind in COMMANDS.values()} == set(TABLE)
    assert COMMANDS["send_function_result"] is SendFunctionResult
    assert COMMANDS["create_response"] is CreateResponse
    assert all(name == kind.command_name for name, kind in COMMANDS.items())
    assert Command.command_name == "command"


def test_fields_are_given_by_name() -> None:
    """A field can be added anywhere, for none is given by place."""
    with pytest.raises(TypeError):
        SendText("hello")  # type: ignore[misc, call-arg]


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (SendText(text="hello"), {"name": "send_text", "text": "hello"}),
        (SendText(text="", event_id="e1"), {"name": "send_text", "text": "", "event_id": "e1"}),
        (SendAudio(audio=bytes(960)), {"name": "send_audio", "audio": 960}),
        (SendImage(image=b"\x89PNG", media_type="image/png"), {"name": "send_image", "image": 4, "media_type": "image/png"}),
        (CreateResponse(), {"name": "create_response"}),
        (CreateResponse(modalities=["text"]), {"name": "create_response", "modalities": ["text"]}),
        (
            SendFunctionResult(call_id="c", output="{}", name="add"),
            {"name": "send_function_result", "call_id": "c", "output": "{}", "tool_name": "add"},
        ),
        (RawEvent(value=b"abc"), {"name": "raw_event", "value": 3}),
        (RawEvent(value="äbcd"), {"name": "raw_event", "value": 4}),
        (RawEvent(value={"type": "x"}), {"name": "raw_event", "value": {"type": "x"}}),
        (
            Configure(config=RealtimeConfig(), changes={"speed": 1}),
            {"name": "configure", "config": {"voice": "Sal", "instructions": "", "sample_rate": 24000}, "changes": {"speed": 1}},
        ),
    ],
)
def test_how_a_command_is_written_down(command: Command, written: dict[str, Any]) -> None:
    """The JSON-lines spelling: the name and what differs from the default; bytes as their number."""
    assert command.to_dict() == written
    assert json.loads(json.dumps(command.to_dict())) == written


def test_sound_is_shown_as_a_length() -> None:
    """The text form of a command does not hold its sound or its picture."""
    assert repr(SendAudio(audio=bytes(4800))) == "SendAudio(event_id='', audio=<4800 bytes>)"
    assert "<4 bytes>" in repr(SendImage(image=b"\x89PNG", media_type="image/png"))


def test_credentials_are_neither_written_down_nor_shown() -> None:
    """What an MCP server's entry holds as authorization is in no journal and no text form."""
    tool = {"type": "mcp", "authorization": "Bearer abc"}
    for command in (
        Configure(config=RealtimeConfig(tools=[tool]), changes={"tools": [tool]}),
        RawEvent(value={"session": {"tools": [tool]}}),
    ):
        assert "Bearer abc" not in json.dumps(command.to_dict()) + repr(command)
    assert "Bearer abc" not in repr(CreateResponse(tools=[tool], input=[tool]))
    assert repr(RawEvent(value='{"authorization": "Bearer abc"}')) == "RawEvent(event_id='', value=<31 characters>)"
    assert repr(RawEvent(value=b"Bearer abc")) == "RawEvent(event_id='', value=<10 bytes>)"
    assert CreateResponse(tools=[tool]).to_dict()["tools"] == [{"type": "mcp", "authorization": "<redacted>"}]
