"""`clean` and `Cleaner`: a conversation whose owner died is ended at the gateway, and its watchers are told."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable
from typing import Any, Final

import attrs

from qai_realtime_sync.contrib.redis import scripts
from qai_realtime_sync.contrib.redis.about import About
from qai_realtime_sync.contrib.redis.store import Keys, Store, milliseconds
from qai_realtime_sync.dialects import wire
from qai_realtime_sync.errors import ApiError, ConfigError, ConnectError, RealtimeError
from qai_realtime_sync.events import Closed
from qai_realtime_sync.rest import RestClient

__all__ = ["Cleaned", "Cleaner", "Rest", "clean"]

_log = logging.getLogger("qai_realtime_sync")
_LEASE: Final = 30.0  # seconds that a cleaner has for one conversation before another may try
_END_TIMEOUT: Final = 5.0
_MOST_CLAIMS: Final = 20
_NOT_SENT: Final = frozenset({"unreachable", "proxy_failed", "no_rest_client"})

Rest = RestClient | Callable[[About], RestClient | None] | None
"""Who ends sessions: one client for all, or a function that gives the one whose key a conversation was made with."""


@attrs.frozen(kw_only=True)
class Cleaned:
    """A conversation that was ended for its dead owner. ``error`` says why its session could not be ended, if so."""

    about: About
    error: RealtimeError | None = None


def clean(redis: Any, rest: Rest, *, grace: float = 3.0, linger: float = 60.0) -> list[Cleaned]:
    """End every conversation whose owner is dead, once, and return them; for cron, or wherever it suits.

    ``redis``: an address or a client of the package `redis`. ``rest`` ends the minted sessions: a `RestClient`, or a function from an
    `About` to one where keys differ; ``None`` if nothing is minted. An owner that is not seen gets ``grace`` seconds to come back, for
    which this call waits. ``linger``: seconds that the events stay.

    Raises: `ConnectError` when Redis is away.
    """
    cleaner = Cleaner(redis, rest, grace=grace, linger=linger)
    try:
        cleaned, waiting = cleaner.look()
        if waiting:
            threading.Event().wait(grace)
            cleaned += cleaner.look()[0]
        return cleaned
    finally:
        cleaner.close()


class Cleaner:
    """The same in a thread of its own, ``qai-redis-cleaner``, every second; start one in each worker, they share the work.

    A context manager, or `start` and `close`. ``told(cleaned)`` is called for each. With the defaults a dead owner's conversation is
    over 6 (its ``ttl``) + 3 (``grace``) + 2 seconds later at most.
    """

    def __init__(
        self,
        redis: Any,
        rest: Rest,
        *,
        every: float = 1.0,
        grace: float = 3.0,
        linger: float = 60.0,
        told: Callable[[Cleaned], object] | None = None,
    ) -> None:
        if rest is not None and not isinstance(rest, RestClient) and not callable(rest):
            raise ConfigError(f"rest must be a RestClient, or a function that gives one, not {type(rest).__name__}")
        self._store = Store(redis)
        self._rest, self._every, self._grace, self._linger, self._told = rest, every, grace, linger, told
        self._token = f"cleaner {secrets.token_hex(16)}"
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def start(self) -> Cleaner:
        """Start the thread; in a forked process again, for threads do not survive a fork."""
        if self._thread is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._thread = threading.Thread(target=self._run, name="qai-redis-cleaner", daemon=True)
            self._thread.start()
        return self

    def close(self, timeout: float = 5.0) -> None:
        """Stop, after the conversation that is being ended; waits ``timeout`` seconds at most."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        self._store.close()

    def __enter__(self) -> Cleaner:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            try:
                if self._store.alone("qai:cleaner", self._every * 0.8):  # one of all cleaners looks
                    self.look()
            except ConnectError as error:
                _log.info("no conversation can be cleaned up: %s", error)
            except Exception:  # ours, or of `told`: the next look may go well
                _log.exception("cleaning up failed")

    # -- one look ------------------------------------------------------------------------------------------------------------

    def look(self) -> tuple[list[Cleaned], int]:
        """Look once: what was ended, and how many conversations without an owner still have time. Raises: `ConnectError`."""
        cleaned, waiting = [], 0
        for conversation_id in self._store.ownerless(self._store.live()):
            if self._stopping.is_set():
                break
            keys = Keys(conversation_id)
            # A token for each claim: a lease that has run out cannot be mistaken for the next one.
            token = f"{self._token} {secrets.token_hex(4)}"
            arguments = (token, milliseconds(self._grace), milliseconds(_LEASE))
            state, *pairs = self._store.run(scripts.CLAIM, (keys.owner, keys.about), *arguments)
            if state == "gone":
                self._store.strike(conversation_id)
            elif state == "orphaned":
                waiting += 1
            elif state == "claimed":
                found = self._end(keys, token, About.read(conversation_id, dict(zip(pairs[::2], pairs[1::2]))))
                if found is None:
                    waiting += 1
                    continue
                cleaned.append(found)
                if self._told is not None:
                    self._told(found)
        return cleaned, waiting

    def _end(self, keys: Keys, token: str, about: About) -> Cleaned | None:
        """End a claimed conversation; None if the gateway could not be asked yet, so that a later look tries again."""
        error = self._settle(about)
        if error is not None and _was_not_asked(error) and about.claims < _MOST_CLAIMS:
            _log.warning("session %s cannot be ended yet: %s", about.session_id, error)
            self._store.run(scripts.GIVE_BACK, (keys.owner, keys.about), token)
            return None
        reason = f"the process that owned the conversation died ({about.owner})"
        if error is not None:
            _log.error("session %s could not be ended (%s): the gateway meters it until it notices by itself", about.session_id, error)
            reason += "; its session could not be ended"
        closed = Closed(by="network", meaning="lost", reason=reason)
        self._store.run(scripts.FINISH, keys.all, token, milliseconds(self._linger), reason, wire.dumps(closed.to_dict()), 0)
        self._store.strike(about.conversation_id)
        _log.warning("the conversation %s was ended: %s", about.conversation_id, reason)
        return Cleaned(about=about, error=error)

    def _settle(self, about: About) -> RealtimeError | None:
        if not about.session_id:
            return None
        try:
            rest = self._rest if self._rest is None or isinstance(self._rest, RestClient) else self._rest(about)
            if rest is None:
                return ConfigError("the cleaner was given no RestClient for it")
            rest.end_session(about.session_id, about.metered_seconds, timeout=_END_TIMEOUT)
        except RealtimeError as error:
            return error
        except Exception as error:  # the program's function; the conversations after this one are to be ended all the same
            _log.exception("no RestClient could be chosen for the conversation %s", about.conversation_id)
            return ConfigError(f"choosing a RestClient for it failed: {type(error).__name__}: {error}", code="no_rest_client")
        return None


def _was_not_asked(error: RealtimeError) -> bool:
    """Nothing was sent, or there were too many requests just then: a 429 comes before everything else (source: gateway, retries).

    Nothing is sent either where the program's function fails, whose database may be away for a moment.
    """
    return error.code in _NOT_SENT or (isinstance(error, ApiError) and error.status_code == 429)
