"""What went over the wire of a test's server, in our words and as it was written."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import attrs

from qai_realtime_sync.commands import Command, Configure, SendAudio
from qai_realtime_sync.config import redacted
from qai_realtime_sync.dialects import Dialect, choose
from qai_realtime_sync.errors import RealtimeTimeoutError
from qai_realtime_sync.events import Event
from qai_realtime_sync.seam import Frame
from qai_realtime_sync.testing.words import commands_of

__all__ = ["Entry", "Journal", "plain_wire"]

_SOUND_KEYS = frozenset({"audio", "delta", "user_audio_chunk", "audio_base_64", "data", "image_url"})
_LONG = 200  # characters of base64 that are shown as their length


@attrs.frozen
class Entry:
    """One message, or the beginning or end of a connection.

    ``by``: ``"client"`` or ``"server"``. ``what``: commands of the client, events of the server; none for ``connected`` and ``closed``.
    ``wire``: the JSON value, long base64 as its length; bytes of a message that is no JSON. ``at``: seconds since the server started.
    """

    at: float
    connection: int
    by: str
    name: str
    what: tuple[Command | Event, ...] = ()
    wire: Any = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON-lines spelling: time, side, and the first command or event by its name and fields; sound as its length."""
        said = _spelled(self.what[0]) if self.what else {"name": self.name}
        return {"at": round(self.at, 3), "connection": self.connection, "by": self.by, **said}


class Journal(Sequence[Entry]):
    """All messages in order; safe for several threads. Indexing and iterating see what was there at that moment."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._changed = threading.Condition()  # guards the two below
        self._entries: list[Entry] = []
        self._dialects: dict[int, Dialect] = {}

    # -- what the server tells ------------------------------------------------------------------------------------------------

    def note(self, connection: int, by: str, name: str, wire: Any = None) -> None:
        """Note the beginning or the end of a connection."""
        self._add(Entry(self._now(), connection, by, name, (), wire))

    def note_client(self, connection: int, dialect: str, message: str | bytes) -> list[Command]:
        """Note a message of the client, and return what it says."""
        said = commands_of(dialect, message)
        self._add(Entry(self._now(), connection, "client", said[0].command_name, tuple(said), plain_wire(message)))
        return said

    def note_server(self, connection: int, dialect: str, message: str | bytes) -> list[Event]:
        """Note a message of the server, and return what it tells."""
        reader = self._dialects.get(connection)
        if reader is None:
            reader = self._dialects[connection] = choose(dialect)()
        payload = message.encode() if isinstance(message, str) else message
        told = reader.decode(Frame(payload, isinstance(message, str)))
        name = told[0].event_name if told else "(nothing)"
        self._add(Entry(self._now(), connection, "server", name, tuple(told), plain_wire(message)))
        return told

    def _now(self) -> float:
        return self._clock() - self._started

    def _add(self, entry: Entry) -> None:
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    # -- what tests ask -------------------------------------------------------------------------------------------------------

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        return self.entries()[index]

    def __len__(self) -> int:
        with self._changed:
            return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries())

    def entries(self) -> list[Entry]:
        """Return all entries so far."""
        with self._changed:
            return list(self._entries)

    def sent(self, name: str = "") -> list[dict[str, Any]]:
        """Return what the client sent, as dicts in our words (``{"name": "send_text", "text": …}``); only one kind if it is named."""
        said = [_spelled(one) for entry in self.entries() if entry.by == "client" for one in entry.what]
        return [one for one in said if not name or one["name"] == name]

    def received(self, name: str = "") -> list[dict[str, Any]]:
        """Return what the server sent, as dicts in our words (``{"name": "transcript_done", …}``); only one kind if it is named."""
        told = [one.to_dict() for entry in self.entries() if entry.by == "server" for one in entry.what]
        return [one for one in told if not name or one["name"] == name]

    def wire(self, by: str = "client") -> list[Any]:
        """Return the messages of one side as they were written, as JSON values; long base64 as its length."""
        return [entry.wire for entry in self.entries() if entry.by == by and entry.wire is not None]

    def wait_for(
        self, name: str, timeout: float = 10.0, *, count: int = 1, where: Callable[[dict[str, Any]], bool] | None = None
    ) -> dict[str, Any]:
        """Return the first (or ``count``-th) command of this name that the client sent, waiting for it if need be.

        Raises: `RealtimeTimeoutError`, which tells what the client sent instead.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                fits = [
                    said
                    for entry in self._entries
                    if entry.by == "client"
                    for said in map(_spelled, entry.what)
                    if said["name"] == name and (where is None or where(said))
                ]
                if len(fits) >= count:
                    return fits[count - 1]
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    break
        raise RealtimeTimeoutError(f"the client did not send {name} within {timeout:g} s; it sent: {self.summary()}")

    def wait_for_more(self, seen: int, timeout: float) -> bool:
        """Wait until there are more than ``seen`` entries; return whether there are."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._entries) > seen, max(0.0, timeout))

    def summary(self, connection: int | None = None) -> str:
        """Return what the client sent in one line, sound added up."""
        parts: list[str] = []
        sound = [0, 0]

        def add_sound() -> None:
            if sound[0]:
                parts.append(f"send_audio ×{sound[0]} ({sound[1]} bytes)")
                sound[:] = [0, 0]

        entries = self.entries()
        for entry in entries:
            if entry.by != "client" or connection not in (None, entry.connection):
                continue
            for one in entry.what:
                if isinstance(one, SendAudio):
                    sound[0] += 1
                    sound[1] += len(one.audio)
                elif isinstance(one, Command):
                    add_sound()
                    parts.append(_short(one))
        add_sound()
        if parts:
            return ", ".join(parts)
        return "nothing" if any(entry.name == "connected" for entry in entries) else "nothing, for no client connected"


_TELLING = ("text", "output", "instructions", "item_id", "audio_end_ms")


def _spelled(one: Command | Event) -> dict[str, Any]:
    """The JSON-lines spelling; what a client configured stands in ``changes``, as it was written."""
    value = one.to_dict()
    if isinstance(one, Configure):
        del value["config"]
    return value


def _short(command: Command) -> str:
    fields = command.to_dict()
    told = [json.dumps(fields[name], ensure_ascii=False) for name in _TELLING if name in fields]
    shown = ", ".join(one if len(one) <= 60 else one[:57] + '…"' for one in told)
    return f"{fields['name']}({shown})" if shown else fields["name"]


def plain_wire(message: str | bytes) -> Any:
    """Return a message as a JSON value without credentials, long base64 as its length; one that is no JSON as it is."""
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return message
    return redacted(_without_sound(value))


def _without_sound(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _without_sound(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_sound(one) for one in value]
    if isinstance(value, str) and len(value) > _LONG and key in _SOUND_KEYS and _is_base64(value):
        return len(value) * 3 // 4 - value[-2:].count("=")
    return value


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text[-64:], validate=True)
    except ValueError:
        return text.startswith("data:")
    return " " not in text
