"""The local server with a story, a journal and faults between each connection and its conversation."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from qai_realtime_sync.commands import Configure, SendFunctionResult
from qai_realtime_sync.offline.conversation import Conversation
from qai_realtime_sync.offline.items import Request
from qai_realtime_sync.offline.line import Line, StreamSocket
from qai_realtime_sync.offline.server import RealtimeServer
from qai_realtime_sync.offline.spelling import Outlet, Spelling
from qai_realtime_sync.offline.tap import Refusal, Tap
from qai_realtime_sync.testing import story
from qai_realtime_sync.testing.faults import Faults, FaultySocket, KeyedLedger, MintLimit
from qai_realtime_sync.testing.journal import Journal
from qai_realtime_sync.testing.story import Story

__all__ = ["JournalTap", "TappedServer"]


class TappedServer(RealtimeServer):
    """A local server whose connections go through `JournalTap`."""

    def __init__(self, story: Story, journal: Journal, faults: Faults, *, key: str | None, **options: Any) -> None:
        super().__init__(script=story, key=key, **options)
        self.story, self.messages, self.faults = story, journal, faults
        ledger = KeyedLedger(key, self.ledger.tariff)
        ledger.faults = faults
        self.ledger = ledger
        mints = MintLimit(self.ledger.tariff.mint_rate_limit, seconds=self.ledger.tariff.minute)
        mints.faults = faults
        self.mints = mints
        self._taps_lock = threading.Lock()  # guards _taps
        self._taps: dict[int, JournalTap] = {}
        story.line = self._line

    def refusal(self, path: str, query: Mapping[str, str]) -> Refusal | None:
        """Return what the next upgrade is refused with."""
        return self.faults.refusal()

    def tap(self, number: int, path: str, query: Mapping[str, str]) -> Tap:
        """Return what stands between a new connection and its conversation."""
        return JournalTap(self, number, self.dialect_of(path), path)

    # -- the connections that are open ----------------------------------------------------------------------------------------

    def taps(self) -> list[JournalTap]:
        """Return the connections with a conversation, oldest first."""
        with self._taps_lock:
            return list(self._taps.values())

    def opened(self, tap: JournalTap) -> None:
        """A conversation began."""
        with self._taps_lock:
            self._taps[tap.number] = tap

    def ended(self, tap: JournalTap) -> None:
        """A connection is over."""
        with self._taps_lock:
            self._taps.pop(tap.number, None)
        self.story.connection_ended()

    def _line(self, number: str) -> story.Line | None:
        tap = next((one for one in self.taps() if str(one.number) == number), None)
        return None if tap is None else story.Line(tap.send, tap.close, tap.drop)


class JournalTap(Tap):
    """Writes down both sides of one connection, and lets happen to it what the test asked for; an outlet itself."""

    spelling: Spelling
    conversation: Conversation

    def __init__(self, server: TappedServer, number: int, dialect: str, path: str) -> None:
        self.number = number
        self._server, self._dialect, self._path = server, dialect, path
        self._lock = threading.RLock()  # guards the order of what goes out, and _silent
        self._silent = False  # nothing more goes out
        self._ready = False
        self._socket: FaultySocket
        self._line: Line

    # -- the connection -------------------------------------------------------------------------------------------------------

    def socket(self, inner: StreamSocket) -> StreamSocket:
        """Return a socket that can be lost."""
        self._socket = FaultySocket(inner, self._server.faults)
        return self._socket

    def outlet(self, line: Line) -> Outlet:
        """Return itself."""
        self._line = line
        self._socket.is_open = True
        self._server.messages.note(self.number, "client", "connected", {"path": self._path})
        return self

    def begin(self, spelling: Spelling, conversation: Conversation) -> None:
        """The conversation begins."""
        self.spelling, self.conversation = spelling, conversation
        self._server.opened(self)

    def receive(self, message: str | bytes, receive: Callable[[str | bytes], None]) -> None:
        """Write down a message of the client, and hand it on; the first configuration makes it ready to be greeted."""
        said = self._server.messages.note_client(self.number, self._dialect, message)
        for command in said:
            if isinstance(command, SendFunctionResult):
                self._server.story.result_came(str(self.number), command)
        receive(message)
        if not self._ready and any(isinstance(command, Configure) for command in said):
            self._ready = True
            self._greet()

    def _greet(self) -> None:
        with self.conversation.lock:
            steps = self._server.story.greet(self.conversation) if self.conversation.active is None else None
            if steps is not None:
                self.conversation.respond(Request(steps=steps))
        self.flush()

    def end(self, code: int, reason: str) -> None:
        """The connection is over."""
        self._server.messages.note(self.number, "client", "closed", {"code": code, "reason": reason})
        self._server.ended(self)

    # -- what goes out --------------------------------------------------------------------------------------------------------

    def put(self, frame: str | bytes) -> None:
        """Write down a message of the server, queue it, and the fault that it makes due behind it."""
        with self._lock:
            if self._silent:
                return
            told = self._server.messages.note_server(self.number, self._dialect, frame)
            self._line.put(frame)
            fault = self._server.faults.sent(_wire_name(frame), told)
            if fault is None:
                return
            if fault.kind == "drop":
                self._line.cut()
            elif fault.kind == "close":
                self.hang_up(fault.code, fault.reason)
            self._silent = True

    def flush(self) -> None:
        """Write what is queued."""
        self._line.flush()

    def hang_up(self, code: int, reason: str) -> None:
        """Queue a close frame."""
        with self._lock:
            self._silent = True
            self._server.messages.note(self.number, "server", "close", {"code": code, "reason": reason})
            self._line.hang_up(code, reason)

    # -- what a test says -----------------------------------------------------------------------------------------------------

    def send(self, message: str | bytes) -> None:
        """Send a message as it is."""
        self.put(message)
        self.flush()

    def close(self, code: int, reason: str) -> None:
        """Close the connection."""
        self.hang_up(code, reason)
        self.flush()

    def drop(self) -> None:
        """Lose the connection."""
        with self._lock:
            self._silent = True
            self._line.cut()
        self.flush()


def _wire_name(frame: str | bytes) -> str:
    """Return the type of a message, or its first key where there are no types."""
    try:
        value = json.loads(frame)
    except ValueError:
        return ""
    if not isinstance(value, dict):
        return ""
    kind = value.get("type")
    return kind if isinstance(kind, str) else next(iter(value), "")
