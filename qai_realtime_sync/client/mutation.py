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

from qai_realtime_sync.commands import Configure, SendContext
from qai_realtime_sync.config import RealtimeConfig
from qai_realtime_sync.errors import ApiError, ConnectionClosedError, RealtimeError, RealtimeTimeoutError
from qai_realtime_sync.events import ContextMutated, ErrorReceived

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call
    from qai_realtime_sync.client.sender import Timer

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

        Raises: `RealtimeTimeoutError`; the error of a change that failed; `RealtimeError` in a handler, which would wait for itself.
        """
        if not self.is_done:
            self._may_wait("the result of mutate_context")
        if not self._ended.wait(timeout):
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


@attrs.define(eq=False)
class _Change:
    """What is to be changed together: the members are the callers' objects."""

    fields: dict[str, Any]
    extra: dict[str, Any]
    bridge: str | None
    timeout: float
    members: list[ContextMutation]
    attempt: int = 0
    before: RealtimeConfig | None = None
    command: Configure | None = None


class Mutations:
    """The queue of changes of one conversation; at most one is being tried."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = threading.Lock()  # guards everything below
        self._waiting: _Change | None = None
        self._trying: _Change | None = None
        self._timer: Timer | None = None

    def submit(self, fields: dict[str, Any], extra: Mapping[str, Any] | None, bridge: str | None, timeout: float) -> ContextMutation:
        """Take a change that was checked; try it at once if nothing runs."""
        names = frozenset(fields) | {f"extra.{key}" for key in extra or {}}
        mutation = ContextMutation(names, self._call.delivery.check_not_in_handler)
        superseded: list[ContextMutation] = []
        with self._lock:
            change = _Change(dict(fields), dict(extra or {}), bridge, timeout, [mutation])
            old = self._waiting
            if old is not None:
                superseded = [m for m in old.members if m.fields & names]
                change.fields = old.fields | change.fields
                change.extra = old.extra | change.extra
                change.bridge = change.bridge or old.bridge
                change.members = [m for m in old.members if m not in superseded] + [mutation]
            self._waiting = change
        for one in superseded:
            self._tell([one], "superseded", 0)
        if self._call.is_busy or self._trying is not None:
            self._tell([mutation], "queued", 0)
        self.settle()
        return mutation

    def settle(self) -> None:
        """Nothing may be running any more: try what waits. Called after each answer and each tool."""
        call = self._call
        if self._waiting is None or call.is_busy or call.lifecycle.state != "open":
            return
        with self._lock:
            if self._trying is not None or self._waiting is None:
                return
            change, self._waiting = self._waiting, None
            self._trying = change
        self._attempt(change)

    def ready(self) -> None:
        """A `SessionReady` came: what was sent, or resumed with, is in force."""
        with self._lock:
            change, self._trying = self._trying, None
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if change is None:
            return
        if change.bridge:
            self._call.submit_quietly([SendContext(text=change.bridge)])
        self._tell(change.members, "applied", change.attempt)
        self.settle()

    def refused(self, error: ErrorReceived) -> None:
        """An error came; if it names our update, the change failed."""
        change = self._trying
        if change is not None and change.command is not None and error.caused_by == change.command.event_id:
            self._fail(change, ApiError(f"the service refused the change: {error.message}", code=error.code or error.type or "refused"))

    def lost(self, error: Exception | None, retry: bool) -> bool:
        """A connection ended, or a dial failed, while a change was tried; ``retry``: another dial may do better.

        True if the change is given up that this connection was made for: then the conversation goes on as it was before.
        """
        change = self._trying
        if change is None:
            return False
        if change.command is not None or not retry or change.attempt >= _TRIES:
            self._fail(change, error or ConnectionClosedError("the connection was lost before the change was confirmed"))
            return change.command is None
        change.attempt += 1
        return False

    def end(self) -> None:
        """The conversation is over: what is open has failed."""
        with self._lock:
            changes = [c for c in (self._trying, self._waiting) if c is not None]
            self._trying = self._waiting = None
        for change in changes:
            self._tell(change.members, "failed", change.attempt, ConnectionClosedError("the conversation ended before the change"))

    # -- trying ---------------------------------------------------------------------------------------------------------------

    def _attempt(self, change: _Change) -> None:
        call = self._call
        assert call.dialect is not None
        change.attempt += 1
        change.before = call.config
        traits = call.dialect.traits
        model = change.extra.get("model")
        fields = change.fields | ({"model": model} if model else {})
        config = attrs.evolve(call.config, **fields)
        new_connection = traits.configures_once or bool(model) or ("voice" in fields and traits.voice_fixed_by_audio and call.has_spoken)
        if new_connection:
            if change.extra:
                config = attrs.evolve(config, session={**config.session, **change.extra})
            call.config = config
            self._tell(change.members, "resuming", change.attempt)
            call.plan_reconnect("the configuration changes")
            return
        change.command = Configure(config=config, changes=change.extra or None)
        call.config = config
        self._timer = call.sender.after(change.timeout, lambda: self._late(change))
        try:
            call.submit(change.command)
        except RealtimeError as error:
            self._fail(change, error)

    def _late(self, change: _Change) -> None:
        if self._trying is change:
            self._fail(change, RealtimeTimeoutError(f"the service did not confirm the change within {change.timeout:g} s"))

    def _fail(self, change: _Change, error: Exception) -> None:
        with self._lock:
            if self._trying is not change:
                return
            self._trying = None
        if change.before is not None:
            self._call.config = change.before
        self._tell(change.members, "failed", change.attempt, error)
        self.settle()

    def _tell(self, members: list[ContextMutation], outcome: str, attempt: int, error: Exception | None = None) -> None:
        for mutation in members:
            mutation.come_to(outcome, attempt, error)
        if members:
            self._call.announce(ContextMutated(outcome=outcome, attempt=attempt, error=error))
