"""From the wire back to commands: what the dialects write is read as what was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qai_realtime_sync.testing.words import commands_of
from tests.dialects.stories import lines, stories

# What the wire does not tell: the configuration as it was meant, and what only the client keeps to itself.
_UNSAID = ("config", "changes", "event_id", "after_text", "is_error", "tool_name", "role", "content_index")


def _spelled(dialect: str, frame: Any) -> list[dict[str, Any]]:
    message: str | bytes = frame if isinstance(frame, str) else json.dumps(frame)
    return [{key: value for key, value in one.to_dict().items() if key not in _UNSAID} for one in commands_of(dialect, message)]


def _written() -> list[tuple[str, int, Any, dict[str, Any]]]:
    found = []
    for story in stories():
        for number, line in enumerate(lines(story), 1):
            if ">" in line and "+" in line and isinstance(line[">"], dict) and "base64" not in line[">"]:
                found.append((story, number, line[">"], line["+"]))
    return found


@pytest.mark.parametrize(("story", "number", "frame", "command"), _written(), ids=lambda value: str(value)[:24])
def test_what_a_dialect_wrote_is_read_back(story: str, number: int, frame: Any, command: dict[str, Any]) -> None:
    """A message that a command became is read as that command, as far as the wire tells it."""
    read = _spelled(story.split("/")[0], frame)
    wanted = {key: value for key, value in command.items() if key not in _UNSAID}
    if wanted["name"] == "raw_event":
        return  # it may look like any command; that it is read at all is enough
    if command.get("role") == "user":
        wanted["name"] = "send_text"  # knowledge that the user tells looks like what the user says
    if command.get("after_text"):
        for one in (wanted, read[0]):
            one.pop("modalities", None)  # the gateway wants them named then
    if wanted["name"] == "send_function_result":  # Gemini joins several in one message
        wanted["output"] = wanted.get("output") or "Done, without output."
        assert read[-1]["name"] == "send_function_result"
        assert {wanted["output"], ""} & {one["output"] for one in read}
    else:
        assert wanted in read


@pytest.mark.parametrize("dialect", ["xai", "openai", "elevenlabs", "gemini"])
@pytest.mark.parametrize(
    "message", ["", "{", "[]", "7", "{}", '{"type": 3}', '{"type": "response.create", "response": 7}', '{"type": "pong"}', b"\xff\x00"]
)
def test_nonsense_is_read_as_something(dialect: str, message: str | bytes) -> None:
    """Whatever a client sends is one command at least, and never an error."""
    assert commands_of(dialect, message)


def test_a_failed_tool_is_told_from_one_that_worked() -> None:
    """Only an object with nothing but `error` counts as a failure, for the family has no field for it."""
    frame = {"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "c", "output": '{"error": "no"}'}}
    assert commands_of("xai", json.dumps(frame))[0].to_dict()["is_error"] is True
    frame["item"] = {"type": "function_call_output", "call_id": "c", "output": '{"error": "no", "tries": 2}'}
    assert "is_error" not in commands_of("xai", json.dumps(frame))[0].to_dict()
