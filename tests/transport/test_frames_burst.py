"""Messages taken many at once are those that are taken one by one, wherever the stream is cut and whatever is wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from qai_realtime_sync.seam import Frame
from qai_realtime_sync.transport.frames import FrameError, Incoming, Parser, check_text
from tests.transport.peer import close_frame, frame
from tests.transport.test_frames import ACCEPTED, REFUSED, TEXT, copied, read_all, streams


def read_bursts(parser: Parser, pieces: list[bytes]) -> list[Incoming | int]:
    """As `read_all`, taking all that is there at once and checking the text of each message when it is its turn."""
    found: list[Incoming | int] = []
    for piece in pieces:
        parser.feed(piece)
        try:
            while (taken := parser.burst()) is not None:
                for incoming in taken if isinstance(taken, list) else [taken]:
                    if isinstance(incoming, Frame):
                        if incoming.text:
                            check_text(incoming.payload)
                        if incoming.start is not None:
                            there = incoming.payload.obj[incoming.start : incoming.start + len(incoming.payload)]  # type: ignore[union-attr, index]
                            assert bytes(there) == bytes(incoming.payload)
                    found.append(copied(incoming))
        except FrameError as error:
            return [*found, error.code]
    return found


def cut(data: bytes, marks: list[int]) -> list[bytes]:
    """The stream in pieces that end at these marks."""
    cuts = sorted(mark % (len(data) + 1) for mark in marks)
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("case", [*ACCEPTED, *REFUSED])
def test_what_rfc6455_says_holds_for_bursts(case: str) -> None:
    """Everything that is allowed is read and everything that is forbidden is refused, behind and before other messages."""
    data = (ACCEPTED | REFUSED)[case][0]  # type: ignore[operator]
    for stream in (data, frame(TEXT, b"before") * 3 + data, frame(TEXT, b"b" * 200) * 50 + data + frame(TEXT, b"after")):
        assert read_bursts(Parser(), [stream]) == read_all(Parser(), [stream])


@pytest.mark.parametrize("case", [case for case in [*ACCEPTED, *REFUSED] if len((ACCEPTED | REFUSED)[case][0]) < 300])  # type: ignore[operator]
def test_a_burst_may_be_cut_at_every_byte(case: str) -> None:
    """Two reads give the same, wherever the first one ended."""
    data = frame(TEXT, b"a") + (ACCEPTED | REFUSED)[case][0] + frame(2, b"z" * 130)  # type: ignore[operator]
    expected = read_all(Parser(), [data])
    for at in range(len(data) + 1):
        assert read_bursts(Parser(), [data[:at], data[at:]]) == expected


@given(streams(), st.lists(st.integers(min_value=0), max_size=8))
def test_any_stream_in_any_split_gives_the_same(stream: tuple[bytes, list[Incoming]], marks: list[int]) -> None:
    """Valid messages, fragments and control frames come out as they were put in."""
    data, expected = stream
    assert read_bursts(Parser(), cut(data, marks)) == expected


@settings(max_examples=300)
@given(st.data())
def test_damaged_streams_give_the_same(data: st.DataObject) -> None:
    """A stream with wrong bytes anywhere is judged in bursts as it is message by message: what comes before the fault, and its code."""
    whole = bytearray(b"".join(frame(TEXT, b"x" * data.draw(st.sampled_from([0, 1, 2, 125, 126, 300]))) for _ in range(6)) + close_frame())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    pieces = cut(bytes(whole), data.draw(st.lists(st.integers(min_value=0), max_size=4)))
    assert read_bursts(Parser(), pieces) == read_all(Parser(), pieces)


@pytest.mark.parametrize("size", [3_000, 27_000, 65_000])
def test_full_buffers_give_the_same(size: int) -> None:
    """Frames across the end of a buffer that every read fills come whole, each once, and a bad byte in them is found."""
    data = b"".join(frame(TEXT, ("ä" * (size // 2 - at) + "x" * at).encode()) for at in range(12))
    bad = bytearray(data)
    bad[len(data) * 3 // 4] = 0xFF
    for stream in (data, bytes(bad)):
        results: list[list[Incoming | int]] = []
        for read in (read_all, read_bursts):
            parser, rest, found = Parser(), stream, list[Incoming | int]()
            while rest and not (found and isinstance(found[-1], int)):
                room = parser.room()
                count = min(len(room), len(rest))
                room[:count] = rest[:count]
                parser.wrote(count)
                rest = rest[count:]
                found += read(parser, [b""])
            results.append(found)
        assert results[0] == results[1]
        assert len(results[0]) >= 8


def test_one_burst_is_bounded() -> None:
    """The first of very many messages waits for some dozens of others at most."""
    parser = Parser()
    parser.feed(frame(TEXT, b"x") * 1000)
    sizes = []
    while (taken := parser.burst()) is not None:
        assert isinstance(taken, list)
        sizes.append(len(taken))
    assert sum(sizes) == 1000
    assert max(sizes) <= 64
