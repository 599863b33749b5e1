"""What a dialect understood was UTF-8: so the transport need not check a text that became an event other than `Unknown`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings, strategies as st

from qai_realtime_sync import dialects
from qai_realtime_sync.dialects import base, cut, wire
from qai_realtime_sync.events import Unknown
from qai_realtime_sync.seam import Frame
from tests.dialects import stories
from tests.dialects.test_audio_cut import FRAMES

WRONG = [b"\xff", b"\xc3", b"\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xf0\x9f", b"\xe2\x82"]
ALL = FRAMES + [
    (story.split("/")[0], json.dumps(line["<"], ensure_ascii=False).encode())
    for story in stories.stories()
    for line in stories.lines(story)
    if isinstance(line.get("<"), dict) and not line.get("binary") and set(line["<"]) != {"base64"}
]


@pytest.fixture(params=["orjson", "standard library"])
def short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut is taken from a few bytes on; with each of the two JSON readers."""
    monkeypatch.setattr(base, "WORTHWHILE", 8)
    monkeypatch.setattr(cut, "WORTHWHILE", 8)
    if request.param != "orjson":
        monkeypatch.setattr(base, "loads", wire.loads_plain)
        for module in (base, cut):
            monkeypatch.setattr(module, "loads_usual", wire.loads_plain)


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(data=st.data())
@pytest.mark.usefixtures("short")
def test_what_is_not_utf8_is_unknown(data: st.DataObject) -> None:
    """Wherever wrong bytes stand in a frame of a service, nothing but one `Unknown` comes of it."""
    name, good = data.draw(st.sampled_from(ALL))
    message = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(message)))
        message[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(WRONG) | st.binary(max_size=3))
    raw = bytes(message)
    for frame in (Frame(raw, True), Frame(memoryview(b".." + raw)[2:], True, 2)):
        events = dialects.choose(name)().decode(frame)
        if not is_text(raw):
            assert [type(event) for event in events] == [Unknown]


@pytest.mark.usefixtures("short")
def test_a_wrong_byte_at_every_place_of_a_frame_with_sound_is_unknown() -> None:
    """Before, in and behind the sound, and in every key."""
    for name, good in dict(reversed(FRAMES)).items():
        data = good if len(good) < 700 else good[:300] + good[-200:]
        for at in range(len(data) + 1):
            (event,) = dialects.choose(name)().decode(Frame(data[:at] + b"\xff" + data[at:], True))
            assert type(event) is Unknown
