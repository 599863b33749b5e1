"""Changing the instructions, tools or voice of a running conversation, and knowing whether it happened.

A change is *applied* when the service has confirmed it. Where a service cannot change a live session, the conversation goes on over a
new connection with the new configuration (*resuming*). While an answer or a tool runs a change is *queued*; a later change of the same
field *supersedes* it. A change that is refused, or fails three times, is *failed*, and the configuration is what it was before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from qai_realtime_sync.client.revisions import Revision, Revisions
from qai_realtime_sync.client.waiting import check_timeout, in_slices
from qai_realtime_sync.commands import Configure, SendContext
from qai_realtime_sync.errors import (
    ApiError,
    ConfigError,
    ConnectionClosedError,
    RealtimeError,
    RealtimeTimeoutError,
    UnsupportedCommandError,
)
from qai_realtime_sync.events import ContextMutated, ErrorReceived

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call
    from qai_realtime_sync.client.sender import Timer
    from qai_realtime_sync.config import Tool
    from qai_realtime_sync.dialects import Dialect

__all__ = ["ContextMutation", "Mutations"]

_TRIES = 3
_FINAL = ("applied", "superseded", "failed")


class ContextMutation:
    """What became of a change: ``outcome`` now, and `wait` for the end of it.

    ``outcome``: ``queued``, ``resuming``, ``applied``, ``superseded`` or ``failed``; ``attempt`` counts the tries; ``error`` says why
    it failed.
    """

    def __init__(self, fields: frozenset[str], may_wait: Callable[[str], None]) -> None:
        self._may_wait = may_wait
        self.fields = fields
        self.outcome = "queued"
        self.attempt = 0
        self.error: Exception | None = None
        self._ended = threading.Event()

    @property
    def is_done(self) -> bool:
        """True once it is applied, superseded or failed."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = 30.0) -> ContextMutation:
        """Wait for the end and return itself.

        Raises: `RealtimeTimeoutError`; the error of a change that failed; `RealtimeError` in a handler, which would wait for itself;
        `ConfigError` for a wrong timeout.
        """
        check_timeout(timeout)
        if not self.is_done:
            self._may_wait("the result of mutate_context")
        if not in_slices(self._ended.wait, timeout):
            raise RealtimeTimeoutError(f"the change is still {self.outcome} after {timeout:g} s")
        if self.error is not None:
            raise self.error
        return self

    def come_to(self, outcome: str, attempt: int, error: Exception | None) -> None:
        """Note a step; called by the client."""
        self.outcome, self.attempt, self.error = outcome, attempt, error
        if outcome in _FINAL:
            self._ended.set()

    def __repr__(self) -> str:
        return f"<ContextMutation of {', '.join(sorted(self.fields))}: {self.outcome}>"


@attrs.define(eq=False, repr=False)
class _Change:
    """What is to be changed together: the members are the callers' objects."""

    fields: dict[str, Any]
    extra: dict[str, Any]
    bridge: str | None
    timeout: float
    members: list[ContextMutation]
    functions: dict[str, Tool] | None = None  # what answers calls of the new tools, if it changes them
    attempt: int = 0
    revision: Revision | None = None
    functions_before: dict[str, Tool] | None = None

    @property
    def by_connection(self) -> bool:
        """True if a new connection is to bring it."""
        return self.revision is not None and self.revision.command is None


class Mutations:
    """The queue of changes of one conversation; at most one is being tried. `update` is the way beside it, without a queue."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.revisions = Revisions(call)
        self._turn = threading.Lock()  # held from making an update to giving it to the outbox: they leave in the order they were made
        self._lock = threading.Lock()  # guards everything below
        self._waiting: _Change | None = None
        self._trying: _Change | None = None
        self._timer: Timer | None = None

    def update(self, fields: dict[str, Any], extra: Mapping[str, Any] | None) -> str:
        """Send a change at once, whatever runs. Return the id of its command.

        Raises: `ConfigError`; `UnsupportedCommandError` for what a new connection would have to bring; what `Call.submit` raises.
        """
        call = self._call
        _check_extra(extra)
        revision = Revision(dict(fields), dict(extra or {}))
        revision.on(call.config)  # raises for wrong values
        with self._turn:
            once = call.dialect is not None and call.dialect.traits.configures_once
            coming = call.lifecycle.state in ("connecting", "handshaking", "backoff")
            if (once and coming) or (not once and self._needs_connection(revision)):
                raise UnsupportedCommandError(
                    "update_session() cannot change this over the connection there is; mutate_context() can, over a new one if need be"
                )
            if once:
                return self._say_once(revision)
            if call.dialect is not None and coming and not self.revisions.is_ready:
                return self._say_later(revision, call.dialect)
            self.revisions.book(revision)
            return self._say(revision)

    def _say(self, revision: Revision) -> str:
        assert revision.command is not None
        try:
            return self._call.submit(revision.command)
        except BaseException:
            self.revisions.withdraw(revision)
            raise

    def _say_once(self, revision: Revision) -> str:
        """The service fixes its configuration at the beginning, but perhaps it has a word for this; it answers none."""
        try:
            event_id = self._call.submit(self.revisions.unanswered(revision))
        except UnsupportedCommandError as error:
            if error.code == "invalid_value":
                raise
            raise UnsupportedCommandError(f"{error}: mutate_context() does that") from error
        self.revisions.take_over(revision)
        return event_id

    def _say_later(self, revision: Revision, dialect: Dialect) -> str:
        call = self._call
        command = Configure(config=revision.on(call.config), changes=revision.extra or None)
        call.posting.remember(command)
        dialect.encode(command)  # raises for what has no form on the wire
        self.revisions.hold(revision, command)
        return command.event_id

    def submit(
        self,
        fields: dict[str, Any],
        extra: Mapping[str, Any] | None,
        bridge: str | None,
        timeout: float,
        functions: dict[str, Tool] | None = None,
    ) -> ContextMutation:
        """Take a change that was checked; try it at once if nothing runs. Raises: `ConfigError` for a wrong value.

        ``functions`` answer calls of the new tools from the moment the change is tried: what still runs before that is answered by
        those it was told of. They go again if the change fails.
        """
        # All of it before anything is noted: a change that breaks in the middle would keep every later one waiting.
        check_timeout(timeout, zero=False, none="")
        if bridge is not None and not isinstance(bridge, str):
            raise ConfigError(f"bridge must be text, not {type(bridge).__name__}")
        _check_extra(extra)
        names = frozenset(fields) | {f"extra.{key}" for key in extra or {}}
        mutation = ContextMutation(names, self._call.delivery.check_not_in_handler)
        superseded: list[ContextMutation] = []
        change = _Change(dict(fields), dict(extra or {}), bridge, timeout, [mutation], functions)
        Revision(change.fields, change.extra).on(self._call.config)
        with self._lock:
            old = self._waiting
            if old is not None:
                superseded = [m for m in old.members if m.fields & names]
                change.fields = old.fields | change.fields
                change.extra = old.extra | change.extra
                change.bridge = change.bridge or old.bridge
                change.functions = old.functions if functions is None else functions
                change.members = [m for m in old.members if m not in superseded] + [mutation]
            self._waiting = change
        for one in superseded:
            self._tell([one], "superseded", 0)
        if self._trying is not None or not self._may_try():
            self._tell([mutation], "queued", 0)
        self.settle()
        return mutation

    def _may_try(self) -> bool:
        call = self._call
        return not call.is_busy and call.lifecycle.state == "open" and self.revisions.is_ready

    def settle(self) -> None:
        """Nothing may be running any more: try what waits. Called after each answer and each tool."""
        if self._waiting is None or not self._may_try():
            return
        failure: RealtimeError | None = None
        with self._turn:
            with self._lock:
                if self._trying is not None or self._waiting is None:
                    return
                change, self._waiting = self._waiting, None
                self._trying = change
                change.attempt += 1
                revision = Revision(change.fields, change.extra)
                by_connection = self._needs_connection(revision)
                change.revision = revision
                self.revisions.book(revision, by_connection=by_connection)
                if change.functions is not None:
                    change.functions_before = self._call.calls.use(change.functions)
                if not by_connection:
                    self._timer = self._call.sender.after(change.timeout, lambda: self._late(change))
            if not by_connection:
                try:
                    self._say(revision)
                except RealtimeError as error:
                    failure = error
        if failure is not None:
            self._fail(change, failure)
        elif by_connection:
            self._tell(change.members, "resuming", change.attempt)
            self._call.plan_reconnect("the configuration changes")

    def _needs_connection(self, revision: Revision) -> bool:
        """True for what the service does not change over the connection there is."""
        call = self._call
        if revision.model:
            return True
        if call.dialect is None:
            return False
        traits = call.dialect.traits
        if traits.configures_once:
            return True
        return traits.voice_fixed_by_audio and call.has_spoken and revision.on(call.config).voice != call.config.voice

    # -- what is told ----------------------------------------------------------------------------------------------------------

    def opening(self) -> None:
        """A connection is ready, and nothing was sent over it yet."""
        self.revisions.opening()

    def opened(self) -> None:
        """A connection takes commands: what it was made for, and what its configuration held, is in force."""
        change = self._trying
        if change is not None and change.revision is not None and not self.revisions.is_open(change.revision):
            self._applied(change)
        self.settle()

    def confirmed(self) -> None:
        """A `SessionReady` came that opened nothing: it confirms the update that left first."""
        revision = self.revisions.confirmed()
        change = self._trying
        if revision is not None and change is not None and change.revision is revision:
            self._applied(change)
        self.settle()

    def refused(self, error: ErrorReceived) -> None:
        """An error came; if it names an update, that has failed."""
        revision = self.revisions.refused(error)
        change = self._trying
        if revision is not None and change is not None and change.revision is revision:
            self._fail(change, ApiError(f"the service refused the change: {error.message}", code=error.code or error.type or "refused"))

    def lost(self, error: Exception | None, retry: bool) -> bool:
        """A connection ended, or a dial failed, while a change was tried; ``retry``: another dial may do better.

        True if the change is given up that this connection was made for: then the conversation goes on as it was before.
        """
        change = self._trying
        self.revisions.lost(change.revision if change is not None else None)
        if change is None:
            return False
        by_connection = change.by_connection
        if not by_connection or not retry or change.attempt >= _TRIES:
            self._fail(change, error or ConnectionClosedError("the connection was lost before the change was confirmed"))
            return by_connection
        change.attempt += 1
        return False

    def end(self) -> None:
        """The conversation is over: what is open has failed."""
        with self._lock:
            changes = [c for c in (self._trying, self._waiting) if c is not None]
            self._trying = self._waiting = None
            self._stop_timer()
        for change in changes:
            self._tell(change.members, "failed", change.attempt, ConnectionClosedError("the conversation ended before the change"))

    # -- outcomes --------------------------------------------------------------------------------------------------------------

    def _applied(self, change: _Change) -> None:
        if not self._take_from_trial(change):
            return
        if change.bridge:
            self._call.submit_quietly([SendContext(text=change.bridge)])
        self._tell(change.members, "applied", change.attempt)

    def _late(self, change: _Change) -> None:
        self._fail(change, RealtimeTimeoutError(f"the service did not confirm the change within {change.timeout:g} s"))

    def _fail(self, change: _Change, error: Exception) -> None:
        if not self._take_from_trial(change):
            return
        if change.revision is not None:
            self.revisions.withdraw(change.revision)
        if change.functions_before is not None:
            self._call.calls.use(change.functions_before)
        self._tell(change.members, "failed", change.attempt, error)
        self.settle()

    def _take_from_trial(self, change: _Change) -> bool:
        with self._lock:
            if self._trying is not change:
                return False
            self._trying = None
            self._stop_timer()
            return True

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _tell(self, members: list[ContextMutation], outcome: str, attempt: int, error: Exception | None = None) -> None:
        for mutation in members:
            mutation.come_to(outcome, attempt, error)
        if members:
            self._call.announce(ContextMutated(outcome=outcome, attempt=attempt, error=error))


def _check_extra(extra: object) -> None:
    if extra is not None and not isinstance(extra, Mapping):
        raise ConfigError(f"extra must be a dict of session fields, not {type(extra).__name__}")
