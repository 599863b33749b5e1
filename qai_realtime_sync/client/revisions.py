"""Which configuration is in force, and which changes of it the service has not answered yet.

A service answers each update with one confirmation or with one error that names it, in the order in which the updates left. What it
refuses is taken back, and only that: other changes stay, whenever they were made.
"""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from qai_realtime_sync.commands import Configure
from qai_realtime_sync.config import UNSET, RealtimeConfig
from qai_realtime_sync.errors import RealtimeError
from qai_realtime_sync.events import ErrorReceived

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["Revision", "Revisions"]

log = logging.getLogger("qai_realtime_sync")

_PATIENCE = 10.0  # seconds; an update that was not answered for so long stands no longer before those that left after it
_REMEMBERED = 256
_NESTS = ("audio", "input", "output")  # where raw session fields may hold another's field


@attrs.define(eq=False, repr=False)
class Revision:
    """One change: the fields that it sets, raw session fields merged over them, and how far it has come.

    ``command`` carries it to the service; without one, a new connection does. ``applied``: it is part of the call's configuration.
    """

    fields: dict[str, Any]
    extra: dict[str, Any]
    command: Configure | None = None
    applied: bool = False
    left: bool = False

    @property
    def model(self) -> Any:
        """The model it changes to; a raw field for the program, but the address of a connection needs it."""
        return self.extra.get("model")

    def on(self, config: RealtimeConfig) -> RealtimeConfig:
        """Return ``config`` with this change. Raises: `ConfigError` for a wrong value."""
        fields = self.fields | ({"model": self.model} if self.model else {})
        raw = {key: value for key, value in self.extra.items() if key != "model"}
        return attrs.evolve(config, **fields, session=_merged(_without(config.session, self.fields), raw))


@attrs.frozen
class _Sent:
    """An update that is on its way; ``revision`` is ``None`` for one that is no change of ours, or not any more."""

    at: float
    event_id: str
    revision: Revision | None


class Revisions:
    """The changes that are open, in the order they were made; used from any thread. It alone sets ``call.config`` while one is."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = threading.Lock()  # guards everything below, and call.config while a change is open
        self._base: RealtimeConfig | None = None  # what is certain while a change is open
        self._open: list[Revision] = []
        self._sent: list[_Sent] = []  # on this connection, in the order of the wire
        self._done: collections.OrderedDict[str, None] = collections.OrderedDict()  # our updates that must not leave (again)
        self._ready = False
        self._first: Mapping[str, Any] = {}  # the raw session fields this connection began with

    @property
    def is_ready(self) -> bool:
        """True while updates can be given to a connection."""
        return self._ready

    def is_open(self, revision: Revision) -> bool:
        """True while a change has no answer yet."""
        with self._lock:
            return revision in self._open

    # -- making and taking back ------------------------------------------------------------------------------------------------

    def book(self, revision: Revision, *, by_connection: bool = False) -> None:
        """Make a change part of the configuration; what it replaces is kept until it is answered.

        Its command is made here, so that no other change comes between; ``by_connection``: it needs none.
        """
        with self._lock:
            self._add(revision)
            self._apply(revision)
            if not by_connection:
                revision.command = Configure(config=self._live(), changes=revision.extra or None)

    def hold(self, revision: Revision, command: Configure) -> None:
        """Keep a change until a connection is open: nobody can refuse it now, and an unproven one must not spoil the next dial."""
        with self._lock:
            self._add(revision)
            revision.command = command

    def unanswered(self, revision: Revision) -> Configure:
        """Return the update for a service that fixes its configuration at the beginning, and answers no update."""
        with self._lock:
            config = attrs.evolve(revision.on(self._call.config), session=self._first)
        return Configure(config=config, changes=revision.extra or None)

    def take_over(self, revision: Revision) -> None:
        """A change is in force without an answer."""
        with self._lock:
            self._add(revision)
            self._apply(revision)
            self._settle(revision)

    def withdraw(self, revision: Revision) -> None:
        """Take a change back, unless it was answered; if its command has not left yet, it never will."""
        with self._lock:
            self._withdraw(revision)

    # -- the connection --------------------------------------------------------------------------------------------------------

    def opening(self) -> None:
        """A connection is ready, and nothing was sent over it yet: what its configuration held is in force, what was held goes out."""
        with self._lock:
            self._sent.clear()
            for one in [one for one in self._open if one.applied and (one.left or one.command is None)]:
                self._settle(one)
            held = [one for one in self._open if not one.applied]
            commands = []
            for one in held:
                self._apply(one)
                if one.command is not None:
                    one.command.config = self._call.config
                    self._done.pop(one.command.event_id, None)
                    commands.append((one, one.command))
            self._first = self._call.config.session
            self._ready = True
        for one, command in reversed(commands):
            try:
                self._call.outbox.prepend([command])
            except RealtimeError as error:
                log.warning("a change of the session was not sent: %s", error)
                self.withdraw(one)

    def lost(self, trying: Revision | None) -> None:
        """The connection is gone: what it did not answer is said again over the next one, which begins without it.

        Not the change that is being tried: its own book says what becomes of it.
        """
        with self._lock:
            self._ready = False
            self._sent.clear()
            for one in self._open:
                if one is not trying:
                    one.applied = one.left = False
            self._rebuild()

    def may_leave(self, command: Configure) -> bool:
        """An update is about to be written; False if it is not to leave (any more)."""
        with self._lock:
            if command.event_id in self._done:
                return False
            revision = next((one for one in self._open if one.command is command), None)
            if revision is not None:
                revision.left = True
                self._remember_done(command)
            if not self._call.replaying:
                self._sent.append(_Sent(self._call.clock(), command.event_id, revision))
            return True

    # -- answers ---------------------------------------------------------------------------------------------------------------

    def confirmed(self) -> Revision | None:
        """The service confirmed an update: the one that left first. Return its change, if it is one of ours."""
        with self._lock:
            too_old = self._call.clock() - _PATIENCE
            while len(self._sent) > 1 and self._sent[0].at < too_old:
                self._settle(self._sent.pop(0).revision)
            revision = self._sent.pop(0).revision if self._sent else None
            return revision if self._settle(revision) else None

    def refused(self, error: ErrorReceived) -> Revision | None:
        """An error came: if it is about an update, that is taken back. Return its change, if it is one of ours."""
        with self._lock:
            found = next((one for one in self._sent if one.event_id == error.caused_by), None)
            if found is None and self._sent and not error.caused_by and error.param.split(".")[0] == "session":
                found = self._sent[0]  # it does not say which, but about what
            if found is None:
                return None
            self._sent.remove(found)
            revision = found.revision
            if revision is None or revision not in self._open:
                return None
            self._withdraw(revision)
            return revision

    # -- under the lock --------------------------------------------------------------------------------------------------------

    def _add(self, revision: Revision) -> None:
        if not self._open:
            self._base = self._call.config
        self._open.append(revision)

    def _live(self) -> RealtimeConfig:
        """The configuration for a connection that is open: where the first sound fixes the voice, even the same one may be refused."""
        call = self._call
        fixed = call.dialect is not None and call.dialect.traits.voice_fixed_by_audio and call.has_spoken
        return attrs.evolve(call.config, voice=UNSET) if fixed else call.config

    def _apply(self, revision: Revision) -> None:
        revision.applied = True
        self._call.config = revision.on(self._call.config)

    def _settle(self, revision: Revision | None) -> bool:
        """A change is in force for certain; False if it is not open."""
        if revision is None or revision not in self._open:
            return False
        self._open.remove(revision)
        assert self._base is not None
        self._base = revision.on(self._base) if self._open else None
        return True

    def _withdraw(self, revision: Revision) -> None:
        if revision not in self._open:
            return
        self._open.remove(revision)
        if revision.command is not None:
            self._remember_done(revision.command)
        self._rebuild()
        if not self._open:
            self._base = None

    def _rebuild(self) -> None:
        if self._base is not None:
            config = self._base
            for one in self._open:
                if one.applied:
                    config = one.on(config)
            self._call.config = config

    def _remember_done(self, command: Configure) -> None:
        self._done[command.event_id] = None
        if len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)


def _merged(session: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Lay raw fields over others: mappings of one ``type`` merge key by key, everything else replaces."""
    result = dict(session)
    for key, value in raw.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and _same_kind(old, value):
            result[key] = _merged(old, value)
        else:
            result[key] = value
    return result


def _same_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "type" not in new or old.get("type", new["type"]) == new["type"]


def _without(session: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out raw fields of the names that are set now: they are merged last, and would silently win over what is newer."""
    return {
        key: _without(value, fields) if key in _NESTS and isinstance(value, Mapping) else value
        for key, value in session.items()
        if key not in fields
    }
