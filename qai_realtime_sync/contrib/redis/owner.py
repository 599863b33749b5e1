"""`share`: the process that has the client publishes its events and does what others command."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from qai_realtime_sync.client.client import RealtimeClient
from qai_realtime_sync.contrib.redis import scripts
from qai_realtime_sync.contrib.redis.backlog import Backlog
from qai_realtime_sync.contrib.redis.leaving import end_with_process
from qai_realtime_sync.contrib.redis.obeying import obey
from qai_realtime_sync.contrib.redis.store import DAY, Keys, Store, milliseconds
from qai_realtime_sync.dialects import wire
from qai_realtime_sync.errors import ConfigError, ConnectError, NotConnectedError, RealtimeTimeoutError
from qai_realtime_sync.events import Closed, Event

__all__ = ["Owner", "share"]

_log = logging.getLogger("qai_realtime_sync")
_TRY_AGAIN: Final = 0.5
_GLANCE: Final = 0.02
_LAST_COMMAND: Final = 5.0  # `end` waits until the client is closed


def share(
    client: RealtimeClient,
    redis: Any,
    conversation_id: str = "",
    *,
    labels: Mapping[str, str] | None = None,
    audio: bool = False,
    name: str = "",
    ttl: float = 6.0,
    linger: float = 60.0,
    max_events: int = 10_000,
) -> Owner:
    """Share a conversation over Redis, best before ``connect()``; it ends by itself with the conversation.

    ``redis``: an address or a client of the package `redis`. ``conversation_id``: one that was never used, by default a random one that
    cannot be guessed. ``labels`` are kept with it, for `Conversations.list` and for who may do what. ``audio=True`` publishes the
    assistant's sound too, else only its length. ``name``: of this process. ``ttl``: seconds after which an owner that gives no sign of
    life counts as dead; it gives one every third of that. ``linger``: seconds that the events stay when it is over. ``max_events``: how
    many are kept, about.

    Raises: `ConfigError` for a wrong argument; `ConnectError` if Redis is away; `NotConnectedError` (code ``already_used``) for an id
    that another conversation has or had, or a client that is over.
    """
    for what, value in (("ttl", ttl), ("linger", linger), ("max_events", max_events)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 86_400 * 365:
            raise ConfigError(f"{what} must be a number above 0, not {value!r}")
    if not all(isinstance(part, str) for pair in (labels or {}).items() for part in pair):
        raise ConfigError("labels must be text by text, like {'user': 'anna'}")
    if client.state in ("closing", "closed", "failed"):
        raise NotConnectedError(f"there is nothing to share: the client is {client.state}", code="already_used")
    conversation_id, name = conversation_id or secrets.token_urlsafe(16), name or f"{socket.gethostname()}:{os.getpid()}"
    terms = _Terms(conversation_id, name, dict(labels or {}), ttl, linger, int(max_events))
    owner = Owner(client, Store(redis), Backlog(audio=audio), terms)
    owner._start()
    return owner


@attrs.frozen
class _Terms:
    """What was agreed on when the sharing began, as `share` names it."""

    conversation_id: str
    name: str
    labels: Mapping[str, str]
    ttl: float
    linger: float
    max_events: int


class Owner:
    """A shared conversation as its owner sees it; made by `share`. A context manager: its end waits for what is left to publish.

    ``state``: ``shared``; ``away`` while Redis does not answer, which the conversation does not notice; ``lost`` when it was taken for
    dead and ended by a cleaner (the client is closed then); ``over``. ``dropped`` counts events that Redis was away too long for.
    """

    def __init__(self, client: RealtimeClient, store: Store, backlog: Backlog, terms: _Terms) -> None:
        self.conversation_id = terms.conversation_id
        self.state = "new"
        self._client, self._store, self._backlog, self._terms = client, store, backlog, terms
        self._keys = Keys(terms.conversation_id)
        self._token = secrets.token_hex(16)
        self._pid = os.getpid()
        self._stopping = threading.Event()  # nobody waits for Redis any more
        self._done_commanding = threading.Event()  # no command is done from now on
        self._give_up_at: float | None = None
        self._session_id: str | None = None
        self._metered: tuple[str | None, float] = (None, 0.0)  # since when this client has this session
        self._counting = threading.Lock()  # guards _running
        self._running = 2
        self._events_thread = threading.Thread(target=self._run, args=(self._publish_all,), name="qai-redis-events", daemon=True)
        self._commands_thread = threading.Thread(target=self._run, args=(self._obey_all,), name="qai-redis-commands", daemon=True)

    def _start(self) -> None:
        try:
            mine = self._renew(begin=True)
        except ConnectError:
            self._store.close()
            raise
        if not mine:
            self._store.close()
            raise NotConnectedError(
                f"the conversation id {self.conversation_id!r} is taken: each conversation needs its own", code="already_used"
            )
        self.state = "shared"
        RealtimeClient.on(self._client, Event, self._backlog.put)  # not what a framework makes of it: no context is needed here
        end_with_process(self)
        self._events_thread.start()
        self._commands_thread.start()

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Owner of {self.conversation_id} {self.state}>"

    @property
    def dropped(self) -> int:
        """How many events were dropped because they waited for Redis too long."""
        return self._backlog.dropped

    @property
    def waiting(self) -> int:
        """How many events are not in Redis yet."""
        return self._backlog.waiting

    def drain(self, timeout: float = 10.0) -> None:
        """Wait until what has happened so far is in Redis; after ``connect()`` also what a cleaner needs to end and bill the session.

        Raises: `RealtimeTimeoutError` after ``timeout`` seconds.
        """
        if not self._backlog.drain(timeout):
            raise RealtimeTimeoutError(f"{self.waiting} events were not published within {timeout:g} s; sharing is {self.state}")

    def close(self, timeout: float = 3.0) -> None:
        """Stop sharing and wait until the rest is published, ``timeout`` seconds at most; the conversation itself is not ended.

        Who watches is told that it is over for them. Legal in every state and from any thread. While Redis is away, the end of a
        conversation that is over is left to a cleaner; one that goes on keeps its threads until Redis knows that it is shared no more,
        for a cleaner would end it.
        """
        if os.getpid() != self._pid or self.state == "new":
            return
        self._client.off(Event, self._backlog.put)
        self._backlog.put(Closed(code=None, clean=True, by="client", meaning="normal", reason="not shared any longer"))
        self.join(timeout)
        if self.state in ("shared", "away") and self._client_is_over:
            self._leave_to_cleaner()
            self._backlog.wake()

    @property
    def is_ours(self) -> bool:
        """True while it is shared by this very process."""
        return os.getpid() == self._pid and self.state in ("shared", "away")

    @property
    def _client_is_over(self) -> bool:
        return self._client.state in ("closing", "closed", "failed")

    def join(self, timeout: float) -> None:
        """Wait for the two threads, which end when the conversation is over and all is published."""
        deadline = time.monotonic() + timeout
        for thread in (self._events_thread, self._commands_thread):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    # -- signs of life -------------------------------------------------------------------------------------------------------

    def _renew(self, *, begin: bool = False) -> bool:
        """Give a sign of life with what is needed to bill; False if another has the conversation now."""
        session, now = self._client.session, time.monotonic()
        if session.session_id != self._metered[0]:
            self._metered = (session.session_id, now)
        fields = {
            "owner": self._terms.name,
            "labels": wire.dumps(self._terms.labels).decode(),
            "session_id": session.session_id,
            "provider": session.provider,
            "number": str(self._backlog.number),
        }
        pairs = [part for pair in fields.items() for part in pair]
        arguments = (self._token, milliseconds(self._terms.ttl), DAY, "1" if begin else "0", milliseconds(now - self._metered[1]))
        answer = self._store.run(scripts.RENEW, self._keys.all, *arguments, *pairs)
        if answer != "owner":
            return False
        # Each time, for a Redis that was emptied may not have been away; and after it, for a cleaner strikes out what is not there.
        self._store.enlist(self.conversation_id)
        self._session_id = session.session_id
        return True

    # -- the two threads -----------------------------------------------------------------------------------------------------

    def _run(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception:  # a bug of ours: the conversation goes on until a cleaner takes it for one that nobody owns
            _log.exception("the sharing of %s failed", self.conversation_id)
            self._stopping.set()
        finally:
            with self._counting:
                self._running -= 1
                last = not self._running
            if last:
                self._store.close()

    def _publish_all(self) -> None:
        beat_at = time.monotonic() + self._terms.ttl / 3
        while not self._stopping.is_set():
            # Between the minting of a session and the open line there is no event: its id is looked for, that it can be billed.
            most = _GLANCE if self._client.state in ("connecting", "backoff") else self._terms.ttl
            due = self._backlog.first(max(0.0, min(most, beat_at - time.monotonic())))
            try:
                if time.monotonic() >= beat_at or self._client.session.session_id != self._session_id:
                    if not self._renew():
                        return self._lost()
                    beat_at = time.monotonic() + self._terms.ttl / 3
                if due:
                    arguments = [part for one in due for part in (one.number, f"{one.at:.3f}", one.spelled())]
                    keys = (self._keys.owner, self._keys.events, self._keys.about)
                    if self._store.run(scripts.PUBLISH, keys, self._token, self._terms.max_events, *arguments) == -1:
                        beat_at = 0.0  # the key has expired, or another has it: renewing tells which
                        continue
                    self._backlog.published(due[-1].number)
                self._back()
                if self._backlog.is_done:
                    return self._retire()
            except ConnectError as error:
                beat_at = 0.0
                if self._is_away(error):
                    return None
        return None

    def _obey_all(self) -> None:
        after = "0-0"
        while not (self._stopping.is_set() or self._done_commanding.is_set()):
            try:
                entries = self._store.read(self._keys.commands, after, 1.0)
                for entry_id, fields in entries:
                    obey(self._client, self._store, self._keys, self._token, entry_id, fields, self._stopping.wait)
                    after = entry_id
            except ConnectError:
                self._stopping.wait(_TRY_AGAIN)

    # -- what may happen -----------------------------------------------------------------------------------------------------

    def _is_away(self, error: ConnectError) -> bool:
        """Redis does not answer: wait a moment. True when it is time to give up, after the conversation has ended."""
        if self.state == "shared":
            self.state = "away"
            _log.warning("%s; the conversation %s goes on, and its events wait", error, self.conversation_id)
        if self._client_is_over and self._backlog.over and self._give_up_at is None:
            self._give_up_at = time.monotonic() + self._terms.ttl
        if self._give_up_at is not None and time.monotonic() >= self._give_up_at:
            self._leave_to_cleaner()
            return True
        return self._stopping.wait(_TRY_AGAIN)

    def _leave_to_cleaner(self) -> None:
        _log.warning("%d events of %s were not published; a cleaner will end it in Redis", self.waiting, self.conversation_id)
        self._finish("over")

    def _back(self) -> None:
        if self.state == "away":
            self.state = "shared"
            _log.info("Redis is back; %d events of %s were dropped meanwhile", self.dropped, self.conversation_id)

    def _lost(self) -> None:
        """This process was taken for dead; a cleaner has ended the session, and what it costs is settled."""
        _log.error("the conversation %s was taken from this process, which gave no sign of life in time", self.conversation_id)
        self._finish("lost")
        self._client.off(Event, self._backlog.put)
        self._client.close(reason="taken over")

    def _retire(self) -> None:
        """All is told: the command that may be running gets its answer, then the keys go."""
        self._done_commanding.set()
        self._store.wake(self._keys.commands)
        deadline = time.monotonic() + _LAST_COMMAND
        while self._commands_thread.is_alive() and time.monotonic() < deadline:
            self._commands_thread.join(self._terms.ttl / 3)
            self._renew()
        # A Redis that came back empty has forgotten the last event, and who watches waits for it.
        last = (self._backlog.last, self._backlog.number)
        reason = "the conversation has ended"
        if self._store.run(scripts.FINISH, self._keys.all, self._token, milliseconds(self._terms.linger), reason, *last) != 1:
            return self._lost()
        self._store.strike(self.conversation_id)
        return self._finish("over")

    def _finish(self, state: str) -> None:
        self.state = state
        self._stopping.set()
        self._backlog.end()
