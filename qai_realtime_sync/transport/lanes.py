"""What waits to be written: half a frame first, then control frames, then data in order."""

from __future__ import annotations

from collections import deque

from qai_realtime_sync.transport.frames import CLOSE
from qai_realtime_sync.transport.stream import Stream

__all__ = ["Lanes"]

_DATA = -1


class Lanes:
    """The frames that a stream has not taken yet. Every call, and every look, under the stream's lock.

    A newer pong or ping replaces an older one that still waits (source: RFC 6455, 5.5.3), so a flood of pings costs no memory.
    """

    __slots__ = ("_control", "_data", "_half", "_half_kind", "close_sent", "given", "taken", "waiting")

    def __init__(self) -> None:
        self._control: dict[int, bytes] = {}  # by opcode
        self._data: deque[bytes] = deque()
        self._half: memoryview | None = None  # what is left of a frame that the stream took in part
        self._half_kind = _DATA
        self.waiting = 0
        """Bytes here."""
        self.taken = 0
        """Data frames ever put in."""
        self.given = 0
        """Data frames that the stream took as a whole, ever."""
        self.close_sent = False
        """The stream has taken our close frame."""

    def put(self, frame: bytes) -> int:
        """Add a data frame and return its number: it is written once `given` has reached it."""
        self._data.append(frame)
        self.waiting += len(frame)
        self.taken += 1
        return self.taken

    def pass_on(self, frame: bytes, stream: Stream) -> bool:
        """Add a data frame and give ``stream`` what it takes; past the queue if that is empty, as nearly always.

        True if everything is in the kernel. Raises: OSError.
        """
        if self.waiting:
            self.put(frame)
            return self.pump(stream)
        self.taken += 1
        count = stream.write(frame)
        if count == len(frame):
            self.given += 1
            return stream.push()
        self._data.append(frame)
        self.waiting = len(frame)
        if not count:
            return False
        self._took(frame, _DATA, count)
        return self.pump(stream)

    def put_control(self, opcode: int, frame: bytes) -> None:
        """Add a control frame, before all data."""
        self.waiting += len(frame) - len(self._control.get(opcode, b""))
        self._control[opcode] = frame

    def put_close(self, frame: bytes) -> None:
        """Add the close frame and drop all that has not begun: nothing may follow a close frame."""
        self._control.clear()
        self._data.clear()
        self.waiting = 0 if self._half is None else len(self._half)
        self.put_control(CLOSE, frame)

    def drop(self) -> None:
        """Drop everything: the connection is over."""
        self._control.clear()
        self._data.clear()
        self._half = None
        self.waiting = 0

    def is_lost(self, number: int) -> bool:
        """True if a data frame with this number was dropped by `put_close`."""
        return number > self.given + (self._half is not None and self._half_kind == _DATA)

    def pump(self, stream: Stream) -> bool:
        """Give ``stream`` what it takes without waiting; true if everything is in the kernel. Raises: OSError."""
        while True:
            frame: bytes | memoryview
            if self._half is not None:
                frame, kind = self._half, self._half_kind
            elif self._control:
                kind, frame = next(iter(self._control.items()))
            elif self._data:
                frame, kind = self._data[0], _DATA
            else:
                return stream.push()
            count = stream.write(frame)
            if not count:
                return False
            self._took(frame, kind, count)

    def _took(self, frame: bytes | memoryview, kind: int, count: int) -> None:
        self.waiting -= count
        if self._half is None:
            if kind == _DATA:
                self._data.popleft()
            else:
                del self._control[kind]
        if count < len(frame):
            self._half, self._half_kind = memoryview(frame)[count:], kind
            return
        self._half = None
        if kind == _DATA:
            self.given += 1
        elif kind == CLOSE:
            self.close_sent = True
