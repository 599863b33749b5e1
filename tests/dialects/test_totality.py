"""Whatever arrives, a decoder answers with events and keeps its memory bounded."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from qai_realtime_sync import dialects
from qai_realtime_sync.commands import SendFunctionResult
from qai_realtime_sync.config import RealtimeConfig, RealtimeSession
from qai_realtime_sync.events import Event, Unknown
from qai_realtime_sync.seam import Frame
from tests.dialects import stories

NAMES = ("xai", "openai", "elevenlabs", "gemini")

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
odd = st.sampled_from([None, [], {}, "", 0, -1, 10**30, 1e308, True, "AQID", [None], {"id": 5}, [{}], "completed"]) | anything


@functools.cache
def frames(name: str) -> tuple[Any, ...]:
    """Return every well-formed frame of a dialect's transcripts."""
    found = [
        line["<"]
        for story in stories.stories()
        if story.startswith(f"{name}/")
        for line in stories.lines(story)
        if isinstance(line.get("<"), dict) and set(line["<"]) != {"base64"}
    ]
    return tuple(found)


def told(dialect: dialects.Dialect, frame: Any) -> list[Event]:
    """Decode, and check what every answer has in common."""
    events = dialect.decode(frame)
    assert isinstance(events, list)
    for event in events:
        assert isinstance(event, Event)
        assert isinstance(event.event_id, str)
        event.to_dict()
    return events


def distorted(data: st.DataObject, value: Any) -> Any:
    """Return a frame with keys dropped, nulled, or of another type, at any depth."""
    value = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 4))):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans()):
                place = place[key]
            elif isinstance(place, dict) and data.draw(st.booleans()):
                del place[key]
                break
            else:
                place[key] = copy.deepcopy(data.draw(odd))
                break
    return value


def connection(name: str, data: st.DataObject) -> dialects.Dialect:
    """Return a dialect before or after its handshake, with sound in binary messages or not."""
    dialect = dialects.choose(name)()
    if data.draw(st.booleans()):
        transport = data.draw(st.sampled_from([{}, {"audio": {"output": {"transport": "binary"}}}]))
        dialect.handshake(RealtimeConfig(session=transport), RealtimeSession(url="wss://h.test/?agent_id=a"), "k")
    return dialect


def distortions(name: str, data: st.DataObject) -> None:
    """Decode some distorted frames in a row on one connection, as text, as bytes and in both kinds of message."""
    dialect = connection(name, data)
    for _ in range(data.draw(st.integers(1, 4))):
        value = distorted(data, data.draw(st.sampled_from(frames(name))))
        message = json.dumps(value)
        raw = message.encode()
        forms = [message, raw, Frame(raw, True), Frame(memoryview(b"..." + raw)[3:], True, 3), Frame(raw, False)]
        frame = data.draw(st.sampled_from(forms))
        told(dialect, frame)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_distorted_frames_give_events(name: str, data: st.DataObject) -> None:
    """Dropped keys, nulls and wrong types never raise, whatever came before on the connection."""
    distortions(name, data)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20_000)
@given(data=st.data())
def test_20000_distorted_frames_give_events(name: str, data: st.DataObject) -> None:
    """The same, many times."""
    distortions(name, data)


@pytest.mark.parametrize("name", NAMES)
@given(value=anything, tag=st.text(max_size=8))
def test_any_json_gives_one_unknown_event(name: str, value: Any, tag: str) -> None:
    """JSON that is no frame of ours is kept whole and is only a problem if it is not an object."""
    (event,) = told(dialects.choose(name)(), json.dumps(value))
    assert isinstance(event, Unknown)
    assert (event.problem is None) == isinstance(value, dict)
    (event,) = told(dialects.choose(name)(), json.dumps({"type": f"{tag}?", "x": value}))
    assert isinstance(event, Unknown)
    assert event.problem is None


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=64), text=st.text(max_size=64))
def test_any_bytes_give_events(name: str, data: bytes, text: str) -> None:
    """Bytes and text that are no JSON come back whole in one `Unknown` with a problem."""
    dialect = dialects.choose(name)()
    for frame in (data, memoryview(data), bytearray(data), Frame(data, True), Frame(memoryview(data), False), text):
        told(dialect, frame)
    (event,) = told(dialect, b"\xff" + data)
    assert isinstance(event, Unknown)
    assert event.raw == b"\xff" + data
    assert event.problem


def test_what_could_not_be_read_is_kept_as_text_if_it_is_text() -> None:
    """A view of the transport's buffer is copied, because the buffer is used again."""
    buffer = bytearray("häh?".encode())
    (event,) = dialects.choose()().decode(Frame(memoryview(buffer), True))
    buffer[:] = bytes(len(buffer))
    assert event.raw == "häh?"


@pytest.mark.parametrize("name", NAMES)
def test_a_long_session_does_not_grow(name: str) -> None:
    """After 2,000 responses with calls, texts and transcripts no memory of the connection holds more than its limit."""
    dialect = dialects.choose(name)()
    for number in range(2000):
        for value in _exchange(name, number):
            told(dialect, json.dumps(value))
        if name == "gemini":
            dialect.encode(SendFunctionResult(call_id=f"call{number}", output="x"))
    for field, kept in vars(dialect).items():
        if isinstance(kept, (dict, list, set)):
            assert len(kept) <= 512, field
        if isinstance(kept, str):
            assert len(kept) < 100, field


def _exchange(name: str, number: int) -> list[dict[str, Any]]:
    ids = {"response_id": f"r{number}", "item_id": f"i{number}"}
    call = f"call{number}"
    if name == "gemini":
        return [
            {"toolCall": {"functionCalls": [{"id": call, "name": "f"}, {"name": f"g{number}", "willContinue": True}]}},
            {"serverContent": {"outputTranscription": {"text": "x"}, "inputTranscription": {"text": "x"}, "turnComplete": True}},
        ]
    if name == "elevenlabs":
        return [
            {"type": "client_tool_call", "client_tool_call": {"tool_name": "f", "tool_call_id": call, "event_id": number}},
            {"type": "agent_chat_response_part", "text_response_part": {"type": "delta", "text": "x", "event_id": number}},
        ]
    return [
        {"type": "response.created", "response": {"id": f"r{number}"}},
        {"type": "response.output_item.added", "item": {"id": f"i{number}", "type": "function_call", "name": "f", "call_id": call}},
        {"type": "response.output_text.delta", **ids, "delta": "x"},
        {"type": "response.function_call_arguments.done", **ids, "arguments": "{}"},
        {"type": "conversation.item.input_audio_transcription.completed", "item_id": f"u{number}", "transcript": "x"},
        {"type": "response.done", "response": {"id": f"r{number}" if number % 2 else "other"}},
    ]
