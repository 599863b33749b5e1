"""Events: which there are, their fields and defaults, how they are found by name and written down."""

from __future__ import annotations

import json
import pickle
from typing import Any

import attrs
import pytest

from qai_realtime_sync import events
from qai_realtime_sync.commands import SendAudio, SendText
from qai_realtime_sync.config import AudioFormat
from qai_realtime_sync.errors import ConfigError, ConnectError
from qai_realtime_sync.events import (
    EVENTS,
    AudioDelta,
    Closed,
    ContentPart,
    ErrorReceived,
    Event,
    FunctionCall,
    HandlerFailed,
    Item,
    ItemAdded,
    RateLimit,
    RateLimits,
    ResponseDone,
    SessionCreated,
    SessionReady,
    SpeechStarted,
    TokenUsage,
    TranscriptDone,
    TurnDone,
    Usage,
    event_class,
)
from qai_realtime_sync.turns import ToolCall, Turn

R = {"response_id": ""}
I = {"item_id": ""}  # noqa: E741 - the letters of the vocabulary's tables
O = {"output_index": 0}  # noqa: E741
C = {"content_index": 0}

# Every event of the vocabulary with its own fields and their defaults.
TABLE: dict[str, dict[str, Any]] = {
    # session
    "SessionCreated": {"session_id": "", "model": "", "expires_at": None, "session": {}},
    "ConversationCreated": {"conversation_id": ""},
    "SessionReady": {"session_id": "", "session": {}, "input_format": None, "output_format": None},
    "RateLimits": {"limits": []},
    "Usage": {"usage": TokenUsage(), "source": "response", **R},
    "GoingAway": {"time_left": None},
    "ResumptionUpdate": {"handle": "", "resumable": False},
    "Ping": {"ping_id": None, "timestamp_ms": None, "ping_ms": None},
    # the user's side
    "SpeechStarted": {**I, "audio_start_ms": None},
    "SpeechStopped": {**I, "audio_end_ms": None},
    "InputCommitted": {**I, "previous_item_id": ""},
    "InputCleared": {},
    "InputTimeout": {**I, "audio_start_ms": None, "audio_end_ms": None},
    "DtmfReceived": {"digit": "", "received_at": None},
    "VadScore": {"score": 0.0},
    "WaitingForInput": {**R},
    # transcripts
    "TranscriptDelta": {"delta": "", "text": "", "source": "output", "snapshot": False, **R, **I, **C},
    "TranscriptDone": {"transcript": "", "source": "output", "final": True, **R, **I, **C, "usage": None, "languages": []},
    "TranscriptFailed": {"source": "input", **I, **C, "code": "", "type": "", "message": ""},
    "TranscriptCorrected": {"source": "output", "original": "", "corrected": "", **R, **I},
    "TranscriptSegment": {**I, **C, "segment_id": "", "text": "", "speaker": "", "start": 0.0, "end": 0.0},
    # the assistant's side
    "ResponseCreated": {**R, "conversation_id": "", "metadata": {}},
    "ResponseDone": {
        **R,
        "status": "completed",
        "reason": "",
        "error_code": "",
        "error_message": "",
        "usage": None,
        "output": [],
        "conversation_id": "",
        "metadata": {},
    },
    "AudioDelta": {"audio": b"", **R, **I, **O, **C, "duration_ms": None},
    "AudioDone": {**R, **I, **O, **C},
    "TextDelta": {"delta": "", **R, **I, **O, **C},
    "TextDone": {"text": "", **R, **I, **O, **C},
    "ReasoningDelta": {"delta": "", **R},
    "OutputItemAdded": {"item": Item(), **R, **O},
    "OutputItemDone": {"item": Item(), **R, **O},
    "ContentPartAdded": {"part": ContentPart(), **R, **I, **O, **C},
    "ContentPartDone": {"part": ContentPart(), **R, **I, **O, **C},
    "Interrupted": {**R, **I, "reason": ""},
    "OutputBufferStarted": R,
    "OutputBufferStopped": R,
    "OutputBufferCleared": R,
    # tools
    "FunctionCallDelta": {"call_id": "", "delta": "", "name": "", **R, **I, **O},
    "FunctionCall": {"name": "", "call_id": "", "arguments": "", **R, **I, **O, "expects_result": True},
    "FunctionCallCancelled": {"call_id": ""},
    "ServerTool": {"name": "", "call_id": "", "kind": "", "status": "", "result": ""},
    "McpListTools": {**I, "status": "", "error_type": "", "error_message": ""},
    "McpCallDelta": {"delta": "", "call_id": "", **R, **I, **O},
    "McpCall": {
        "status": "",
        "name": "",
        "server": "",
        "arguments": "",
        "call_id": "",
        "result": "",
        "error_message": "",
        **R,
        **I,
        **O,
    },
    "McpApprovalRequested": {"approval_id": "", "name": "", "server": "", "arguments": "", "timeout": None},
    "McpStatus": {"servers": []},
    # items
    "ItemAdded": {"item": Item(), "previous_item_id": "", "replayed": False},
    "ItemDone": {"item": Item(), "previous_item_id": ""},
    "ItemDeleted": I,
    "ItemRetrieved": {"item": Item()},
    "ItemTruncated": {**I, **C, "audio_end_ms": None, "transcript": ""},
    # errors, the rest, and the client's own
    "ErrorReceived": {
        "message": "unknown error",
        "code": "",
        "type": "",
        "param": "",
        "caused_by": "",
        "command": None,
        "benign": False,
        "fatal": False,
    },
    "Unknown": {"type": "", "problem": None},
    "Reconnecting": {"attempt": 1, "delay": 0.0, "code": None, "reason": "", "error": None},
    "Reconnected": {"attempts": 1, "downtime": 0.0, "session_id": "", "resumed": False},
    "Closed": {
        "code": None,
        "reason": "",
        "clean": False,
        "by": "network",
        "meaning": "lost",
        "error": None,
        "unsent": (),
        "dropped_audio": 0.0,
    },
    "HandlerFailed": {"event": None, "handler": "", "error": None},
    "StateChanged": {"old": "", "new": "", "number": 0},
    "TurnDone": {"turn": None},
    "PlaybackStopped": {**R, **I, "heard_ms": 0, "reason": "finished", "received_ms": 0},
    "ContextMutated": {"outcome": "", "attempt": 0, "error": None},
    "ServiceSilent": {"seconds": 0.0},
}

PARTS: dict[str, dict[str, Any]] = {
    "TokenUsage": {
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
        "cached_tokens": 0,
        "input_audio_tokens": 0,
        "input_text_tokens": 0,
        "output_audio_tokens": 0,
        "output_text_tokens": 0,
        "audio_seconds": None,
        "billable_seconds": None,
        "raw": None,
    },
    "RateLimit": {"name": "", "limit": 0, "remaining": 0, "reset_seconds": 0.0},
    "ContentPart": {"type": "", "text": "", "transcript": "", "audio": b""},
    "Item": {
        "id": "",
        "type": "",
        "role": "",
        "status": "",
        "content": [],
        "name": "",
        "call_id": "",
        "arguments": "",
        "output": "",
        "raw": None,
    },
}


def defaults(made: Any) -> dict[str, Any]:
    """Return the fields of an object made without arguments."""
    return {field.name: getattr(made, field.name) for field in attrs.fields(type(made))}


@pytest.mark.parametrize("name", TABLE)
def test_an_event_has_the_fields_of_the_table(name: str) -> None:
    """Every event exists with exactly these fields and defaults, and with `event_id` and `raw`."""
    assert defaults(getattr(events, name)()) == {"event_id": "", "raw": None, **TABLE[name]}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_has_the_fields_of_the_table(name: str) -> None:
    """The parts of events have exactly these fields and defaults."""
    assert defaults(getattr(events, name)()) == PARTS[name]


def test_there_are_no_other_events() -> None:
    """The table is complete: an event that is added stands here too."""
    assert {kind.__name__ for kind in EVENTS.values()} == set(TABLE)


def test_the_name_of_an_event_is_its_class_in_snake_case() -> None:
    """The one exception is ErrorReceived, which is `error`."""
    names = {kind.__name__: name for name, kind in EVENTS.items()}
    assert names["AudioDelta"] == "audio_delta"
    assert names["McpApprovalRequested"] == "mcp_approval_requested"
    assert names.pop("ErrorReceived") == "error"
    assert all(name.replace("_", "") == kind.lower() for kind, name in names.items())
    assert Event.event_name == "event"


@pytest.mark.parametrize("kind", EVENTS.values())
def test_fields_are_given_by_name_and_not_shared(kind: type[Event]) -> None:
    """No field is given by place, and no two events share a list or dict."""
    with pytest.raises(TypeError):
        kind("x")  # type: ignore[call-arg]
    first, second = kind(), kind()
    assert first == second
    for name, value in defaults(first).items():
        if isinstance(value, (list, dict)):
            assert value is not getattr(second, name)


# -- found by name -----------------------------------------------------------------------------------------------------------


def test_an_event_is_found_by_name_or_class() -> None:
    """Name, class, and the base for all of them."""
    assert event_class("audio_delta") is AudioDelta
    assert event_class("error") is ErrorReceived
    assert event_class(AudioDelta) is AudioDelta
    assert event_class(Event) is Event


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("audio_detla", "did you mean 'audio_delta'"),
        ("AudioDelta", "'audio_delta'"),
        ("errors", "'error'"),
        ("transcript", "'transcript_done'"),
        ("qqqq", "qai_realtime_sync.events.EVENTS"),
        (5, "EVENTS"),
        (int, "EVENTS"),
        (None, "EVENTS"),
    ],
)
def test_a_wrong_name_gets_a_hint(wrong: Any, hint: str) -> None:
    """A name that no event has is refused with the nearest ones."""
    with pytest.raises(ConfigError) as caught:
        event_class(wrong)
    assert hint in str(caught.value)
    assert caught.value.code == "unknown_event"


# -- written down ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (SpeechStarted(), {"name": "speech_started"}),
        (
            SpeechStarted(item_id="i", audio_start_ms=0, raw={"x": 1}),
            {"name": "speech_started", "item_id": "i", "audio_start_ms": 0},
        ),
        (AudioDelta(audio=bytes(480), event_id="e"), {"name": "audio_delta", "audio": 480, "event_id": "e"}),
        (TranscriptDone(transcript="hi", source="input", final=False), None),
        (FunctionCall(name="add", call_id="c"), {"name": "function_call", "tool_name": "add", "call_id": "c"}),
        (ErrorReceived(message="m", fatal=True), {"name": "error", "message": "m", "fatal": True}),
        (
            SessionReady(input_format=AudioFormat("g711_ulaw", 8000), output_format=AudioFormat()),
            {"name": "session_ready", "input_format": {"encoding": "g711_ulaw", "sample_rate": 8000}, "output_format": {}},
        ),
        (
            ItemAdded(item=Item(id="i", content=[ContentPart(type="audio", audio=b"1234")], raw={"x": 1})),
            {"name": "item_added", "item": {"id": "i", "content": [{"type": "audio", "audio": 4}]}},
        ),
        (
            RateLimits(limits=[RateLimit(name="tokens", limit=5)]),
            {"name": "rate_limits", "limits": [{"name": "tokens", "limit": 5}]},
        ),
        (
            ResponseDone(status="failed", usage=TokenUsage(total_tokens=3, raw={"x": 1}), metadata={"a": "b"}),
            {"name": "response_done", "status": "failed", "usage": {"total_tokens": 3}, "metadata": {"a": "b"}},
        ),
        (
            Closed(code=1006, error=ConnectError("gone"), unsent=(SendText(text="hi"), SendAudio(audio=b"12"))),
            {
                "name": "closed",
                "code": 1006,
                "error": "ConnectError: gone",
                "unsent": [{"name": "send_text", "text": "hi"}, {"name": "send_audio", "audio": 2}],
            },
        ),
        (
            HandlerFailed(event=AudioDelta(audio=b"1"), handler="keep", error=ZeroDivisionError("x")),
            {
                "name": "handler_failed",
                "event": {"name": "audio_delta", "audio": 1},
                "handler": "keep",
                "error": "ZeroDivisionError: x",
            },
        ),
        (
            TurnDone(turn=Turn(number=1, tool_calls=[ToolCall(name="add", call_id="c")])),
            {"name": "turn_done", "turn": {"number": 1, "tool_calls": [{"name": "add", "call_id": "c"}]}},
        ),
        (Usage(), {"name": "usage"}),
    ],
)
def test_how_an_event_is_written_down(event: Event, written: dict[str, Any] | None) -> None:
    """The JSON-lines spelling: the name and what differs from the default, never `raw`, sound as its length."""
    if written is None:
        written = {"name": "transcript_done", "transcript": "hi", "source": "input", "final": False}
    assert event.to_dict() == written
    assert json.loads(json.dumps(event.to_dict())) == written


def test_sessions_are_written_down_without_their_secrets() -> None:
    """A service's session may hold a client secret: it is in no journal and no text form."""
    event = SessionCreated(session={"id": "s", "client_secret": {"value": "ek_1"}, "tools": [{"authorization": "Bearer x"}]})
    shown = json.dumps(event.to_dict()) + repr(event)
    assert "ek_1" not in shown
    assert "Bearer x" not in shown
    assert event.session["client_secret"] == {"value": "ek_1"}


def test_sound_is_shown_as_a_length() -> None:
    """The text form of an event holds neither sound nor raw frame."""
    assert "<9600 bytes>" in repr(AudioDelta(audio=bytes(9600)))
    assert "base64" not in repr(AudioDelta(raw={"delta": "base64"}))


def test_raw_does_not_make_events_unequal() -> None:
    """Two events that say the same are equal, however their frames were spelled."""
    assert SpeechStarted(item_id="i", raw={"a": 1}) == SpeechStarted(item_id="i")
    assert SpeechStarted(item_id="i") != SpeechStarted(item_id="j")


@pytest.mark.parametrize("kind", EVENTS.values())
def test_an_event_survives_a_pickle(kind: type[Event]) -> None:
    """Events go through queues between processes."""
    assert pickle.loads(pickle.dumps(kind(event_id="e"))) == kind(event_id="e")
