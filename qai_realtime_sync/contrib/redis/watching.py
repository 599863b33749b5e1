"""The events of a shared conversation as others read them: in order, numbered, none lost or doubled without being told; and as SSE."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs

from qai_realtime_sync.audio import b64decode
from qai_realtime_sync.contrib.redis.store import Keys, Store
from qai_realtime_sync.contrib.sse import Shown
from qai_realtime_sync.dialects import wire
from qai_realtime_sync.errors import ConfigError, ConnectError
from qai_realtime_sync.events import AudioDelta, Event, event_from_dict

__all__ = ["PublishedEvent", "position", "sse", "watch"]

_PATIENCE: Final = 30.0  # seconds that Redis may be away
_GONE_AFTER: Final = 10.0
_TRY_AGAIN: Final = 0.5
_pause: Final = threading.Event()  # never set: only waited for


@attrs.frozen(kw_only=True)
class PublishedEvent:
    """One event of a shared conversation.

    ``id`` is what `Remote.events` takes to go on after it, ``number`` counts the conversation's events from 1. ``lost`` says how many
    right before it cannot be told any more: they were trimmed, or Redis was away for too long. ``at`` is unix seconds by the owner's
    clock, ``value`` the JSON-lines spelling: ``{"name": …, fields that differ from the default}``, sound as its length.
    """

    id: str
    number: int
    at: float
    lost: int = 0
    value: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The event's name, like ``transcript_done``."""
        return str(self.value.get("name", ""))

    @property
    def event(self) -> Event:
        """The event as an object: its sound if it was published, else silence of that length. Raises: `ConfigError` for an unknown name."""
        event = event_from_dict(self.value)
        if isinstance(event, AudioDelta) and "audio_base64" in self.value:
            event.audio = b64decode(self.value["audio_base64"])
        return event


def position(after: str | int | None, newest: Callable[[], str]) -> int:
    """The number of the last event that is known: ``None`` and ``""`` = none, ``"$"`` = all so far, else an id or a number.

    Raises: `ConfigError` for text that is neither.
    """
    if after is None or after == "":
        return 0
    found = re.fullmatch(r"(\d{1,15})(-\d+)?", newest() if after == "$" else str(after), re.ASCII)
    if found is None or isinstance(after, bool):
        raise ConfigError(f"after must be the id of an event, like '12-0', or '$', not {after!r}", code="invalid_event_id")
    return int(found[1])


def watch(store: Store, keys: Keys, after: int, idle: float) -> Iterator[PublishedEvent | None]:
    """The events behind a number, as they come, until the conversation is over; None for every ``idle`` seconds without one.

    Raises: `ConnectError` when Redis was away for half a minute.
    """
    clock = time.monotonic
    told_at = answered_at = there_at = clock()
    while True:
        try:
            entries = store.read(keys.events, f"{after}-0", idle)
            over = False if entries else store.is_over(keys)
            if over:
                entries = store.read(keys.events, f"{after}-0", 0)  # it may have ended between the two
                if not entries:
                    return
            answered_at = clock()
            if over is not None:
                there_at = answered_at
            elif answered_at - there_at >= _GONE_AFTER:
                return  # it ended long ago, or its owner died and nobody cleaned up
        except ConnectError as error:
            if error.code != "redis_away" or clock() - answered_at >= _PATIENCE:
                raise
            entries = []
            _pause.wait(_TRY_AGAIN)
        for entry_id, fields in entries:
            number = int(entry_id.partition("-")[0])
            value = wire.loads(fields["event"])
            yield PublishedEvent(id=entry_id, number=number, at=float(fields["at"]), lost=number - after - 1, value=value)
            after = number
            if value.get("name") == "closed":
                return
        if entries:
            told_at = clock()
        elif clock() - told_at >= idle:
            yield None
            told_at = clock()


def sse(found: Iterator[PublishedEvent | None], shown: Shown, heartbeat: float) -> Iterator[bytes]:
    """The same messages as of a conversation of this process (`contrib.sse`): the id and the JSON; ``missed`` before a gap.

    After ``heartbeat`` seconds of events that are not told a comment is sent too: they are silence for who watches.
    """
    yield b"retry: 1000\n\n"  # at once, so that the page knows that it is connected
    last, said = "", time.monotonic()
    try:
        for one in found:
            if one is None:
                yield b":\n\n"
                said = time.monotonic()
                continue
            last = one.id
            if one.lost:
                yield b"event: missed\ndata: %d\n\n" % one.lost
            if shown.wants(one.name):
                yield b"id: %s\ndata: %s\n\n" % (one.id.encode(), wire.dumps(shown.part_of(one.value)))
                said = time.monotonic()
            elif time.monotonic() - said >= heartbeat:
                yield b":\nid: %s\n\n" % last.encode()  # what was passed over is not missed by a browser that comes back
                said = time.monotonic()
        if last:  # tells nothing, but a browser that was told nothing comes back with it, and learns of the end
            yield b"id: %s\n\n" % last.encode()
    except ConnectError as error:
        yield b": %s\n\n" % str(error.code).encode()  # who reads it comes back with the last id
