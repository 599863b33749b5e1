"""Text that ends where the buffer does is checked when its rest has come, and not let through."""

from __future__ import annotations

import pytest

from qai_realtime_sync.seam import Frame
from qai_realtime_sync.transport.frames import FrameError, Parser
from tests.transport.peer import frame


def fill(parser: Parser, data: bytes) -> bytes:
    """Write as much as there is room for, as one read of a busy socket does; return the rest."""
    room = parser.room()
    count = min(len(room), len(data))
    room[:count] = data[:count]
    parser.wrote(count)
    return data[count:]


def taken(parser: Parser, data: bytes) -> list[object]:
    """Read everything, buffer by buffer."""
    found: list[object] = []
    while data:
        data = fill(parser, data)
        while (incoming := parser.next()) is not None:
            if isinstance(incoming, Frame):
                assert incoming.start is not None
                there = incoming.payload.obj[incoming.start : incoming.start + len(incoming.payload)]  # type: ignore[union-attr, index]
                found.append((bytes(incoming.payload), bytes(there)))
            else:
                found.append(incoming)
    return found


@pytest.mark.parametrize("size", [3_000, 27_000, 65_000])
def test_cut_text_comes_whole_with_its_place(size: int) -> None:
    """Frames that lie across the end of a full buffer come as they were sent, one after the other, and stand where they say."""
    texts = [("ä" * (size // 2 - at) + "x" * at).encode() for at in range(20)]
    found = taken(Parser(), b"".join(frame(1, text) for text in texts))
    assert [payload for payload, _ in found] == texts  # type: ignore[misc]
    assert all(there == payload for payload, there in found)  # type: ignore[misc]


@pytest.mark.parametrize("size", [3_000, 27_000, 65_000])
def test_what_is_not_utf8_is_refused_wherever_the_buffer_ends(size: int) -> None:
    """A bad byte before or behind the end of the buffer ends the connection with 1007, and its frame is not handed out."""
    for bad in range(0, size, size // 7):
        text = bytearray(b"x" * size)
        text[bad] = 0xFF
        parser = Parser()
        for good in range(3):
            assert taken(parser, frame(1, b"y" * (size - good)))
        with pytest.raises(FrameError) as refused:
            taken(parser, frame(1, b"z" * (size // 3)) + frame(1, bytes(text)) + frame(1, b"later"))
        assert refused.value.code == 1007
