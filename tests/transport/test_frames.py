"""The frame parser and writer, against frames written here by hand."""

from __future__ import annotations

import builtins
import sys
import time
import types
from typing import Any

import pytest
from hypothesis import given, strategies as st

from qai_realtime_sync.seam import Frame
from qai_realtime_sync.transport import frames
from qai_realtime_sync.transport.frames import Close, FrameError, Incoming, Parser, Ping, Pong
from tests.transport.peer import close_frame, frame

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def copied(incoming: Incoming) -> Incoming:
    return Frame(bytes(incoming.payload), incoming.text) if isinstance(incoming, Frame) else incoming


def read_all(parser: Parser, pieces: list[bytes]) -> list[Incoming | int]:
    """Everything that comes out when the bytes arrive in these pieces; a violation is its close code and ends the list."""
    found: list[Incoming | int] = []
    for piece in pieces:
        parser.feed(piece)
        try:
            while (incoming := parser.next()) is not None:
                found.append(copied(incoming))
        except FrameError as error:
            return [*found, error.code]
    return found


def read(data: bytes, **limits: int) -> list[Incoming | int]:
    return read_all(Parser(**limits), [data])


def text(payload: str) -> Frame:
    return Frame(payload.encode(), True)


# -- what must be accepted ---------------------------------------------------------------------------------------------------

ACCEPTED: dict[str, tuple[bytes, list[Incoming]]] = {
    "empty text": (frame(TEXT), [text("")]),
    "text": (frame(TEXT, b"hello"), [text("hello")]),
    "empty binary": (frame(BINARY), [Frame(b"", False)]),
    "binary that is no text": (frame(BINARY, b"\xff\xfe"), [Frame(b"\xff\xfe", False)]),
    "125 bytes": (frame(TEXT, b"a" * 125), [text("a" * 125)]),
    "126 bytes": (frame(TEXT, b"a" * 126), [text("a" * 126)]),
    "65535 bytes": (frame(BINARY, b"a" * 65535), [Frame(b"a" * 65535, False)]),
    "65536 bytes": (frame(TEXT, b"a" * 65536), [text("a" * 65536)]),
    "65537 binary bytes": (frame(BINARY, b"\xff" * 65537), [Frame(b"\xff" * 65537, False)]),
    "a million bytes": (frame(TEXT, "ü".encode() * 500_000), [text("ü" * 500_000)]),
    "two messages": (frame(TEXT, b"a") + frame(BINARY, b"b"), [text("a"), Frame(b"b", False)]),
    "fragments": (frame(TEXT, b"a", fin=False) + frame(0, b"b", fin=False) + frame(0, b"c"), [text("abc")]),
    "empty fragments": (frame(TEXT, fin=False) + frame(0, fin=False) + frame(0), [text("")]),
    "fragmented binary": (frame(BINARY, b"\xff", fin=False) + frame(0, b"\xfe"), [Frame(b"\xff\xfe", False)]),
    "a character across fragments": (frame(TEXT, b"\xf0\x9f", fin=False) + frame(0, b"\x98\x80"), [text("😀")]),
    "a ping between fragments": (
        frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(0, b"b"),
        [Ping(b"p"), text("ab")],
    ),
    "a message after fragments": (frame(TEXT, b"a", fin=False) + frame(0, b"b") + frame(TEXT, b"c"), [text("ab"), text("c")]),
    "ping": (frame(PING, b"\x00\xff" * 62 + b"x"), [Ping(b"\x00\xff" * 62 + b"x")]),
    "pong": (frame(PONG, b"x"), [Pong(b"x")]),
    "close": (close_frame(1000, "bye"), [Close(1000, "bye")]),
    "close without a code": (close_frame(None), [Close(1005, "")]),
    "close with the longest reason": (close_frame(1000, "a" * 123), [Close(1000, "a" * 123)]),
    "data after close": (close_frame(1000) + frame(TEXT, b"late") + b"\xff" * 500, [Close(1000, "")]),
}
VALID_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
ACCEPTED |= {f"close code {code}": (close_frame(code), [Close(code, "")]) for code in VALID_CODES}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_allowed_is_read(case: str) -> None:
    """Everything RFC 6455 allows comes out as what was put in."""
    data, expected = ACCEPTED[case]
    assert read(data) == expected


@pytest.mark.parametrize("case", [case for case in ACCEPTED if len(ACCEPTED[case][0]) < 1000])
def test_byte_by_byte_is_the_same(case: str) -> None:
    """It makes no difference if each byte arrives alone."""
    data, expected = ACCEPTED[case]
    assert read_all(Parser(), [data[i : i + 1] for i in range(len(data))]) == expected


# -- what must be refused ----------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[bytes, int]] = {
    **{f"reserved bits {bits} on opcode {op}": (frame(op, b"", reserved=bits), 1002) for bits in range(1, 8) for op in (0, 1, 2, 8, 9, 10)},
    **{f"opcode {op}": (frame(op, b""), 1002) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "masked text": (frame(TEXT, b"abcd", mask=b"\0\0\0\0"), 1002),
    "masked ping": (frame(PING, b"abcd", mask=b"\0\0\0\0"), 1002),
    "fragmented ping": (frame(PING, b"a", fin=False), 1002),
    "fragmented close": (frame(CLOSE, b"", fin=False), 1002),
    "long ping": (frame(PING, b"a" * 126), 1002),
    "long close": (close_frame(1000, "a" * 124), 1002),
    "continuation of nothing": (frame(0, b"a"), 1002),
    "unfinished continuation of nothing": (frame(0, b"a", fin=False), 1002),
    "continuation after a whole message": (frame(TEXT, b"a") + frame(0, b"b"), 1002),
    "text inside fragments": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "binary inside fragments": (frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"), 1002),
    "top bit of the length": (b"\x82\x7f" + b"\x80" + bytes(7), 1002),
    "16 bit length for 125 bytes": (b"\x82\x7e\x00\x7d" + bytes(125), 1002),
    "64 bit length for 65535 bytes": (b"\x82\x7f" + (65535).to_bytes(8, "big"), 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "a lone surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "an overlong character": (frame(TEXT, b"\xc0\xaf"), 1007),
    "above the last character": (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "half a character": (frame(TEXT, b"a\xc3"), 1007),
    "half a character in fragments": (frame(TEXT, b"\xf0\x9f", fin=False) + frame(0, b"\x98"), 1007),
    "no character in the last fragment": (frame(TEXT, b"a", fin=False) + frame(0, b"\xff"), 1007),
    "no character far into a large text": (frame(TEXT, b"a" * 200_000 + b"\xff"), 1007),
}
INVALID_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
REFUSED |= {f"close code {code}": (close_frame(code), 1002) for code in INVALID_CODES}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_forbidden_is_refused(case: str) -> None:
    """Everything RFC 6455 forbids is refused with the code it names."""
    data, code = REFUSED[case]
    assert read(data)[-1] == code


@pytest.mark.parametrize("case", [case for case in REFUSED if len(REFUSED[case][0]) < 1000])
def test_refused_byte_by_byte_too(case: str) -> None:
    """A violation is found, with the same code, if each byte arrives alone."""
    data, code = REFUSED[case]
    assert read_all(Parser(), [data[i : i + 1] for i in range(len(data))])[-1] == code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"abc\xff", length=1000), 1007),
        (frame(TEXT, b"\xf4\x90", length=1000), 1007),
        (frame(TEXT, b"ok", fin=False) + frame(0, b"\xff", fin=False), 1007),
        (frame(TEXT, b"ok\xf4\x90", fin=False, length=100), 1007),
        (frame(TEXT, b"", length=17 * 2**20), 1009),
        (frame(BINARY, b"", length=2**40), 1009),
        (b"\x83\x7f", 1002),
    ],
)
def test_violations_are_found_before_the_frame_is_complete(data: bytes, code: int) -> None:
    """What cannot become valid any more is refused at once, not when the rest has come."""
    assert read(data) == [code]


# -- limits ------------------------------------------------------------------------------------------------------------------


def test_the_largest_message_is_accepted_and_one_byte_more_is_not() -> None:
    """``max_size`` is the size of the largest message, to the byte, for short and long frames."""
    assert read(frame(BINARY, bytes(100)), max_size=100) == [Frame(bytes(100), False)]
    assert read(frame(BINARY, bytes(101)), max_size=100) == [1009]
    assert read(frame(TEXT, bytes(300)), max_size=300) == [Frame(bytes(300), True)]
    assert read(frame(TEXT, bytes(301)), max_size=300) == [1009]


def test_the_size_of_fragments_is_added_up() -> None:
    """A message in fragments has the same limit as one in a piece."""
    parts = [frame(BINARY, bytes(60), fin=False), frame(0, bytes(40), fin=False), frame(0, b"")]
    assert read(b"".join(parts), max_size=100) == [Frame(bytes(100), False)]
    parts[2] = frame(0, b"x")
    assert read(b"".join(parts), max_size=100) == [1009]


def test_the_number_of_fragments_is_limited() -> None:
    """A message may come in ``max_fragments`` frames and not in one more; the next message counts from zero."""
    three = frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) + frame(0, b"")
    assert read(three + three, max_fragments=3) == [text(""), text("")]
    assert read(three, max_fragments=2) == [1009]


def test_endless_small_fragments_are_quick() -> None:
    """Fragments take linear time: 131,072 of them, the whole limit, some seconds at most."""
    data = frame(TEXT, b"a", fin=False) + frame(0, b"a", fin=False) * 131_071
    begun = time.monotonic()
    assert read(data + frame(0)) == [1009]
    assert time.monotonic() - begun < 10.0


# -- memory ------------------------------------------------------------------------------------------------------------------


def test_a_frame_is_not_given_memory_before_it_arrives() -> None:
    """A header that promises 16 MiB makes the parser take some hundred KiB, not 16 MiB."""
    parser = Parser()
    assert read_all(parser, [frame(BINARY, b"", length=16 * 2**20)]) == []
    assert len(parser.room()) < 300 * 1024


def test_a_big_message_leaves_no_memory_behind() -> None:
    """After a message of a megabyte the parser goes back to a small buffer."""
    parser = Parser()
    assert len(read_all(parser, [frame(BINARY, bytes(2**20)), frame(TEXT, b"x")])) == 2
    assert len(parser.room()) <= 8 * 1024


def test_the_buffer_grows_with_the_traffic_to_a_bound() -> None:
    """Reads that fill the whole room make it larger, up to 64 KiB."""
    parser = Parser()
    sizes = []
    for _ in range(8):
        room = parser.room()
        sizes.append(len(room))
        room[:] = frame(TEXT, b"ab") * (len(room) // 4)
        parser.wrote(len(room))
        while parser.next() is not None:
            pass
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (8 * 1024, 64 * 1024)


def test_a_payload_handed_out_survives_detach() -> None:
    """After `detach` new bytes go elsewhere: a message handed out before keeps its content."""
    parser = Parser()
    parser.feed(frame(TEXT, b"keep me") + frame(TEXT, b"the next")[:-2])
    first = parser.next()
    assert parser.next() is None
    parser.detach()
    parser.feed(b"xt" + frame(TEXT, b"over it"))
    second, third = parser.next(), parser.next()
    handed_out = [one for one in (first, second, third) if isinstance(one, Frame)]
    assert [bytes(one.payload) for one in handed_out] == [b"keep me", b"the next", b"over it"]


def test_room_is_never_empty() -> None:
    """There is always room for at least one byte, also while messages wait that nobody has taken."""
    parser = Parser()
    parser.feed(frame(BINARY, bytes(5000)) * 40)
    assert len(parser.room()) > 0
    found = 0
    while parser.next() is not None:
        found += 1
    assert found == 40


# -- properties --------------------------------------------------------------------------------------------------------------

payloads = st.one_of(st.text(max_size=300), st.binary(max_size=300), st.just("ü" * 40_000), st.just(b"\xff" * 70_000))


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Incoming]]:
    """Valid messages, cut into fragments with control frames between them, and what must come out."""
    data = b""
    expected: list[Incoming] = []
    for payload in draw(st.lists(payloads, max_size=6)):
        raw = payload.encode() if isinstance(payload, str) else payload
        cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=4)))
        bounds = [0, *cuts, len(raw)]
        opcode = TEXT if isinstance(payload, str) else BINARY
        for index, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            data += frame(opcode if index == 0 else 0, raw[start:stop], fin=index == len(cuts))
            if index < len(cuts) and draw(st.booleans()):
                data += frame(PING, b"between")
                expected.append(Ping(b"between"))
        expected.append(Frame(raw, isinstance(payload, str)))
    if draw(st.booleans()):
        data += close_frame(4000, "end")
        expected.append(Close(4000, "end"))
    return data, expected


@given(streams(), st.lists(st.integers(min_value=0), max_size=8))
def test_any_split_gives_the_same(stream: tuple[bytes, list[Incoming]], marks: list[int]) -> None:
    """However a stream of valid frames is cut into reads, the same messages come out."""
    data, expected = stream
    cuts = sorted(mark % (len(data) + 1) for mark in marks)
    pieces = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert read_all(Parser(), pieces) == expected


@given(st.binary(max_size=400), st.lists(st.integers(min_value=0), max_size=6))
def test_any_bytes_give_the_same_in_any_split(data: bytes, marks: list[int]) -> None:
    """Nonsense is judged the same however it is cut, and only ever by a `FrameError`."""
    cuts = sorted(mark % (len(data) + 1) for mark in marks)
    pieces = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    whole, split = read(data), read_all(Parser(), pieces)
    assert whole == split


@given(st.binary(max_size=300), st.booleans())
def test_utf8_is_judged_as_python_does(payload: bytes, fragmented: bool) -> None:
    """A text message is refused exactly if its bytes cannot be decoded."""
    middle = len(payload) // 2
    data = frame(TEXT, payload[:middle], fin=False) + frame(0, payload[middle:]) if fragmented else frame(TEXT, payload)
    try:
        payload.decode()
    except UnicodeDecodeError:
        assert read(data) == [1007]
    else:
        assert read(data) == [Frame(payload, True)]


# -- writing -----------------------------------------------------------------------------------------------------------------


def unmasked(data: bytes) -> tuple[int, bytes]:
    """First byte and payload of a client's frame, read the slow and obvious way."""
    size, start = data[1] & 0x7F, 2
    if size == 126:
        size, start = int.from_bytes(data[2:4], "big"), 4
    elif size == 127:
        size, start = int.from_bytes(data[2:10], "big"), 10
    assert data[1] & 0x80, "a client's frame is masked"
    key, payload = data[start : start + 4], data[start + 4 :]
    assert len(payload) == size
    return data[0], bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 255, 256, 65535, 65536, 65537, 200_001])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_what_is_written_is_what_was_given(size: int, opcode: int) -> None:
    """A frame unmasks to its payload at every length where the header changes."""
    payload = bytes(index * 7 & 0xFF for index in range(size))
    assert unmasked(frames.encode(opcode, payload)) == (0x80 | opcode, payload)


@given(st.binary(max_size=300), st.integers(0, 300), st.binary(min_size=4, max_size=4))
def test_masks_agree(payload: bytes, more: int, key: bytes) -> None:
    """Each way to mask gives byte by byte exclusive or, for bytes, bytearray and memoryview."""
    pytest.importorskip("numpy")
    payload += bytes(more)
    expected = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
    for masker in (frames.mask, frames._mask_integer, frames._mask_numpy):
        for value in (payload, bytearray(payload), memoryview(payload)):
            assert masker(value, key) == expected


def test_each_frame_has_a_new_mask() -> None:
    """Masks are not repeated: 64 frames have 64 keys."""
    assert len({frames.encode(TEXT, b"")[2:6] for _ in range(64)}) == 64


@pytest.mark.parametrize("helper", ["websockets", "numpy", ""])
def test_the_fastest_mask_there_is_gets_used(helper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C helper of websockets comes first, then numpy if it is loaded already, then plain Python."""
    speedups = types.ModuleType("websockets.speedups")
    speedups.apply_mask = lambda data, key: b"C"  # type: ignore[attr-defined]
    real = builtins.__import__

    def fake(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "websockets.speedups":
            if helper == "websockets":
                return speedups
            raise ImportError
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", fake)
    monkeypatch.setattr(frames, "_masker", None)
    monkeypatch.setitem(sys.modules, "numpy", types.ModuleType("numpy"))
    if helper != "numpy":
        monkeypatch.delitem(sys.modules, "numpy")
    if helper == "websockets":
        monkeypatch.setitem(sys.modules, "websockets.speedups", speedups)
        assert frames.mask(b"abc", b"1234") == b"C"
    else:
        expected = frames._mask_numpy if helper == "numpy" else frames._mask_integer
        assert frames._choose_masker() is expected


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (1000, "", b"\x03\xe8"),
        (4001, "bye", b"\x0f\xa1bye"),
        (1005, "ignored", b""),
        (1000, "a" * 200, b"\x03\xe8" + b"a" * 123),
        (1000, "a" + "ü" * 100, b"\x03\xe8a" + "ü".encode() * 61),
        (1000, "\ud800", b"\x03\xe8?"),
    ],
)
def test_close_payloads_fit_into_a_control_frame(code: int, reason: str, expected: bytes) -> None:
    """A reason is cut between two characters, so that the payload has at most 125 bytes and is UTF-8."""
    payload = frames.close_payload(code, reason)
    assert payload == expected
    assert len(payload) <= 125


def test_an_error_says_what_is_wrong() -> None:
    """The violation's text and code are both in the error."""
    error = FrameError(1002, "a frame of the server is masked")
    assert (error.code, error.reason, str(error)) == (1002, "a frame of the server is masked", "1002 a frame of the server is masked")
