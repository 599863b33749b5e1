"""Who may connect, and what was minted and ended: keys, short-lived secrets and billed sessions."""

from __future__ import annotations

import collections
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from qai_realtime_sync.offline.items import new_id

__all__ = ["Ledger", "RateLimit"]


class Ledger:
    """Keys and sessions of one server; safe for several threads. ``key`` ``None`` lets anybody in, with or without a key."""

    def __init__(self, key: str | None = None, clock: Callable[[], float] = time.time) -> None:
        self._key, self._clock = key, clock
        self._lock = threading.Lock()  # guards the two below
        self._secrets: dict[str, float] = {}
        self._sessions: dict[str, dict[str, Any]] = {}

    def admits(self, credential: str, *, minted: bool = True) -> bool:
        """Return whether this key opens the door; ``minted`` admits short-lived secrets too."""
        if self._key is None or hmac.compare_digest(credential.encode(), self._key.encode()):
            return True
        with self._lock:
            return minted and self._secrets.get(credential, 0.0) > self._clock()

    def mint(self, seconds: float, prefix: str = "ek") -> tuple[str, int]:
        """Return a new secret and the unix time of its end."""
        secret, until = f"{prefix}_{secrets.token_urlsafe(24)}", self._clock() + seconds
        with self._lock:
            self._secrets[secret] = until
        return secret, int(until)

    def open_session(self, provider: str) -> str:
        """Return the id of a new session that is billed until it is ended."""
        session_id = new_id("vs")
        with self._lock:
            self._sessions[session_id] = {
                "session_id": session_id,
                "provider": provider,
                "refreshed": 0,
                "ended": False,
                "duration_seconds": None,
            }
        return session_id

    def refresh(self, session_id: str) -> bool:
        """Note a refresh; return whether there is such a session."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None or session["ended"]:
                return False
            session["refreshed"] += 1
            return True

    def end(self, session_id: str, duration_seconds: int) -> bool:
        """Note the end and the client's duration; return whether there was such a session, not ended yet."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None or session["ended"]:
                return False
            session.update(ended=True, duration_seconds=duration_seconds)
            return True

    def sessions(self) -> list[dict[str, Any]]:
        """Return a copy of all sessions."""
        with self._lock:
            return [dict(session) for session in self._sessions.values()]


class RateLimit:
    """At most ``most`` answers in any minute, over all connections; safe for several threads."""

    def __init__(self, most: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._lock = threading.Lock()  # guards _times
        self._times: collections.deque[float] = collections.deque()

    def allow(self) -> bool:
        """Take one, if there is one left."""
        if self._most is None:
            return True
        with self._lock:
            self._drop_old()
            if len(self._times) >= self._most:
                return False
            self._times.append(self._clock())
            return True

    def report(self) -> list[dict[str, Any]]:
        """Return the state as OpenAI's ``rate_limits``."""
        with self._lock:
            self._drop_old()
            most = self._most if self._most is not None else 10_000
            reset = 60 - (self._clock() - self._times[0]) if self._times else 0.0
            return [
                {
                    "name": "requests",
                    "limit": most,
                    "remaining": max(0, most - len(self._times)),
                    "reset_seconds": round(reset, 3),
                }
            ]

    def _drop_old(self) -> None:
        while self._times and self._clock() - self._times[0] >= 60:
            self._times.popleft()
