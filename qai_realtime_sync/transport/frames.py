"""WebSocket frames (RFC 6455) without I/O: `Parser` reads them with limits, `encode` writes them masked.

The parser owns the memory that is read into: ask `Parser.room` for a place, say with `Parser.wrote` how much arrived, and take
what is complete with `Parser.next` until it returns ``None``. A payload that came in one piece is handed out where it lies.
"""

from __future__ import annotations

import codecs
import os
import struct
import sys
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from qai_realtime_sync.seam import Frame

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Close",
    "FrameError",
    "Incoming",
    "Parser",
    "Ping",
    "Pong",
    "check_text",
    "close_payload",
    "encode",
    "mask",
    "sendable_close_code",
]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

PROTOCOL_ERROR: Final = 1002
NO_STATUS: Final = 1005
NOT_UTF8: Final = 1007
TOO_BIG: Final = 1009

_FIN = 0x80
_WHOLE_TEXT: Final = _FIN | TEXT
_WHOLE_BINARY: Final = _FIN | BINARY
_RESERVED = 0x70
_MASKED = 0x80
_CONTROL_LIMIT = 125
_NOT_UTF8 = "a text message is not UTF-8"

_START = 8 * 1024  # every kept KiB counts once per connection
_KEPT = 64 * 1024  # a buffer above this is given back as soon as it is empty
_STEP = 256 * 1024  # how far memory runs ahead of what has arrived of a big frame
_LATER = -1
_HEADER: Final = struct.Struct("!BBH").unpack_from  # the first two bytes, and the length of a frame with more than 125
_BURST = 32  # messages taken at once: the first one must not wait for many others
_CHECKED_AT_ONCE = 64 * 1024  # UTF-8 of a big message is checked in pieces, so that its text never exists as a whole


class FrameError(Exception):
    """The peer broke the protocol or a limit: the connection must be failed with this close code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


@attrs.define(slots=True)
class Ping:
    """The peer asks for a `Pong` with the same payload."""

    payload: bytes


@attrs.define(slots=True)
class Pong:
    """The peer answered a ping, or sent a pong unasked."""

    payload: bytes


@attrs.define(slots=True)
class Close:
    """The peer closes. ``code`` is 1005 if its close frame had none (source: RFC 6455, 7.1.5)."""

    code: int
    reason: str


Incoming: TypeAlias = Frame | Ping | Pong | Close


# -- reading -----------------------------------------------------------------------------------------------------------------


class Parser:
    """Turn bytes of a server into messages and control frames, strictly.

    ``max_size`` is the largest message in bytes, ``max_fragments`` the most frames one message may come in: a bound for fragments
    that add no bytes, twice what the public conformance suite sends. Not thread-safe: one thread at a time. After a `Close`
    everything else that arrives is ignored.
    """

    __slots__ = (
        "_buffer",
        "_checked",
        "_closed",
        "_end",
        "_filled",
        "_fragments",
        "_max_fragments",
        "_max_size",
        "_message",
        "_message_text",
        "_needed",
        "_position",
        "_view",
    )

    def __init__(self, max_size: int = 16 * 2**20, max_fragments: int = 131_072) -> None:
        self._max_size = max_size
        self._max_fragments = max_fragments
        self._buffer = bytearray(_START)
        self._view = memoryview(self._buffer)
        self._position = 0  # what is before it has been handed out
        self._end = 0  # what is behind it has not arrived
        self._needed = 0  # size of the frame that is still incomplete, header included; 0 = not known
        self._filled = False  # the last read filled all there was room for
        self._message = bytearray()  # payload of the fragments so far
        self._message_text = False
        self._fragments = 0  # 0 = no fragmented message is open
        self._checked = 0  # bytes of the open frame or message that are known to be UTF-8; _LATER = none, on purpose
        self._closed = False

    # -- memory --

    def room(self) -> memoryview:
        """Where to write the next bytes that arrive: never empty. What was handed out before is overwritten."""
        rest = self._end - self._position
        capacity = len(self._buffer)
        if not rest and not self._filled and capacity <= _KEPT:  # as nearly always: everything was taken, and fits
            self._position = self._end = self._needed = 0
            return self._view
        wanted = self._capacity(capacity, rest)
        if wanted != capacity:
            self._move(wanted)
        elif self._position:
            self._view[:rest] = self._view[self._position : self._end]
            self._position, self._end = 0, rest
        return self._view[self._end :]

    def wrote(self, count: int) -> None:
        """Say that ``count`` bytes were written into what `room` returned last."""
        if self._closed:
            return
        self._end += count
        self._filled = self._end == len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Write ``data`` as if it had been read."""
        view = memoryview(data)
        while len(view):
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.wrote(count)
            view = view[count:]

    def detach(self) -> None:
        """Go on in other memory, so that what was handed out stays as it is."""
        self._move(max(_START, self._end - self._position))

    def _capacity(self, capacity: int, rest: int) -> int:
        if rest == capacity >= self._needed:
            return 2 * capacity  # full of frames that nobody has taken
        if self._needed > _KEPT:
            return capacity if self._needed <= capacity else min(self._needed, max(rest + _STEP, 2 * rest))
        if self._needed > capacity:
            return 1 << (self._needed - 1).bit_length()  # rounded up: frames that grow slowly must not mean new memory each time
        if capacity > _KEPT and rest <= _START >= self._needed:
            return _START
        if self._filled and capacity < _KEPT:
            return 2 * capacity
        return capacity

    def _move(self, capacity: int) -> None:
        rest = self._end - self._position
        buffer = bytearray(capacity)
        view = memoryview(buffer)
        view[:rest] = self._view[self._position : self._end]
        self._buffer, self._view = buffer, view
        self._position, self._end = 0, rest
        self._filled = False

    # -- frames --

    def next(self) -> Incoming | None:
        """Take the next complete message or control frame; ``None`` = more bytes are needed.

        Raises: `FrameError` as soon as what has arrived cannot become valid any more.
        """
        taken = self._usual(1)
        if not taken:
            return self._careful()
        if taken[0].text:
            check_text(taken[0].payload)
        return taken[0]

    def burst(self) -> list[Frame] | Incoming | None:
        """Take the complete messages that have arrived, some dozens at most, without looking into them; else as `next`.

        That their text is UTF-8 is **not** checked. Whoever reads it as JSON learns it by the way; what is read otherwise, or not at
        all, must be given to `check_text`. Raises: `FrameError`, as `next` does.
        """
        if self._position == self._end:
            self._needed = 0
            return None
        taken = self._usual(_BURST)
        if taken:
            return taken
        incoming = self._careful()
        return [incoming] if type(incoming) is Frame else incoming

    def _usual(self, count: int) -> list[Frame]:
        """Take up to ``count`` whole messages of less than 64 KiB that are all there: nearly every frame, so this is written for speed.

        It stops where anything is unusual, and leaves that to `_careful`.
        """
        taken: list[Frame] = []
        if self._fragments:
            return taken
        buffer, view, end, most = self._buffer, self._view, self._end, self._max_size
        position, later = self._position, 0
        new = Frame.__new__
        while position + 4 <= end and len(taken) < count:
            first, length, longer = _HEADER(buffer, position)
            if length == 126 <= longer:
                start, length = position + 4, longer
            elif length < 126:
                start = position + 2
            else:
                break  # longer, masked, or not written in the shortest form
            stop = start + length
            if stop > end or length > most:
                if self._filled and first == _WHOLE_TEXT and length <= most:
                    later = stop - position
                break
            if first == _WHOLE_TEXT:
                frame = new(Frame)  # filled slot by slot: a constructor costs as much as all the rest of this loop
                frame.payload, frame.text, frame.start = view[start:stop], True, start
            elif first == _WHOLE_BINARY:
                frame = Frame(view[start:stop], False, start)
            else:
                break
            taken.append(frame)
            position = stop
        if taken:
            self._position = position
            self._checked = 0
        if later:  # the rest of this text has arrived too, only the buffer was full: one check of the whole will do
            self._needed = later
            self._checked = _LATER
        return taken

    def _careful(self) -> Incoming | None:
        """As `next`, whatever comes."""
        while True:
            position = self._position
            have = self._end - position
            if have < 2:
                self._needed = 0
                return None
            if self._checked == _LATER and have < self._needed:
                return None
            complete, incoming = self._take(position, have)
            if incoming is not None or not complete:
                return incoming

    def _take(self, position: int, have: int) -> tuple[bool, Incoming | None]:
        """Check the frame at ``position``, whatever it is, and take it: whether it was complete, and what came out of it."""
        first = self._buffer[position]
        header, length = self._header(first, self._buffer[position + 1], position, have)
        if not header:
            return False, None
        start = position + header
        stop = start + length
        if first & 0x0F < CLOSE:
            self._check_data(first, length)
        if stop > self._end:
            self._needed = header + length
            if first & 0x0F == TEXT:
                self._check_utf8(self._view[start : self._end], final=False)
            return False, None
        self._position = stop
        if first & 0x0F >= CLOSE:
            return True, self._control(first & 0x0F, bytes(self._view[start:stop]))
        if first == _WHOLE_TEXT:
            self._check_utf8(self._view[start:stop], final=True)
        if first & _FIN and first & 0x0F:
            return True, Frame(self._view[start:stop], first == _WHOLE_TEXT, start)
        return True, self._fragment(first, start, stop)

    def _header(self, first: int, length: int, position: int, have: int) -> tuple[int, int]:
        """Check the first two bytes and read a longer length: size of the header (0 = not there yet) and of the payload."""
        if first & _RESERVED:
            raise FrameError(PROTOCOL_ERROR, "reserved bits are set, but no extension was agreed on")
        opcode = first & 0x0F
        if BINARY < opcode < CLOSE or opcode > PONG:
            raise FrameError(PROTOCOL_ERROR, f"opcode {opcode} is not defined")
        if length & _MASKED:
            raise FrameError(PROTOCOL_ERROR, "a frame of the server is masked")
        if opcode >= CLOSE:
            if not first & _FIN:
                raise FrameError(PROTOCOL_ERROR, "a control frame is fragmented")
            if length > _CONTROL_LIMIT:
                raise FrameError(PROTOCOL_ERROR, f"a control frame is longer than {_CONTROL_LIMIT} bytes")
        if length <= 125:
            return 2, length
        size = 2 if length == 126 else 8
        if have < 2 + size:
            self._needed = 2 + size
            return 0, 0
        length = int.from_bytes(self._view[position + 2 : position + 2 + size], "big")
        if length >> 63:
            raise FrameError(PROTOCOL_ERROR, "the top bit of a frame's length is set")
        if length < (126 if size == 2 else 65_536):
            raise FrameError(PROTOCOL_ERROR, "a frame's length is not written in the shortest form")
        return 2 + size, length

    def _check_data(self, first: int, length: int) -> None:
        if first & 0x0F:
            if self._fragments:
                raise FrameError(PROTOCOL_ERROR, "a new message begins inside a fragmented one")
        elif not self._fragments:
            raise FrameError(PROTOCOL_ERROR, "a continuation frame without a message to continue")
        elif self._fragments >= self._max_fragments:
            raise FrameError(TOO_BIG, f"a message has more than {self._max_fragments} fragments")
        if len(self._message) + length > self._max_size:
            raise FrameError(TOO_BIG, f"a message is larger than {self._max_size} bytes")

    def _fragment(self, first: int, start: int, stop: int) -> Frame | None:
        """Add a complete data frame to the fragmented message; the message, once it is complete."""
        if first & 0x0F:
            self._message_text = first & 0x0F == TEXT
        self._message += self._view[start:stop]
        self._fragments += 1
        final = bool(first & _FIN)
        if self._message_text:
            with memoryview(self._message) as view:
                self._check_utf8(view, final=final)
        if not final:
            return None
        message, self._message, self._fragments = self._message, bytearray(), 0
        return Frame(memoryview(message), self._message_text)

    def _check_utf8(self, view: memoryview, *, final: bool) -> None:
        """Check what is new in the open text; ``final`` = nothing more comes, so no character may be incomplete."""
        try:
            if final and self._checked <= 0 and len(view) <= _CHECKED_AT_ONCE:
                str(view, "utf-8")
                self._checked = 0
                return
            checked, size = max(self._checked, 0), len(view)
            while checked < size:
                stop = min(checked + _CHECKED_AT_ONCE, size)
                consumed = codecs.utf_8_decode(view[checked:stop], "strict", final and stop == size)[1]
                if not consumed:
                    break  # the first bytes of a character whose rest has not arrived
                checked += consumed
            self._checked = 0 if final else checked
        except UnicodeDecodeError:
            raise FrameError(NOT_UTF8, _NOT_UTF8) from None

    def _control(self, opcode: int, payload: bytes) -> Incoming:
        if opcode == PING:
            return Ping(payload)
        if opcode == PONG:
            return Pong(payload)
        close = _read_close(payload)
        self._closed = True
        self._position = self._end = self._needed = 0
        return close


def _read_close(payload: bytes) -> Close:
    if not payload:
        return Close(NO_STATUS, "")
    if len(payload) == 1:
        raise FrameError(PROTOCOL_ERROR, "the payload of a close frame is one byte")
    code = int.from_bytes(payload[:2], "big")
    if not sendable_close_code(code):
        raise FrameError(PROTOCOL_ERROR, f"close code {code} must not be sent")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise FrameError(NOT_UTF8, "the reason of a close frame is not UTF-8") from None


def sendable_close_code(code: int) -> bool:
    """True for a code that may stand in a close frame (source: RFC 6455, 7.4, and the IANA registry of close codes)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def check_text(payload: bytes | memoryview) -> None:
    """Check the text of a message that was taken in a burst. Raises: `FrameError` if it is not UTF-8."""
    try:
        str(payload, "utf-8")
    except UnicodeDecodeError:
        raise FrameError(NOT_UTF8, _NOT_UTF8) from None


# -- writing -----------------------------------------------------------------------------------------------------------------


_SHORT, _MEDIUM, _LONG = (struct.Struct(layout).pack for layout in ("!BB4s", "!BBH4s", "!BBQ4s"))  # with the mask's key


def encode(opcode: int, payload: bytes | bytearray | memoryview, key: bytes | None = None) -> bytes:
    """Write one unfragmented, masked frame; ``key`` is the mask, four bytes, random if it is not given."""
    key = key or os.urandom(4)
    length = len(payload)
    first = _FIN | opcode
    if length < 126:
        header = _SHORT(first, _MASKED | length, key)
    elif length < 65_536:
        header = _MEDIUM(first, _MASKED | 126, length, key)
    else:
        header = _LONG(first, _MASKED | 127, length, key)
    return header + mask(payload, key)


def close_payload(code: int, reason: str) -> bytes:
    """The payload of a close frame: empty for 1005; the reason is cut to what fits, between two characters."""
    if code == NO_STATUS:
        return b""
    text = reason.encode("utf-8", "replace")
    if len(text) > _CONTROL_LIMIT - 2:
        text = text[: _CONTROL_LIMIT - 2].decode("utf-8", "ignore").encode()
    return code.to_bytes(2, "big") + text


def mask(payload: bytes | bytearray | memoryview, key: bytes) -> bytes:
    """XOR each byte of ``payload`` with the four bytes of ``key`` in turn, by the fastest means that is there."""
    global _masker
    if _masker is None:
        _masker = _choose_masker()
    return _masker(payload, key)


_Masker: TypeAlias = Callable[["bytes | bytearray | memoryview", bytes], bytes]
_masker: _Masker | None = None


def _choose_masker() -> _Masker:
    """The C helper of ``websockets`` if it is installed, numpy if the program has loaded it, else plain Python."""
    try:
        from websockets.speedups import apply_mask  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return _mask_numpy if "numpy" in sys.modules else _mask_integer
    return apply_mask  # type: ignore[no-any-return, unused-ignore]


def _mask_numpy(payload: bytes | bytearray | memoryview, key: bytes) -> bytes:
    import numpy

    size = len(payload)
    if size < 256:  # below it the calls into numpy cost more than the whole work
        return _mask_integer(payload, key)
    keys = numpy.frombuffer(key * (size // 4 + 1), numpy.uint8, size)
    return (numpy.frombuffer(payload, numpy.uint8) ^ keys).tobytes()


def _mask_integer(payload: bytes | bytearray | memoryview, key: bytes) -> bytes:
    size = len(payload)
    if size > _CHECKED_AT_ONCE:  # integers of a big frame would take several times its memory
        view = memoryview(payload)
        pieces = range(0, size, _CHECKED_AT_ONCE)
        return b"".join(_mask_integer(view[start : start + _CHECKED_AT_ONCE], key) for start in pieces)
    keys = key * (size // 4) + key[: size % 4]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")
