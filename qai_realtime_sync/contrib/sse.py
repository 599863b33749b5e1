"""A conversation's events as Server-Sent Events (source: WHATWG HTML, 9.2): numbered, resumable, without what a page must not know."""

from __future__ import annotations

import collections
import json
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from time import monotonic
from typing import Any, Literal

import attrs

from qai_realtime_sync.audio import b64encode
from qai_realtime_sync.client.client import RealtimeClient
from qai_realtime_sync.client.wakeup import Changes
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import AudioDelta, Closed, Event, event_class

__all__ = ["FOR_A_PAGE", "HEADERS", "Journal", "Shown", "follow", "journal_of", "last_seen"]

FOR_A_PAGE: tuple[str, ...] = (
    "state_changed",
    "speech_started",
    "speech_stopped",
    "transcript_delta",
    "transcript_done",
    "transcript_failed",
    "text_delta",
    "text_done",
    "response_created",
    "response_done",
    "audio_delta",
    "interrupted",
    "item_truncated",
    "playback_stopped",
    "reconnecting",
    "reconnected",
    "error",
    "closed",
)
"""What is told unless other events are asked for: what was said and what happens, not instructions, tools and their arguments."""

# The second half keeps proxies (nginx) from holding events back until a buffer is full.
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

_INNER_FIELDS = ("output", "metadata", "command", "unsent", "error", "usage")  # of the events above; an attentive page could read them
_KEPT = 1000
_RETRY_MS = 1000  # how long a browser waits before it comes back
_journals: weakref.WeakKeyDictionary[RealtimeClient, Journal] = weakref.WeakKeyDictionary()
_making = threading.Lock()  # guards _journals


@attrs.frozen
class Shown:
    """Which events somebody who watches is told, and whether with the fields that are not for everybody; made by `choose`."""

    names: frozenset[str] | None
    """``None`` = all of them."""
    inner_fields: bool

    @classmethod
    def choose(cls, events: Collection[str] | Literal["all"] | None) -> Shown:
        """Names; ``None`` for `FOR_A_PAGE` without inner fields; ``"all"``. Raises: `ConfigError` for a name that no event has."""
        if isinstance(events, str) and events != "all":
            raise ConfigError(f'events must be a list of names, or "all", not {events!r}')
        if events == "all":
            return cls(None, True)
        return cls(frozenset(event_class(name).event_name for name in (FOR_A_PAGE if events is None else events)), events is not None)

    def wants(self, name: str) -> bool:
        """Whether events of this name are told."""
        return self.names is None or name in self.names

    def part_of(self, spelled: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is told of an event's JSON-lines spelling."""
        return spelled if self.inner_fields else {key: value for key, value in spelled.items() if key not in _INNER_FIELDS}


class Journal:
    """The last thousand events of one conversation, numbered from 1, for watchers that come, go and come back.

    Sound is kept as its length, except while somebody watches who wants to hear it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards everything below; re-entrant, because a signal's handler may speak
        self._changes = Changes(self._lock)
        self._kept: collections.deque[tuple[int, Event | dict[str, Any]]] = collections.deque(maxlen=_KEPT)
        self._number = 0
        self._listeners = 0
        self.is_over = False

    def add(self, event: Event) -> None:
        """Number an event and wake who watches; a handler for every event of a client."""
        with self._lock:
            self._number += 1
            is_sound = isinstance(event, AudioDelta) and not self._listeners
            # The raw form is never told, and most of what an event weighs.
            self._kept.append((self._number, event.to_dict() if is_sound else attrs.evolve(event, raw=None)))
            self.is_over = self.is_over or isinstance(event, Closed)
            self._changes.tell()

    def end(self) -> None:
        """Nothing will come any more: the conversation was over before anybody watched."""
        with self._lock:
            self.is_over = True
            self._changes.tell()

    def has_more(self, after: int) -> bool:
        """False if the conversation is over and everything up to its end has this number or a lower one."""
        with self._lock:
            return not self.is_over or after < self._number

    def holds(self, number: int) -> bool:
        """Tell whether there was an event of this number."""
        with self._lock:
            return number <= self._number

    def listen(self, change: Literal[1, -1]) -> None:
        """Somebody wants to hear the sound, or does not any more."""
        with self._lock:
            self._listeners += change

    def after(self, number: int, timeout: float) -> list[tuple[int, Event | dict[str, Any]]] | None:
        """Return what has a higher number, waiting ``timeout`` seconds for it; ``[]`` if nothing came, ``None`` at the end."""
        self._changes.wait_for(lambda: self._number > number or self.is_over, timeout)
        with self._lock:
            if self._number <= number:
                return None if self.is_over else []
            newer = min(len(self._kept), self._number - number)
            return [self._kept[at] for at in range(-newer, 0)]


def journal_of(client: RealtimeClient) -> Journal:
    """Return the client's journal; it begins when this is called for the first time."""
    with _making:
        journal = _journals.get(client)
        if journal is None:
            journal = _journals[client] = Journal()
            RealtimeClient.on(client, Event, journal.add)  # not what a framework makes of it: no context is needed here
            if client.state in ("closed", "failed"):
                journal.end()
    return journal


def last_seen(header: str | None) -> int:
    """Read ``Last-Event-ID``, which a browser sends when it comes back; what is no number of ours counts as 0."""
    return int(header) if header and header.isascii() and header.isdecimal() and len(header) < 16 else 0


def follow(
    journal: Journal, *, after: int = 0, events: Collection[str] | Literal["all"] | None = None, audio: bool = False, heartbeat: float = 5.0
) -> Iterator[bytes]:
    """Return the stream of what a journal has after number ``after``, and of what comes, until the conversation is over.

    Each event is one message, its JSON-lines spelling, with its number as the id. ``events``: names; ``None`` stands for `FOR_A_PAGE`,
    without those of their fields that are not for everybody; ``"all"`` for all of them. ``audio``: sound as base64 instead of its length,
    for who watches live; what was missed is told by its length. After ``heartbeat`` seconds of silence a comment is sent: so
    proxies keep the connection, and a server notices that the browser has gone. A watcher that was away for more than a thousand events
    gets an event of the type ``missed`` with how many it lost.

    Raises: `ConfigError` for a name that no event has, or a heartbeat that is none.
    """
    if isinstance(heartbeat, bool) or not isinstance(heartbeat, (int, float)) or not heartbeat > 0:
        raise ConfigError(f"heartbeat must be a number of seconds above 0, not {heartbeat!r}")
    return _follow(journal, after if journal.holds(after) else 0, _spelling(Shown.choose(events), audio), audio, heartbeat)


def _follow(
    journal: Journal, number: int, spell: Callable[[Event | dict[str, Any]], Mapping[str, Any] | None], audio: bool, heartbeat: float
) -> Iterator[bytes]:
    if audio:
        journal.listen(1)
    try:
        yield b"retry: %d\n\n" % _RETRY_MS  # at once, so that the page knows that it is connected
        said = monotonic()
        while True:
            found = journal.after(number, max(0.0, said + heartbeat - monotonic()))
            if found is None:
                yield b"id: %d\n\n" % number  # tells nothing, but a browser that was told nothing comes back with it, and learns of the end
                return
            if found and found[0][0] > number + 1:
                yield b"event: missed\ndata: %d\n\n" % (found[0][0] - number - 1)
            for number, event in found:
                spelled = spell(event)
                if spelled is not None:
                    # A lone surrogate, which no encoding has, becomes the escape that JSON knows for it.
                    data = json.dumps(spelled, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")
                    yield b"id: %d\ndata: %b\n\n" % (number, data)
                    said = monotonic()
            if monotonic() >= said + heartbeat:
                yield b":\nid: %d\n\n" % number  # what was passed over is not missed by a browser that comes back
                said = monotonic()
    finally:
        if audio:
            journal.listen(-1)


def _spelling(shown: Shown, audio: bool) -> Callable[[Event | dict[str, Any]], Mapping[str, Any] | None]:
    def spell(event: Event | dict[str, Any]) -> Mapping[str, Any] | None:
        if not shown.wants(event["name"] if isinstance(event, dict) else event.event_name):
            return None
        spelled = dict(event) if isinstance(event, dict) else event.to_dict()
        if audio and isinstance(event, AudioDelta):
            spelled["audio"] = b64encode(event.audio).decode("ascii")
        return shown.part_of(spelled)

    return spell
