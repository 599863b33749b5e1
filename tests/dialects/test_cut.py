"""Sound cut out of a message is the sound that the whole parse gives."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from qai_realtime_sync import dialects
from qai_realtime_sync.dialects import base, cut
from qai_realtime_sync.seam import Frame

SOUND = base64.b64encode(bytes(range(256)) * 40).decode()
LONG_TEXT = "abcd" * 4000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cut is taken from a few bytes on."""
    monkeypatch.setattr(base, "WORTHWHILE", 8)
    monkeypatch.setattr(cut, "WORTHWHILE", 8)
    yield


def whole(name: str, data: bytes) -> Any:
    """Return what the parse of the whole message gives: a text argument is never cut."""
    return told(dialects.choose(name)(), data.decode("utf-8", "surrogateescape"))


def told(dialect: dialects.Dialect, frame: Any) -> Any:
    """Return all that a message gives, ``raw`` included."""
    return [(type(event), event.to_dict(), getattr(event, "audio", None), event.raw) for event in dialect.decode(frame)]


FRAMES: list[tuple[str, Any]] = [
    ("openai", {"type": "response.output_audio.delta", "event_id": "e", "response_id": "r", "delta": SOUND}),
    ("xai", {"type": "response.audio.delta", "delta": SOUND, "audio_duration_ms": 5}),
    ("openai", {"delta": SOUND, "type": "response_audio_delta"}),
    ("openai", {"type": "response.output_text.delta", "delta": LONG_TEXT}),
    ("openai", {"type": "response.output_audio.delta", "delta": SOUND + "*"}),
    ("openai", {"type": "response.output_audio.delta", "delta": SOUND, "note": 'a "delta" here'}),
    ("openai", {"type": "response.output_audio.delta", "delta": "", "x": {"delta": SOUND}}),
    ("openai", {"type": "response.output_audio.delta", "x": {"delta": SOUND}, "delta": ""}),
    ("openai", {"type": "response.output_audio.delta", "x": {"delta": SOUND}}),
    ("openai", {"type": ["response.output_audio.delta"], "delta": SOUND}),
    ("openai", {"type": "response.output_audio.delta", "delta": [SOUND]}),
    ("openai", [{"delta": SOUND}]),
    ("elevenlabs", {"type": "audio", "audio_event": {"event_id": 1, "audio_base_64": SOUND}}),
    ("elevenlabs", {"type": "audio", "audio_event": {"event_id": 1}, "audio_base_64": SOUND}),
    ("elevenlabs", {"type": "other", "audio_event": {"audio_base_64": SOUND}}),
    ("gemini", {"serverContent": {"modelTurn": {"parts": [{"inlineData": {"mimeType": "audio/pcm", "data": SOUND}}]}}}),
    ("gemini", {"serverContent": {"modelTurn": {"parts": [{"inlineData": {"mimeType": "image/png", "data": SOUND}}]}}}),
    ("gemini", {"serverContent": {"modelTurn": {"parts": [{"inlineData": {"mimeType": "audio/pcm", "data": SOUND}}] * 2}}}),
    ("gemini", {"data": SOUND}),
]


@pytest.mark.parametrize(("name", "value"), FRAMES)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
def test_a_long_message_gives_what_its_whole_parse_gives(name: str, value: Any, separators: tuple[str, str]) -> None:
    """The same events, sound and raw value, wherever the key stands and whatever surrounds it."""
    data = json.dumps(value, separators=separators).encode()
    assert told(dialects.choose(name)(), Frame(memoryview(data), True)) == whole(name, data)
    assert told(dialects.choose(name)(), data) == whole(name, data)
    assert told(dialects.choose(name)(), Frame(memoryview(b"..." + data + b".")[3:-1], True, 3)) == whole(name, data)


def test_characters_of_several_bytes_before_the_sound_do_not_shift_it() -> None:
    """Where characters are longer than a byte, places in the text are not places in the bytes."""
    value = {"type": "response.output_audio.delta", "note": "höher 😀", "delta": SOUND}
    data = json.dumps(value, ensure_ascii=False).encode()
    assert told(dialects.choose("openai")(), Frame(memoryview(data), True)) == whole("openai", data)
    (event,) = dialects.choose("openai")().decode(data)
    assert event.to_dict()["audio"] == 256 * 40


def test_a_key_that_is_spelled_with_an_escape_is_still_a_key() -> None:
    """The sound of an inner object is not the sound of the event, however the event's own key is written."""
    data = f'{{"type":"response.output_audio.delta","x":{{"delta":"{SOUND}"}},"d\\u0065lta":""}}'.encode()
    assert b"\\u0065" in data
    (event,) = dialects.choose("openai")().decode(data)
    assert event.to_dict() == {"name": "audio_delta"}


def test_the_cut_is_really_taken() -> None:
    """An ordinary audio delta is cut, and its raw value has no sound."""
    data = json.dumps(FRAMES[0][1]).encode()
    found = cut.cut(memoryview(data), b'"delta"')
    assert found is not None
    assert found[1] == base64.b64decode(SOUND)
    (event,) = dialects.choose("openai")().decode(data)
    assert event.to_dict()["audio"] == 256 * 40
    assert "delta" not in event.raw


@given(data=st.data())
@pytest.mark.usefixtures("small")
def test_every_distortion_gives_what_the_whole_parse_gives(data: st.DataObject) -> None:
    """Escapes, second keys, broken quotes and foreign bytes fall back to the parse of the whole message."""
    name, value = data.draw(st.sampled_from(FRAMES))
    message = bytearray(json.dumps(value).replace(SOUND, "AQIDBAUGBwg=").replace(LONG_TEXT, "abcdabcdabcd").encode())
    pieces = st.sampled_from([b'"', b"\\", b'"delta":"AQID"', b'"d\\u0065lta":""', b",", b"}", b"=", b"\xff", b"\\u0041", b" "])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(message)))
        message[at : at + data.draw(st.integers(0, 3))] = data.draw(pieces | st.binary(max_size=2))
    raw = bytes(message)
    try:
        raw.decode()
    except UnicodeDecodeError:
        dialects.choose(name)().decode(raw)
        return
    assert told(dialects.choose(name)(), raw) == whole(name, raw)
