"""Sound cut out of frames as they really come, whole and damaged, is what the parse of the whole frame gives."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from qai_realtime_sync import dialects
from qai_realtime_sync.dialects import base, cut
from qai_realtime_sync.events import AudioDelta
from qai_realtime_sync.seam import Frame
from qai_realtime_sync.transport.frames import Parser
from tests.dialects import stories

RECORDED = {"openai": "openai", "azure_openai": "openai", "azure_voice_live": "openai", "xai": "xai", "gemini": "gemini"}
DAMAGE = [b'"', b"\\", b"\\u0041", b'"delta":"AQID",', b'"data":"AQID",', b"=", b" ", b"\n", b"\xc3\xa9", b"\xff", b"-_", b",", b"}"]


def frames() -> Iterator[tuple[str, bytes]]:
    """Yield every frame with sound of the transcripts, and of the recordings where they are."""
    for story in stories.stories():
        for line in stories.lines(story):
            if isinstance(line.get("<"), dict) and any(event["name"] == "audio_delta" for event in line["="]):
                yield story.split("/")[0], json.dumps(line["<"]).encode()
    folder = os.environ.get("QAI_RECORDINGS")
    for path in sorted(pathlib.Path(folder).glob("*/*.jsonl")) if folder else ():
        found = 0
        for text in path.read_text(encoding="utf-8").splitlines():
            message = json.loads(text) if text else {}
            data = json.dumps(message.get("data"))
            if message.get("direction") == "received" and ("audio.delta" in data or "inlineData" in data) and found < 5:
                found += 1
                yield RECORDED[path.parent.name], data.encode()


FRAMES = list(frames())


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut is taken from a few bytes on."""
    monkeypatch.setattr(base, "WORTHWHILE", 8)
    monkeypatch.setattr(cut, "WORTHWHILE", 8)


def arrived(data: bytes) -> Frame:
    """Return the message as the transport hands it out: a view into its memory, and the text that its check made."""
    parser = Parser()
    size = len(data)
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big") if size < 65_536 else b""
    parser.feed((head or b"\x81\x7f" + size.to_bytes(8, "big")) + data)
    frame = parser.next()
    assert isinstance(frame, Frame)
    return frame


def told(name: str, message: Any) -> Any:
    """Return all that a message gives, sound and raw value included."""
    return [
        (type(event), event.to_dict(), event.audio if isinstance(event, AudioDelta) else b"", event.raw)
        for event in dialects.choose(name)().decode(message)
    ]


def whole(name: str, data: bytes) -> Any:
    """Return what the parse of the whole message gives: text alone is never cut."""
    return told(name, data.decode())


def test_there_are_frames_of_every_dialect() -> None:
    """The frames that follow are not an empty promise: each dialect that sends sound as text has some."""
    assert {name for name, _ in FRAMES} >= {"openai", "xai", "elevenlabs", "gemini"}


@pytest.mark.parametrize("padding", [0, 40_000])
def test_a_frame_gives_the_same_cut_and_parsed(padding: int) -> None:
    """Each frame gives the same events through the cut and through the whole parse, also when its sound is long."""
    for name, data in FRAMES:
        grown = grow(data, padding)
        assert told(name, arrived(grown)) == whole(name, grown)


def grow(data: bytes, count: int) -> bytes:
    """Make the sound of a frame longer by ``count`` characters, put before it."""
    for key in (b'"delta": "', b'"data": "', b'"audio_base_64": "'):
        data = data.replace(key, key + b"AQID" * (count // 4))
    return data


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_frame_gives_the_same_cut_and_parsed(data: st.DataObject) -> None:
    """Whatever is put into a frame, and wherever, the cut gives what the whole parse gives, or leaves it to that."""
    name, recorded = data.draw(st.sampled_from(FRAMES))
    message = bytearray(recorded)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message)))
        message[at : at + data.draw(st.integers(0, 3))] = data.draw(st.sampled_from(DAMAGE))
    damaged = bytes(message)
    try:
        damaged.decode()
    except UnicodeDecodeError:
        dialects.choose(name)().decode(damaged)  # the transport would not have handed it out; still no exception
        return
    assert told(name, arrived(damaged)) == whole(name, damaged)
    assert told(name, damaged) == whole(name, damaged)


def test_characters_outside_ascii_do_not_shift_the_sound() -> None:
    """Bytes and characters before the sound may differ in number by more than its length: it is still the right sound."""
    value = {
        "type": "response.output_audio.delta",
        "note": "ä" * 3_000,
        "other": "AAAA" * 2_000,
        "response_id": "r",
        "delta": "AQID" * 350,
    }
    message = json.dumps(value, ensure_ascii=False).encode()
    (event,) = dialects.choose("openai")().decode(arrived(message))
    assert isinstance(event, AudioDelta)
    assert event.audio == b"\x01\x02\x03" * 350
