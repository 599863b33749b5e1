"""What the server asks of every spelling, whatever service it imitates; a new one is one file and a line in `server.DIALECTS`."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from qai_realtime_sync.offline import facts
from qai_realtime_sync.offline.conversation import Conversation
from qai_realtime_sync.offline.items import Item, new_id
from qai_realtime_sync.offline.journal import Journal

__all__ = ["Outlet", "Spelling", "Terms"]


class Outlet(Protocol):
    """Where frames go."""

    def put(self, frame: str | bytes) -> None:
        """Queue a frame; never waits."""
        ...

    def flush(self) -> None:
        """Write what is queued."""
        ...

    def hang_up(self, code: int, reason: str) -> None:
        """Queue a close frame."""
        ...


@attrs.frozen
class Terms:
    """What a spelling must know of its connection: its number, the model of the URL, when it must end, and what an earlier one left.

    ``cap`` is its longest life in seconds, ``query`` the rest of the URL, ``gateway`` whether its path is the gateway's. ``keep`` and
    ``recall`` hold conversations under handles.
    """

    number: int
    model: str
    expires_at: int | None = None
    earlier: tuple[Item, ...] = ()
    rate_limits: Callable[[], list[dict[str, Any]]] = list
    cap: float | None = None
    query: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    gateway: bool = False
    keep: Callable[[str, Conversation], None] = lambda handle, conversation: None
    recall: Callable[[str], Conversation | None] = lambda handle: None


class Spelling(abc.ABC):
    """One connection: `receive` belongs to one thread, `tell` comes under the conversation's lock and must not wait."""

    conversation: Conversation

    def __init__(self, outlet: Outlet, journal: Journal, terms: Terms) -> None:
        self._outlet, self._journal, self.terms = outlet, journal, terms
        self.session_id = new_id("sess")

    @property
    def resumable(self) -> bool:
        """The client asked that a later connection may go on with this conversation."""
        return False

    @abc.abstractmethod
    def begin(self, conversation: Conversation) -> None:
        """Take the conversation and send the opening events."""

    @abc.abstractmethod
    def receive(self, message: str | bytes) -> None:
        """Take one message of the client, whatever it is; afterwards everything it caused is written."""

    @abc.abstractmethod
    def tell(self, fact: facts.Fact) -> None:
        """Queue the frames that a fact becomes."""

    @abc.abstractmethod
    def expire(self, seconds: float) -> None:
        """Say that the session has lasted as long as it may, and close."""

    @abc.abstractmethod
    def turn_away(self, admitted: bool) -> None:
        """Say that the key is wrong or, if the client was admitted, that its protocol is outdated, and close."""

    def end(self) -> list[threading.Thread]:
        """The connection is over: return the threads of this spelling that are about to end, to be joined."""
        return []

    def flush(self) -> None:
        """Write what is queued."""
        self._outlet.flush()

    def hang_up(self, code: int, reason: str) -> None:
        """Queue a close frame."""
        self._journal.note(self.terms.number, "sent", "close", {"code": code, "reason": reason})
        self._outlet.hang_up(code, reason)
