"""What stands between a connection and its conversation: nothing here; a server for tests puts its faults and its journal there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from qai_realtime_sync.offline.conversation import Conversation
from qai_realtime_sync.offline.line import Line, StreamSocket
from qai_realtime_sync.offline.spelling import Outlet, Spelling

__all__ = ["Refusal", "Tap"]


@attrs.frozen
class Refusal:
    """How an upgrade is refused: the HTTP status, a code and a sentence, and further headers."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


class Tap:
    """One connection as it is opened, served and ended; every method leaves things as they are."""

    def socket(self, inner: StreamSocket) -> StreamSocket:
        """Return what is read and written instead of the connection's socket."""
        return inner

    def outlet(self, line: Line) -> Outlet:
        """Return where the server's messages go."""
        return line

    def begin(self, spelling: Spelling, conversation: Conversation) -> None:
        """The conversation begins."""

    def receive(self, message: str | bytes, receive: Callable[[str | bytes], None]) -> None:
        """Hand on one message of the client; in the connection's thread."""
        receive(message)

    def end(self, code: int, reason: str) -> None:
        """The connection is over; code and reason are those that the client closed with."""
